"""Mixtures of support vector machines, 2002: each expert has a limited capacity."""

from functools import partial
from typing import Any

import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in
from moeviz.history.svm_experts_2002 import em as svm_em
from moeviz.history.svm_experts_2002 import em_trace as soft_capture
from moeviz.history.svm_experts_2002 import model as svm_mixtures
from moeviz.history.svm_experts_2002 import trace as loop_capture
from moeviz.history.svm_experts_2002.chart import (
    ERROR_BY_EXPERTS,
    EXPERT_ROOM,
    SOFT_ERRORS,
    SVM_LINES,
)
from moeviz.history.svm_experts_2002.em import STARTS, SoftMixture
from moeviz.history.svm_experts_2002.model import KERNELS, SVMMixture
from moeviz.routing_trace import RoutingTrace

NAME = "svm-experts"
LOOP, SOFT, HARD = "loop of 2002, digits", "soft EM, vowels", "hard EM, vowels"
VIEWS = ("first choice", "assigned")
EQUATIONS = r"""\begin{aligned}
\text{2002:}\quad & f(x) = \tanh\left(\textstyle\sum_m w_m(x)\, s_m(x)\right) \\
& \text{examples of } m \le N/M + c \\
\text{EM:}\quad & P(y \mid x) = \textstyle\sum_k p_k(x)\, \sigma\left(b_k\, y\, s_k(x)\right)
\end{aligned}"""


def _controls() -> dict[str, Any]:
    way = st.selectbox("Method", (LOOP, SOFT, HARD), key=f"{NAME} way", persist_state="session", width=200)
    if way == LOOP:
        return {"way": way} | _loop_controls() | {"seed": seed_control(NAME)}
    experts = st.select_slider("Experts", (2, 4), key=f"{NAME} lines", persist_state="session", width=120)
    start = st.selectbox("Start", STARTS, key=f"{NAME} start", persist_state="session", width=140)
    return {"way": way, "experts": experts, "start": start, "seed": seed_control(NAME)}


def _loop_controls() -> dict[str, Any]:
    keep = {"persist_state": "session"}
    experts = st.select_slider("Experts", (2, 4, 8, 16, 32), 8, key=f"{NAME} experts", width=140, **keep)
    room = st.select_slider(
        "Extra capacity c", (1, 50, 125, 250, 500, 1000, 4000), 1, key=f"{NAME} room", width=140, **keep
    )
    kernel = st.selectbox("Kernel", KERNELS, key=f"{NAME} kernel", width=110, **keep)
    iterations = int(st.number_input("Iterations", 1, 12, 6, key=f"{NAME} iterations", width=110, **keep))
    shuffled = st.toggle(
        "Shuffled",
        key=f"{NAME} shuffled",
        help=(
            "A control: odd and even are assigned to the images at random, so the experts learn nothing true and all "
            "the work is the gater's."
        ),
        **keep,
    )
    return {"experts": experts, "room": room, "kernel": kernel, "iterations": iterations, "shuffled": shuffled}


def _train(way: str, **settings: Any) -> SVMMixture | SoftMixture:
    if way == LOOP:
        return svm_mixtures.train(**settings)
    return svm_em.train(hard=way == HARD, **settings)


def _trace_of(result: SVMMixture | SoftMixture) -> RoutingTrace:
    if isinstance(result, SoftMixture):
        return soft_capture.trace_of(result, slots=1)
    return loop_capture.trace_of(result)


def _picture(result: SVMMixture | SoftMixture) -> None:
    if isinstance(result, SoftMixture):
        st.text(f"The vowels are a {stand_in().source}.")
        at = st.select_slider("Iteration", result.recorded, result.recorded[-1], key=f"{NAME} soft iteration")
        shown(SVM_LINES, SVM_LINES.measure(result, stand_in(), at - 1))
    else:
        last = len(result.overflow)
        at = st.select_slider("Iteration", range(1, last + 1), last, key=f"{NAME} iteration") if last > 1 else 1
        shown(EXPERT_ROOM, EXPERT_ROOM.measure(result, at - 1))


def _show(result: SVMMixture | SoftMixture) -> None:
    if isinstance(result, SoftMixture):
        _show_soft(result)
    else:
        _show_loop(result)


def _show_loop(result: SVMMixture) -> None:
    figures(
        {
            "Gated mixture": (
                f"{result.test_error[-1]:.1%}",
                "Share of 1,000 test digits classified wrongly as odd or even.",
            ),
            "Uniform mixture": (
                f"{result.uniform_error:.1%}",
                "The same, with experts trained on random parts that all count equally.",
            ),
            "Single machine": (
                f"{result.single_error:.1%}",
                "The same for one machine that learns from all 4,000 digits.",
            ),
            "Capacity": (f"{result.capacity:,}", "The number of examples that an expert can learn from: N/M + c."),
            "Overflow": (f"{result.overflow[-1]:.0%}", "Share of the training digits whose first choice was full."),
        }
    )
    shown(ERROR_BY_EXPERTS, ERROR_BY_EXPERTS.measure())
    view = st.segmented_control("Expert", VIEWS, default=VIEWS[0], required=True, key=f"{NAME} view")
    trace = loop_capture.trace_of(result, view)
    last = trace.select(layers=trace.model.layers[-1:])
    shown(BY_LABEL, BY_LABEL.measure(last), last.model)


def _show_soft(result: SoftMixture) -> None:
    figures(
        {
            "Mixture": (
                f"{result.test_error[-1]:.1%}",
                "Share of the samples of the last 25 speakers classified wrongly.",
            ),
            "Single machine": (f"{result.single_error:.1%}", "The same for one linear machine."),
            "Log likelihood": (f"{result.log_likelihood[-1]:.3f}", "Nats per training sample; EM pushes it up."),
        }
    )
    shown(SOFT_ERRORS, SOFT_ERRORS.measure(result))


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="SVM experts",
        new=(
            "2002: a support vector machine needs time that grows at least with the square of its examples. So many "
            "small ones learn from a part each, and a gater learns how much each counts. Then every example goes to "
            "the expert that the gater weights highest **among those that are not full**; an expert is full at N/M + c "
            "examples. This is a limit on an expert's capacity, long before those of language models."
        ),
        more=(
            "The gater's weights may have any sign. The limit is on what an expert learns from, and drops nothing; the "
            "capacities of GShard (2020) and Switch (2021) drop what does not fit (Collobert, Bengio and Bengio, "
            "*NIPS* 14, 633–640, and *Neural Computation* 14, 1105–1114). Under Method is the soft way of 1994 too, "
            "expectation maximisation, in which none is ever full."
        ),
        not_here=(
            "The paper's errors and times: it uses forest cover types and speech, and here there are 4,000 digits, "
            "from which one machine learns in less than a second. That the experts do all the work: with their "
            "classes shuffled, so that they know nothing, the gater alone gets 18% wrong with 4 of them and 8% with "
            "32, since it can combine their lines as it likes. With the rbf kernel nothing is gained: a single such "
            "machine makes fewer errors than any mixture of them. The tanh on the experts' outputs and the gater's "
            "four hidden units are our own, and these pictures are not the paper's. Hard EM from a random start ends "
            "badly for about one seed in four. The measured vowels do not ship with moeviz, so these are drawn from "
            "their published averages."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=_train,
        shipped=partial(shipped, SVMMixture),
        picture=_picture,
        show=_show,
        trace_of=_trace_of,
        common=(),
    ),
)
