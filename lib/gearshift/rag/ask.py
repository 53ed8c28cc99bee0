"""One question, one cited answer, in one call: for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gearshift.providers import BaseLLMService, LLMServiceFactory, chain, on_loop
from gearshift.rag.chat import Ask, Documents, begin, write_answer
from gearshift.rag.conversations import Conversation
from gearshift.rag.library import to_ask
from gearshift.schemas import Answer


async def ask(
    question: str,
    provider: str | None = None,
    *,
    documents: Documents | None = None,
    model: str | None = None,
    services: Sequence[BaseLLMService] | None = None,
    max_tokens: int | None = None,
    conversation: Conversation | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Answers from the documents; may be awaited on any event loop.

    Never raises for a provider that fails: `state` and `error` of the answer say so.

    Args:
        provider: Who is asked first, with Ollama and the embedded model behind it; `None` for the
            active one.
        documents: What is searched; `None` for one's own, or the handbook while there are none.
        model: Taken as it is written; `None` for what the provider has.
        services: Who is asked, in this order, instead.
        max_tokens: The longest answer.
        conversation: The turns before; this one is appended.
        on_text: Called with each piece of the answer, on another thread.
    """
    if services is None:
        services = chain(provider or LLMServiceFactory.active(), LLMServiceFactory.get_service)
    what = Ask(
        question,
        services,
        lambda: documents or to_ask(None),
        model=model,
        insist=model is not None,
        max_tokens=max_tokens,
    )
    turns = conversation or Conversation()
    return await on_loop(write_answer(what, turns, begin(turns, question), on_text))
