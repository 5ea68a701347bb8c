"""From 1991 to Mixtral: why experts, how they stay alive, the systems in their order, and what an expert means.

Why experts? The phone book at the head: what ships, and a network that a visitor has trained now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import randrange
from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.embedded.recorded_routing import said_of_study
from moeviz.history.phone_book.runs import (
    MANY,
    RECORDED,
    TASKS,
    BookRun,
    book_means,
    book_table,
    router_work,
    shipped_run,
)
from moeviz.history.story import MEANING, POINTS, corrections, kinds_of_text, repeats_of_mixtral
from moeviz.history.story import twins as found_twins
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.fair_queue import Tell
from moeviz_app.session import session
from moeviz_app.widgets.chart_panel import explained_terms, heading, picture_and_words
from moeviz_app.widgets.components.history import (
    BACK,
    STOP,
    collapse,
    in_words,
    packed_run,
    packed_story,
    packed_twins,
    phone_book,
    story,
    twins,
    wanted,
    wire,
)
from moeviz_app.widgets.messages import explained, refuse
from moeviz_app.widgets.run_panel import waiting_words

TITLE = "Keep them alive"
KEPT_ALIVE = (
    "Eight experts learn a phone book of 2,500 facts, in your browser. A router gives each fact to **one** of them. "
    "The expert that it picks learns, and is picked again: one that gets no fact is a **dead expert**, and where "
    "nearly all facts go to a few, that is **collapse**. Choose what is to keep them alive, and train."
)
PUT_IN = (
    "We put the trouble in: all facts lean the router the same way, as strongly as the last slider says. Without that "
    "lean none of the eight died in our tries, and more was remembered than with any cure. Each run begins with new "
    "random numbers, so single runs differ."
)
METHOD = Path(__file__).with_name("collapse.md").read_text("utf-8")


def collapse_panel() -> None:
    """Draw the panel: its question, the experts while they train, and behind a button how that is done."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(TITLE, anchor=False, help=explained_terms(KEPT_ALIVE, METHOD), width="content")
        with st.popover("⋯", help="Method and sources"):
            st.markdown(METHOD)
    st.markdown(KEPT_ALIVE)
    collapse(PUT_IN, key="collapse")


INTRO = (
    "Press a year, or ← →. A box is an expert: **tinted**, it is computed for this input; **filled**, by how much its "
    "answer counts; **framed**, it is new in this step."
)


def story_page(page_of: Callable[[str], st.Page]) -> None:
    """Four panels, each with its question; then all systems in one chart. `page_of` is the menu's."""
    st.title("From 1991 to Mixtral", anchor=False)
    with explained():
        phone_book_panel()
    with explained():
        collapse_panel()
    with explained():
        _systems(page_of)
    with explained():
        _meaning()
    with explained():
        heading(SIDE_BY_SIDE)
        picture_and_words(SIDE_BY_SIDE, SIDE_BY_SIDE.measure(recorded.gallery()))
    st.text(
        "All pictures are of small systems of ours; “Ours” has Mixtral's architecture. What was published of Mixtral "
        "itself is on its page."
    )


def _systems(page_of: Callable[[str], st.Page]) -> None:
    st.subheader("From one network to Mixtral and its heirs", anchor=False)
    st.markdown(INTRO)
    asked = story(_packed_story(), key="story")
    if asked is not None:
        st.switch_page(page_of(asked))


def _meaning() -> None:
    st.subheader(MEANING["title"], anchor=False)
    st.markdown(MEANING["lead"])
    data, said = _packed_twins()
    twins(data, key="twins")
    st.markdown(said)


@st.cache_resource(show_spinner=False)
def _packed_story() -> dict[str, Any]:
    return packed_story()


@st.cache_resource(show_spinner=False)
def _packed_twins() -> tuple[dict[str, Any], str]:
    """The data of the twins, and what they show in words: these are shared by all visitors."""
    found = found_twins()
    said = MEANING["say"].format(study=said_of_study(), mixtral=in_words(repeats_of_mixtral()))
    return packed_twins(found, kinds_of_text()), said


def article_page(page_of: Callable[[str], st.Page]) -> None:
    """Each sentence with a link to the page where it can be seen; then the corrections. `page_of` is the menu's."""
    st.title("Article", anchor=False)
    st.markdown(
        "moeviz grew from an article, *The History of Mixture of Experts* (26 April 2024), which runs from 1991 to "
        "Mixtral. This page shows where you can see each of its sentences at work, and what it got wrong."
    )
    for point in POINTS:
        with st.container(border=True):
            st.markdown(f"“{point.quotation}”")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.page_link(page_of(point.page), label=point.page, icon=":material/arrow_forward:", width="content")
                st.markdown(point.look, width="stretch")
    st.subheader("Corrections", anchor=False)
    st.table(corrections().set_index("the article says"))


BOOK, WIRE = "phone book", "phone book now"  # keys of the two components; the first is that of the result too
REFUSED = "phone book refused"
SEEDS = (1, 10_000)  # of a network that is trained now; 0 is that of what ships
TABS = {"book": "A phone book", "rule": "A rule instead", "controls": "Controls"}
PARROTS = "[Mixture of Parrots](https://arxiv.org/abs/2410.19034)"
HASH = "[Hash Layers](https://arxiv.org/abs/2106.04426)"


@dataclass(slots=True, eq=False)
class Lesson:
    """A network of the visitor's own, by its name in RECORDED: it is being trained, or it has learned."""

    name: str
    job: Background | None
    run: BookRun | None = None  # so far


def phone_book_panel() -> None:
    """Draw three networks that learn a phone book, a rule in its place, and the controls."""
    with st.container(gap=None):
        phone_book(_data(), BOOK)
        _now()


@st.fragment
def _now() -> None:
    """Tell the book how far the visitor's own network is; what is asked for in the browser comes here too."""
    lesson: Lesson | None = session.result(BOOK)
    says = ""
    with explained(refuse):
        if lesson is not None and lesson.job is not None:
            says = _look(lesson)
    lesson = session.result(BOOK)  # what has failed is gone
    name, run = (None, None) if lesson is None else (lesson.name, lesson.run)
    wire(name, run, says, lesson is not None and lesson.job is not None, WIRE, _asked)
    if (why := session.result(REFUSED)) is not None:
        refuse(why)


def _look(lesson: Lesson) -> str:
    """Take what there is of a job, and say how far it is."""
    job = lesson.job
    try:
        found = job.found
    except Exception:  # of any kind: a job that failed is not asked again
        session.forget_result(BOOK)
        raise
    if found is not None:
        lesson.job, lesson.run = None, found[0]
        return ""
    lesson.run = job.news or lesson.run
    if lesson.run is None:
        return waiting_words(job.ahead, "It begins …")
    return f"step {lesson.run.recorded[-1]:,} of {lesson.run.settings['steps']:,}"


def _asked() -> None:
    """Callback of the browser: train a network, stop, or go back to what ships."""
    asked = wanted(st.session_state.get(WIRE), RECORDED)
    if asked is None:
        return
    lesson: Lesson | None = session.result(BOOK)
    session.forget_result(REFUSED)
    session.forget_result(BOOK)
    if lesson is not None and lesson.job is not None:
        lesson.job.stop()
    if asked not in (STOP, BACK):
        with explained(lambda why: session.keep_result(REFUSED, why)):
            model_service.begin_run()
            session.keep_result(BOOK, Lesson(asked, _training(asked)))


def _training(name: str) -> Background:
    """Train that network, from weights of its own, on the facts that the wall shows."""
    model_catalog.bring_torch()  # here: while another thread imports, Streamlit changes the path that it looks along
    from moeviz.history.phone_book.model import train

    (task, experts), seed = RECORDED[name], randrange(*SEEDS)

    def work(tell: Tell) -> BookRun:
        return train(task, experts, seed=seed, book=0, watch=tell)

    return Background(model_service.training_runner(), [work])


@st.cache_resource(show_spinner=False)
def _data() -> dict[str, Any]:
    """Pack the recorded phone book that ships, once for all visitors."""
    means = book_means(book_table())
    runs = {name: packed_run(shipped_run(name)) for name in RECORDED}
    return {"tabs": TABS, "runs": runs, "bars": _bars(means), **_words(means)}


def _words(means: pd.DataFrame) -> dict[str, dict[str, str]]:
    """The words above and below each tab; **strong** and [links](https://…) as the book's JavaScript reads them."""
    book, few, many = TASKS["book"], TASKS["rule"], MANY
    of = means.set_index(["part", "name", "facts"])["share"]
    of_few, of_many = ({name: of["rule", name, seen] for name in ("dense", "32 experts")} for seen in (few, many))
    wall = int(shipped_run("book-2").seen.sum())
    router = {experts: f"{100 * router_work(experts):.1f}%" for experts in (8, 32)}
    leads = {
        "book": f"{book:,} names, each with a number from 0 to 63 drawn at random: nothing to understand, only to "
        "remember. All three networks do the same work on a name; a box is an expert of 4,656 weights. **Lit boxes are "
        "the work, all boxes are the memory.**",
        "rule": "Now the numbers follow a rule, **8 p + q**: every first name has a p, every second name a q. The "
        f"networks learn {few:,} names and are asked for names that they **never saw**.",
        "controls": "Is it the experts? The same book in other networks, and what else we tried. Shares of names with "
        "the right number; of one seed, where no more are named.",
    }
    says = {
        "book": f"Squares: the {wall} of these {len(shipped_run('book-2').seen)} names that are in the book; filled: "
        "remembered. Choose one. **Experts are a way to hold more for the same work.**",
        "rule": f"**From {few:,} examples the dense network finds the rule better: {_said(of_few['dense'])} against "
        f"{_said(of_few['32 experts'])} for 32 experts** (means of three seeds). With {many:,} it makes no difference: "
        f"{_said(of_many['dense'])} and {_said(of_many['32 experts'])}. **Experts buy memory, not understanding** "
        f"({PARROTS}). Squares: names never seen; filled: right.",
        "controls": "**It is the memory:** a dense network as large remembers as much, but then each name costs all of "
        "its weights. A name must meet the same experts at every visit; whether anybody learned which matters less "
        f"({HASH}). The router's own work comes on top: {router[8]} more for 8 experts, {router[32]} for 32.",
    }
    return {"leads": leads, "says": says}


def _bars(means: pd.DataFrame) -> list[dict[str, Any]]:
    """The controls in three groups, each mean with its seeds."""
    of_book = means["part"].isin(("book", "controls"))
    others = means["name"].str.contains("as large|router|drawn")
    groups = {
        f"The book: {TASKS['book']:,} names": means[of_book & ~others],
        "The same book: other routes, other sizes": means[of_book & others | (means["part"] == "decoder")],
        "A rule: names never seen": means[means["part"] == "rule"],
    }
    return [{"title": title, "rows": [_bar(row) for row in of.itertuples()]} for title, of in groups.items()]


def _bar(row: Any) -> dict[str, Any]:
    name = "dense, as fast" if row.name == "dense" else row.name
    if row.part == "rule":
        name += f", {row.facts:,} examples"
    elif row.part == "decoder":
        name += f", decoder as Mixtral’s, {row.facts:,} names"
    seeds = "" if row.seeds == 1 else f"{row.seeds} seeds: {_said(row.lowest)} to {_said(row.highest)}"
    return {"name": name, "share": row.share, "range": seeds, "sparse": bool(row.sparse)}


def _said(share: float) -> str:
    """A share as the book's JavaScript writes it."""
    if share > 0.9995:
        return "100%" if share == 1 else ">99.9%"
    return f"{100 * share:.1f}%"
