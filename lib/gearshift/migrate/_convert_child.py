"""Run by the Python that has vLLM: a GGUF file becomes a checkpoint, which is looked over.

`python _convert_child.py SOURCE TARGET`: SOURCE is a folder with `model.gguf` and, if
it is to have another, `chat_template.jinja`. Progress goes to
stderr, as transformers writes it; the last line of stdout is the report, as JSON. Imports nothing
of ours: that Python does not have it.
"""

import json
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Any

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def add(a, b):\n    return",
    "Water boils at a temperature of",
    "The opposite of hot is",
    "1, 2, 3, 4,",
    "Dear Sir or Madam,",
    "The sun rises in the",
]
TEXTS = [
    *PROMPTS,
    "Hello, World! 12345 + 67.89 = ?",
    "größer, naïve, señor, Ünïcödé",
    "日本語のテキスト、中文文本, русский текст",
    "emoji 👩‍💻🎉 and\ttabs\n\n  and   blanks ",
    "https://example.org/a?b=c&d=%20 <tag attr='x'>",
]
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": "Name three colours,\none a line."},
    ],
]
LIKELIEST = 5


def main(source: str, target: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = {"gguf_file": "model.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(source, **file)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **file
    )
    given = Path(source, "chat_template.jinja")
    own = True
    if given.is_file():
        own = use_if_other(tokenizer, given.read_text("utf-8"))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    wrong_texts = [
        text
        for text in TEXTS
        if tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) != text
    ]
    report = {
        "elements": elements(Path(target)),
        "other_tokens": other_tokens(tokenizer, f"{source}/model.gguf"),
        "wrong_texts": wrong_texts,
        "first_tokens": [first_tokens(model, tokenizer, prompt) for prompt in PROMPTS],
        "own_template": own,
        "chats": [[chat, count_chat(tokenizer, chat)] for chat in CHATS],
        "counts": [[text, len(tokenizer.encode(text))] for text in TEXTS],
    }
    print("\n" + json.dumps(report), flush=True)


def use_if_other(tokenizer: Any, template: str) -> bool:
    """Keeps the file's own template, which has tools, where both give the same prompts."""
    own = tokenizer.chat_template
    before = [render(tokenizer, chat) for chat in CHATS]
    tokenizer.chat_template = template
    if before != [render(tokenizer, chat) for chat in CHATS]:
        return False
    tokenizer.chat_template = own
    return True


def render(tokenizer: Any, chat: list[dict[str, str]]) -> str | None:
    """A chat as vLLM renders it; `None` if its template refuses it, or there is none."""
    if tokenizer.chat_template is None:
        return None
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception as refused:  # noqa: BLE001 (templates raise what they like)
        print(f"a template refuses a chat: {refused}", file=sys.stderr)
        return None
    return str(text)


def count_chat(tokenizer: Any, chat: list[dict[str, str]]) -> int | None:
    """How many tokens a chat has; `None` if it is not rendered."""
    text = render(tokenizer, chat)
    return None if text is None else len(tokenizer.encode(text, add_special_tokens=False))


def elements(folder: Path) -> int:
    """How many numbers the saved tensors hold, by the headers of the files."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for size in tensor["shape"]:
                    count *= size
                total += count
    return total


def other_tokens(tokenizer: Any, file: str) -> int:
    """How many numbers mean another token than they do in the GGUF file."""
    import gguf

    theirs = gguf.GGUFReader(file).fields["tokenizer.ggml.tokens"].contents()
    ours = tokenizer.convert_ids_to_tokens(list(range(len(theirs))))
    return sum(one != other for one, other in zip(theirs, ours, strict=True))


def first_tokens(model: Any, tokenizer: Any, prompt: str) -> dict[str, Any]:
    """The likeliest tokens after a prompt, each with its probability."""
    import torch

    with torch.inference_mode():
        numbers = tokenizer(prompt, return_tensors="pt").input_ids
        chances = torch.softmax(model(numbers).logits[0, -1].float(), -1)
    values, ids = chances.topk(LIKELIEST)
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return {
        "prompt": prompt,
        "tokens": [[tokenizer.decode([one]), chance] for one, chance in pairs],
    }


def end_with_parent() -> None:
    """Standard input is a pipe of whoever started us: it ends when they are gone."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # at once: the pipe is closed when our output ends
