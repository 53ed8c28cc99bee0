"""The workbench as a whole, beside Open WebUI 0.12.4's figures on the same machine (2026-11-23).

Takes the folder of the Cranfield collection (`cran.all.1400`, `cran.qry`), whose 1,400 abstracts
are taken in as files:

    python benchmarks/workbench.py FOLDER
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from retrieval_quality import read

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the scripted server that the tests use

from gearshift.providers import Watch, chain, run  # noqa: E402
from gearshift.providers.embedded import EmbeddedService  # noqa: E402
from gearshift.providers.vllm import VLLMService  # noqa: E402
from gearshift.rag import library  # noqa: E402
from gearshift.rag.chat import Ask, begin, write_answer  # noqa: E402
from gearshift.rag.conversations import Conversation  # noqa: E402
from gearshift.rag.ingest import ingest, ingest_bytes  # noqa: E402
from gearshift.schemas import Answer  # noqa: E402
from gearshift.settings import Settings, load_settings  # noqa: E402
from scripted_server import ScriptedServer, sse, vllm  # noqa: E402


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def megabytes(process: psutil.Process) -> float:
    """Memory of a process and its children that nobody else uses."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().uss for one in family) / 1e6


@contextmanager
def page(home: str) -> Iterator[tuple[float, psutil.Process]]:
    """A workbench that somebody has opened; yields the seconds until it answered."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "workbench/app.py", "--server.port", str(port)],
        cwd=ROOT,
        env=os.environ | {"GEARSHIFT_HOME": home},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
                break
            except OSError:
                time.sleep(0.05)
        yield time.perf_counter() - began, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def idle_memory(home: str) -> tuple[float, float]:
    """Seconds until ready, and MB after a person has opened the page and left it alone."""
    from playwright.sync_api import sync_playwright

    with page(home) as (ready, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        port = process.cmdline()[-1]
        browser.new_page().goto(f"http://127.0.0.1:{port}/")
        time.sleep(25)  # until the warm-up is over
        used = megabytes(process)
        browser.close()
    return ready, used


async def answered(services, question: str, collection, conversation=None) -> Answer:
    conversation = conversation or Conversation()
    ask = Ask(question, services, lambda: collection)
    return await write_answer(ask, conversation, begin(conversation, question))


def main() -> None:
    documents, topics, _ = read(Path(sys.argv[1]))
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["GEARSHIFT_HOME"] = home
        ready, used = idle_memory(home)
        rows.append(("ready after", f"{ready:.1f} s", "35 s"))
        rows.append(("idle memory, page open", f"{used:.0f} MB", "818 MB"))

        load_settings.cache_clear()
        collection = library.collection("default")
        folder = Path(home) / "files"
        folder.mkdir()
        for number, text in documents.items():
            (folder / f"{number}.txt").write_text(text)
        mine = psutil.Process()
        list(ingest([folder / "1.txt"], collection))
        before, began = megabytes(mine), time.perf_counter()
        fates = list(ingest([folder], collection))
        seconds = time.perf_counter() - began
        assert len(fates) == len(documents)
        collection.search("anything", 5)
        grown = (megabytes(mine) - before) / len(documents)
        rate = f"{len(documents) / seconds:.1f} a second"
        rows.append(("1,400 abstracts as files", rate, "4.0 a second"))
        rows.append(("memory for each document taken in", f"{grown:.2f} MB", "2.9 MB"))

        took = []
        for query in topics.values():
            began = time.perf_counter()
            collection.search(query, 5)
            took.append(1000 * (time.perf_counter() - began))
        rows.append(("a search over them", f"{statistics.median(took):.0f} ms", "51 ms"))

        text = " ".join(documents.values())
        big = (text * (2_000_000 // len(text) + 1))[:2_000_000].encode()
        began = time.perf_counter()
        assert ingest_bytes("big.txt", big, library.collection("big")).status == "indexed"
        rows.append(("a text file of 2 MB", f"{time.perf_counter() - began:.0f} s", "219 s"))

        server = ScriptedServer(vllm(sse("It depends on the Reynolds number [1].")))
        service = VLLMService(Settings(vllm_base_url=server.url, _env_file=None))
        added = []
        for query in list(topics.values())[:40]:
            answer = run(answered([service], query, collection))
            began = time.monotonic()
            run(service.generate("Hi.", "served"))
            added.append(1000 * (answer.timings.ttft_s - (time.monotonic() - began)))
        rows.append(
            ("added to the time to first token", f"{statistics.median(added):.0f} ms", "63-80 ms")
        )
        conversation = Conversation()
        run(answered([service], "What is a boundary layer?", collection, conversation))
        run(answered([service], "And how is it measured?", collection, conversation))
        bodies = [r.json["messages"] for r in server.requests if "chat" in r.path][-2:]
        first, second = ("".join(m["content"] for m in messages) for messages in bodies)
        common = next(
            (i for i, pair in enumerate(zip(first, second, strict=False)) if len({*pair}) > 1),
            len(first),
        ) / len(first)
        rows.append(
            ("of the first turn's prompt, the second's begins with", f"{common:.0%}", "2 %")
        )
        server.stop()

        async def hang(exchange):
            await exchange.until_closed()

        hanging = ScriptedServer(hang)
        settings = Settings(
            vllm_base_url=hanging.url,
            ollama_base_url=f"http://127.0.0.1:{free_port()}",
            first_token_timeout=10,
            _env_file=None,
        )
        stuck, embedded = VLLMService(settings), EmbeddedService(settings)
        began = time.perf_counter()
        Watch().look([stuck])
        listed = time.perf_counter() - began
        rows.append(("model list of a provider that hangs", f"{listed:.2f} s", "10.8 s"))
        services = {"vllm": stuck, "embedded": embedded, "ollama": stuck}
        began = time.perf_counter()
        answer = run(answered(chain("vllm", services.__getitem__), "What is lift?", collection))
        took_s = time.perf_counter() - began
        assert (answer.provider, answer.complete) == ("embedded", True), json.dumps(answer.error)
        rows.append(("a chat with it (10 s allowed)", f"{took_s:.0f} s, by fallback", "no end"))
        embedded.close()
        hanging.stop()
    print("| | Gearshift | Open WebUI 0.12.4 |\n|---|---|---|")
    for name, ours, theirs in rows:
        print(f"| {name} | {ours} | {theirs} |")


if __name__ == "__main__":
    main()
