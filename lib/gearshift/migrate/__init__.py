"""From Ollama to vLLM: what there is, what it becomes, the weights, the proof, the way back."""
