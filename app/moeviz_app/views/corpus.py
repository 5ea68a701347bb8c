"""Many labelled texts: which experts which kind of text uses. A dataset of them, or texts to trace now."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import streamlit as st

from moeviz.charts import TOPICS, coverage, load, specialization
from moeviz.charts.load import OVER_TIME
from moeviz.errors import InvalidPrompt
from moeviz.labelled_texts import texts_of_files, texts_that_ship
from moeviz.metrics.load import counts_summary
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_service
from moeviz_app.jobs.fair_queue import InLine, Progress, wait_for
from moeviz_app.session import datasets, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.subject import DATASET as OF_DATASET
from moeviz_app.session.subject import choose
from moeviz_app.session.visit import visit
from moeviz_app.views.topic import charts_of, draw, question
from moeviz_app.widgets.answers import whole
from moeviz_app.widgets.chart_panel import show
from moeviz_app.widgets.facts import dataset_facts, trace_facts
from moeviz_app.widgets.files import downloads
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.pickers import choose_layer
from moeviz_app.widgets.run_panel import Pace, waiting_words

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel


LOADS, BALANCE, NEEDED, BY_LABEL = load.CHARTS[0], load.CHARTS[3], coverage.CHARTS[0], specialization.CHARTS[0]
MORE = ("Load", "Specialization", "Co-activation", "Layers", "Locality")  # pages
Texts = list[tuple[str, str]]
BEGINNING = [
    ("English", "The sea was calm, and the old captain walked along the shore."),
    ("French", "La mer était calme, et le vieux capitaine marchait sur la plage."),
    ("Python", "def total(prices):\n    return sum(prices)\n"),
]
MOST_PASTED = 12  # more texts come as a file
SOURCES = ("Paste", "Upload", "Evaluation set")
BYTES_A_CHARACTER = 8  # in UTF-8 four, and as much again for the JSON around texts
FILES = ["txt", "md", "py", "json", "jsonl", "csv", "html", "c", "js", "sql"]


def corpus_page() -> None:
    """Give labelled texts, trace them one after the other, and see which experts each label uses."""
    st.title("Many texts", anchor=False)
    choose_dataset()
    with explained():
        if (shown := session.dataset()) is not None:
            dataset_page(shown)
            return
    st.markdown("Give labelled texts, by language or topic for example, and see which experts each label uses.")
    name = session.value(session.MODEL) or settings.SETTINGS.models[0]
    with explained():
        texts = choose_texts(session.SOURCE, SOURCES[0])
        if st.button("Trace the texts", type="primary", shortcut="mod+enter"):
            session.set_trace(_run(name, _check_texts(texts)))
    trace = visit().trace
    if trace is not None and "label" in trace.tokens:
        _show(trace)


def choose_texts(key: str, usual: str) -> Texts:
    """Draw where labelled texts come from, chosen under this key, and ask for them; texts given are on all pages."""
    session.start_with(key, usual)
    source = st.radio("Texts", SOURCES, horizontal=True, key=key, persist_state="session")
    if source == "Evaluation set":
        st.text("The sixty held-out texts, of fifteen kinds, that ship with the embedded model.")
        return texts_that_ship()
    if source == "Upload":
        files = st.file_uploader(
            "Text files, labelled by their names; or .jsonl files with a label and a text on each line. They are read "
            "in memory and not kept.",
            type=FILES,
            accept_multiple_files=True,
            max_upload_size=settings.SETTINGS.max_upload_mb,
            key=session.TEXT_FILES,
        )
        given = sum(file.size for file in files)
        if given > (most := BYTES_A_CHARACTER * settings.SETTINGS.max_corpus_chars):
            raise InvalidPrompt(
                f"The files have {given:,} bytes, and at most {most:,} are read here. Give fewer or shorter texts."
            )
        return texts_of_files((file.name, file.getvalue()) for file in files)
    return _draw_fields()


def _draw_fields() -> Texts:
    """Draw a field for each label and text. An editable table would apply a forged message of thousands of rows."""
    session.start_with(session.TEXTS, len(BEGINNING))
    pairs = [_row(number) for number in range(session.value(session.TEXTS))]
    with st.container(horizontal=True):
        full, least = len(pairs) >= MOST_PASTED, len(pairs) <= 1
        st.button("Add a text", icon=":material/add:", on_click=_change_rows, args=(1,), disabled=full)
        st.button("Remove the last", icon=":material/remove:", on_click=_change_rows, args=(-1,), disabled=least)
    if full:
        say(f"At most {MOST_PASTED} texts can be pasted. For more, upload a file.")
    # A browser may send anything, not only strings.
    return [pair for pair in pairs if all(isinstance(part, str) and part for part in pair)]


def _row(number: int) -> tuple[str, str]:
    label, text = BEGINNING[number] if number < len(BEGINNING) else ("", "")
    shown = "visible" if number == 0 else "collapsed"
    left, right = st.columns([1, 4])
    kept = {"persist_state": "session", "label_visibility": shown}
    return (
        left.text_input("Label" if number == 0 else f"Label {number + 1}", label, key=f"label {number}", **kept),
        right.text_area("Text" if number == 0 else f"Text {number + 1}", text, key=f"text {number}", height=68, **kept),
    )


def _change_rows(by: int) -> None:
    """Add or remove rows. A text that is removed is there again when its row is added again."""
    session.set_value(session.TEXTS, min(max(session.value(session.TEXTS) + by, 1), MOST_PASTED))


def _check_texts(texts: Texts) -> Texts:
    if not texts:
        raise InvalidPrompt("There are no texts yet. Give at least two, with different labels.")
    most, given = settings.SETTINGS.max_corpus_chars, sum(len(text) for _, text in texts)
    if given > most:
        raise InvalidPrompt(
            f"The texts have {given:,} characters, and {most:,} are allowed here. Give fewer or shorter texts."
        )
    return texts


def _run(name: str, texts: Texts) -> RoutingTrace:
    """Trace the texts, each as a separate job, so that other visitors come in between."""
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.record.joining import joined

    def work_on(text: tuple[str, str]) -> Callable[["LoadedModel", Callable[[Any], None]], RoutingTrace]:
        return lambda loaded, _tell: trace_corpus(loaded, [text])

    model_service.begin_run()
    place, pace, traces, says = st.empty(), Pace(), [], f"0 of {len(texts)} texts read"
    with place.container():
        bar = st.progress(0.0, "The model reads the texts …")
        st.button("Stop", help="Nothing is kept if you stop.")
    try:
        for done, text in enumerate(texts):

            def listen(told: InLine | Progress, share: float = done / len(texts), says: str = says) -> None:
                bar.progress(share, waiting_words(told.ahead, says))

            traces.append(wait_for(model_service.run_on_model(name, session.how(), work_on(text)), listen))
            share = (done + 1) / len(texts)
            says = f"{done + 1} of {len(texts)} texts read{pace.left(share)}"
            bar.progress(share, says)
    finally:
        place.empty()
    return joined(traces)


def _show(trace: RoutingTrace) -> None:
    st.divider()
    trace_facts(trace)
    choose_layer(trace)
    for chart in TOPICS["Specialization"]:
        show(chart, trace)
    st.subheader("Download this trace", anchor=False)
    downloads(trace)
    say("Every other page now shows this trace too.")


def choose_dataset() -> None:
    """Draw a box for a folder, for the machine's own user. What is open is in the subject bar."""
    if datasets.may_type():
        _type()


def _type() -> None:
    with st.popover("Open a dataset", icon=":material/folder_open:"):
        st.markdown("A folder that `moeviz corpus … -o FOLDER` has written. It is read where it lies, never whole.")
        typed = st.text_input("Folder", key="folder of a dataset")
        pressed = st.button("Open", key="open the dataset")
        if typed and (pressed or typed != visit().folder_tried):  # Enter opens it too
            visit().folder_tried = typed
            with explained(refuse):
                choose(f"{OF_DATASET}{datasets.open_path(typed)}")
                st.rerun()


def dataset_page(shown: ShownDataset) -> None:
    """Draw load, balance against chance, labels and coverage; the other questions are on the pages of topics."""
    dataset_facts(shown)
    if not whole(shown):
        return
    place = st.empty()
    labelled = (BY_LABEL,) if shown.dataset.kept.labels else ()
    over_time = (OVER_TIME,) if OVER_TIME in charts_of("Load", shown) else ()
    answers = draw((LOADS, BALANCE, *labelled, NEEDED, *over_time), shown)
    with explained(lambda _said: None):  # which the chart has reported
        if (frame := answers.get(question(LOADS, shown, None)[0])) is not None:
            place.container(border=True, key="answer").text(counts_summary(frame))
    st.subheader("Ask more of this dataset", anchor=False)
    with st.container(horizontal=True):
        for topic in MORE:
            session.link_to(topic, topic)
