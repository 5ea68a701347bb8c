"""From 1991 to Mixtral: why experts, how they stay alive, the systems in their order, and what an expert means.

Why experts? The phone book at the head: what ships, and a network that a visitor has trained now.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import randrange
from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.embedded.one_sentence import SENTENCE
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
from moeviz.history.story import (
    MEANING,
    NOT_SHOWN,
    POINTS,
    SOURCES,
    CitedSource,
    corrections,
    ideas,
    kinds_of_text,
    repeats_of_mixtral,
)
from moeviz.history.story import twins as found_twins
from moeviz_app import settings
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
    opening,
    packed_opening,
    packed_run,
    packed_story,
    packed_twins,
    phone_book,
    story,
    twins,
    wanted,
    wire,
)
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.run_panel import waiting_words

WORDS = tomllib.loads(Path(__file__).with_name("story.toml").read_text("utf-8"))
METHOD = Path(__file__).with_name("collapse.md").read_text("utf-8")


def collapse_panel() -> None:
    """Draw the panel: its question, the experts while they train, and behind a button how that is done."""
    words = WORDS["garden"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(words["title"], anchor=False, help=explained_terms(words["lead"], METHOD), width="content")
        with st.popover("⋯", help="Method and sources"):
            st.markdown(METHOD)
    st.markdown(words["lead"])
    collapse(words["note"], key="collapse")


def story_page(page_of: Callable[[str], st.Page]) -> None:
    """Four panels, each with its question; then all systems in one chart. `page_of` is the menu's."""
    st.title("From 1991 to Mixtral", anchor=False)
    with explained():
        opening(_packed_opening(), key="opening")
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
    _own_sentence(page_of)
    st.markdown(WORDS["steps"]["note"])


def _own_sentence(page_of: Callable[[str], st.Page]) -> None:
    """Draw a box for a sentence, which goes along to Explore."""
    words = WORDS["own"]
    st.subheader(words["title"], anchor=False)
    st.markdown(words["lead"])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text, most = st.text_input("Your sentence", SENTENCE), settings.SETTINGS.max_prompt_chars
        asked = st.button(words["button"], type="primary", disabled=not text.strip())
    if asked and len(text) > most:
        refuse(f"Your sentence has {len(text):,} characters, and at most {most:,} are read here. Shorten it.")
    elif asked:
        session.set_value(session.PROMPT, text)
        st.switch_page(page_of("Explore"))


def _systems(page_of: Callable[[str], st.Page]) -> None:
    st.subheader(WORDS["steps"]["title"], anchor=False)
    st.markdown(WORDS["steps"]["lead"])
    asked = story(_packed_story(), key="story")
    if asked is not None:
        st.switch_page(page_of(asked))
    with st.expander(WORDS["since"]["title"]):
        rows = (f"* **{idea.title}** ({idea.who}). {cited(idea.says)}" for idea in ideas())
        st.markdown("\n".join(rows) + "\n\n" + cited(WORDS["since"]["note"]))
    with st.expander("Sources"):
        st.markdown("\n".join(_source_in_words(source) for source in SOURCES))


def cited(words: str) -> str:
    """Turn numbers of sources, as in [3] or [11, 18], into raised links to them.

    >>> cited("An idea[17].")
    'An idea[¹⁷](https://arxiv.org/abs/2106.04426 "Roller and others, Hash Layers for Large Sparse Models").'
    """

    def links(found: re.Match) -> str:
        sources = [SOURCES[int(number) - 1] for number in found[1].split(", ")]
        return " ".join(f'[{raised(source.number)}]({source.address} "{source.name}")' for source in sources)

    return re.sub(r"\[([\d, ]+)\]", links, words)


def raised(number: int) -> str:
    """Write a number in raised digits."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _source_in_words(source: CitedSource) -> str:
    checked = WORDS["since"]["checked"][source.checked]
    return f"{source.number}. [{source.name}]({source.address}) ({source.year}): {source.where} · *{checked}*"


def _meaning() -> None:
    st.subheader(MEANING["title"], anchor=False)
    st.markdown(MEANING["lead"])
    data, said = _packed_twins()
    twins(data, key="twins")
    st.markdown(said)


@st.cache_resource(show_spinner=False)
def _packed_opening() -> dict[str, Any]:
    words = {part: {name: " ".join(said.split()) for name, said in of.items()} for part, of in WORDS["opening"].items()}
    return packed_opening(words)


@st.cache_resource(show_spinner=False)
def _packed_story() -> dict[str, Any]:
    return packed_story()


@st.cache_resource(show_spinner=False)
def _packed_twins() -> tuple[dict[str, Any], str]:
    """Return the data of the twins, and what they show in words: these are shared by all visitors."""
    found = found_twins()
    said = cited(MEANING["say"].format(study=said_of_study(), mixtral=in_words(repeats_of_mixtral())))
    return packed_twins(found, kinds_of_text()), said


def article_page(page_of: Callable[[str], st.Page]) -> None:
    """Each sentence with a link to the page where it can be seen; then the corrections. `page_of` is the menu's."""
    st.title("Article", anchor=False)
    st.markdown(WORDS["article"]["lead"].format(points=len(POINTS)))
    for point in POINTS:
        with st.container(border=True):
            st.markdown(f"“{point.quotation}”")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.page_link(page_of(point.page), label=point.page, icon=":material/arrow_forward:", width="content")
                st.markdown(point.look, width="stretch")
    st.subheader("Corrections", anchor=False)
    st.table(corrections().set_index("the article says"))
    st.subheader("Not shown here, and why", anchor=False)
    st.table(pd.DataFrame({"why": NOT_SHOWN}).rename_axis("the article says"))


BOOK, WIRE = "phone book", "phone book now"  # keys of the two components; the first is that of the result too
REFUSED, STOPPED = "phone book refused", "phone book stopped"
SEEDS = (1, 10_000)  # of a network that is trained now; 0 is that of what ships
COLUMNS = {"end": "share", "best": "best"}
FIVE_ROWS = ("dense", "8 experts", "32 experts", "dense, as large as 8 experts", "dense, as large as 32 experts")


@dataclass(slots=True, eq=False)
class Lesson:
    """A network of the visitor's own, by its name in RECORDED: it is being trained, or it has learned."""

    name: str
    job: Background | None
    run: BookRun | None = None  # so far


def phone_book_panel() -> None:
    """Draw three networks that learn a phone book, or a rule instead, and the controls."""
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
    for key, show in ((REFUSED, refuse), (STOPPED, say)):
        if (why := session.result(key)) is not None:
            show(why)


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
    return waiting_words(job.ahead, "It begins …") if lesson.run is None else _reached(lesson.run)


def _reached(run: BookRun) -> str:
    return f"step {run.recorded[-1]:,} of {run.settings['steps']:,}"


def _asked() -> None:
    """Callback of the browser: train a network, stop, or go back to what ships."""
    asked = wanted(st.session_state.get(WIRE), RECORDED)
    if asked is None:
        return
    lesson: Lesson | None = session.result(BOOK)
    for key in (REFUSED, STOPPED, BOOK):
        session.forget_result(key)
    if lesson is not None and lesson.job is not None:
        lesson.job.stop()
        reached = "before its first step" if lesson.run is None else f"at {_reached(lesson.run)}"
        session.keep_result(STOPPED, f"Your network was stopped {reached}, and nothing of it is kept.")
    if asked not in (STOP, BACK):
        with explained(lambda why: session.keep_result(REFUSED, why)):
            model_service.begin_run(dear=True)
            session.keep_result(BOOK, Lesson(asked, _training(asked)))


def _training(name: str) -> Background:
    """Train that network, from weights of its own, on the facts that the wall shows."""
    model_catalog.bring_torch()  # here: while another thread imports, Streamlit changes the path that it looks along
    from moeviz.history.phone_book.model import train

    (task, experts), seed = RECORDED[name], randrange(*SEEDS)

    def work(tell: Tell) -> BookRun:
        return train(task, experts, seed=seed, book=0, watch=tell)

    return Background(model_service.dear_runner(), [work])


@st.cache_resource(show_spinner=False)
def _data() -> dict[str, Any]:
    """Pack the recorded phone book that ships, once for all visitors."""
    means = book_means(book_table())
    runs = {name: packed_run(shipped_run(name)) for name in RECORDED}
    return {"tabs": WORDS["book"]["tabs"], "runs": runs, "bars": _bars(means), **_words(means)}


def _words(means: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the words above and below each tab, as the book's JavaScript reads them."""
    rule = means[(means["part"] == "rule") & (means["facts"] == TASKS["rule"])].set_index("name")
    figures = {of: [_in_words(rule.loc[name, column]) for name in FIVE_ROWS] for of, column in COLUMNS.items()}
    seen = shipped_run("book-2").seen
    figures |= {"facts": TASKS["book"], "few": TASKS["rule"], "many": MANY, "wall": int(seen.sum()), "names": len(seen)}
    figures |= {"router": [f"{100 * router_work(experts):.1f}%" for experts in (8, 32)]}
    return {
        part: {tab: " ".join(words.split()).format_map(figures) for tab, words in WORDS["book"][part].items()}
        for part in ("leads", "says")
    }


def _bars(means: pd.DataFrame) -> list[dict[str, Any]]:
    """Five networks at both tasks, and the further controls; each mean with its seeds."""
    five, book = means["name"].isin(FIVE_ROWS), means["part"].isin(("book", "controls"))
    rule = (means["part"] == "rule") & (means["facts"] == TASKS["rule"])
    groups = {
        f"The book: {TASKS['book']:,} names": means[book & five],
        f"A rule, {TASKS['rule']:,} examples: names never seen": means[rule & five],
        "What else we tried": means[~(five & (book | rule))],
    }
    return [{"title": title, "rows": [_bar(row) for row in of.itertuples()]} for title, of in groups.items()]


def _bar(row: Any) -> dict[str, Any]:
    name = "dense, as fast" if row.name == "dense" else row.name
    if row.part == "rule" and (row.facts != TASKS["rule"] or row.name not in FIVE_ROWS):
        name += f", rule, {row.facts:,} examples"
    elif row.part == "decoder":
        name += f", decoder as Mixtral’s, {row.facts:,} names"
    seeds = "" if row.seeds == 1 else f"{row.seeds} seeds: {_in_words(row.lowest)} to {_in_words(row.highest)}"
    best = None if pd.isna(row.best) else row.best
    return {"name": name, "share": row.share, "best": best, "range": seeds, "sparse": bool(row.sparse)}


def _in_words(share: float) -> str:
    """Return a share as the book's JavaScript writes it."""
    if share > 0.9995:
        return "100%" if share == 1 else ">99.9%"
    return f"{100 * share:.1f}%"
