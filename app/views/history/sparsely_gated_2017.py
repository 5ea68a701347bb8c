"""The sparsely-gated mixture of experts, 2017: noisy top-k, and the losses that keep all experts busy."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.charts.vocabulary import CHARTS as VOCABULARY
from moeviz.charts.vocabulary import top_tokens_table
from moeviz.history.shared.results import shipped
from moeviz.history.sparsely_gated_2017.chart import BALANCE_TABLE, BUSIEST_EXPERT
from moeviz.history.sparsely_gated_2017.model import MEASURES, SparselyGated, train
from moeviz.history.sparsely_gated_2017.picture import PAPER, setting
from moeviz.history.sparsely_gated_2017.trace import trace_of

NAME = "sparsely-gated"
COMMON = (top_tokens_table,)
GROUPS = {"one level": 0, "4 groups": 4}
EQUATIONS = r"""\begin{aligned}
y &= \textstyle\sum_i G(x)_i\, E_i(x) \\
G(x) &= \mathrm{Softmax}(\mathrm{KeepTopK}(H(x), k)) \\
H(x) &= x W_g + \mathcal{N}(0, 1)\, \mathrm{Softplus}(x W_{n}) \\
\mathrm{losses} &= w_{imp}\, \mathrm{CV}\left(\textstyle\sum_x G(x)\right)^2 \\
&\quad + w_{load}\, \mathrm{CV}\left(\textstyle\sum_x P(x)\right)^2
\end{aligned}"""


def _controls() -> dict[str, object]:
    kept = {"persist_state": "session"}
    experts = st.select_slider("Experts", (8, 16, 32), 16, key=f"{NAME} experts", width=140, **kept)
    top_k = st.select_slider("Top-k", (1, 2), 2, key=f"{NAME} k", width=90, help="At each level.", **kept)
    meaning = "The weights of the two losses: those of table 6 of the paper."
    pairs = list(PAPER)
    named = {"format_func": lambda pair: setting(*pair), "index": pairs.index((0.1, 0.1)), "help": meaning}
    importance, load = st.selectbox("Losses", pairs, key=f"{NAME} losses", width=160, **named, **kept)
    meaning = "A primary gate chooses groups, and a gate in each group chooses experts: appendix B of the paper."
    levels = st.selectbox("Gates", list(GROUPS), key=f"{NAME} groups", width=140, help=meaning, **kept)
    chosen = {"experts": experts, "top_k": top_k, "importance": importance, "load": load, "groups": GROUPS[levels]}
    return chosen | {"seed": seed_control(NAME)}


def _picture(result: SparselyGated) -> None:
    shown(BUSIEST_EXPERT, BUSIEST_EXPERT.measure(result))


def _show(result: SparselyGated) -> None:
    meanings = (
        "Standard deviation / mean, over the experts, of the sums of their weights.",
        "The same for the smooth count of their words.",
        "The busiest expert by that count, divided by the mean.",
        "The busiest expert by the words that it was given, divided by the mean.",
    )
    perplexity = (f"{result.perplexity:.1f}", "On all held-out words, without noise: lower is better.")
    balance = result.at_end()
    figures(
        {"Perplexity": perplexity}
        | {
            name: (f"{balance[name]:.2f}", f"{meaning} Mean of the last 20 steps.")
            for name, meaning in zip(MEASURES, meanings, strict=True)
        }
    )
    shown(BALANCE_TABLE, BALANCE_TABLE.measure())


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Sparsely gated",
        new=(
            "2017: the gate picks a few experts outright: a word runs through only 2 of 16 here, so that a model can "
            "grow without more work for each word. Noise and a top-k with weights let the gate learn by gradient. But "
            "whoever is picked learns, and is picked again: two losses keep the load, the number of words that an "
            "expert gets, uniform."
        ),
        more=(
            "The layer stands between two LSTMs. The gate adds noise to its scores and keeps the k highest. The losses "
            "are on the sums of the experts' weights G and of their probabilities P of being kept, which is a smooth "
            "count of their words. The largest model had 131,072 experts and 137 billion weights in this layer "
            "(Shazeer, Mirhoseini, Maziarz, Davis, Le, Hinton and Dean, [arXiv "
            "1701.06538](https://arxiv.org/abs/1701.06538), section 2, appendices A and B, table 8)."
        ),
        not_here=(
            "That the losses make a better model: the paper prints a perplexity of 39.8 without them and 35.6 with "
            "them, and here there is no difference. An expert with 17.8 times the mean load: with 16 experts, and 2 "
            "per word, none can have more than 8 times the mean. That weights of 0.01 are always less uniform than "
            "weights of 0.1: this holds for the mean of our three seeds, but in one of them it is the other way "
            "round. The paper's perplexities: its text has a billion words, ours about 100,000. Models with billions "
            "of weights: this one has half a million, and for the large ones only the published sizes are checked, by "
            "`moeviz history check`.\n\n"
            "The 137 billion are sometimes said to be those of an LSTM, or of a translation model. They are those of "
            "a mixture in a language model, which was no better for having them: its perplexity was 29.2, against "
            "28.9 with half as many weights. The translation models had 8.7 billion."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, SparselyGated),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=tuple(chart for chart in VOCABULARY if chart.draw in COMMON),
    ),
)
