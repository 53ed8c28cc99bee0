"""Two scripted servers side by side, as a migration has them: an Ollama and a vLLM."""

import json
from dataclasses import dataclass, field

from scripted_server import ndjson, sse

MODEL = "small:1b"


@dataclass
class Sides:
    """What both servers say; tests change it."""

    ollama_tokens: list[int] = field(default_factory=lambda: [1, 2, 3])
    vllm_tokens: list[int] = field(default_factory=lambda: [1, 2, 3])
    ollama_answer: str = "Paris it is."
    vllm_answer: str = "Paris it is."
    gap: float = 0.0  # of a token of Ollama's answer to vLLM's own choice
    names: tuple[str, ...] = (MODEL,)  # of vLLM's
    status: int = 200  # of vLLM's chats
    refuse: bool = False  # vLLM answers nothing but errors
    chats: int = 0
    failed: int = 0
    others: tuple[int, int] = (0, 0)  # requests of other people, and those of them that failed

    async def ollama(self, exchange):
        path = exchange.path
        if path == "/api/tags":
            await exchange.reply({"models": [{"name": MODEL, "details": {}}]})
        elif path == "/api/version":
            await exchange.reply({"version": "0.35.1"})
        elif path == "/api/ps":
            await exchange.reply({"models": []})
        elif path == "/api/show":
            template = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<assistant>"
            facts = {"general.architecture": "llama", "tokenizer.ggml.add_bos_token": False}
            file = f'FROM /blobs/sha256-1\nTEMPLATE "{template}"\nPARAMETER stop "</s>"\n'
            await exchange.reply({"modelfile": file, "model_info": facts})
        elif path == "/api/chat" and exchange.json.get("stream"):
            await exchange.head(kind="application/x-ndjson")
            await exchange.send(ndjson(self.ollama_answer))
        elif path == "/api/chat":
            count = len(self.ollama_tokens)
            await exchange.reply({"prompt_eval_count": count, "eval_count": 1, "done": True})
        else:
            tokens = [*self.ollama_tokens, 9]
            await exchange.reply({"context": tokens, "eval_count": 1, "response": "Paris"})

    async def vllm(self, exchange):
        path = exchange.path
        if self.refuse:
            await exchange.reply({"error": {"message": "gone", "code": 500}}, 500)
        elif path == "/v1/models":
            await exchange.reply({"data": [{"id": name} for name in self.names]})
        elif path == "/metrics":
            await exchange.reply(self._metrics(), kind="text/plain")
        elif path == "/tokenize":
            tokens = self.vllm_tokens if "messages" in exchange.json else [9, 10]
            await exchange.reply({"tokens": tokens, "count": len(tokens)})
        elif path == "/detokenize":
            await exchange.reply({"prompt": "".join(f"t{n}" for n in exchange.json["tokens"])})
        elif path == "/v1/completions":
            rows = [
                {"9": {"logprob": -0.1, "decoded_token": "Paris"}},
                {
                    "10": {"logprob": -0.5 - self.gap, "decoded_token": " it"},
                    "11": {"logprob": -0.5, "decoded_token": " was"},
                },
            ]
            prompt = len(exchange.json["prompt"]) - len(rows)
            await exchange.reply({"choices": [{"prompt_logprobs": [*[None] * prompt, *rows]}]})
        elif self.status != 200:
            self.chats, self.failed = self.chats + 1, self.failed + 1
            await exchange.reply({"error": {"message": "it broke", "code": 500}}, self.status)
        else:
            self.chats += 1
            await exchange.head()
            await exchange.send(sse(self.vllm_answer))

    def _metrics(self):
        all_of, failed = self.chats + self.others[0], self.failed + self.others[1]
        rows = [("2xx", all_of - failed), ("5xx", failed)]
        lines = ["# TYPE http_requests_total counter"]
        lines += [
            f"http_requests_total{{handler={json.dumps('/v1/chat/completions')},"
            f'method="POST",status="{status}"}} {count}'
            for status, count in rows
        ]
        return "\n".join([*lines, "# EOF", ""]).encode()
