"""A model's `config.json` from the Hub, or from a mirror of it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from gearshift.errors import EngineError
from gearshift.settings import Settings, hub_endpoint, hub_is_off

_PATIENCE = 5.0  # seconds
_MOST = 4 << 20  # bytes; configurations have some kilobytes


def fetch_config(name: str, settings: Settings) -> dict[str, Any]:
    """Asks the Hub once.

    Raises:
        EngineError: it cannot be reached, has no such model, or keeps it from us (kind `hub`).
    """
    where = hub_endpoint()
    by_hand = "give the model's config.json, or the folder that has it"
    if hub_is_off():
        raise EngineError("hub", "HF_HUB_OFFLINE is set, so the Hub is not asked", by_hand)
    request = urllib.request.Request(f"{where}/{name}/resolve/main/config.json")  # noqa: S310
    if settings.hf_token:
        # Not sent on to another host that the answer may point to.
        token = settings.hf_token.get_secret_value()
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            config = json.loads(answer.read(_MOST))
    except urllib.error.HTTPError as answer:
        if answer.code in (401, 403):
            message = f"{where} does not give {name} to everybody, or does not have it"
            hint = "check its name; accept its terms on its page, and set HF_TOKEN"
        else:
            message, hint = f"{where} answers with status {answer.code} for {name}", by_hand
        raise EngineError("hub", message, hint) from None
    except (OSError, http.client.HTTPException) as problem:
        reason = getattr(problem, "reason", None) or problem
        raise EngineError("hub", f"{where} cannot be reached: {reason}", by_hand) from None
    except (ValueError, RecursionError):
        raise EngineError("hub", f"what {where} gives for {name} is no JSON", by_hand) from None
    if not isinstance(config, dict):
        raise EngineError("hub", f"what {where} gives for {name} is no configuration", by_hand)
    return config
