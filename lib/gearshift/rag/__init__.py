"""From documents to cited answers: parse, split, index, retrieve, prompt, cite."""
