"""The page of GPUs and engines, and the strip in the chat's sidebar."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

import nvml_stub
from gearshift.engine.launch import make_launch
from gearshift.engine.processes import identify
from gearshift.engine.records import Failure, Place, State
from gearshift.engine.servers import new_record


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
def on_gpus(tmp_path):
    """The variables of a workbench that finds GPUs."""

    def variables(*lines):
        library = nvml_stub.build(tmp_path / "nvml")
        return nvml_stub.scenario(library, tmp_path / "scenario", *lines)

    return variables


@pytest.fixture
def two_gpus(on_gpus):
    lines = [nvml_stub.gpu(0, used=19), nvml_stub.gpu(1), f"process 0 4194305 {16 << 30}"]
    lines += ["process 0 4194306 -", f"mig 0 MIG-1 {12 << 30} {9 << 30}"]
    return on_gpus(*lines, "fail 1 handle 15")


def test_gpus_and_engine_are_shown_and_said_in_words(workbench, visit, busy_vllm, two_gpus):
    page = visit(workbench(VLLM_BASE_URL=busy_vllm, **two_gpus).url)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("GPU 0 37 % · 19.0 GiB of 24.0 GiB")).to_be_visible()
    expect(sidebar.get_by_text("vLLM: 8 running, 12 waiting")).to_be_visible()
    page.get_by_role("link", name="GPU and engine").click()
    expect(page.get_by_text("GPU 0 · NVIDIA L4")).to_be_visible()
    expect(page.get_by_text("? (4194305) 16.0 GiB")).to_be_visible()
    expect(page.get_by_text("? (4194306) ?")).to_be_visible()
    expect(page.get_by_text("those of unknown size, others and the driver 3.0")).to_be_visible()
    expect(page.get_by_text("NVIDIA driver 550.54.15, CUDA 12.4")).to_be_visible()
    expect(page.get_by_text("MIG NVIDIA L4 MIG 1g.6gb: 9.0 of 12.0 GiB free")).to_be_visible()
    expect(page.get_by_text("free 5.0 GiB")).to_be_visible()
    expect(page.get_by_text("It is lost")).to_be_visible()
    full = page.get_by_text("12 requests waiting: the KV cache is full (99 %)")
    expect(full).to_be_visible()
    page.wait_for_timeout(8000)  # it counts no tokens: that is not a server that stands still
    expect(full).to_be_visible()
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
    expect(page.get_by_text("It fits. Without a GPU: 0.3 GiB of weights")).to_be_visible()
    expect(page.get_by_test_id("stCode")).to_contain_text("gearshift serve HuggingFaceTB/SmolLM2")


def test_links_between_gpus_and_the_machines_memory_beside_one_that_shares_it(
    workbench, visit, on_gpus
):
    lines = [nvml_stub.gpu(0), nvml_stub.gpu(1), "link 0 1 99", "fail 0 memory 3"]
    page = visit(workbench(**on_gpus(*lines, "gpu GPU-empty 0 0 0 0 0 8 9")).url)
    page.get_by_role("link", name="GPU and engine").click()
    expect(page.get_by_text("GPU 0 and 1: NVLINK")).to_be_visible()
    expect(page.get_by_text("unified memory")).to_be_visible()
    expect(page.get_by_text("Processor and memory")).to_be_visible()
    expect(page.get_by_text("GPU 2 · NVIDIA L4")).to_be_visible()


def test_a_server_of_ours_that_dies_keeps_its_charts_and_tells_where_to_read_on(
    workbench, visit, serve, make_settings
):
    async def script(exchange):
        await exchange.reply(figures(8.0, 0.0, 0.5), 200, "text/plain")

    def write(state, **changes):
        launch = make_launch(model="/models/tiny", served_names=("tiny",), port=server.port)
        record = new_record(launch, make_settings(), Path("/opt/vllm/bin/python"))
        kept_by = {"state": state, "supervisor": identify(os.getpid())}
        Place(make_settings(), server.port).write(record.model_copy(update=kept_by | changes))

    server = serve(script)
    write(State.READY)
    page = visit(workbench(VLLM_BASE_URL=f"http://localhost:{server.port}").url)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("vLLM: 8 running, 0 waiting")).to_be_visible()
    page.get_by_role("link", name="GPU and engine").click()
    main = page.get_by_test_id("stMain")
    expect(main.get_by_text(f"vLLM · tiny-{server.port}")).to_be_visible()
    expect(main.get_by_text("8 requests under way")).to_be_visible()
    write(State.FAILED, failure=Failure(kind="crashed", message="its engine was killed"))
    server.stop()
    name = f"tiny-{server.port}"
    expect(main.get_by_text(f"{name} failed: its engine was killed.")).to_be_visible()
    expect(main.get_by_text(f"gearshift doctor --server {name}")).to_be_visible()
    expect(main.locator("canvas, svg.marks")).to_have_count(4)
    expect(main.get_by_text(re.compile("cannot be reached"))).to_have_count(1)  # Ollama's
    write(State.STARTING, stage="loading weights")
    expect(main.get_by_text(f"{name} is starting: loading weights.")).to_be_visible()
    write(State.FAILED, failure=Failure(kind="crashed", message="its engine was killed"))
    main.get_by_role("link", name="Why, and start it again").click()
    expect(page.get_by_role("heading", name="Servers")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(sidebar.get_by_text(f"vLLM: {name} failed")).to_be_visible()
