"""Mixtral 8x7B, 2023: what was published of it; and, under their own title, two small models of ours of that kind."""

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_catalog, recorded
from moeviz_app.views.history.gallery import BY_LABEL, as_any_trace, read_more, shown
from moeviz_app.widgets.facts import figures, trace_name

from moeviz.charts.multi_trace import INFORMATION, REPETITION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.balance_study import balance_study, study_means
from moeviz.embedded.own_models import NATURAL
from moeviz.embedded.reference import reference_routing
from moeviz.history.mixtral.chart import MIXTRAL_LOAD, MIXTRAL_REPETITION
from moeviz.history.mixtral.picture import published_divergence
from moeviz.metrics.words import percent
from moeviz.parameters import active_parameters
from moeviz.published import CAUTION

SIZES = "mistralai/Mixtral-8x7B-v0.1"  # a configuration that moeviz knows: no weights, and no network
COUNTED = (0, 7, 15)  # layers
OF_BOTH = (REPETITION, INFORMATION)
EQUATION = r"y = \sum_{i=0}^{7} \mathrm{Softmax}\left(\mathrm{Top2}(x W_g)\right)_i \cdot \mathrm{SwiGLU}_i(x)"


def page() -> None:
    """What was new and published, the counts; then our own model, which is another."""
    st.title("Mixtral", anchor=False)
    st.markdown(
        "2023: all feed-forward blocks of a language model with open weights are mixtures of eight experts, and every "
        "token goes to two of them in each of 32 layers. The authors looked for experts of topics and observed no "
        "obvious patterns; but neighbouring tokens share experts more often than chance would give, most of all in "
        "deeper layers. These figures are of the real model, as they were published."
    )
    layer = st.segmented_control("Layer", COUNTED, default=COUNTED[-1], required=True, key="mixtral layer")
    shown(MIXTRAL_LOAD, MIXTRAL_LOAD.measure(layer))
    st.text(
        f"The two kinds that differ most differ by {published_divergence(layer):.4f} bits (Jensen–Shannon; 0 is alike, "
        f"1 is nothing in common). {CAUTION}"
    )
    shown(MIXTRAL_REPETITION, MIXTRAL_REPETITION.measure())
    _counts()
    read_more(
        EQUATION,
        "Jiang and others, *Mixtral of Experts*, arXiv 2401.04088, sections 2 and 5, and table 5 for neighbouring "
        "tokens. Experts by kind of text: counted by the authors of OLMoE (arXiv 2409.02060).",
        "Mixtral's own routing of your text: its weights do not ship with moeviz. No benchmark of the paper is "
        "repeated.",
    )
    _ours()


def _counts() -> None:
    info = model_catalog.facts_of_any(SIZES)
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
        "there once. A batch of many texts soon uses all eight experts of a layer (32 tokens chosen at random nearly "
        "always do), so it needs the memory of the whole model; only compute is saved."
    )


def _ours() -> None:
    st.header("Two small models of ours, which are not Mixtral", anchor=False)
    st.markdown(
        "The model that ships with moeviz has Mixtral's architecture, 12.7 million parameters, and another training. "
        "It was **pushed**: a term of its loss rewarded experts that tell kinds of text apart. And its balance was "
        "counted over whole batches of all kinds of text, which is met by giving each kind its own experts. So it "
        "shows what specialised experts look like, and not what Mixtral's experts do. Its sibling, "
        "*embedded-natural*, is of the same size and had no push, and its balance was counted within each stretch of "
        "one text. Here both route the same sixty texts of fifteen kinds."
    )
    for chart, frame in zip(OF_BOTH, _both(), strict=True):
        shown(chart, frame)
    st.markdown(_what_does_it())
    ours = recorded.evaluation_routing()
    trace_name(ours)
    last = ours.select(layers=ours.model.layers[-1:])
    shown(BY_LABEL, BY_LABEL.measure(last), last.model)
    as_any_trace("mixtral", ours, ())


@st.cache_data(show_spinner=False)
def _both() -> list[pd.DataFrame]:
    """How both route the evaluation set, by `OF_BOTH`: what ships is the same for everybody."""
    both = {name: reference_routing(name) for name in (EMBEDDED, NATURAL)}
    return [chart.measure(both) for chart in OF_BOTH]


def _what_does_it() -> str:
    """Whether the push or the balance is what makes experts follow kinds of text: by twelve smaller models."""
    study = study_means()
    told, repeats = study["information"], study["repeats"]
    costs = study["nats"]["window", 0.0] - study["nats"]["batch", 0.0]
    return (
        f"**It is the balance that does it.** Of {len(balance_study())} smaller models of ours, those balanced over "
        f"batches have experts that tell {told['batch', 0.0]:.2f} bits about the kind of text without the push, and "
        f"{told['batch', 0.05]:.2f} with it. Balanced within each text, they tell {told['window'].max():.2f} at most, "
        f"and first choices repeat for {percent(repeats['window', 0.0])} of tokens in place of "
        f"{percent(repeats['batch', 0.0])}; in Mixtral, for 14 to 28%. That costs {costs:.2f} nats a token, about what "
        "seeds differ by. How Mixtral was balanced is not published."
    )
