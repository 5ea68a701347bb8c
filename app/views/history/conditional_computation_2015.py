"""Conditional computation, 2013 and 2015: blocks of a network switched on by a policy."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.history.conditional_computation_2015.chart import BLOCKS_BY_DIGIT, BLOCKS_ON, ERROR_BY_BLOCKS
from moeviz.history.conditional_computation_2015.model import ESTIMATORS, Conditional, train
from moeviz.history.conditional_computation_2015.trace import trace_of
from moeviz.history.shared.results import shipped

NAME = "conditional"
TARGETS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
EQUATIONS = r"""\begin{aligned}
& \sigma = \text{sigm}(Z x + d), \quad u_j \sim \text{B}(\sigma_j) \\
& h = \tanh(W x + b) \cdot \text{repeat}(u) \\
\text{2015:}\quad & \textstyle (C - b)\, \nabla \log \prod_j \sigma_j^{u_j} (1 - \sigma_j)^{1 - u_j} \\
& + \nabla \left(\lambda_s (L_b + L_e) + \lambda_v L_v\right) \\
\text{2013:}\quad & \partial L / \partial (Z x + d) \; := \; \partial L / \partial u
\end{aligned}"""


def _controls() -> dict[str, object]:
    kept = {"persist_state": "session", "width": 150}
    return {
        "estimator": st.selectbox("Estimator", ESTIMATORS, key=f"{NAME} estimator", **kept),
        "target": st.select_slider("Target τ", TARGETS, 1 / 8, "{:.3g}".format, key=f"{NAME} target", **kept),
        "sparsity": st.select_slider("Sparsity λₛ", WEIGHTS, 1.0, key=f"{NAME} sparsity", **kept),
        "variance": st.select_slider("Variance λᵥ", WEIGHTS, 1.0, key=f"{NAME} variance", **kept),
        "seed": seed_control(NAME),
    }


def _picture(result: Conditional) -> None:
    shown(ERROR_BY_BLOCKS, ERROR_BY_BLOCKS.measure(result))


def _show(result: Conditional) -> None:
    figures(
        {
            "Blocks on": (
                f"{result.on_share:.1%}",
                f"Share of all blocks, sampled. The target was {result.settings['target']:.1%}.",
            ),
            "Errors": (
                f"{result.error:.1%}",
                "Share of 1,000 test digits; blocks are sampled, as in training. Mean of five samples.",
            ),
            "Blocks on (p > ½)": (
                f"{result.threshold_on_share:.1%}",
                "Share of all blocks: on if the probability is above 1/2, instead of sampled.",
            ),
            "Errors (p > ½)": (
                f"{result.threshold_error:.1%}",
                "Share of 1,000 test digits; nothing is sampled, so other blocks are on.",
            ),
        }
    )
    for chart in (BLOCKS_BY_DIGIT, BLOCKS_ON):
        shown(chart, chart.measure(result))


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Conditional computation",
        new=(
            "2013 and 2015: until here, every expert is computed for every case, so more experts cost more. Now a "
            "policy switches blocks of a layer on and off, each by itself, and what is off need not be computed. But a "
            "switch has no gradient: it is learned by trial, from the errors that follow, or with a gradient that is "
            "made up."
        ),
        more=(
            "2013: Yoshua Bengio, Léonard and Courville ask how to train a part of a network that is either on or off, "
            "and name the straight-through estimator, which passes the gradient on as if nothing were in between "
            "(arXiv [1308.3432](https://arxiv.org/abs/1308.3432)). 2015: Emmanuel Bengio, Bacon, Pineau and Precup "
            "train a policy by the errors that follow and by losses that keep it sparse (arXiv "
            "[1511.06297](https://arxiv.org/abs/1511.06297)). On all of MNIST, with 16 blocks of 16 units and τ = "
            "1/16, they report 2.3% errors, against 1.9% for a dense network of 256 units and 2.8% for one of 32."
        ),
        not_here=(
            "The paper's error rates: it trains on 60,000 digits, and here there are only 4,000. That a gated network "
            "beats a dense one with the same amount of computation: at τ = 1/16 it does not here, and with more "
            "blocks the comparison leaves out what the policy itself costs. That it is faster: here all blocks are "
            "computed and then multiplied by 0 or 1, and the paper, too, finds MNIST too small to gain from more. "
            "That one estimator is better than the other: the step sizes were chosen for the policy, and three seeds "
            "are few. The weights of the losses are our own: the paper's 200 goes with other step sizes. The article "
            "that this gallery follows attributes all of this to Yoshua Bengio; the paper of 2015 is by Emmanuel."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Conditional),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(),
    ),
)
