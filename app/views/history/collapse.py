"""Keep them alive: eight experts die while a visitor looks on, and what keeps each of them alive."""

import streamlit as st
from moeviz_app.widgets.components.collapse import collapse
from moeviz_app.widgets.glossary import explained_terms

TITLE = "Keep them alive"
INTRO = (
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
        st.subheader(TITLE, anchor=False, help=explained_terms(INTRO, METHOD), width="content")
        with st.popover("⋯", help="Method and sources"):
            st.markdown(METHOD)
    st.markdown(INTRO)
    collapse(PUT_IN, key="collapse")
