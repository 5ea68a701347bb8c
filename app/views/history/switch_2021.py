"""Switch Transformer, 2021: one expert per token, and what does not fit is dropped."""

from functools import partial

import streamlit as st
from moeviz_app.facts import figures
from moeviz_app.show import heading, picture_and_words
from moeviz_app.views.history.gallery import Exhibit, exhibit_page, experts_of_each, seed_control

from moeviz.charts.load import CHARTS as LOAD
from moeviz.charts.load import load_against_importance
from moeviz.charts.vocabulary import CHARTS as VOCABULARY
from moeviz.charts.vocabulary import top_tokens_table
from moeviz.history.shared.results import shipped
from moeviz.history.switch_2021.chart import DROP_RATES, DROPPED_BY_PLACE, EXPERT_QUEUES
from moeviz.history.switch_2021.model import Switch, train
from moeviz.history.switch_2021.picture import EARLY, LATE, shipped_sweep, twin_perplexity
from moeviz.history.switch_2021.trace import trace_of

NAME = "switch"
COMMON = (top_tokens_table, load_against_importance)
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
    for chart, frame in (
        (EXPERT_QUEUES, EXPERT_QUEUES.measure(result)),
        (DROP_RATES, DROP_RATES.measure(result, runs)),
        (DROPPED_BY_PLACE, DROPPED_BY_PLACE.measure(result)),
    ):
        heading(chart)
        picture_and_words(chart, frame)


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Switch",
        new=(
            "2021: each token goes to only one expert, and that expert's output is multiplied by the router's "
            "probability for it, which is how the router learns. An expert has a capacity: the number of tokens of a "
            "batch that it can take. Tokens that come later are dropped: no expert sees them, and they pass through "
            "the residual connection unchanged. An auxiliary loss with the weight α = 0.01 keeps the load uniform "
            "(Fedus, Zoph and Shazeer, arXiv 2101.03961, *JMLR* 23)."
        ),
        not_here=(
            "The paper's speeds (Table 1, and 7.5 times fewer steps than T5 with 64 experts), training that diverges "
            "in bfloat16, and the run with 1.6 trillion parameters: this model has under half a million, and there is "
            "no second computer to send a token to. Against its dense twin, which takes as many multiplications per "
            "word, its perplexity is only 1 to 3 % lower, and in trials with half as many steps the twin was "
            "sometimes ahead. The paper's Table 9 contradicts itself: the 64 experts that it prints give Switch-XXL "
            "201 billion parameters, while 128 give the 395 billion that it prints (see the Timeline page)."
        ),
        equation=EQUATIONS,
        controls=_controls,
        train=train,
        shipped=partial(shipped, Switch),
        show=_show,
        trace_of=trace_of,
        common=(
            experts_of_each("kind of word"),
            *(chart for chart in (*VOCABULARY, *LOAD) if chart.draw in COMMON),
        ),
    ),
)
