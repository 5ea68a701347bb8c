"""Dense contrast: a mixture of experts next to a dense network that is as fast and one that is as large."""

from functools import partial

import streamlit as st
from moeviz_app.facts import figures
from moeviz_app.show import heading, picture_and_words
from moeviz_app.views.history.gallery import Exhibit, exhibit_page, seed_control

from moeviz.charts.confidence import CHARTS as CONFIDENCE
from moeviz.charts.confidence import entropy_by_layer
from moeviz.charts.load import CHARTS as LOAD
from moeviz.charts.load import load_heatmap
from moeviz.charts.parameters import CHARTS as PARAMETERS
from moeviz.charts.parameters import parameters_by_part, touched_curve
from moeviz.history.dense_contrast.chart import MEMORY_COMPUTE, PERPLEXITY
from moeviz.history.dense_contrast.model import KINDS, Run, train
from moeviz.history.dense_contrast.picture import shipped_sweep
from moeviz.history.dense_contrast.trace import trace_of
from moeviz.history.shared.results import shipped

NAME = "dense"
COMMON = (parameters_by_part, touched_curve, load_heatmap, entropy_by_layer)
EQUATIONS = r"""\begin{aligned}
\text{sparse:}\quad & y = \textstyle\sum_{i=1}^{E} G_k(x)_i \; \mathrm{SwiGLU}_i(x) \\
& G_k(x) = \mathrm{Softmax}(\mathrm{Top}k(x W_g)) \\
\text{as fast:}\quad & y = \mathrm{SwiGLU}(x), \; k \cdot h \text{ units} \\
\text{as large:}\quad & y = \textstyle\sum_{i=1}^{E} G_E(x)_i \; \mathrm{SwiGLU}_i(x)
\end{aligned}"""


def _controls() -> dict[str, object]:
    kept = {"persist_state": "session"}
    kind = st.selectbox("Kind", list(KINDS), key=f"{NAME} kind", width=140, **kept)
    experts = st.select_slider("Experts", (4, 8, 16), 8, key=f"{NAME} experts", width=140, **kept)
    top_k = st.select_slider("Experts per word", (2, 4), 2, key=f"{NAME} top_k", width=160, **kept)
    return {"experts": experts, "top_k": top_k, "kind": kind, "seed": seed_control(NAME)}


def _show(result: Run) -> None:
    cost, ended = result.cost, result.perplexity[-1]
    figures(
        {
            "Parameters": (cost.total, f"{cost.total:,}: all of them have to be held in memory."),
            "Active": (cost.active, f"{cost.active:,}: only those that work on one word cost compute."),
            "Multiply-adds": (
                cost.multiply_adds,
                f"{cost.multiply_adds:,} for one word: one multiplication for each number of the matrices that the "
                "word runs through. Attention between words is not counted; it is the same for all kinds.",
            ),
            "Perplexity": (f"{ended:.1f}", "On all held-out words: lower is better, and 2,000 is random guessing."),
        }
    )
    for chart, frame in (
        (MEMORY_COMPUTE, MEMORY_COMPUTE.measure(result)),
        (PERPLEXITY, PERPLEXITY.measure(result, shipped_sweep())),
    ):
        heading(chart)
        picture_and_words(chart, frame)


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Dense contrast",
        new=(
            "2024: the Mixtral paper distinguishes two sizes of a mixture: all its parameters, which grow with the "
            "number of experts, and its active parameters, which grow with the number of experts that a token is sent "
            "to (Jiang and others, *Mixtral of Experts*, arXiv 2401.04088, section 2.1). So a mixture has two dense "
            "twins: one with as much compute, like the one that Switch Transformers are compared with (Fedus, Zoph "
            "and Shazeer, arXiv 2101.03961), and one with as much memory. Here all three are trained as tiny decoders "
            "on the same text. The one that is as large is the same network with all experts on, which makes it a "
            "dense network."
        ),
        not_here=(
            "That the mixture predicts better than the dense network that is as fast, which is the reason for "
            "building mixtures: with three seeds, it does so once. The network that is as large predicts better than "
            "the mixture with all three seeds, for four times the work of its experts. Each expert of the mixture "
            "learns from a quarter of the words, and 89,000 words, read about three and a half times, are not enough "
            "to train more parameters. Multiplications are counted; no claim is made about time, since calling such "
            "small experts one by one takes time of its own. And the mixture uses more than half of its parameters "
            "for a word, where Mixtral 8x7B uses 27.6%: in such a small network, embeddings are over a third of the "
            "parameters."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Run),
        show=_show,
        trace_of=trace_of,
        common=tuple(chart for chart in (*PARAMETERS, *LOAD, *CONFIDENCE) if chart.draw in COMMON),
    ),
)
