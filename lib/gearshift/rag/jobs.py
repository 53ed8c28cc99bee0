"""An answer being written, apart from the page that shows it.

A Streamlit page is run again at every click. The job goes on meanwhile on the background loop; the
page reads the answer as far as it has come, and may stop it at any time.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from pathlib import Path
from weakref import WeakValueDictionary

from gearshift.errors import GearshiftError
from gearshift.providers import submit
from gearshift.rag.chat import Ask, begin, write_answer
from gearshift.rag.conversations import Conversation, save
from gearshift.schemas import Answer

log = logging.getLogger(__name__)

_running: WeakValueDictionary[str, Job] = WeakValueDictionary()


def running(address: str) -> Job | None:
    """The job that writes the conversation at that address, for a page that was loaded anew."""
    return _running.get(address)


class Job:
    """Writes the next turn of a conversation and saves it, however it ends."""

    def __init__(self, ask: Ask, conversation: Conversation, home: Path) -> None:
        self.answer: Answer = begin(conversation, ask.question)
        self.problem: GearshiftError | None = None
        """Why the conversation could not be saved."""
        self.conversation = conversation
        self._home = home
        _running[conversation.id] = self
        self._future: Future[None] = submit(self._run(ask))

    @property
    def running(self) -> bool:
        return not self._future.done()

    def stop(self) -> None:
        """Closes the connection to the provider; what has come stays, marked as stopped."""
        self._future.cancel()

    async def _run(self, ask: Ask) -> None:
        await asyncio.to_thread(self._save)
        try:
            await write_answer(ask, self.conversation)
        finally:
            # In a task of its own, because this one may be cancelled and must still be saved.
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._save)))

    def _save(self) -> None:
        try:
            save(self._home, self.conversation)
        except GearshiftError as problem:
            log.error("%s", problem)
            self.problem = problem
