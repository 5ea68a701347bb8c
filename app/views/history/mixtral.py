"""Mixtral 8x7B, 2023: its exact counts, and the embedded model, a small one of its kind, next to what was published."""

import streamlit as st
from moeviz_app import shared
from moeviz_app.facts import figures, trace_name
from moeviz_app.traces import recorded
from moeviz_app.views.history.gallery import as_any_trace

from moeviz.charts import TOPICS
from moeviz.charts.coverage import CHARTS as COVERAGE
from moeviz.charts.locality import CHARTS as REPETITION
from moeviz.parameters import active_parameters

SIZES = "mistralai/Mixtral-8x7B-v0.1"  # a configuration that moeviz knows: no weights, and no network
COMMON = (TOPICS["Specialization"][0], *REPETITION, COVERAGE[1])


def page() -> None:
    """What was new, the counts, and how the embedded model routes its evaluation texts."""
    st.title("Mixtral", anchor=False)
    st.markdown(
        "2023: all feed-forward blocks of a language model with open weights are mixtures of eight experts, and every "
        "token goes to two of them in each of 32 layers. A token costs 13 of 47 billion parameters. The authors "
        "looked for experts that specialise in topics and found few; they found that neighbouring tokens share "
        "experts more often than chance would give, most of all in deeper layers (Jiang and others, *Mixtral of "
        "Experts*, arXiv 2401.04088, sections 2 and 5)."
    )
    st.latex(r"y = \sum_{i=0}^{7} \mathrm{Softmax}\left(\mathrm{Top2}(x W_g)\right)_i \cdot \mathrm{SwiGLU}_i(x)")
    with st.expander("What this does not reproduce"):
        st.markdown(
            "Mixtral's own routing: its weights do not ship with moeviz, so what is drawn is the small Mixtral that "
            "does, which we trained. Its consecutive tokens share experts far more often than Mixtral's do: its "
            "experts specialise in kinds of text, Mixtral's hardly do, and each text is of one kind. No benchmark of "
            "the paper is repeated."
        )
    _counts()
    trace = recorded.evaluation_routing()
    trace_name(trace)
    as_any_trace("mixtral", trace, COMMON)


def _counts() -> None:
    info = shared.model_facts_of_known(SIZES)
    total, active = info.parameters.total, active_parameters(info.parameters, info.top_k)
    figures(
        {
            "Mixtral 8x7B, total": (
                f"{total:,}",
                "Counted from its configuration; the paper prints 47B.",
            ),
            "Active": (f"{active:,}", "Two experts per layer and everything else; the paper prints 13B."),
        }
    )
    st.markdown(
        "It is not 8 × 7 billion: only the feed-forward blocks are there eight times; attention and embeddings are "
        "there once. A batch of 32 tokens uses all eight experts of a layer, so it needs the memory of the whole "
        "model; only compute is saved."
    )
