"""`VLLMService`: a vLLM server, or any server that speaks OpenAI's chat completions."""

from __future__ import annotations

from gearshift.errors import ProviderError
from gearshift.providers._http import Endpoint
from gearshift.providers._loop import on_loop
from gearshift.providers._openai import OpenAICompatibleService
from gearshift.providers._versions import older
from gearshift.schemas import ConnectionStatus

_SAFE_VERSION = "0.32.0"  # versions below have published security holes


class VLLMService(OpenAICompatibleService):
    """Speaks to the server at `VLLM_BASE_URL`."""

    name = "vllm"
    label = "vLLM"

    @property
    def url(self) -> str:
        return self.settings.vllm_base_url

    async def _endpoint(self) -> Endpoint:
        key = self.settings.vllm_api_key
        return Endpoint(
            f"{self.label} at {self.url}",
            self.url,
            self.budgets.connect,
            key.get_secret_value() if key else None,
            self.settings.proxy,
        )

    async def metrics(self) -> str:
        """What the server says of itself, in Prometheus' text format.

        Raises:
            ProviderError: it does not say.
        """
        return await on_loop(self._metrics())

    async def _metrics(self) -> str:
        return await (await self._endpoint()).ask_text("/metrics")

    async def check_health(self) -> None:
        """Asks whether the engine behind the server lives.

        Raises:
            ProviderError: it does not.
        """
        await on_loop(self._check_health())

    async def _check_health(self) -> None:
        await (await self._endpoint()).ask_text("/health")

    async def _check(self) -> ConnectionStatus:
        models = await self._list_models()
        if not models:
            return ConnectionStatus(False, "The server runs but serves no model.")
        try:
            version = (await (await self._endpoint()).ask("/version")).get("version")
        except ProviderError:
            version = None  # other OpenAI-compatible servers do not have it
        detail = f"serves {', '.join(model.name for model in models)}"
        if not isinstance(version, str):
            return ConnectionStatus(True, detail)
        outdated = older(version, _SAFE_VERSION)
        if outdated:
            detail += f"; version {version} has known security holes: update to {_SAFE_VERSION}"
        return ConnectionStatus(True, detail, version, outdated)
