"""Settings: the only reader of the environment and of `.env`.

The names without a prefix are those of the guide; what Gearshift adds begins with `GEARSHIFT_`.
The environment wins over `.env`, which is read from the working directory. A wrong value raises
`SettingsError` with one sentence for each thing that is wrong; secrets are never printed.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from gearshift.errors import SettingsError

log = logging.getLogger(__name__)

ENV_FILE = Path(".env")
"""Where defaults are read from and `switch` writes to, relative to the working directory."""

PROVIDERS = tuple(
    sorted(path.stem for path in (Path(__file__).parent / "providers").glob("[!_]*.py"))
)
"""The slugs of the providers: each is a file in `providers/`."""


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine by name or number; no name is looked up."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _base_url(value: object) -> str:
    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises on a port that is not one
    except ValueError as wrong:
        raise ValueError(f"is not a URL ({wrong})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address such as http://localhost:8001")
    if parts.username or parts.password:
        raise ValueError("must not carry a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("must not carry a query (?…) or a fragment (#…)")
    return text


def _provider(value: object) -> str:
    name = str(value).strip().lower()
    if name not in PROVIDERS:
        raise ValueError(f"there is no such provider; choose one of {', '.join(PROVIDERS)}")
    return name


BaseURL = Annotated[str, BeforeValidator(_base_url)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _guide(name: str) -> Any:
    return AliasChoices(name)


class Settings(BaseSettings):
    """What is configured. Make one with `load_settings()`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_prefix="GEARSHIFT_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    llm_provider: Annotated[str, BeforeValidator(_provider)] = Field(
        "ollama", validation_alias=_guide("LLM_PROVIDER")
    )
    vllm_base_url: BaseURL = Field(
        "http://localhost:8001", validation_alias=_guide("VLLM_BASE_URL")
    )
    vllm_model_path: str = Field("", validation_alias=_guide("VLLM_MODEL_PATH"))
    vllm_gpu_count: int = Field(1, ge=1, le=8, validation_alias=_guide("VLLM_GPU_COUNT"))
    vllm_tensor_parallel_size: int = Field(
        1, ge=1, le=8, validation_alias=_guide("VLLM_TENSOR_PARALLEL_SIZE")
    )
    ollama_base_url: BaseURL = Field(
        "http://localhost:11434", validation_alias=_guide("OLLAMA_BASE_URL")
    )
    default_model: str = Field("mistral", min_length=1, validation_alias=_guide("DEFAULT_MODEL"))

    home: Path = Path("~/.gearshift")
    allow_remote: bool = False
    vllm_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("GEARSHIFT_VLLM_API_KEY", "VLLM_API_KEY")
    )
    vllm_python: Path | None = None
    hf_token: SecretStr | None = Field(None, validation_alias=_guide("HF_TOKEN"))
    proxy: BaseURL | None = None
    connect_timeout: Seconds = 5.0
    first_token_timeout: Seconds = 120.0
    progress_timeout: Seconds = 30.0
    total_timeout: Seconds = 600.0
    start_timeout: Seconds = 300.0

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.vllm_gpu_count % self.vllm_tensor_parallel_size:
            raise ValueError(
                f"VLLM_TENSOR_PARALLEL_SIZE={self.vllm_tensor_parallel_size} must divide "
                f"VLLM_GPU_COUNT={self.vllm_gpu_count} evenly"
            )
        if not self.allow_remote:
            for name in ("vllm_base_url", "ollama_base_url"):
                url: str = getattr(self, name)
                if not is_loopback(url):
                    raise ValueError(
                        f"{name.upper()}={url} is not on this machine: use a loopback address "
                        "(localhost, 127.0.0.1), or set GEARSHIFT_ALLOW_REMOTE=true if prompts and "
                        "documents may leave it"
                    )
        return self

    @property
    def home_dir(self) -> Path:
        """`GEARSHIFT_HOME` with `~` expanded, absolute."""
        return self.home.expanduser().absolute()

    def log_that_they_are_good(self) -> None:
        """The line that the guide tells people to look for."""
        log.info("Security settings validation passed (LLM Provider: %s)", self.llm_provider)


_MEANT_FOR_CHILDREN = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TERM|XDG_.*|LD_LIBRARY_PATH|"
    r"LD_PRELOAD|(HTTPS?|NO|ALL|FTP)_PROXY|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|"
    r"HF_.*|HUGGING_?FACE_.*|TRANSFORMERS_.*|CUDA_.*|NVIDIA_.*|NCCL_.*|GLOO_.*|TP_SOCKET_.*|"
    r"TORCH.*|PYTORCH_.*|TRITON_.*|OMP_.*|MKL_.*|KMP_.*|OPENBLAS_.*|RAY_.*|VLLM_.*|UV_.*|"
    r"PIP_FIND_LINKS|PIP_CERT|CC|CXX)",
    re.IGNORECASE,
)
_NOT_FOR_VLLM = {
    "VLLM_BASE_URL",
    "VLLM_MODEL_PATH",
    "VLLM_GPU_COUNT",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_API_KEY",  # given on purpose, from `vllm_api_key`
    "VLLM_SERVER_DEV_MODE",  # opens endpoints that no key protects
}


def environment_for_vllm() -> dict[str, str]:
    """What a vLLM process inherits of our environment: what is meant for it, and nothing else.

    `HF_TOKEN` is among it; our own `VLLM_*` names, which vLLM would take for its own, are not.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if _MEANT_FOR_CHILDREN.fullmatch(name) and name.upper() not in _NOT_FOR_VLLM
    }


def environment_values() -> dict[str, str]:
    """What the environment sets, by upper-case names; an empty value counts as none."""
    return {name.upper(): value for name, value in os.environ.items() if value}


def file_values() -> dict[str, str]:
    """What `.env` sets, by upper-case names, whether or not we know them.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        found = DotEnvSettingsSource(Settings).env_vars if ENV_FILE.is_file() else {}
    except (OSError, UnicodeDecodeError) as wrong:
        raise _unreadable(wrong) from None
    return {name.upper(): value for name, value in found.items() if value}


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that the environment leaves us (`CUDA_VISIBLE_DEVICES`); empty if all."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(name.strip() for name in names if name.strip())


def port_of(url: str) -> int:
    """The port that a base URL means."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def hub_cache() -> Path:
    """Where the Hub's client keeps what it has downloaded."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    base = (
        Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return base.expanduser() / "hub"


def hub_endpoint() -> str:
    """Where the Hub, or a mirror of it, is."""
    address = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    return address if address.startswith(("http://", "https://")) else "https://huggingface.co"


def hub_is_off() -> bool:
    """Whether people have told the Hub's client to ask nobody."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def variable_name(field: str) -> str:
    """The environment variable that sets a field of `Settings`."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"GEARSHIFT_{field.upper()}"


def setting_names() -> list[str]:
    """Every variable that is read as a setting, other spellings included."""
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    more = [str(name) for one in aliases if isinstance(one, AliasChoices) for name in one.choices]
    return sorted({*map(variable_name, Settings.model_fields), *more})


def _sentence(error: Any) -> str:
    where = str(error["loc"][0]) if error["loc"] else ""
    text = error["msg"].removeprefix("Value error, ")
    if not where:
        return str(text)
    name = variable_name(where) if where in Settings.model_fields else where
    field = next((f for f in Settings.model_fields if variable_name(f) == name), "")
    secret = "key" in field or "token" in field.split("_")
    shown = "(hidden)" if secret else repr(error["input"])
    shown = re.sub(r"//[^/]*@", "//(hidden)@", shown)
    text = text[0].lower() + text[1:]
    return f"{name}={shown}: {text}"


def _unreadable(wrong: Exception) -> SettingsError:
    message = f"cannot read {ENV_FILE.absolute()}: {wrong}"
    return SettingsError(message, hint="make it a readable UTF-8 file")


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Reads and checks the environment and `.env` once; `load_settings.cache_clear()` forgets.

    Raises:
        SettingsError: with every wrong value in one message.
    """
    settings = settings_with()
    settings.log_that_they_are_good()
    return settings


def settings_with(**fields: Any) -> Settings:
    """The settings, checked, with some fields given rather than read.

    Raises:
        SettingsError: with every wrong value in one message.
    """
    try:
        return Settings(**fields)
    except ValidationError as wrong:
        problems = [_sentence(error) for error in wrong.errors()]
        raise SettingsError(
            "wrong settings: " + "; ".join(problems),
            hint=f"correct them in the environment or in {ENV_FILE.absolute()}",
        ) from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise _unreadable(wrong) from None


def with_setting(data: bytes, name: str, value: str) -> bytes:
    """What `.env` holds once it sets `name=value`; every other line stays as it is, to the byte.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    line = f"{name}='{value}'" if re.search(r"[^\w./:@+-]", value) else f"{name}={value}"
    text = data.decode("utf-8")
    end = "\r\n" if "\r\n" in text else "\n"
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    ours = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=", re.IGNORECASE)
    places = [i for i, old in enumerate(lines) if ours.match(old)]
    if places:
        lines[places[-1]] = line + end
    else:
        lines.append(line + end)
    return "".join(lines).encode()


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` in a file's place at once, or where a link to it points; its rights stay.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    scratch.write_bytes(data)
    if path.exists():
        scratch.chmod(path.stat().st_mode & 0o777)
    scratch.replace(path)


def save_setting(name: str, value: str) -> bool:
    """Writes `name=value` into `.env`, keeping every other line; the file is replaced at once.

    Returns whether it has an effect: `False` when the environment sets `name` and so wins.

    Raises:
        SettingsError: the file cannot be written.
    """
    if re.search(r"[\r\n'\\\0]", value):
        raise SettingsError(f"{name} cannot hold {value!r}", hint="use plain text in one line")
    try:
        old = ENV_FILE.read_bytes() if ENV_FILE.exists() else b""
        replace_file(ENV_FILE, with_setting(old, name, value))
    except (OSError, UnicodeDecodeError) as wrong:
        raise SettingsError(
            f"cannot write {ENV_FILE.absolute()}: {wrong}",
            hint=f"set {name} in the environment instead",
        ) from None
    load_settings.cache_clear()
    # Names in the environment are read in either case, and an empty value counts as none.
    wins = [other for key, other in os.environ.items() if key.upper() == name]
    return all(other.strip().lower() in ("", value.lower()) for other in wins)
