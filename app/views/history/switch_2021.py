"""Switch Transformer, 2021: one expert per token, and what does not fit is dropped."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.facts import figures

from moeviz.charts.vocabulary import CHARTS as VOCABULARY
from moeviz.charts.vocabulary import top_tokens_table
from moeviz.history.shared.results import shipped
from moeviz.history.switch_2021.chart import DROP_RATES, DROPPED_BY_PLACE, EXPERT_QUEUES
from moeviz.history.switch_2021.model import Switch, train
from moeviz.history.switch_2021.picture import EARLY, LATE, shipped_sweep, twin_perplexity
from moeviz.history.switch_2021.trace import trace_of

NAME = "switch"
COMMON = (top_tokens_table,)
EQUATIONS = r"""\begin{aligned}
p(x) &= \mathrm{softmax}(h(x)) \\
i &= \arg\max_j p_j(x) \\
y &= p_i(x)\, E_i(x) \\
\text{capacity} &= \left\lceil \frac{\text{tokens}}{N} \cdot \text{capacity factor} \right\rceil \\
\text{loss} &= \text{cross-entropy} + \alpha\, N \textstyle\sum_{i=1}^{N} f_i P_i
\end{aligned}"""


def _controls() -> dict[str, object]:
    kept = {"persist_state": "session"}
    experts = st.select_slider("Experts", (2, 4, 8, 16), 8, key=f"{NAME} experts", width=160, **kept)
    factor = st.selectbox("Capacity factor", (0.5, 1.0, 1.25, 2.0), 2, key=f"{NAME} factor", width=150, **kept)
    weight = st.selectbox("Aux loss weight α", (0.0, 1e-3, 1e-2, 1e-1), 2, key=f"{NAME} weight", width=150, **kept)
    return {"experts": experts, "capacity_factor": factor, "aux_weight": weight, "seed": seed_control(NAME)}


def _picture(result: Switch) -> None:
    shown(EXPERT_QUEUES, EXPERT_QUEUES.measure(result))


def _show(result: Switch) -> None:
    runs = shipped_sweep()
    figures(
        {
            "Dropped early": (f"{result.drop_rate(EARLY):.0%}", "Share of the words in the first 20 training steps."),
            "Dropped late": (f"{result.drop_rate(LATE):.1%}", "Share of the words in the last 50 training steps."),
            "Dropped in test": (f"{result.held_out_dropped:.1%}", "Share of 8,192 held-out words, in groups of 1,024."),
            "Perplexity": (
                f"{result.perplexity:.1f}",
                "On all held-out words, including dropped ones: lower is better.",
            ),
            "Dense twin": (f"{twin_perplexity(runs):.1f}", "Perplexity with one expert for all words, two seeds."),
        }
    )
    st.markdown(_said(result))
    for chart, frame in (
        (DROP_RATES, DROP_RATES.measure(result, runs)),
        (DROPPED_BY_PLACE, DROPPED_BY_PLACE.measure(result)),
    ):
        shown(chart, frame)


def _said(result: Switch) -> str:
    """Why less is dropped late than early, and in test more than late, where that is so."""
    early, late, test = result.drop_rate(EARLY), result.drop_rate(LATE), result.held_out_dropped
    said = ["Early, the router sends most words to a few experts."] if late < early else []
    if said and result.settings["aux_weight"]:
        said.append("The auxiliary loss evens that out as it trains.")
    if test > late:
        said.append("More is dropped in test than late in training: the load was evened out on other words than these.")
    return " ".join(said)


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Switch",
        new=(
            "2021: with experts on many machines, each choice is a message and each expert's work has to fit its "
            "machine. So a token goes to one expert alone, and an expert has a capacity, as in 2002: the number of "
            "tokens of a batch that it can take. Those that come later are dropped: no expert sees them, and they pass "
            "through unchanged."
        ),
        more=(
            "The expert's output is multiplied by the router's probability for it, which is how the router learns. "
            "What is dropped passes through the residual connection. An auxiliary loss with the weight α = 0.01 keeps "
            "the load uniform; fᵢ is the share of tokens routed to expert i, and Pᵢ its mean probability (Fedus, Zoph "
            "and Shazeer, arXiv 2101.03961, *JMLR* 23)."
        ),
        not_here=(
            "The paper's speeds (Table 1, and 7.5 times fewer steps than T5 with 64 experts), training that diverges "
            "in bfloat16, and the run with 1.6 trillion parameters: this model has under half a million, and there is "
            "no second computer to send a token to. Against its dense twin, which takes as many multiplications per "
            "word, its perplexity is only 1 to 3% lower, and in trials with half as many steps the twin was "
            "sometimes ahead. The paper's Table 9 contradicts itself: the 64 experts that it prints give Switch-XXL "
            "201 billion parameters, while 128 give the 395 billion that it prints (see the Timeline page)."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Switch),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(BY_LABEL, *(chart for chart in VOCABULARY if chart.draw in COMMON)),
    ),
)
