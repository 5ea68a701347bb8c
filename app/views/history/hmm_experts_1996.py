"""Mixtures of hidden Markov models: the gate decides frame by frame."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.facts import figures

from moeviz.history.hmm_experts_1996.chart import GATE_OVER_TIME, SETTLING, SOFT_AND_HARD
from moeviz.history.hmm_experts_1996.model import ASSIGNMENTS, STARTS, Mixture, train
from moeviz.history.hmm_experts_1996.picture import first_right, names, slowest
from moeviz.history.hmm_experts_1996.supervised_hmms import SPEAKERS
from moeviz.history.hmm_experts_1996.trace import trace_of
from moeviz.history.shared.datasets import japanese_vowels
from moeviz.history.shared.results import shipped

NAME = "hmm-experts"
EQUATION = r"""\begin{aligned}
p(O) &= \textstyle\sum_k \pi_k\, p(O \mid \lambda_k) \\
g_{t,k} &= \frac{\pi_k\, p(o_1 \ldots o_t \mid \lambda_k)}{\sum_j \pi_j\, p(o_1 \ldots o_t \mid \lambda_j)}
\end{aligned}"""


def _controls() -> dict[str, object]:
    kept = {"persist_state": "session"}
    told = st.toggle(
        "Speakers known", False, key=f"{NAME} told", help="One expert per speaker, fitted by hmmlearn.", **kept
    )
    states = st.select_slider("States per expert", (1, 2, 3, 5), 3, key=f"{NAME} states", width=140, **kept)
    if told:
        return {"experts": SPEAKERS, "states": states, "supervised": True, "seed": seed_control(NAME)}
    experts = st.select_slider("Experts", (2, 5, 9, 12), SPEAKERS, key=f"{NAME} experts", width=140, **kept)
    assignment = st.selectbox("Assignment", ASSIGNMENTS, key=f"{NAME} assignment", width=120, **kept)
    start = st.selectbox("Start", STARTS, key=f"{NAME} start", width=130, **kept)
    return {
        "experts": experts,
        "states": states,
        "assignment": assignment,
        "start": start,
        "supervised": False,
        "seed": seed_control(NAME),
    }


def _picture(result: Mixture) -> None:
    _, data = japanese_vowels()
    called, offered = names(data), {"one that ends right": first_right(result, data), "slowest": slowest(result, data)}
    heading(GATE_OVER_TIME)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        start = st.segmented_control("Begin with", list(offered), default="one that ends right", required=True)
        number = st.selectbox("Utterance", range(len(called)), offered[start], called.__getitem__, width=260)
    picture_and_words(GATE_OVER_TIME, GATE_OVER_TIME.measure(result, data, number))


def _show(result: Mixture) -> None:
    _, data = japanese_vowels()
    right = "Of {} utterances, the share that end with the expert of their speaker."
    figures(
        {
            "Correct, training": (f"{result.training_share:.0%}", right.format("the 270 training")),
            "Correct, test": (f"{result.test_share:.0%}", right.format("the 370 test")),
            "90% settled": (
                f"{result.frames_needed} frames",
                "After this many frames, nine in ten test utterances are with the expert that they end with, for good.",
            ),
        }
    )
    shown(SETTLING, SETTLING.measure(result, data))
    ends = trace_of(result, slots=1, ends=True)
    shown(BY_LABEL, BY_LABEL.measure(ends), ends.model)
    shown(SOFT_AND_HARD, SOFT_AND_HARD.measure())


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="HMM experts",
        new=(
            "1996: until here, a case was a point. Speech is a sequence, of any length. So each expert becomes a "
            "hidden Markov model of whole sequences, and the gate is Bayes' rule applied to their likelihoods: it "
            "makes up its mind while the sequence goes on. Nine men say two vowels, and nobody tells the experts who "
            "is speaking."
        ),
        more=(
            "Everything is trained by EM, which needs no step size (Smyth, *Clustering sequences with hidden Markov "
            "models*, NIPS 9, 648–654; Xu, Jordan and Hinton, NIPS 7, 633–640, for the gate). The recordings are those "
            "of Kudo, Toyama and Shimbo, *Pattern Recognition Letters* 20, 1103–1111."
        ),
        not_here=(
            "That soft EM is better than hard EM on the spoken vowels: a whole utterance is such strong evidence that "
            "both give the same result. The difference shows on the two models by Smyth at the end of this page, "
            "whose constants are from memory. That the experts find all nine men: over 20 seeds, 84% of the training "
            "utterances are with the expert of their speaker, from 71 to 93% depending on the seed. When the "
            "speakers are known, with five states per expert, they are right for 98% of the test utterances. The gate "
            "is our reading: Smyth's mixture groups sequences, and has no outputs that a gate would weigh. Gates that "
            "follow a Markov process of their own are older (Cacciatore and Nowlan, *Mixtures of controllers*, NIPS 6, "
            "1993), and are not shown here."
        ),
        equation=EQUATION,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Mixture),
        picture=_picture,
        show=_show,
        trace_of=partial(trace_of, slots=1),
        common=(),
    ),
)
