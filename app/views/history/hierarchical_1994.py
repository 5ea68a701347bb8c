"""Hierarchical mixtures of experts, 1994: a tree of gates, fitted by expectation maximisation in a few passes."""

from functools import partial

import pandas as pd
import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.history.hierarchical_1994.chart import LEARNING_CURVES, SQUARE_LINES, TREE_LINES
from moeviz.history.hierarchical_1994.model import Hierarchy, train
from moeviz.history.hierarchical_1994.three_shapes import EM, FLAT, ONE_CUT, TREE, ended
from moeviz.history.hierarchical_1994.trace import trace_of
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in

NAME = "hierarchical"

EQUATIONS = r"""\begin{gathered}
P(d \mid x) = \sum_i g_i(x) \sum_j g_{j|i}(x)\, P_{ij}(d \mid x) \\
h_{ij} = g_i\, g_{j|i}\, P_{ij}(d \mid x) \,/\, P(d \mid x)
\end{gathered}"""


def _controls() -> dict[str, object]:
    passes = st.select_slider(
        "Passes", (5, 10, 20, 40, 80), 40, key=f"{NAME} passes", persist_state="session", width=200
    )
    return {"passes": passes, "seed": seed_control(NAME)}


def _picture(result: Hierarchy) -> None:
    st.text(f"The vowels are a {stand_in().source}.")
    shown(TREE_LINES, TREE_LINES.measure(result, stand_in()))


def _show(result: Hierarchy) -> None:
    error, passes = float(result.squared_error[-1]), result.settings["passes"]
    figures(
        {
            "Passes": (f"{passes}", "Over all samples of the training speakers."),
            "Error": (
                f"{error:.3f}",
                "Average squared error on the training speakers; the paper of 1991 stops at 0.08.",
            ),
            "Correct, training": (f"{result.train_accuracy:.0%}", "Share of the samples of the first 50 speakers."),
            "Correct, test": (f"{result.test_accuracy:.0%}", "Share of the samples of the other 25 speakers."),
        }
    )
    st.markdown(
        "One cut is enough for these vowels, so the root has little to do. The points below need two, and keep it busy."
    )
    shown(SQUARE_LINES, SQUARE_LINES.measure())
    curves = LEARNING_CURVES.measure()
    shown(LEARNING_CURVES, curves)
    st.markdown(_said(curves))
    level = st.segmented_control(
        "Level", (0, 1), default=1, format_func=("the root's branches", "the leaves").__getitem__
    )
    winners = trace_of(result, slots=1).select(layers=[1 if level is None else level])
    shown(BY_LABEL, BY_LABEL.measure(winners), winners.model)


def _said(curves: pd.DataFrame) -> str:
    error = ended(curves)[EM]
    return (
        f"After the last pass of expectation maximisation, the error is {error[TREE]:.3f} with the tree, "
        f"{error[ONE_CUT]:.3f} with a root that stays uniform, and {error[FLAT]:.3f} with one gate over all four "
        "experts, which can cut twice as well. So these points need gates that cut twice, but not a tree. What the "
        "tree adds is that each of its gates is fitted alone, as one line."
    )


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Hierarchical mixture",
        new=(
            "1994: gradient descent takes a thousand passes to part two experts, and its step has to be searched. Here "
            "gates are placed above gates, so that a tree divides the cases, and expectation maximisation fits all "
            "gates and experts directly to the cases that they are responsible for. There is no step to choose, and "
            "about ten passes are enough."
        ),
        more=(
            "Each leaf is an expert with a simple answer; gᵢ is what the root gives branch i, and hᵢⱼ how far expert "
            "ij is responsible for a case. On the dynamics of a robot arm, this took 35 passes over the data to an "
            "error of 0.10 where backpropagation took 5,500 to 0.09 (Jordan and Jacobs, *Neural Computation* 6, "
            "181–214)."
        ),
        not_here=(
            "The robot arm: its data are not available, so the tree tells apart the vowels of 1991, and made-up "
            "points in a square. That a tree learns more, or faster, than one gate over all its experts: fitted in the "
            "same way, it does not here. What is fast is expectation maximisation. Some runs of the tree stay where a "
            "branch is of little use, which the pale bands show. Passes are compared with gradient descent on the "
            "same likelihood, not with a backpropagation network, and one pass of expectation maximisation computes "
            "more than one step of it."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Hierarchy),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(),
    ),
)
