"""Makes `tests/migrate/prompts.json`: the prompts that a real Ollama makes of templates and chats.

    OLLAMA_DEBUG=2 ollama serve 2>ollama.log
    python scripts/record_prompts.py http://127.0.0.1:11434 ollama.log smollm2:135m

Only the log tells a prompt, and only at that level. The templates are taken from the file as it is;
the model is any that Ollama has, and its numbers do not matter.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEPT = Path(__file__).parent.parent / "tests" / "migrate" / "prompts.json"
MODEL = "gearshift-template"  # made anew for each template, removed at the end
_PROMPT = re.compile(r'level=TRACE .*msg="completion request" prompt=(".*"|\S*)\n')


def main(url: str, log: Path, model: str) -> None:
    kept = json.loads(KEPT.read_text("utf-8"))
    for row in kept["templates"]:
        pairs = [{"role": role, "content": text} for role, text in row["messages"]]
        wanted = {key: row[key] for key in ("template", "system") if row[key] is not None}
        send(
            url, "POST", "/api/create", {"model": MODEL, "from": model, "messages": pairs} | wanted
        )
        row["prompts"] = [prompt(url, log, chat) for chat in kept["chats"]]
    send(url, "DELETE", "/api/delete", {"model": MODEL})
    KEPT.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", "utf-8")


def prompt(url: str, log: Path, chat: list[dict[str, str]]) -> str:
    """What the log says that is sent to the model; nobody waits for the answer."""
    start, deadline = log.stat().st_size, time.monotonic() + 60
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    body = json.dumps({"model": MODEL, "messages": chat}).encode()
    connection.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
    found = None
    while time.monotonic() < deadline:
        new = log.read_bytes()[start:].decode()
        if found is None and (found := _PROMPT.search(new)):
            connection.close()
        if '"/api/chat"' in new:  # Ollama has done with it
            break
        time.sleep(0.005)
    if found is None:
        sys.exit(
            f"the log does not tell a prompt; was it started with OLLAMA_DEBUG=2?\n{new[-500:]}"
        )
    told = found[1]
    return str(json.loads(told)) if told.startswith('"') else told


def send(url: str, method: str, path: str, body: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body | {"stream": False}).encode(), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        sys.exit(f"{method} {path}: {text}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
