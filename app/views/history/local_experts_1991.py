"""Adaptive mixtures of local experts, 1991: the experts divide the vowels among themselves."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.history.local_experts_1991.chart import DECISION_LINES, ERROR_CURVES
from moeviz.history.local_experts_1991.model import ERRORS, MAX_EPOCHS, Mixture, train
from moeviz.history.local_experts_1991.table_1 import shipped_table_1
from moeviz.history.local_experts_1991.trace import trace_of
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in

NAME = "local-experts"
WRITTEN = {"epochs": "{:,.0f}", "deviation": "{:.0f}", "training": "{:.0%}", "test": "{:.0%}"}
EQUATIONS = r"""\begin{aligned}
E_1 & = \left(d - \textstyle\sum_i p_i o_i\right)^2 \\
E_2 & = \textstyle\sum_i p_i \left(d - o_i\right)^2 \\
E_3 & = -\log \textstyle\sum_i p_i \exp\left(-\tfrac{1}{2}(d - o_i)^2\right)
\end{aligned}"""


def _controls() -> dict[str, object]:
    experts = st.select_slider("Experts", (2, 4, 8), 4, key=f"{NAME} experts", persist_state="session", width=160)
    meaning = "The three above, in their order: the mixture answers, one expert answers, a likelihood."
    options = {"index": 2, "key": f"{NAME} error", "persist_state": "session", "width": 220, "help": meaning}
    error = st.selectbox("Error function", list(ERRORS), **options)
    return {"experts": experts, "error": error, "seed": seed_control(NAME)}


def _picture(result: Mixture) -> None:
    data = stand_in()
    st.text(f"The vowels are a {data.source}.")
    epoch = st.select_slider("Epoch", result.recorded, result.recorded[-1], "{:,}".format, key=f"{NAME} epoch")
    shown(DECISION_LINES, DECISION_LINES.measure(result, data, result.recorded.index(epoch)))


def _show(result: Mixture) -> None:
    ended = f"{result.epochs:,} epochs" if result.epochs is not None else f"not within {MAX_EPOCHS:,} epochs"
    figures(
        {
            "Error 0.08 reached": (
                ended,
                "The paper stops at this average squared error on its training speakers.",
            ),
            "Experts left": (str(len(result.surviving)), "Experts that are given at least one training sample."),
            "Correct, training": (f"{result.train_accuracy:.0%}", "Share of the samples of the first 50 speakers."),
            "Correct, test": (f"{result.test_accuracy:.0%}", "Share of the samples of the other 25 speakers."),
        }
    )
    shown(ERROR_CURVES, ERROR_CURVES.measure(result, stand_in()))
    st.subheader("Table 1 of the paper, beside ours", anchor=False)
    st.markdown(
        "Means of 25 seeds, as in the paper, with the standard deviation of the epochs; every run reached the error. "
        "The measured vowels do not ship; their rows were computed where they can be read."
    )
    table = shipped_table_1().set_index("system").drop(columns="missed")
    st.dataframe(table.assign(**{name: table[name].map(written.format) for name, written in WRITTEN.items()}))
    winners = trace_of(result, slots=1).select(layers=result.recorded[-1:])
    shown(BY_LABEL, BY_LABEL.measure(winners), winners.model)


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Local experts",
        new=(
            "1991: one network learns badly what asks for different answers in different places. Here the vowels i and "
            "ɑ should give 1, and ɪ and ʌ 0. No straight line tells them apart. So several small experts compete for "
            "the cases, and a gate learns which of them should answer. Move the epoch from 0 to the end, and see two "
            "of four divide the plane."
        ),
        more=(
            "d is the answer wanted, 1 or 0; oᵢ is what expert i answers; pᵢ is the gate's share for it. With the "
            "third error function, the expert that fits a case best also learns it fastest, and so the experts part "
            "ways. Of four or eight experts, two or three were left at the end (Jacobs, Jordan, Nowlan and Hinton, "
            "*Neural Computation* 3, 79–87)."
        ),
        not_here=(
            "That the third error function is the better one: all three end with two experts, and each with the step "
            "that suits it, they need about as many epochs. That experts learn twice as fast as a network: they learn "
            "faster, but by less. That eight experts are faster than four. The paper does not print its step sizes, "
            "and the number of epochs depends on them: with ours, the stand-in vowels need about as many as the "
            "paper reports, and the measured vowels a third fewer. The measured vowels do not ship with moeviz, so "
            "these are drawn from their published averages."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Mixture),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(),
    ),
)
