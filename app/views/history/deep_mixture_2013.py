"""A deep mixture of experts, 2013: the first layer responds to where a digit is, the second to what it is."""

from functools import partial

import streamlit as st
from moeviz_app.views.history.gallery import BY_LABEL, Exhibit, exhibit_page, seed_control, shown
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, on_dark, particulars
from moeviz_app.widgets.facts import figures

from moeviz.charts import NAMED
from moeviz.history.deep_mixture_2013.chart import FACTOR_INFORMATION, GATES_BY_PLACE_AND_DIGIT, SHARE_BY_EPOCH
from moeviz.history.deep_mixture_2013.model import EPOCHS, DeepMixture, train
from moeviz.history.deep_mixture_2013.picture import shares, with_and_without
from moeviz.history.deep_mixture_2013.trace import LABELS, trace_of
from moeviz.history.shared.results import shipped
from moeviz.metrics.words import percent

NAME = "deep-mixture"
FLOW = NAMED["flow_ribbons"]
EQUATION = r"""\begin{aligned}
z^1 &= \textstyle\sum_i g_i^1(x)\, f_i^1(x) \\
z^2 &= \textstyle\sum_j g_j^2(z^1)\, f_j^2(z^1) \\
g(x) &= \operatorname{softmax}(B \operatorname{relu}(A x + a) + b) \\
g_i(x) &= 0 \text{ where } G_i - \operatorname{mean}(G) > m
\end{aligned}"""


def _controls() -> dict[str, object]:
    experts = st.select_slider(
        "Experts per layer", (2, 4, 8), 4, key=f"{NAME} experts", persist_state="session", width=160
    )
    epochs = st.select_slider(
        "Epochs", (14, 28, EPOCHS), EPOCHS, key=f"{NAME} epochs", persist_state="session", width=160
    )
    constraint = st.toggle("Balance constraint", True, key=f"{NAME} constraint", persist_state="session")
    return {"experts": experts, "epochs": epochs, "constraint": constraint, "seed": seed_control(NAME)}


def _picture(result: DeepMixture) -> None:
    """The gates with the constraint beside those without it: this run, and the one that ships to hold it against."""
    chart, both = GATES_BY_PLACE_AND_DIGIT, with_and_without(result)
    heading(chart)
    *places, words = st.columns([3, 3, 2], gap="medium")
    for place, held in zip(places, (True, False), strict=True):
        with place:
            st.markdown(f"**{'With' if held else 'Without'} the constraint**")
            drawn = chart.picture(chart.measure(both[held]), dark=on_dark())
            altair_chart(drawn, key=f"{chart.key} {held}", alt=alternative(chart), width="content")
    with words:
        particulars(chart, chart.measure(result))
        most = {held: percent(shares(run)["share"].max()) for held, run in both.items()}
        st.markdown(
            f"The busiest expert of a layer has {most[True]} of the gate with the constraint, and {most[False]} "
            "without it."
        )


def _show(result: DeepMixture) -> None:
    figures(
        {
            "Errors": (
                f"{result.error:.1%}",
                "Share of 1,000 test digits that it was not trained on, in all 81 positions.",
            )
        }
    )
    for chart in (FACTOR_INFORMATION, SHARE_BY_EPOCH):
        shown(chart, chart.measure(result))
    with st.container(horizontal=True):
        label = st.segmented_control("Label", LABELS, default="digit", required=True, key=f"{NAME} label")
        layer = st.segmented_control("Layer", (1, 2), default=2, required=True, key=f"{NAME} layer")
    winners = trace_of(result, label, slots=1).select(layers=[layer])
    shown(BY_LABEL, BY_LABEL.measure(winners), winners.model)


page = partial(
    exhibit_page,
    Exhibit(
        name=NAME,
        title="Deep mixture",
        new=(
            "2013: one mixture divides its cases once. Here two are stacked, so that a gate chooses in every layer, "
            "and two layers of four experts have sixteen paths. On digits that are shifted around on a larger canvas, "
            "the first layer's gates respond to where the digit is, and the second's to what it is, though nothing "
            "tells them to."
        ),
        more=(
            "Left alone, a gate gives everything to the first expert that does well. So in the first part of training, "
            "an expert whose running total Gᵢ leads by more than m is left out until the others have caught up (Eigen, "
            "Ranzato and Sutskever, arXiv 1312.4314). The picture shows a run that ships beside your own: one of the "
            "two has the constraint, the other does not."
        ),
        not_here=(
            "The paper's error rates of 1.3 to 1.8%: it trained on all of MNIST, and here 4,000 of its digits give 6 "
            "to 8% errors. Its second experiment, on speech: the recordings are proprietary. And not every run "
            "behaves like most. Of four runs with the constraint, the first layer of three knows at least ten times "
            "as much about where as about what, and that of the fourth just under ten times as much. Of four runs "
            "without it, in three one expert ends up with over 80% of a layer, and in the fourth none has 60%. The "
            "thresholds (how many times, how many per cent) are our own: the paper shows a picture and gives no "
            "number. The step size and the margin m are our own too."
        ),
        equation=EQUATION,
        controls=_controls,
        train=train,
        shipped=partial(shipped, DeepMixture),
        picture=_picture,
        show=_show,
        trace_of=trace_of,
        common=(FLOW,),
    ),
)
