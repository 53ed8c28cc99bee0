"""Facts that are held in two places say the same in both."""

import re
import tomllib
from pathlib import Path

import pytest

from gearshift.engine.forecast import Question, forecast
from gearshift.settings import Settings, variable_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VARIABLES = {variable_name(field) for field in Settings.model_fields}


def test_conda_users_get_the_same_packages():
    conda = (ROOT / "environment.yml").read_text("utf-8")
    listed = re.findall(r"^      - (\S+)$", conda, re.MULTILINE)
    extras = PROJECT["project"]["optional-dependencies"]
    assert sorted(listed) == sorted(PROJECT["project"]["dependencies"] + extras["notebooks"])
    python = re.search(r"python (\S+)", conda)
    assert python
    assert python[1] == PROJECT["project"]["requires-python"]


def test_the_pythons_that_are_told_are_those_that_it_installs_on():
    first, beyond = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    told = f"Python 3.{first} to 3.{int(beyond) - 1}"
    guard = (ROOT / "Makefile").read_text("utf-8")
    assert f"not (3, {first}) <= sys.version_info[:2] < (3, {beyond})" in guard
    assert f"needs {told}:" in guard
    assert told in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("file", [".env.example", "README.md"])
def test_every_setting_is_documented_and_nothing_else(file):
    text = (ROOT / file).read_text("utf-8")
    pattern = r"^([A-Z][A-Z_]+)=" if file == ".env.example" else r"^\| `([A-Z][A-Z_]+)`"
    assert set(re.findall(pattern, text, re.MULTILINE)) == VARIABLES


def test_the_example_is_what_one_gets_without_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


def test_every_dependency_is_pinned_without_an_address():
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    wanted = PROJECT["project"]["dependencies"]
    wanted = (
        wanted
        + PROJECT["project"]["optional-dependencies"]["notebooks"]
        + [
            item
            for group in PROJECT["dependency-groups"].values()
            for item in group
            if isinstance(item, str)
        ]
    )
    for requirement in wanted:
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() in pinned, requirement


def test_the_wheels_that_carry_weights_are_named_in_errors_as_they_are_pinned():
    weights = (ROOT / "weights.txt").read_text("utf-8").split()
    library = "".join(p.read_text("utf-8") for p in (ROOT / "lib").rglob("*.py"))
    for pin in weights:
        assert pin in library


def test_the_readme_tree_names_files_that_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    tree = re.search(r"```\ngearshift/.*?\n```", readme, re.DOTALL)
    assert tree
    folders: list[str] = []
    for line in tree[0].splitlines()[2:-1]:
        match = re.match(r"((?:│   |    )*)[├└]── ([^\s]+)", line)
        if not match:
            continue
        depth = len(match[1]) // 4
        folders = [*folders[:depth], match[2].rstrip("/")]
        assert (ROOT / "/".join(folders)).exists(), "/".join(folders)


IN_THE_HANDBOOK = {
    "Mistral-7B-Instruct": "mistralai/Mistral-7B-Instruct-v0.2",
    "Llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "Phi-4 (14.7B)": "microsoft/phi-4",
    "CodeLlama-34b-Instruct": "codellama/CodeLlama-34b-Instruct-hf",
    "Mixtral-8x7B-Instruct": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Llama-2-70b-chat": "meta-llama/Llama-2-70b-chat-hf",
}


def test_the_handbooks_table_of_models_is_what_the_plan_computes():
    """Weights within 1.5 %, which is what a nominal "70B" may be off; the rest exactly."""
    text = (ROOT / "data" / "handbook" / "06-choosing-a-model-and-gpu.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+) GiB \| (\d+) KiB \| ([\d, ]+) \|$", text, re.MULTILINE
    )
    assert [row[0] for row in rows] == [*IN_THE_HANDBOOK]
    for name, weights, cache, sizes in rows:
        plan = forecast(Question(IN_THE_HANDBOOK[name], gpu="H200"), Settings(_env_file=None))
        assert float(weights) == pytest.approx(plan.fit.weights_gib, rel=0.015), name
        assert int(cache) * 1024 == plan.fit.kv_bytes_per_token, name
        assert sizes == ", ".join(map(str, plan.legal)), name


def test_the_handbooks_worked_examples_are_what_the_plan_computes():
    text = (ROOT / "data" / "handbook" / "06-choosing-a-model-and-gpu.md").read_text("utf-8")
    asked = Question("meta-llama/Llama-3.1-8B-Instruct", gpu="L4", max_model_len=8192)
    fit = forecast(asked, Settings(_env_file=None)).fit
    room = f"{fit.available_kv_gib:.2f} GiB"
    tokens = f"about {round(fit.kv_cache_tokens, -2):,} tokens"
    assert f" − {fit.weights_gib:.2f} − {fit.overhead_gib:.2f} = {room}" in text
    assert f"{tokens}: {fit.max_concurrency:.1f} requests of 8,192 tokens" in text
    answers = (ROOT / "data" / "questions.jsonl").read_text("utf-8")
    assert f"with about {room} of KV cache, which is room for {tokens}." in answers
    told = re.search(r"with about ([\d,]+) tokens of cache on H100 and ([\d,]+) on A100", text)
    for gpu, number in zip(("H100", "A100-80GB"), told.groups(), strict=True):
        asked = Question("meta-llama/Llama-2-70b-chat-hf", gpu=gpu, gpus=2)
        found = forecast(asked, Settings(_env_file=None)).fit.kv_cache_tokens
        assert number == f"{round(found, -3):,}", gpu
