"""The current trace as files, and files as the current trace: no model needed to look at one again."""

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from moeviz.errors import NotSaid
from moeviz.formats.exports import EXPORTS
from moeviz.formats.importers.importer import ImportOptions
from moeviz.formats.importers.table import OTHER_SUFFIXES
from moeviz.routing_trace import RoutingTrace
from moeviz.training.reading import is_run_file
from moeviz_app import settings
from moeviz_app.server import identity
from moeviz_app.session import opened, recent, session, training_runs
from moeviz_app.session.opened import read_upload
from moeviz_app.session.visit import visit
from moeviz_app.widgets.facts import trace_facts
from moeviz_app.widgets.files import ask_for, doctor_says, downloads, import_options
from moeviz_app.widgets.messages import explained, say


def traces_page() -> None:
    """Save the trace on screen, at first the example; open another."""
    st.title("Files", anchor=False)
    for sentence in recent.restore():
        say(sentence)
    if visit().trace is None and not recent.traces():
        _what_can_be_opened()
    st.subheader("Open a file", anchor=False)
    _open()
    trace = session.shown_trace()
    _recent()
    st.subheader("The current trace", anchor=False)
    trace_facts(trace)
    doctor_says(trace)
    st.markdown(
        "The trace file is the smallest that keeps everything. The HTML report, if it is offered, has all the charts, "
        "for people to read; the zip has them as tables and, where pictures can be drawn here, as SVG. Neither of "
        "these two can be opened here."
    )
    downloads(trace)


def _what_can_be_opened() -> None:
    """Show visitors without traces each kind of thing in a sentence, with the page that opens it."""
    st.markdown(
        "* **A trace**: where each token went. A file that moeviz or another program wrote opens below, and every page "
        "shows it.\n"
        "* **Counts**: how many tokens each expert got, as importance matrices and engines keep them. They open below "
        "too; published counts are under Balance.\n"
        "* **A training run**: what moeviz watched while a model trained. Its `routing.jsonl` opens below, and Train "
        "shows it.\n"
        "* **A model or a server**: a folder, a GGUF file, a Hugging Face id, or the address of vLLM or SGLang. The "
        "tab Models lists those on offer here.\n"
        "* **Many texts**: labelled texts to read now, or the dataset of a corpus. The tab Many texts takes both."
    )


def _open() -> None:
    readable = [export for export in EXPORTS if export.read]
    formats = ", ".join(export.label for export in readable)
    most = min(settings.SETTINGS.max_upload_mb, st.get_option("server.maxUploadSize"))
    upload = st.file_uploader(
        f"A trace file written by moeviz ({formats}), or routing or counts that vLLM, llama.cpp or another program "
        "wrote. " + _what_becomes_of_it(),
        type=[*(export.suffix for export in readable), *OTHER_SUFFIXES],
        max_upload_size=most,
        key=session.UPLOAD,
    )
    # Beside it at all times: a browser refuses a larger file by itself, and the server never sees it.
    st.markdown(
        f":small[Files up to {most} MB. Open a larger one, a folder, or a file of torch on your own machine with "
        "`moeviz app FILE`.]"
    )
    if upload is None or visit().upload == upload.file_id:
        return
    form = st.empty()
    with form.container():
        told = import_options(upload.file_id, upload.name)
    if told is not None:
        with explained(), st.spinner("Reading the file …"):
            _read(upload, told)
        if visit().upload == upload.file_id:
            form.empty()  # it is answered


def _read(upload: UploadedFile, told: ImportOptions) -> None:
    """Open it, or ask for what it lacks. Raises what `read_upload` raises except for that."""
    data = upload.getvalue()
    if is_run_file(data, ""):  # by what is in it: other programs may call theirs routing.jsonl too
        training_runs.open_upload(data, upload.name)
        visit().upload = upload.file_id
        st.success("Opened. It holds a training run, and no trace.")
        session.link_to("Train", "Look at the training run")
        return
    try:
        found = read_upload(data, upload.name, told).counted
    except NotSaid as error:
        ask_for(upload.file_id, error)
        st.rerun()
    visit().upload = upload.file_id
    if isinstance(found, RoutingTrace):
        session.set_trace(found, title=upload.name)
        st.success("Opened. Every page now shows this trace.")
        return
    opened.remember(found)
    st.success("Opened. It holds counts of how many tokens each expert got, and not where each token went.")
    session.link_to("Balance", "Look at the counts")
    doctor_says(found)


def _what_becomes_of_it() -> str:
    if identity.may_keep_traces():
        return "Its trace is kept in your own folder, among the recent ones."
    return "It is read in memory and not kept."


def _recent() -> None:
    """List the last traces: show one again, or rename it."""
    names = list(recent.traces())
    shown = next((name for name, trace in recent.traces().items() if trace is visit().trace), None)
    if not names:
        return
    st.subheader("Recent traces", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        index = None if shown is None else names.index(shown)
        chosen = st.selectbox("Current trace", names, index=index, placeholder="Choose one to see it")
        new = st.text_input("Rename it", value=chosen, max_chars=80) if chosen is not None else None
    if chosen is None:
        return
    if chosen != shown:
        session.set_trace(recent.traces()[chosen])
        st.rerun()
    if new != chosen:
        recent.rename(chosen, new)
        st.rerun()
