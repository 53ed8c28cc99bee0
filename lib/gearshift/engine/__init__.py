"""The vLLM server: its own environment, its command, its checks, its process and its log."""
