"""An answer being written, apart from the page that shows it.

A Streamlit page is run again at every click. The job goes on meanwhile on the background loop; the
page reads the answer as far as it has come, and may stop it at any time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from weakref import WeakValueDictionary

from gearshift.errors import GearshiftError
from gearshift.providers import background_loop, submit
from gearshift.rag.chat import Ask, begin, write_answer
from gearshift.rag.conversations import Conversation, save
from gearshift.schemas import Answer, State

log = logging.getLogger(__name__)

_lock = threading.Lock()
_jobs: WeakValueDictionary[str, Job] = WeakValueDictionary()


def last_job(conversation: Conversation) -> Job | None:
    """The last job of a conversation, whichever page started it."""
    return _jobs.get(conversation.id)


class Job:
    """Writes the next turn of a conversation and saves it, however it ends.

    Raises:
        GearshiftError: another answer is being written in this conversation.
    """

    def __init__(self, ask: Ask, conversation: Conversation, home: Path) -> None:
        self.problem: GearshiftError | None = None
        """Why the conversation could not be saved."""
        self.conversation = conversation
        self._home = home
        self._stopped = False
        self._writing: asyncio.Task[Answer] | None = None
        self._ended = threading.Event()
        with _lock:
            last = last_job(conversation)
            if last is not None and last.running:
                raise GearshiftError(
                    "an answer is being written in this conversation",
                    hint="wait for its end or stop it, perhaps in another tab",
                )
            self.answer: Answer = begin(conversation, ask.question)
            _jobs[conversation.id] = self
        submit(self._run(ask))

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def stop(self) -> None:
        """Closes the connection to the provider; what has come stays, marked as stopped."""
        background_loop().call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopped = True
        if self._writing is not None:
            self._writing.cancel()

    async def _run(self, ask: Ask) -> None:
        try:
            await asyncio.to_thread(self._save)
            if not self._stopped:
                # A task of its own: stopping ends it, not the saving behind it.
                writing = write_answer(ask, self.conversation, self.answer)
                self._writing = asyncio.ensure_future(writing)
                await asyncio.wait([self._writing])
        finally:
            if not self.answer.state.final:
                self.answer.state = State.STOPPED
            try:
                await asyncio.to_thread(self._save)
            finally:
                self._ended.set()

    def _save(self) -> None:
        try:
            save(self._home, self.conversation)
        except GearshiftError as problem:
            log.error("%s", problem)
            self.problem = problem
