"""A stand-in for vLLM: its processes, its log, its HTTP answers, and faults on demand.

It computes nothing: every answer is the word "token", as often as was asked for.
"""

__version__ = "0.32.0"
