"""Dense contrast: a mixture of experts next to a dense network that is as fast and one that is as large."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.charts import NAMED
from moeviz.history.dense_contrast.chart import MEMORY_COMPUTE, PAYOFF, PERPLEXITY
from moeviz.history.dense_contrast.model import KINDS, Run, train
from moeviz.history.dense_contrast.payoff import payoff_runs, payoff_words
from moeviz.history.dense_contrast.picture import shipped_sweep
from moeviz.history.dense_contrast.trace import trace_of
from moeviz.history.shared.results import shipped

NAME = "dense"
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


def _picture(result: Run) -> None:
    shown(MEMORY_COMPUTE, MEMORY_COMPUTE.measure(result))


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
    shown(PERPLEXITY, PERPLEXITY.measure(result, shipped_sweep()))
    payoff = PAYOFF.measure(payoff_runs())
    shown(PAYOFF, payoff)
    st.text(payoff_words(payoff))


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Dense contrast",
        new=(
            "What is a mixture for? It has two sizes: all its parameters, which have to be held in memory, and the "
            "active ones, which a token computes with. So it has two dense twins: one as fast, with as many active "
            "parameters, and one as large, with all experts on. Here all three are trained as tiny decoders on the "
            "same text."
        ),
        more=(
            "The Mixtral paper distinguishes the two sizes (Jiang and others, *Mixtral of Experts*, arXiv 2401.04088, "
            "2024, section 2.1); Switch Transformers are compared with the twin that is as fast (Fedus, Zoph and "
            "Shazeer, arXiv 2101.03961). The one that is as large is the same network with all experts on, which makes "
            "it a dense network."
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
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(NAMED["parameters_by_part"],),
    ),
)
