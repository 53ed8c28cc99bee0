"""The index: can every collection be opened, with the embedder it was made with?"""

from __future__ import annotations

from gearshift.doctor.checks._base import Finding, Machine, Status, failed, passed, unknown
from gearshift.errors import IndexFault, IndexMismatch, ProviderError
from gearshift.rag.embedders import make_embedder
from gearshift.rag.index import Collection, Store, collections, stored_embedder
from gearshift.rag.library import SAMPLE

_WORST = (Status.FAILED, Status.UNKNOWN, Status.PASSED)


def check_index(machine: Machine) -> Finding:
    """Can each collection be opened, does its embedder match, and is it whole?"""
    names = collections(machine.settings.home_dir)
    if not names:
        return passed("there are no collections yet")
    found = [_collection(machine, name) for name in names]
    worst = next(status for status in _WORST if any(one.status is status for one in found))
    shown = [one for one in found if one.status is worst]
    hints = dict.fromkeys(one.hint for one in shown if one.hint)
    return Finding(worst, "; ".join(one.message for one in shown), "; ".join(hints))


def _collection(machine: Machine, name: str) -> Finding:
    settings = machine.settings
    try:
        store = Store(name, settings.home_dir)
        # A document that is deleted meanwhile leaves a gap that a second look does not find.
        if _missing(store) and (missing := _missing(store)):
            return failed(
                f"{name}: {missing} passages are gone", f"gearshift rebuild --collection {name}"
            )
        embedder = stored_embedder(name, settings.home_dir) or ""
        Collection.open(name, settings.home_dir, make_embedder(embedder, settings))
    except IndexMismatch as mismatch:
        if name == SAMPLE:  # nothing of a person's is in it
            return passed(f"{name}: it is made anew when it is next asked")
        return failed(mismatch.message, mismatch.hint)
    except IndexFault as fault:
        return failed(fault.message, fault.hint)
    except ProviderError as wrong:
        return unknown(
            f"{name}: whether its embedder {embedder} is still the same is not known, "
            f"{wrong.message}",
            f"{wrong.hint}: gearshift providers",
        )
    counts = f"{store.count()} documents, {store.passage_count()} passages"
    return passed(f"{name}: {counts}, embedder {embedder}")


def _missing(store: Store) -> int:
    """How many passages the documents speak of that are not there."""
    promised = sum(document.passages for document in store.documents())
    return max(0, promised - store.passage_count())
