"""Files in and out: the form for what a file of another program does not say, the doctor's findings, and downloads."""

import re
from functools import partial

import streamlit as st

from moeviz.errors import NotSaid
from moeviz.formats.counts_file import counts_alone, to_counts_json
from moeviz.formats.exports import EXPORTS, left_out
from moeviz.formats.importers.importer import AXES, MOST, SAYS, ImportOptions, layers_of
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.text import quoted, with_and
from moeviz_app.jobs import model_service
from moeviz_app.session.opened import said_of
from moeviz_app.session.visit import visit
from moeviz_app.widgets.messages import explained, note, refuse, say

LABELS = {
    "top_k": "Experts that a token is sent to (top-k)",
    "hidden_layers": "Layers of the model, dense ones too",
    "moe_layers": "Layers with experts, as 1-26 or 1,3,5",
    "experts": "Experts of each layer",
    "start": "Position of the first token of the response",
    "expert_parallel": "Devices among which each layer's experts were divided",
    "first_axis": "First axis of the array",
}
OPTIONAL = "start"  # if it is left empty, other answers may be wrong: the reader reports it


def ask_for(file_id: str, error: NotSaid) -> None:
    """Ask that of this upload from now on, in addition to what is asked already. Raises the error if it is not new."""
    asked, told = _of(file_id)
    if set(error.names) <= set(asked):
        raise error
    names = dict.fromkeys([*asked, *error.names])
    visit().file_asked = (file_id, tuple(names), told)


def import_options(file_id: str, filename: str) -> ImportOptions | None:
    """Return the options that the visitor gave for this upload; None while the form waits for them."""
    asked, told = _of(file_id)
    if not asked:
        return ImportOptions()
    with st.form("what the file does not say", width=640):
        st.text(
            f"{quoted(filename)} does not say {with_and([SAYS[name] for name in asked])}. Look in the model's "
            "config.json, in the settings of the run, or in the program that saved the file."
        )
        given = {name: _field(name, f"told {name} {file_id}") for name in asked}
        sent = st.form_submit_button("Open", type="primary")
    if sent:
        with explained(refuse):
            told = ImportOptions(**{name: _value(name, value) for name, value in given.items()})
            visit().file_asked = (file_id, asked, told)
            missing = [LABELS[name] for name in asked if name != OPTIONAL and getattr(told, name) is None]
            if not missing:
                return told
            say(f"Still to be filled in: {with_and(missing)}.")
    return None


def _of(file_id: str) -> tuple[tuple[str, ...], ImportOptions]:
    known = visit().file_asked
    return known[1:] if known and known[0] == file_id else ((), ImportOptions())


def _field(name: str, key: str) -> int | str | None:
    """Make an empty field: `key` belongs to one upload only, so nothing of another stays."""
    if name == "moe_layers":
        return st.text_input(LABELS[name], max_chars=2000, key=key)
    if name == "first_axis":
        return st.selectbox(LABELS[name], AXES, index=None, key=key)
    low = int(name != "start")
    return st.number_input(LABELS[name], low, MOST, value=None, step=1, key=key)


def _value(name: str, given: int | str | None) -> int | str | tuple[int, ...] | None:
    if name == "moe_layers" and isinstance(given, str):
        return layers_of(given, "The list of layers with experts") if given.strip() else None
    return given


def doctor_says(counted: Counted) -> None:
    """Draw the format that a file was read as, and the first thing that is not plausible about it; the rest folded."""
    if (said := said_of(counted)) is None:
        return
    label, findings = said
    if not findings:
        st.text(f"Read as {label}. Nothing implausible was found.")
        return
    st.text(f"Read as {label}. Not everything in it is plausible:")
    say(findings[0])
    if len(findings) > 1:
        with st.expander(f"{len(findings) - 1} more"):
            for sentence in findings[1:]:
                st.text(sentence)


WORDS_IN_NAME = 5


def downloads(trace: RoutingTrace) -> None:
    """Draw a button for each format, with what the format leaves out. A file is only made when somebody asks for it."""
    exports = [export for export in EXPORTS if export.ready]
    lost: dict[str, list[str]] = {}  # the suffixes of which a sentence is true
    for export in exports:
        if export.read and (sentence := left_out(trace, export.suffix)):
            lost.setdefault(sentence.replace(export.suffix, "{}"), []).append(export.suffix)
    with st.container(horizontal=True, key="downloads"):
        for export in exports:
            maker = model_service.file_maker if export.read else model_service.report_maker
            st.download_button(
                export.label,
                data=maker(partial(export.write, trace)),  # without a session, so it holds the trace
                file_name=file_stem(trace) + export.suffix,
                mime=export.mime,
                on_click="ignore",
                key=f"trace{export.suffix}",
                icon=":material/download:",
                width="stretch",
            )
        st.download_button(
            "Counts",
            data=model_service.file_maker(lambda: to_counts_json(counts_alone(trace))),
            file_name=file_stem(trace, words=False) + ".json",
            mime="application/json",
            on_click="ignore",
            key="trace counts",
            icon=":material/download:",
            width="stretch",
            help="How many tokens each expert got, and nothing of any one token. All other files say more: the experts "
            "of a token give a part of its text away.",
        )
    for sentence, suffixes in lost.items():
        note(f"Of this trace, {sentence.format(' or '.join(suffixes))}.")


def file_stem(trace: Counted, words: bool = True) -> str:
    """Return a file name without its suffix, from the model's name and the first words of the trace, which counts lack.

    Names and words are a stranger's: only letters a to z, digits and hyphens are left of them.
    """
    model = re.split(r"[/\\]", trace.model.name)[-1]
    has_words = words and isinstance(trace, RoutingTrace)
    texts = trace.tokens["text"].head(WORDS_IN_NAME * 6) if has_words else ["counts"]
    first = re.findall(r"[a-z0-9]+", "".join(texts).lower())[:WORDS_IN_NAME]
    parts = ["moeviz", *re.findall(r"[a-z0-9]+", model.lower())[:WORDS_IN_NAME], *first]
    return "-".join(parts)[:80]
