"""`python -m vllm.entrypoints.cli.main serve MODEL --port N …`: the API server."""

import mmap
import os
import sys
import threading
import time
from contextlib import suppress

from vllm import __version__, _failures
from vllm._engine import EngineCore, batch_of, max_model_len
from vllm._http import Server, State
from vllm._role import FOREVER, ChildGone, Role, Terminated, load_plays


def parse(arguments: list[str]) -> tuple[str, dict[str, list[str]]]:
    """The model, and each option with its values, as `--name=value` or `--name value …`."""
    model, options, last = "", {}, None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            last = options.setdefault(name, [])
            if equals:
                last.append(value)
        elif last is None:
            model = argument
        else:
            last.append(argument)
    return model, options


class APIServer(Role):
    """The process that was started: it starts EngineCore, answers HTTP, and ends the rest."""

    def __init__(self, model: str, options: dict[str, list[str]]) -> None:
        super().__init__("APIServer", options, load_plays(), mmap.mmap(-1, 1))
        self.model = model
        self.server: Server | None = None
        self.host = self.option("host", "127.0.0.1")
        self.port = int(self.option("port", "8000"))
        names = options.get("served-model-name") or [model]
        self.state = State(
            names=names,
            listed=["another-model"] if self.plays.wrong_name else names,
            root=model,
            key=self.option("api-key", os.environ.get("VLLM_API_KEY", "")),
            max_model_len=max_model_len(self.option("max-model-len", "")),
            pooling=self.option("runner", "") == "pooling",
            batch=batch_of(self.option),
            plays=self.plays,
        )

    def run(self) -> int:
        try:
            self._start_engine()
            self._open()
            self.pause(FOREVER if self.plays.exit_after is None else self.plays.exit_after)
            return self._crash()
        except Terminated:
            return self._end()
        except ChildGone as gone:
            if self.server is None:
                failed = {"EngineCore": gone.status} if gone.status < 0 else {}
                self.plain(*_failures.engine_did_not_start(failed).split("\n"))
            else:
                self._tell_that_the_engine_is_dead()
            return 1

    # ---- starting

    def _start_engine(self) -> None:
        given = {"model_tag": self.model}
        given |= {name.replace("-", "_"): values for name, values in self.options.items()}
        given.pop("api_key", None)
        self.say(
            0.2,
            ("api_utils.py:347", f" █▄█▀ version {__version__}\n  ▀▀  model   {self.model}"),
            ("api_utils.py:286", f"non-default args: {given}"),
            ("model.py:733", "Resolved architecture: LlamaForCausalLM"),
        )
        if self.plays.print_secrets:
            variables = "\n".join(f"{name}={value}" for name, value in os.environ.items())
            self.log("secrets.py:1", f"argv: {sys.argv!r}\n{variables}")
        if self.plays.crash == "heads":
            text = _failures.heads(self.option("tensor-parallel-size", "2"))
            self.plain(*text.split("\n"))
            raise SystemExit(1)
        ready, tell = os.pipe()

        def engine() -> int:
            os.close(ready)
            return EngineCore(self.options, self.plays, self.started, self.model, tell).run()

        self.child = self.fork(engine)
        os.close(tell)
        self.wait_for(ready)

    def _open(self) -> None:
        address = f"http://{self.host}:{self.port}"
        self.say(0.1, ("entry.py:140", f"Starting vLLM server on {address}"))
        if self.plays.crash_with_children and self.plays.exit_after is None:
            raise SystemExit(self._crash())
        try:
            self.server = Server((self.host, self.port), self.state, self.uvicorn)
        except OSError:
            self.plain(*_failures.PORT_TAKEN.split("\n"))
            self.end_child()
            raise SystemExit(1) from None
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.uvicorn(
            f"INFO:     Started server process [{self.pid}]",
            "INFO:     Waiting for application startup.",
            "INFO:     Application startup complete.",
        )
        self.pause(0)  # a SIGTERM that came in the meantime is lost, too
        self.started[0] = 1

    # ---- ending

    def _end(self) -> int:
        """In good order: streams get their last chunk, then EngineCore ends, then we do.

        The log speaks of a dead engine all the same, as the real one's does.
        """
        self.log("launcher.py:254", "[shutdown] API server: shutdown triggered")
        if self.server is not None:
            self.state.end(engine_dead=False)
            self._wait_for_requests(0.5)
        self.log("utils.py:628", "[shutdown] Process manager: send sigterm to process EngineCore")
        self.end_child()
        if self.server is None:
            return 0
        self.log("async_llm.py:906", "AsyncLLM output_handler failed.", "ERROR")
        self.log("async_llm.py:906", _failures.ENGINE_DEAD_TRACEBACK, "ERROR")
        self.server.shutdown()
        self.server.server_close()
        self.uvicorn(
            "INFO:     Shutting down",
            "INFO:     Waiting for application shutdown.",
            "INFO:     Application shutdown complete.",
            f"INFO:     Finished server process [{self.pid}]",
        )
        return 0

    def _tell_that_the_engine_is_dead(self) -> None:
        """For a moment `/health` says so, then there is nobody to ask."""
        self.state.end(engine_dead=True)
        self.log("async_llm.py:906", "AsyncLLM output_handler failed.", "ERROR")
        self.log("async_llm.py:906", _failures.ENGINE_DEAD_TRACEBACK, "ERROR")
        with suppress(Terminated):
            self.pause(0.4)
        self.uvicorn("INFO:     Shutting down")

    def _crash(self) -> int:
        self.plain(*_failures.API_CRASHED.split("\n"))
        if not self.plays.crash_with_children:
            self.end_child()
        return 1

    def _wait_for_requests(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.state.running and time.monotonic() < deadline:
            time.sleep(0.01)


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print(__version__)
    elif len(sys.argv) < 3 or sys.argv[1] != "serve" or sys.argv[2].startswith("-"):
        sys.exit("usage: vllm serve MODEL [--host HOST] [--port PORT] [--served-model-name NAME …]")
    else:
        try:
            status = APIServer(*parse(sys.argv[2:])).run()
        except SystemExit as end:
            status = int(end.code or 0)
        os._exit(status)  # whatever its threads are at


if __name__ == "__main__":
    main()
