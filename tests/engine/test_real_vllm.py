"""The real vLLM on this machine's processor: started, asked, two at once, over two cores."""

import asyncio
import json
import math
import os
import signal
import statistics
import time
from itertools import pairwise

import aiohttp
import pytest

import tiny_models
from gearshift.bench import Wish as Asked
from gearshift.bench import parse_goals
from gearshift.bench.tuning import Aim, keep, open_tuning, tune
from gearshift.engine import servers
from gearshift.engine.metrics import between
from gearshift.engine.monitor import watch_once
from gearshift.engine.processes import alive, send
from gearshift.engine.records import State
from gearshift.engine.start import Wish, prepare
from gearshift.errors import ProviderError
from gearshift.providers.vllm import VLLMService
from gearshift.schemas import FinishReason
from gearshift.settings import Settings, load_settings
from places import free_port


@pytest.fixture(scope="module")
def chat_model(engine_python, tmp_path_factory):
    return tiny_models.make(tiny_models.CHAT, engine_python, tmp_path_factory.mktemp("tiny-chat"))


@pytest.fixture(scope="module")
def embedding_model(engine_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-embedding")
    return tiny_models.make(tiny_models.EMBEDDING, engine_python, folder)


class Started:
    """Servers of the real vLLM that a test started; none outlives it."""

    def __init__(self, home, python):
        self.home, self.python, self.ports = home, python, []

    def settings(self, **fields):
        fields = {"home": self.home, "vllm_python": self.python} | fields
        return Settings(**fields, _env_file=None)

    def begin(self, model, **wish):
        port = free_port()
        self.ports.append(port)
        start = prepare(Wish(str(model), port=port, **wish), self.settings())
        servers.serve(start.record, self.settings())
        return port

    def wait(self, port):
        record = servers.wait(port, self.settings())
        assert record.state is State.READY, record.failure
        return record

    def service(self, port):
        return VLLMService(self.settings(vllm_base_url=f"http://127.0.0.1:{port}"))

    def stop(self, port):
        return servers.stop(servers.find_on(port, self.settings()), self.settings(), 0.0)

    def end(self):
        for port in self.ports:
            record = self.stop(port)
            assert not [process for process in record.tree if alive(process)]


@pytest.fixture
def vllm(engine_python, home):
    found = Started(home, engine_python)
    yield found
    found.end()


@pytest.fixture
def started(vllm, chat_model, embedding_model):
    """Two servers at once: one for text, one for vectors."""
    ports = vllm.begin(chat_model), vllm.begin(embedding_model, choices={"runner": "pooling"})
    return [vllm.wait(port) for port in ports]


class Load:
    """Requests to a server, and what they counted themselves.

    They are made without our service: random bytes are seldom text, and it yields nothing else.
    """

    def __init__(self, vllm, record):
        self.record = record
        self.settings = vllm.settings(vllm_base_url=record.url)
        self.first, self.gaps, self.written, self.read = [], [], [], []

    async def engine(self):
        _, engines, _ = await watch_once(self.settings)
        return next(engine for engine in engines if engine.url == self.record.url)

    async def ask(self, *prompts, tokens):
        """All at once."""
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._ask(session, prompt, tokens) for prompt in prompts))

    async def _ask(self, session, prompt, tokens):
        wish = {"model": self.record.model, "prompt": prompt, "max_tokens": tokens, "stream": True}
        wish |= {"stream_options": {"include_usage": True}, "temperature": 0, "ignore_eos": True}
        stamps = [time.monotonic()]
        async with session.post(f"{self.record.url}/v1/completions", json=wish) as answer:
            async for line in answer.content:
                event = line.decode().removeprefix("data: ").strip()
                if event in ("", "[DONE]"):
                    continue
                if json.loads(event)["choices"]:
                    stamps.append(time.monotonic())
                else:
                    usage = json.loads(event)["usage"]
        self.first.append(stamps[1] - stamps[0])
        self.gaps += [later - earlier for earlier, later in pairwise(stamps[1:])]
        self.written.append(usage["completion_tokens"])
        self.read.append(usage["prompt_tokens"])

    def agrees(self, before, after):
        """What the server counts between two samples is what we have counted."""
        found = between(before, after)
        assert found.finished == len(self.first)
        assert found.generation_tokens_per_s * found.seconds == pytest.approx(sum(self.written))
        assert found.prompt_tokens_per_s * found.seconds == pytest.approx(sum(self.read))
        return found

    def late(self, found, after):
        """Which times we have seen are not those that the server tells; empty if all are."""
        first = unlike(found.ttft_s, self.first, after.ttft, 0.25)
        return first + unlike(found.itl_s, self.gaps, after.itl, 0.05)


def unlike(told, seen, histograms, late):
    """Figures of a histogram that are not in the same bucket as those of what was seen.

    What is seen is what is told and the way to us, up to `late` seconds on a busy machine.
    """
    mean = statistics.mean(seen)
    found = [] if told.mean == pytest.approx(mean, abs=late) else [("mean", told.mean, mean)]
    bounds = {bound for one in histograms.values() for bound in one.buckets}
    ranked = sorted(seen)
    for share in (50, 95, 99):
        value = getattr(told, f"p{share}")
        above = min(bound for bound in bounds if bound >= value)
        below = max((bound for bound in bounds if bound < value), default=0.0)
        one = ranked[math.ceil(share / 100 * len(ranked)) - 1]
        if not below - late <= one <= above + late:
            found.append((share, value, one))
    return found


async def same_figures(vllm, record):
    """What the server says of itself agrees with what those who asked it have counted."""
    await Load(vllm, record).ask("Hello", tokens=3)  # the first one of its kind takes its time
    wrong = []
    for _ in range(3):  # times, since on two cores vLLM's web server itself may wait for its turn
        load = Load(vllm, record)
        before = (await load.engine()).readings[-1].sample
        for _ in range(3):
            await load.ask(*("Hello " * 40 + str(number) for number in range(8)), tokens=30)
        engine = await load.engine()
        after = engine.readings[-1].sample
        found = load.agrees(before, after)
        assert found.finished == 24
        wrong.append(load.late(found, after))
        if not wrong[-1]:
            break
    assert not wrong[-1], wrong
    assert 0.5 < found.prefix_cache_hit_rate < 1.0  # the prompts begin with the same words
    assert found.preemptions == 0
    assert (engine.now().running, engine.now().waiting) == (0, 0)
    assert f"{found.kv_cache_tokens:,} tokens" in record.log.read_text("utf-8")
    assert '"GET /metrics' not in record.log.read_text("utf-8")  # it is not filled by us


async def test_two_servers_are_asked_one_is_killed_and_one_stopped(vllm, started):
    text, vectors = started
    service = vllm.service(text.launch.port)
    assert (await service.check_connection()).ready
    assert text.model in [model.name for model in await service.list_models()]
    whole = await service.generate(prompt="Hello", model=text.model, max_tokens=5, temperature=0)
    assert whole.finish_reason is FinishReason.LENGTH
    pieces = [
        str(chunk)
        async for chunk in service.generate_stream(
            prompt="Hello", model=text.model, max_tokens=5, temperature=0
        )
    ]
    assert "".join(pieces) == whole.text
    await same_figures(vllm, text)
    rows = await vllm.service(vectors.launch.port).embed(["one", "two"], model=vectors.model)
    assert [len(row) for row in rows] == [128, 128]
    log = text.log.read_text("utf-8")
    assert "KV cache size" in log

    async def ask_and_kill():
        async for _ in service.generate_stream(prompt="Hello", model=text.model, max_tokens=3000):
            if alive(text.process):
                os.kill(text.process.pid, signal.SIGKILL)

    # Random weights may end some of them before it is killed; half an answer is never passed off
    # as a whole one.
    asked = await asyncio.gather(*(ask_and_kill() for _ in range(40)), return_exceptions=True)
    assert [type(error) for error in asked if error and not isinstance(error, ProviderError)] == []
    assert any(asked)
    deadline = time.monotonic() + 5
    while servers.find_on(text.launch.port, vllm.settings()).state is not State.FAILED:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

    assert servers.find_on(vectors.launch.port, vllm.settings()).state is State.READY
    assert vllm.stop(vectors.launch.port).state is State.STOPPED
    assert not [process for process in vectors.tree if alive(process)]


async def test_a_full_cache_puts_requests_back_and_it_is_said(vllm, engine_python, tmp_path):
    model = tiny_models.make(tiny_models.WIDE_CACHE, engine_python, tmp_path / "wide")
    record = vllm.wait(vllm.begin(model, choices={"max_model_len": 1024}))
    load = Load(vllm, record)
    before = (await load.engine()).readings[-1].sample
    assert before.kv_cache_tokens == 2048
    # Eight prompts fit beside each other, two blocks of 128 tokens each; their answers do not.
    asked = asyncio.create_task(load.ask(*(f"{n} " * 112 for n in range(8)), tokens=50))
    seen = []
    while not asked.done():
        seen.append(await load.engine())
    await asked
    after = (await load.engine()).readings[-1].sample
    found = load.agrees(before, after)
    assert load.late(found, after) == []
    assert found.preemptions > 0
    words = [engine.in_words() for engine in seen]
    assert any("put back" in said or "is full" in said for said in words), words
    assert all("fp8" not in said for said in words)
    assert max(engine.readings[-1].sample.kv_cache_usage for engine in seen) > 0.9


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_two_ranks_share_two_cores_and_leave_no_files_in_memory_or_tmp(vllm, chat_model, how):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two ranks need two processors")
    record = vllm.wait(vllm.begin(chat_model, tensor_parallel=2, gpu_count=2))
    assert "--tensor-parallel-size=2" in record.command
    found = servers.find_on(record.launch.port, vllm.settings())
    assert len(found.tree) >= 4  # API server, engine, two workers
    until(lambda: servers.find_on(record.launch.port, vllm.settings()).shared_memory)
    shared = servers.find_on(record.launch.port, vllm.settings()).shared_memory
    assert all(map(os.path.exists, shared))
    assert list(found.scratch.iterdir())
    if how == "killed":
        for process in found.tree:
            send(process, signal.SIGKILL)
        until(lambda: not servers.find_on(record.launch.port, vllm.settings()).is_supervised())
    else:
        vllm.stop(record.launch.port)
    assert not any(map(os.path.exists, shared))
    assert not found.scratch.exists()


def test_what_vllm_itself_says_is_the_reason_of_a_failure(vllm, chat_model):
    """A wrong option passes our checks (it is a folder of the right kind) and not vLLM's."""
    shape = json.loads((chat_model / "config.json").read_text("utf-8"))
    assert shape["max_position_embeddings"] == 4096
    port = vllm.begin(chat_model, choices={"max_model_len": 100_000})
    record = servers.wait(port, vllm.settings())
    assert record.state is State.FAILED
    assert "is greater than the derived max_model_len" in record.failure.message


@pytest.mark.soak
def test_two_settings_of_the_real_one_are_tuned(engine_python, chat_model, home, monkeypatch):
    monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(engine_python))
    settings = load_settings()
    aim = Aim(
        str(chat_model),
        parse_goals("p95 ttft < 60, p95 e2el < 120"),
        "max-num-seqs=2/8, max-model-len=1024",
        Asked(input_tokens=30, output_tokens=8, requests=8, warmup=1),
        starts=2, rounds=0, first=2, most=2,
    )  # fmt: skip
    found = tune(open_tuning(aim, settings), settings)
    assert [trial.outcome for trial in found.trials] == ["measured", "measured"]
    assert found.default.setting == {"max_model_len": 1024}
    assert all(trial.users == 2 and trial.goodput_per_s > 0 for trial in found.trials)
    assert all(point.figures["p95 ttft < 60"] > 0 for t in found.trials for point in t.points)
    assert servers.status(settings) == []
    assert keep(found, settings)["profile"] == "tuned-" + chat_model.name.lower()
