"""Documents: take files in, look at what was read, delete."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import GearshiftError, IndexMismatch
from gearshift.rag import library
from gearshift.rag.index import Collection
from gearshift.rag.ingest import ingest_bytes
from parts.markdown import plain

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
        collection = library.sample() if name == library.SAMPLE else library.collection(name)
    except IndexMismatch as problem:
        _offer_rebuild(name, problem)
        return
    except GearshiftError as problem:
        st.error(f"{plain(problem.message)}. Next: {plain(problem.hint)}.")
        return
    if name != library.SAMPLE:
        _upload(collection)
    _list(collection, deletable=name != library.SAMPLE)


def _offer_rebuild(name: str, problem: IndexMismatch) -> None:
    st.warning(f"{plain(problem.message)}. Its texts are kept: only the index is made anew.")
    if st.button("Rebuild the index", icon=":material/restart_alt:"):
        try:
            with st.spinner("Embedding every passage …"):
                library.rebuild(name)
        except GearshiftError as failed:
            st.error(f"{plain(failed.message)}. Next: {plain(failed.hint)}.")
            return
        st.rerun()


def _upload(collection: Collection) -> None:
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


def _list(collection: Collection, deletable: bool) -> None:
    documents = collection.documents()
    if not documents:
        st.info("Nothing here yet: add a file above.", icon=":material/upload_file:")
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
    document = collection.document(chosen)
    if document is None:
        st.warning("It was deleted meanwhile.")
        return
    if deletable and st.button("Delete it", icon=":material/delete:"):
        collection.delete(chosen)
        st.session_state.fates = []
        st.rerun()
    st.caption("This is the text that was read, and that questions are answered from:")
    st.text(document.text[:_PREVIEW])
    if len(document.text) > _PREVIEW:
        st.caption(f"… and {len(document.text) - _PREVIEW:,} characters more")


main()
