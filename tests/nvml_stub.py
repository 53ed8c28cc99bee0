"""GPUs for a machine that has none: a C stand-in for NVML, which the real `pynvml` loads."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "nvml" / "stub.c"
GIB = 1 << 30


def build(folder, *flags) -> Path:
    """A folder with `libnvidia-ml.so.1` in it, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the NVML stand-in: install Debian's gcc")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return folder


def gpu(number, used=1, total=24) -> str:
    """A line of a scenario: a GPU with that many GiB."""
    return f"gpu GPU-{number:08x}-aaaa {total * GIB} {used * GIB} 37 61 70500 8 9"


def scenario(library, file, *lines) -> dict[str, str]:
    """The variables of a process that shall find these GPUs; the lines are in `nvml/stub.c`."""
    file.write_text("\n".join(lines) + "\n", "ascii")
    return {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(file)}
