"""What the three processes share: a name in the log, waiting, children, a line in the record."""

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

LIFE = 600
"""Seconds after which each process ends by itself, so that a broken test leaves nothing behind."""

FOREVER = 10.0 * LIFE
_PR_SET_NAME = 15


class Terminated(Exception):
    """SIGTERM (or SIGINT) came, and this process does not ignore it."""


class ChildGone(Exception):
    """The child ended by itself; `status` is as `Popen.returncode`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def load_plays() -> SimpleNamespace:
    """What `stand_in()` was asked to play; `folder` is where the record is written."""
    path = Path(os.environ["VLLM_STAND_IN"])
    return SimpleNamespace(folder=path.parent, **json.loads(path.read_text("utf-8")))


def write(text: str, descriptor: int = 1) -> None:
    """Writes all of it; waits when a pipe is full, and goes on when nobody can read any more."""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass


def _stat() -> list[str]:
    """Fields of /proc/self/stat from the third one on: the name before them may hold anything."""
    return Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def rename(title: str) -> None:
    """Does what setproctitle does: the command line becomes the title, the environment is wiped."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    arg_start, arg_end, env_start, env_end = map(int, _stat()[45:49])
    ctypes.memset(arg_start, 0, arg_end - arg_start)
    ctypes.memset(env_start, 0, env_end - env_start)
    name = title.encode()[: arg_end - arg_start - 1]
    ctypes.memmove(arg_start, name, len(name))


class Role:
    """One process of the tree.

    Signals are blocked and taken while it waits, so that no handler runs at an odd moment.

    Args:
        name: As the log shows it.
        options: The options of `vllm serve`, each with its values.
        plays: What to play.
        started: One byte that all three share: whether the server is ready.
    """

    def __init__(
        self, name: str, options: dict[str, list[str]], plays: SimpleNamespace, started: mmap.mmap
    ) -> None:
        self.name, self.options, self.plays, self.started = name, options, plays, started
        self.pid = os.getpid()
        self.child: int | None = None
        signal.alarm(LIFE)
        self._signals = {signal.SIGCHLD}
        if plays.ignore_term:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            self._signals |= {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._record()

    def _record(self) -> None:
        line = f"{name_in_record(self.name)} {self.pid} {_stat()[19]} {json.dumps(sys.argv[1:])}\n"
        record = self.plays.folder / "processes.txt"
        descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        write(line, descriptor)
        os.close(descriptor)

    def option(self, name: str, default: str) -> str:
        values = self.options.get(name)
        return values[-1] if values else default

    def log(self, where: str, text: str, level: str = "INFO") -> None:
        """A line as vLLM's logger writes it; each line of `text` has the whole prefix."""
        stamp = time.strftime("%m-%d %H:%M:%S")
        lines = text.split("\n")
        self.plain(*(f"{level} {stamp} [{where}] {line}" for line in lines))

    def plain(self, *lines: str) -> None:
        """Lines with the name of the process alone, such as tracebacks that end it."""
        for line in lines:
            write(f"({self.name} pid={self.pid}) {line}\n")

    def uvicorn(self, *lines: str) -> None:
        """Lines of the HTTP server, which bear no name."""
        for line in lines:
            write(f"{line}\n")

    def say(self, share: float, *lines: tuple[str, str]) -> None:
        """Logs (where, text) lines, spread over that share of the start's time."""
        for where, text in lines:
            self.pause(share * self.plays.start_seconds / len(lines))
            self.log(where, text)

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            Terminated: it was told to end.
            ChildGone: its child ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            taken = signal.sigtimedwait(self._signals, max(0.0, deadline - time.monotonic()))
            if taken is None:
                return
            if taken.si_signo == signal.SIGCHLD:
                self._look_at_child()
            elif self.started[0] or not self.plays.lose_term_in_startup:
                raise Terminated

    def _look_at_child(self) -> None:
        if self.child is not None:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                self.child = None
                raise ChildGone(os.waitstatus_to_exitcode(status))

    def wait_for(self, descriptor: int) -> None:
        """Waits until a byte can be read there."""
        os.set_blocking(descriptor, False)
        while True:
            try:
                if os.read(descriptor, 1):
                    return
            except BlockingIOError:
                pass
            self.pause(0.02)

    def fork(self, body) -> int:
        """A child that runs `body` and ends with the status that it returns."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            status = body()
        except BaseException as error:  # noqa: BLE001
            # Whatever it is, the child must not return into its parent's code.
            write(f"the stand-in itself failed: {error!r}\n", 2)
        finally:
            os._exit(status)

    def end_child(self, seconds: float = 2.0) -> None:
        """SIGTERM to the child, and SIGKILL if that does not do in time."""
        if self.child is None:
            return
        os.kill(self.child, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while os.waitpid(self.child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)
                break
            time.sleep(0.01)
        self.child = None


def name_in_record(name: str) -> str:
    return {"APIServer": "api", "EngineCore": "engine", "Worker": "worker"}[name]
