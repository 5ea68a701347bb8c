"""A dataset on the page Corpus: which one, and the answer to what one asks of a corpus first."""

import streamlit as st
from moeviz_app.pages.dataset_topic import charts_of, dataset_facts, draw, question, whole
from moeviz_app.session import datasets, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.widgets.messages import explained, refuse

from moeviz.charts import coverage, load, specialization
from moeviz.charts.load import OVER_TIME
from moeviz.metrics.load import counts_summary

NONE = "no dataset: texts of your own"
LOADS, BALANCE, NEEDED, BY_LABEL = load.CHARTS[0], load.CHARTS[3], coverage.CHARTS[0], specialization.CHARTS[0]
_TRIED = "folder that was tried last"
MORE = ("Load", "Specialization", "Co-activation", "Flow", "Coverage", "Locality")


def choose_dataset() -> None:
    """Which dataset is on screen, where there is one to choose; and a box for a folder, for the machine's own user."""
    offered = datasets.offered()
    if not offered and not datasets.may_type():
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if offered:
            names = [NONE, *offered]
            at = names.index(datasets.chosen() or NONE)
            chosen = st.selectbox("Dataset", names, index=at, width=420, key=f"dataset {at} {len(names)}")
            if chosen != names[at]:
                session.set_value(session.DATASET, None if chosen == NONE else chosen)
                st.rerun()
        if datasets.may_type():
            _type()


def _type() -> None:
    with st.popover("Open a dataset", icon=":material/folder_open:"):
        st.markdown("A folder that `moeviz corpus … -o FOLDER` has written. It is read where it lies, never whole.")
        typed = st.text_input("Folder", key="folder of a dataset")
        pressed = st.button("Open", key="open the dataset")
        if typed and (pressed or typed != session.value(_TRIED)):  # Enter opens it too
            session.set_value(_TRIED, typed)
            with explained(refuse):
                session.set_value(session.DATASET, datasets.open_path(typed))
                st.rerun()


def dataset_page(shown: ShownDataset) -> None:
    """Load, balance beside chance, labels and coverage; the other questions are on the pages of topics."""
    dataset_facts(shown)
    if not whole(shown):
        return
    place = st.empty()
    labelled = (BY_LABEL,) if shown.dataset.kept.labels else ()
    over_time = (OVER_TIME,) if OVER_TIME in charts_of("Load", shown) else ()
    answers = draw((LOADS, BALANCE, *labelled, NEEDED, *over_time), shown)
    with explained(lambda _said: None):  # which the chart has said
        if (frame := answers.get(question(LOADS, shown, None)[0])) is not None:
            place.container(border=True, key="answer").text(counts_summary(frame))
    st.subheader("Ask more of this dataset", anchor=False)
    with st.container(horizontal=True):
        for topic in MORE:
            session.link_to(topic, topic)
