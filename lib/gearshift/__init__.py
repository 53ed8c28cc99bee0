"""Gearshift: a RAG workbench that runs on Ollama today and shifts to vLLM when users arrive."""

__version__ = "0.1.0"
