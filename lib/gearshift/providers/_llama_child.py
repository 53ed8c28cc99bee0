"""The child process of the embedded model: llama.cpp's server on a free loopback port.

Started by path, without importing Gearshift, so that it stays small. It reads a line of JSON from
stdin (`model`, `name`, `key`, `context`, `slots`, `threads`), prints the address when it serves,
and ends when stdin does: also when the parent was killed.
"""

import json
import os
import sys
import threading


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serves until the parent is gone."""
    wanted = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = wanted["model"]
    params.model_alias = [wanted["name"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [wanted["key"]]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False
    # Each slot has a context of its own: sharing one would let a long chat fail the others.
    params.n_parallel = wanted["slots"]
    params.n_ctx = wanted["slots"] * wanted["context"]
    # Small batches: a stopped request ends, and others go on, within a second of a long prompt.
    params.n_batch = params.n_ubatch = 256
    params.cache_ram_mib = 0  # the slots themselves remember the last prompts
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = wanted["threads"]
    # Answers repeat their sources word for word, so what follows four tokens in the prompt is
    # guessed and checked in one go: half of the time of writing, measured.
    params.speculative.types = [
        xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE
    ]
    params.speculative.ngram_simple.size_n = 4
    params.speculative.ngram_simple.size_m = 12
    params.verbosity = 2
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
