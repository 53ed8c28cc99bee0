"""The same launch in other forms: for Docker, systemd, and Ray over several machines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from gearshift.engine.launch import Launch, arguments
from gearshift.providers import counterparts
from gearshift.settings import hub_cache

IMAGE = "vllm/vllm-openai"


def docker_command(launch: Launch, name: str, tag: str, secrets: Iterable[str]) -> list[str]:
    """`docker run …`: reachable from this machine alone, its weights kept outside.

    Inside the container it listens everywhere, since Docker's forwarding comes from outside; the
    port is published on 127.0.0.1 only. Secrets go by name: their values come from the environment
    of `docker` itself.

    Args:
        launch: What to start; a folder is mounted, read-only.
        name: The container's name.
        tag: The image's version, such as v0.32.0.
        secrets: Names of environment variables to pass on.
    """
    gpus = f'"device={",".join(launch.gpus)}"' if launch.gpus else "all"
    found = ["docker", "run", "--rm", "--name", name, "--gpus", gpus, "--ipc=host"]
    found += [
        "-p",
        f"127.0.0.1:{launch.port}:8000",
        "-v",
        f"{hub_cache().parent}:/root/.cache/huggingface",
    ]
    mounts: dict[str, str] = {}
    for path in [launch.model, launch.chat_template, *(path for _, path in launch.loras)]:
        if path and path.startswith("/"):
            mounts[path] = f"/mounted/{len(mounts)}/{Path(path).name}"
    for outside, inside in mounts.items():
        found += ["--mount", f"type=bind,source={outside},target={inside},readonly"]
    for secret in secrets:
        found += ["-e", secret]
    inner = launch.model_copy(
        update={
            "model": mounts.get(launch.model, launch.model),
            "chat_template": mounts.get(launch.chat_template or "", launch.chat_template),
            "loras": tuple((name, mounts.get(path, path)) for name, path in launch.loras),
            "gpus": (),  # those that the container sees
        }
    )
    found += [f"{IMAGE}:{tag}", f"--model={inner.model}", "--host=0.0.0.0", "--port=8000"]
    return found + arguments(inner)


def serve_command(launch: Launch) -> list[str]:
    """The `gearshift serve …` that starts it; adapters are left out."""
    ranks = launch.tensor_parallel * launch.pipeline_parallel
    found = ["gearshift", "serve", launch.model]
    if ranks > 1 and not launch.gpus:
        found += [str(ranks), str(launch.tensor_parallel)]
    options = {
        "gpus": ",".join(launch.gpus) or None,
        "port": launch.port,
        "pipeline-parallel": launch.pipeline_parallel if launch.pipeline_parallel > 1 else None,
        "executor": launch.executor,
        "gpu-memory-utilization": launch.memory_utilization,
        "max-model-len": launch.max_model_len,
        "max-num-seqs": launch.max_num_seqs,
        "max-num-batched-tokens": launch.max_num_batched_tokens,
        "dtype": launch.dtype,
        "kv-cache-dtype": launch.kv_cache_dtype,
        "quantization": launch.quantization,
        "chat-template": launch.chat_template,
        "override-generation-config": json.dumps(launch.generation_config)
        if launch.generation_config
        else None,
        "tool-parser": launch.tool_parser,
        "reasoning-parser": launch.reasoning_parser,
        "runner": launch.runner,
    }
    found += [f"--{name}={value}" for name, value in options.items() if value is not None]
    switches = {
        "enable-chunked-prefill": launch.chunked_prefill,
        "enable-prefix-caching": launch.prefix_caching,
    }
    found += [f"--{'' if on else 'no-'}{name}" for name, on in switches.items() if on is not None]
    own = {launch.model, Path(launch.model).name, *counterparts(launch.model)[0]}
    found += [f"--served-name={name}" for name in launch.served_names if name not in own]
    return found + (["--enforce-eager"] if launch.enforce_eager and not launch.cpu else [])


def systemd_unit(command: list[str], environment: dict[str, str], model: str) -> str:
    """A unit for `/etc/systemd/system`, with the secrets in a file of their own."""
    plain = {name: value for name, value in environment.items() if value != "(hidden)"}
    lines = [
        "[Unit]",
        f"Description=vLLM serves {model}",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in plain.items()),
        "# HF_TOKEN and VLLM_API_KEY, readable by root alone (chmod 600)",
        "EnvironmentFile=-/etc/gearshift/vllm.env",
        "ExecStart=" + " ".join(_quoted(part) for part in command),
        "Restart=on-failure",
        "RestartSec=10",
        "TimeoutStopSec=30",
        "KillMode=control-group",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A word of a unit file: `%` and `$` mean something there, and so do quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or " " in text else text


def ray_lines(launch: Launch, nodes: int) -> list[str]:
    """What to type on each machine before `serve`, for ranks over several machines."""
    each = -(-launch.tensor_parallel * launch.pipeline_parallel // nodes)
    return [
        f"on the first machine:  ray start --head --port=6379 --num-gpus={each}",
        f"on each other one:     ray start --address=FIRST_MACHINE:6379 --num-gpus={each}",
        "on the first machine:  ray status   # shows all GPUs before you serve",
    ]


def as_shell(command: list[str], environment: dict[str, str]) -> str:
    """The command as a person would type it; secrets are named, not shown."""
    plain = [f"{n}={shlex.quote(v)}" for n, v in environment.items() if v != "(hidden)"]
    return " ".join([*plain, shlex.join(command)])
