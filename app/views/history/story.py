"""From 1991 to Mixtral: why experts, how they stay alive, the systems in their order, and what an expert means."""

from collections.abc import Callable
from typing import Any

import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.views.history.phone_book import phone_book_panel
from moeviz_app.widgets.chart_panel import explained_terms, heading, picture_and_words
from moeviz_app.widgets.components.history import collapse, in_words, packed_story, packed_twins, story, twins
from moeviz_app.widgets.messages import explained

from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.embedded.recorded_routing import said_of_study
from moeviz.history.story import MEANING, POINTS, corrections, kinds_of_text, repeats_of_mixtral
from moeviz.history.story import twins as found_twins

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
METHOD = """
A fact is two names of 128 each, and a number of 32 by chance; it is here what a token is in a language model. The
rows of both names are added up. The router's softmax picks one of eight experts, whose answer, times its probability,
is added to that (Switch). 300 steps of Adam, 512 facts each. An expert is dead if none of the 2,500 facts goes there.
The sizes of all settings are ours, for so few steps.

* **Balance loss**, an auxiliary loss: the sum over experts of load times mean probability, times the number of
  experts, times what is set (Fedus and others, 2021, [arXiv 2101.03961](https://arxiv.org/abs/2101.03961), equation 4).
* **Noise**: normal, added to the logits; here of one size, where a network of 2017 learns it (Shazeer and others,
  [arXiv 1701.06538](https://arxiv.org/abs/1701.06538), equation 4; in section 4, why imbalance feeds itself).
* **Capacity**: an expert takes so many facts of a batch, first come, first served; the rest are dropped (Lepikhin and
  others, 2020, [arXiv 2006.16668](https://arxiv.org/abs/2006.16668), section 2.2). It limits work and memory. Alone it
  saves few experts here; that is no rule for other networks.
* **Selection bias**, without a loss: a number for each expert, which goes up by a step after each batch where the
  expert had less than its share, and down where it had more. It counts in the choice, not in the weight (Wang and
  others, 2024, [arXiv 2408.15664](https://arxiv.org/abs/2408.15664); DeepSeek-V3,
  [arXiv 2412.19437](https://arxiv.org/abs/2412.19437), section 2.1.2: 0.001 a step, over far more steps). Theirs is
  added to scores between 0 and 1, ours to logits.
* **Lean**: one random direction, times what is set, added to what the router sees of every fact.
"""


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
