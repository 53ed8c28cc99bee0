"""The page of GPUs and engines, and the strip in the chat's sidebar."""

import re

import pytest
from playwright.sync_api import expect

import nvml_stub


def figures(running, waiting, usage):
    values = {
        "num_requests_running": running,
        "num_requests_waiting": waiting,
        "kv_cache_usage_perc": usage,
    }
    lines = [f"# TYPE vllm:{name} gauge\nvllm:{name} {value}" for name, value in values.items()]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def busy_vllm(serve):
    """A server that has eight requests under way and twelve that wait."""

    async def script(exchange):
        if exchange.path == "/metrics":
            await exchange.reply(figures(8.0, 12.0, 0.99), 200, "text/plain")
        else:
            await exchange.reply({"detail": "Not Found"}, 404)

    return serve(script).url


@pytest.fixture
def two_gpus(tmp_path):
    library = nvml_stub.build(tmp_path / "nvml")
    lines = [nvml_stub.gpu(0, used=19), nvml_stub.gpu(1), f"process 0 4194305 {16 << 30}"]
    return nvml_stub.scenario(library, tmp_path / "scenario", *lines, "fail 1 handle 15")


def test_gpus_and_engine_are_shown_and_said_in_words(workbench, visit, busy_vllm, two_gpus):
    page = visit(workbench(VLLM_BASE_URL=busy_vllm, **two_gpus).url)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("GPU 0 37 % · 19.0 GiB of 24.0 GiB")).to_be_visible()
    expect(sidebar.get_by_text("vLLM: 8 running, 12 waiting")).to_be_visible()
    page.get_by_role("link", name="GPU and engine").click()
    expect(page.get_by_text("GPU 0 · NVIDIA L4")).to_be_visible()
    expect(page.get_by_text("? (4194305) 16.0 GiB")).to_be_visible()
    expect(page.get_by_text("free 5.0 GiB")).to_be_visible()
    expect(page.get_by_text("It is lost")).to_be_visible()
    expect(page.get_by_text("12 requests waiting: the KV cache is full (99 %)")).to_be_visible()
    expect(page.locator("canvas, svg.marks").first).to_be_visible()
    would_fit(page, "meta-llama/Llama-3.1-8B-Instruct")
    expect(page.get_by_text("It does not fit on GPU 0: weights (")).to_be_visible()
    would_fit(page, "smollm2:135m")
    expect(page.get_by_text("It fits on GPU 0:")).to_be_visible()
    command = page.get_by_test_id("stCode")
    expect(command).to_contain_text("gearshift serve HuggingFaceTB/SmolLM2-135M-Instruct --gpus=0")
    expect(command).to_contain_text("--gpu-memory-utilization=0.2")
    would_fit(page, "nobody/knows-this")
    expect(page.get_by_text("give the model's config.json")).to_be_visible()


def would_fit(page, model):
    page.get_by_test_id("stMain").get_by_label("Model", exact=True).fill(model)
    page.get_by_role("button", name="Would it fit?").click()


def test_without_a_gpu_the_processor_is_shown_and_it_says_so(workbench, visit):
    page = visit(workbench().url)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text(re.compile(r"Processor \d+ % · memory"))).to_be_visible()
    page.get_by_role("link", name="GPU and engine").click()
    expect(page.get_by_text("There is no NVIDIA driver on this machine")).to_be_visible()
    expect(page.get_by_text("Processor and memory")).to_be_visible()
    expect(page.get_by_text(re.compile("vLLM at .* cannot be reached"))).to_be_visible()
    expect(page.get_by_text(re.compile("Ollama at .* cannot be reached"))).to_be_visible()
    would_fit(page, "smollm2:135m")
    expect(page.get_by_text("Without a GPU: 0.3 GiB of weights")).to_be_visible()
