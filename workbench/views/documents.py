"""Documents: take files in, look at what was read, delete."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import GearshiftError, IndexMismatch
from gearshift.rag import library
from gearshift.rag.index import Store
from gearshift.rag.ingest import ingest_bytes
from parts.markdown import plain
from parts.state import show_problem

_ICONS = {
    "indexed": ":green[:material/check_circle:]",
    "unchanged": ":gray[:material/check_circle:]",
    "duplicate": ":orange[:material/content_copy:]",
}
_FAILED = ":red[:material/error:]"
_PREVIEW = 20_000  # characters of a document's text that the page shows


def main() -> None:
    st.title("Documents")
    st.write(
        "Markdown, text, PDF, DOCX and HTML, up to 25 MB each. Files stay on this machine; "
        "everybody who uses this workbench can ask them."
    )
    names = [name for name in library.names() if name != library.DEFAULT]
    name = st.selectbox(
        "Collection",
        [library.DEFAULT, *names],
        format_func=lambda n: {"default": "My documents", "sample": "Handbook (sample)"}.get(n, n),
    )
    try:
        if name == library.SAMPLE:
            library.sample()
        else:
            _upload(name)
        if name in library.names():
            _list(library.store(name), deletable=name != library.SAMPLE)
            _index(name, library.mismatch(name))
        else:
            _nothing()
    except IndexMismatch as problem:
        _index(name, problem)
    except GearshiftError as problem:
        show_problem(problem)


def _index(name: str, problem: IndexMismatch | None) -> None:
    """Offers to make the index anew: because it must be, or because a search failed."""
    with st.expander("Rebuild the index", expanded=problem is not None):
        if problem is not None:
            st.warning(f"{plain(problem.message)}.")
        st.write("Splits and embeds the stored texts anew; the old index serves until then.")
        if not st.button("Rebuild it", icon=":material/restart_alt:"):
            return
        bar = st.progress(0.0)

        def progress(done: int, total: int, document: str) -> None:
            bar.progress(done / max(1, total), f"{done} of {total} {plain(document)}")

        try:
            library.rebuild(name, progress=progress)
        except GearshiftError as failed:
            show_problem(failed)
            return
    st.rerun()


def _upload(name: str) -> None:
    """Takes the chosen files in, one after the other, and says what became of each."""
    turn = st.session_state.setdefault("upload_turn", 0)
    files = st.file_uploader(
        "Add files",
        type=["md", "txt", "pdf", "docx", "html", "htm"],
        accept_multiple_files=True,
        key=f"upload-{turn}",
    )
    if files:
        fates = []
        bar = st.progress(0.0)
        collection = library.collection(name)
        for number, file in enumerate(files):
            bar.progress(number / len(files), f"Reading {plain(file.name)} …")
            fates.append(ingest_bytes(file.name, file.getvalue(), collection))
        bar.empty()
        st.session_state.fates = fates
        # A new key empties the uploader, so that the next run does not take them in again.
        st.session_state.upload_turn = turn + 1
        st.rerun()
    for fate in st.session_state.get("fates", []):
        icon = _ICONS.get(fate.status, _FAILED)
        reason = f": {plain(fate.reason)}" if fate.reason else f", passages: {fate.passages}"
        st.markdown(f"{icon} **{plain(fate.path)}** {fate.status}{reason}")


def _nothing() -> None:
    st.info("Nothing here yet: add a file above.", icon=":material/upload_file:")


def _list(store: Store, deletable: bool) -> None:
    documents = store.documents()
    if not documents:
        _nothing()
        return
    st.dataframe(
        [
            {
                "document": document.name,
                "title": document.title,
                "kind": document.kind,
                "pages": document.pages or "",
                "passages": document.passages,
                "added": document.added[:16].replace("T", " "),
                "notes": "; ".join(document.notes),
            }
            for document in documents
        ],
        hide_index=True,
    )
    chosen = st.selectbox(
        "Look at", [document.name for document in documents], index=None, placeholder="a document"
    )
    if chosen is None:
        return
    document = store.document(chosen)
    if document is None:
        st.warning("It was deleted meanwhile.")
        return
    if deletable and st.button("Delete it", icon=":material/delete:"):
        store.delete(chosen)
        st.session_state.fates = []
        st.rerun()
    st.caption("This is the text that was read, and that questions are answered from:")
    st.text(document.text[:_PREVIEW])
    if len(document.text) > _PREVIEW:
        st.caption(f"… and {len(document.text) - _PREVIEW:,} characters more")


main()
