"""Every error that Gearshift raises on purpose, as one tree; each carries what to do next.

GearshiftError
├── SettingsError         a setting is wrong                               kind: settings
├── ProviderError         a language model server let us down
│   ├── Unreachable       refused, no such host, TLS failed                kind: unreachable
│   ├── TimedOut          no first token, or no end, within the budget     kind: timeout
│   ├── Stalled           it began to answer and then said nothing more    kind: stalled
│   ├── Truncated         the stream ended without proof of its end        kind: truncated
│   ├── ProtocolError     what arrived is not the protocol                 kind: protocol_error
│   ├── NotAnLLMServer    something else listens at that address           kind: not_an_llm_server
│   ├── ModelNotFound     the server does not have that model              kind: model_not_found
│   ├── ContextExceeded   the prompt is longer than the model's context    kind: context_exceeded
│   ├── Overloaded        busy: 429 or 503, also after waiting             kind: overloaded
│   ├── Unauthorized      the key is missing or wrong                      kind: auth
│   ├── Rejected          the server refuses this request (other 4xx)      kind: rejected
│   └── ServerFailed      the server reports a failure of its own          kind: server
├── DocumentError         a document cannot be taken in                    kind: its reason's slug
├── EngineError           a vLLM server or its environment                 kind: its reason's slug
└── IndexFault            the index is damaged or busy                     kind: index
    └── IndexMismatch     it was made by another embedder or splitter      kind: index_mismatch

What it does not know: how an error is shown. The command line and the pages do that.
"""

from __future__ import annotations


class GearshiftError(Exception):
    """Something went wrong that a person can do something about.

    Args:
        message: What happened, and where.
        hint: What to do next.
        partial: Text that had already arrived, when there was some.
    """

    kind = "error"

    def __init__(self, message: str, hint: str = "", partial: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.partial = partial

    def as_dict(self) -> dict[str, str]:
        """The object under `error` in the command line's JSON."""
        return {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "partial": self.partial,
        }


def unexpected(bug: Exception, hint: str = "please report it; see the log") -> GearshiftError:
    """What a person is told of a mistake of ours."""
    return GearshiftError(f"unexpected {type(bug).__name__}: {bug}", hint=hint)


class SettingsError(GearshiftError):
    """A setting has a value that cannot work."""

    kind = "settings"


class ProviderError(GearshiftError):
    """A language model server let us down; subclasses say how."""

    kind = "provider"


class Unreachable(ProviderError):
    """No connection: refused, no such host, or the TLS handshake failed."""

    kind = "unreachable"


class TimedOut(ProviderError):
    """No first token, or no end, within the budget."""

    kind = "timeout"


class Stalled(ProviderError):
    """The answer began and then made no progress within the budget."""

    kind = "stalled"


class Truncated(ProviderError):
    """The stream ended without proof that the answer did."""

    kind = "truncated"


class ProtocolError(ProviderError):
    """What arrived cannot be read as the protocol that was asked for."""

    kind = "protocol_error"


class NotAnLLMServer(ProviderError):
    """Something answers at that address, but it is not a language model server."""

    kind = "not_an_llm_server"


class ModelNotFound(ProviderError):
    """The server does not have the model."""

    kind = "model_not_found"


class ContextExceeded(ProviderError):
    """The prompt and the requested answer do not fit into the model's context."""

    kind = "context_exceeded"


class Overloaded(ProviderError):
    """The server is too busy; `retry_after` is what it asked us to wait, in seconds."""

    kind = "overloaded"

    def __init__(
        self, message: str, hint: str = "", partial: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint, partial)
        self.retry_after = retry_after


class Unauthorized(ProviderError):
    """The server wants a key that we do not have."""

    kind = "auth"


class Rejected(ProviderError):
    """The server refuses this very request; sending it again would not help."""

    kind = "rejected"


class ServerFailed(ProviderError):
    """The server reports a failure of its own (out of memory, a dead engine, a bug)."""

    kind = "server"


class DocumentError(GearshiftError):
    """A document cannot be taken in; `kind` is the reason's slug (`empty`, `needs_password` …)."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class EngineError(GearshiftError):
    """A vLLM server or its environment; `kind` is the reason's slug (`port_taken`, `start` …)."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class IndexFault(GearshiftError):
    """The index is damaged, or is being written by somebody else."""

    kind = "index"


class IndexMismatch(IndexFault):
    """The index was made by another embedder or splitter; it can be rebuilt from its texts."""

    kind = "index_mismatch"
