"""What there is in Ollama, and what it becomes."""

import json

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.gpu import GPU
from gearshift.migrate.inventory import Item, of_ollama
from gearshift.migrate.modelfile import parse
from gearshift.migrate.plan import document, plan_move
from gearshift.migrate.repository import find_repository

LLAMA_8B = {
    "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
FILE = "FROM llama3.1:8b\nPARAMETER num_ctx 8192\nPARAMETER num_gpu 99\nSYSTEM Be brief.\n"


@pytest.fixture
def gearshift():
    def run(*arguments):
        found = CliRunner().invoke(app, [*map(str, arguments)])
        assert found.exception is None or isinstance(found.exception, SystemExit)
        assert "Traceback" not in found.stderr
        return found

    return run


def item(name="llama3.1:8b", shape=LLAMA_8B, base="/blobs/sha256-1", **more):
    return Item(name, parse(f"FROM {base}\n".encode()), shape=shape, **more)


def test_name_and_numbers_that_agree_leave_no_doubt():
    found = find_repository(item())
    assert (found.hub, found.doubt) == (LLAMA, "")


def test_numbers_decide_against_a_name():
    small = LLAMA_8B | {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536}
    small |= {"num_attention_heads": 9, "num_key_value_heads": 3}
    found = find_repository(item(shape=small))
    assert found.hub == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "whose numbers are others" in found.doubt


def test_a_name_whose_numbers_nobody_has_is_no_answer():
    found = find_repository(item(shape=LLAMA_8B | {"num_hidden_layers": 33}))
    assert found.hub is None
    assert LLAMA in found.others
    assert "33 layers" in found.doubt


def test_an_unknown_name_is_found_by_its_numbers_and_doubted():
    found = find_repository(item("my-own:latest"))
    assert found.hub is not None
    assert LLAMA in (found.hub, *found.others)
    assert "by its numbers alone" in found.doubt


def test_a_name_alone_is_doubted():
    found = find_repository(Item("Modelfile", parse(FILE.encode()), from_file=True))
    assert found.hub == LLAMA
    assert "by its name alone" in found.doubt


def test_a_model_from_the_hub_tells_its_repository():
    file = parse(b"FROM hf.co/bartowski/Qwen2.5-7B-Instruct-GGUF:Q4_K_M\n")
    found = find_repository(Item("Modelfile", file, from_file=True))
    assert found.hub == "bartowski/Qwen2.5-7B-Instruct"


def gpu(gib):
    total = gib << 30
    return GPU(0, "GPU-0", f"Some card {gib}GB", memory_total_bytes=total, memory_free_bytes=total)


@pytest.mark.parametrize(
    ("gib", "take"), [(48, None), (16, "fp8"), (12, "awq")], ids=["16 bits", "8 bits", "4 bits"]
)
def test_the_best_form_that_fits_is_taken(make_settings, gib, take):
    asked = Item(
        "llama3.1:8b", parse(FILE.encode()), shape=LLAMA_8B, quantization="Q4_K_M", from_file=True
    )
    move = plan_move(asked, make_settings(), (gpu(gib),))
    assert (move.weights.now, move.weights.nearest) == ("Q4_K_M", "awq")
    assert move.weights.take == take
    assert "best that fits here" in move.weights.why


def test_a_plan_is_a_document_too(make_settings):
    move = plan_move(Item("Modelfile", parse(FILE.encode()), from_file=True), make_settings())
    text = document(move)
    assert f"gearshift serve {LLAMA}" in text
    assert "--max-model-len=8192" in text
    assert "| num_gpu | 99 | nothing |" in text
    assert '"repetition_penalty": 1.1' in text
    assert "so these are Ollama 0.9's" in text


def test_an_inventory_of_files_keeps_the_rejected_ones(gearshift, tmp_path):
    good, bad = tmp_path / "Modelfile", tmp_path / "Bad"
    good.write_text(FILE, "utf-8")
    bad.write_text("FROM a\nPARAMETER warmth 3\n", "utf-8")
    found = gearshift("migrate", "inventory", "--modelfile", good, "--modelfile", bad, "--json")
    assert found.exit_code == 0
    first, second = json.loads(found.stdout)["models"]
    assert first["from"] == "llama3.1:8b"
    assert first["parameters"] == [["num_ctx", "8192"], ["num_gpu", "99"]]
    assert (first["system"], first["template"]) == ("Be brief.", None)
    assert (first["valid"], first["error"]) == (True, None)
    assert second["valid"] is False
    assert "unknown parameter 'warmth'" in second["error"]
    words = gearshift("migrate", "inventory", "--modelfile", good, "--modelfile", bad).stdout
    assert "num_ctx '8192'" in words
    assert "Ollama rejects it: unknown parameter" in words


def test_a_plan_of_a_file_accounts_for_every_parameter(gearshift, tmp_path):
    file, review = tmp_path / "Modelfile", tmp_path / "plan.md"
    file.write_text(FILE, "utf-8")
    found = json.loads(gearshift("migrate", "plan", "--modelfile", file, "--json").stdout)
    rows = {row["parameter"]: row for row in found["mapping"]}
    assert rows["num_ctx"]["becomes"] == "--max-model-len"
    assert rows["num_ctx"]["where"] == "server"
    assert (rows["num_gpu"]["becomes"], rows["num_gpu"]["where"]) == (None, "none")
    assert found["models"][0]["repository"] == LLAMA
    assert gearshift("migrate", "plan", "--modelfile", file, "--document", review).exit_code == 0
    assert "# " in review.read_text("utf-8")
    nowhere = gearshift("migrate", "plan", "--modelfile", file, "--document", tmp_path / "a" / "b")
    assert nowhere.exit_code == 1
    missing = gearshift("migrate", "plan", "--modelfile", tmp_path / "none", "--json")
    assert json.loads(missing.stdout)["error"]["kind"] == "modelfile"


def test_an_ollama_that_does_not_run_is_said(gearshift):
    found = gearshift("migrate", "inventory", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["error"]["hint"]


SHOWN = {
    "modelfile": 'FROM /blobs/sha256-1\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|x|>"\n',
    "model_info": {
        "general.architecture": "llama",
        "general.parameter_count": 8030261248,
        **{f"llama.{key}": value for key, value in {
            "block_count": 32, "embedding_length": 4096, "feed_forward_length": 14336,
            "attention.head_count": 32, "attention.head_count_kv": 8, "context_length": 131072,
        }.items()},
    },
}  # fmt: skip


def test_ollama_is_asked_for_all_that_it_knows(serve, make_settings):
    async def ollama(exchange):
        rows = [{"name": "llama3.1:8b", "size": 5, "details": {"quantization_level": "Q4_K_M"}}]
        rows.append({"name": "broken", "size": 5, "details": {}})
        if exchange.path == "/api/tags":
            await exchange.reply({"models": rows})
        elif exchange.path == "/api/ps":
            await exchange.reply({"models": [{"name": "llama3.1:8b"}]})
        elif exchange.json["model"] == "broken":
            await exchange.reply({"error": "it is damaged"}, 500)
        else:
            await exchange.reply(SHOWN)

    whole, broken = of_ollama(make_settings(ollama_base_url=serve(ollama).url))
    assert (whole.architecture, whole.quantization, whole.loaded) == ("llama", "Q4_K_M", True)
    assert (whole.context, whole.parameter_count) == (131072, 8030261248)
    assert whole.modelfile.parameters == [("stop", "<|x|>")]
    assert find_repository(whole).hub == LLAMA
    assert (broken.loaded, broken.shape) == (False, None)
    assert "damaged" in broken.problem


def test_a_real_ollama_tells_what_it_has(real_ollama, make_settings):
    (found,) = [
        one
        for one in of_ollama(make_settings(ollama_base_url=real_ollama))
        if one.name == "smollm2:135m"
    ]
    assert found.modelfile.error is None
    assert ("stop", "<|im_end|>") in found.modelfile.parameters
    assert found.quantization == "Q4_1"
    assert find_repository(found).hub == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert find_repository(found).doubt == ""
