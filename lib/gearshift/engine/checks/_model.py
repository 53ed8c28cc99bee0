"""The model: is it one, can it be shared out, can it be had?"""

from __future__ import annotations

import http.client
import shutil
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from gearshift.engine.checks._base import GIB, Check, Plan, passed, refused, unknown
from gearshift.engine.geometry import read_geometry, why_not_tensor_parallel
from gearshift.engine.models import Model, legal_tensor_parallel
from gearshift.errors import EngineError
from gearshift.settings import environment_for_vllm, hub_cache, hub_endpoint


def check_model(plan: Plan) -> Check:
    """Is it a model, and is it here?"""
    model = plan.model
    if model.problem:
        hint = "give a folder with config.json and *.safetensors, or a Hub id"
        return refused("model", model.problem, hint)
    if model.folder is not None:
        return passed("model", f"its files are in {model.folder}")
    hint = "" if "/" in model.source else "models on the Hub are mostly called owner/name"
    return unknown("model", f"{model.source} has to be downloaded from the Hub first", hint)


def check_tensor_parallel(plan: Plan) -> Check:
    """Can that many GPUs share each layer?"""
    size = plan.launch.tensor_parallel
    legal = legal_tensor_parallel(plan.model, max(8, size))
    if size == 1:
        return passed("tensor_parallel", "one rank needs no division")
    if legal is None:
        return unknown("tensor_parallel", "its number of attention heads is not known here")
    heads = plan.model.number("num_attention_heads")
    kv_heads = plan.model.number("num_key_value_heads") or heads
    if size in legal:
        return passed("tensor_parallel", f"{heads} heads and {kv_heads} KV heads allow {size}")
    sizes = ", ".join(map(str, legal))
    why = f"{heads} attention heads and {kv_heads} KV heads cannot be shared by {size}"
    with suppress(EngineError):  # a config that does not tell its whole shape tells its heads
        why = why_not_tensor_parallel(read_geometry(plan.model.config or {}), size) or why
    return refused(
        "tensor_parallel", f"{plan.model.source}: {why}", f"legal tensor-parallel sizes: {sizes}"
    )


def check_pipeline_parallel(plan: Plan) -> Check:
    """Are there layers enough for the stages?"""
    stages, layers = plan.launch.pipeline_parallel, plan.model.number("num_hidden_layers")
    if stages == 1:
        return passed("pipeline_parallel", "one stage holds all layers")
    if layers is None:
        return unknown("pipeline_parallel", "its number of layers is not known here")
    if stages > layers:
        hint = f"use at most {layers} stages"
        return refused("pipeline_parallel", f"{layers} layers do not fill {stages} stages", hint)
    return passed("pipeline_parallel", f"{layers} layers in {stages} stages")


def check_context(plan: Plan) -> Check:
    """Can the model read that much?"""
    asked, most = plan.launch.max_model_len, plan.model.number("max_position_embeddings")
    if asked is None:
        return passed("context", "the model's own context length")
    if most is None or _stretched(plan.model) or plan.model.folder is None:
        return unknown("context", "its longest context is not known here")
    if asked > most and "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in environment_for_vllm():
        return unknown("context", f"{asked} tokens, and the model was made for {most}")
    if asked > most:
        hint = f"take at most --max-model-len {most}"
        return refused("context", f"it was made for {most} tokens, not for {asked}", hint)
    return passed("context", f"{asked} of the model's {most} tokens")


def _stretched(model: Model) -> bool:
    """Whether its positions are scaled, so that it reads more than `max_position_embeddings`."""
    for shape in model.shapes:
        rope = shape.get("rope_parameters") or {"rope_type": "default"}  # since transformers 5
        plain = isinstance(rope, dict) and rope.get("rope_type") == "default"
        if shape.get("rope_scaling") or not plain:
            return True
    return False


def check_disk(plan: Plan) -> Check:
    """Is there room for a download?"""
    if plan.model.folder is not None or plan.model.problem:
        return passed("disk", "nothing has to be downloaded")
    folder = hub_cache()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < 2 * GIB:
        hint = "make room, or set HF_HOME to a larger disk"
        return refused("disk", f"{free / GIB:.1f} GiB are free for the download", hint)
    return unknown("disk", f"{free / GIB:.0f} GiB are free; what it needs is not known before")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token is meant for the Hub alone."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def check_hub(plan: Plan) -> Check:
    """Has the Hub that model, and may we have it?"""
    model, settings = plan.model, plan.settings
    if model.folder is not None or model.problem:
        return passed("hub", "nothing has to be downloaded")
    token = settings.hf_token.get_secret_value() if settings.hf_token else ""
    logged_in = bool(token) or (hub_cache().parent / "token").exists()
    advice = "accept its licence on the Hub and set HF_TOKEN"
    status = _ask_hub(f"{hub_endpoint()}/{model.source}/resolve/main/config.json", token)
    if status is None:
        known = "is gated, and " if (model.config or {}).get("gated") and not logged_in else ""
        message = f"{hub_endpoint()} cannot be reached; {model.source} {known}may not be available"
        return unknown("hub", message, advice if known else "")
    if status in (401, 403) and (token or not logged_in):
        why = "the token may not have it" if token else "it is gated, or does not exist"
        return refused("hub", f"{model.source}: {why}", advice)
    if status == 404:
        return refused("hub", f"{hub_endpoint()} has no {model.source}", "check its name")
    if status < 400:
        return passed("hub", f"{hub_endpoint()} has {model.source}")
    return unknown("hub", f"{hub_endpoint()} answers with status {status}")


def _ask_hub(address: str, token: str) -> int | None:
    """The status of a file there, `None` without an answer in time."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address, headers=headers, method="HEAD")  # noqa: S310
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=3) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return None
