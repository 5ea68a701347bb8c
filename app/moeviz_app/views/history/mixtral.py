"""Mixtral 8x7B, 2023: what was published of it; and, under their own title, two small models of ours of that kind."""

import pandas as pd
import streamlit as st

from moeviz.charts.multi_trace import INFORMATION, REPETITION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import NATURAL
from moeviz.embedded.recorded_routing import balance_study, reference_routing, study_means
from moeviz.history.mixtral.exhibit import MIXTRAL_LOAD, MIXTRAL_REPETITION, published_divergence
from moeviz.history.shared.exhibit import LOAD_BY_LABEL
from moeviz.history.systems import EXHIBITS
from moeviz.metrics.words import percent
from moeviz.parameters import active_parameters
from moeviz.published import CAUTION
from moeviz_app.jobs import model_catalog, recorded
from moeviz_app.views.history.gallery import GalleryPage, read_more, trace_to_other_pages
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.facts import figures, trace_name

SIZES = "mistralai/Mixtral-8x7B-v0.1"  # a configuration that moeviz knows: no weights, and no network
COUNTED = (0, 7, 15)  # layers
OF_BOTH = (REPETITION, INFORMATION)


def mixtral_page() -> None:
    """Draw what was new and published, the counts; then our own model, which is another."""
    system = EXHIBITS["mixtral"]
    st.title(system.title, anchor=False)
    st.markdown(system.whats_new)
    layer = st.segmented_control("Layer", COUNTED, default=COUNTED[-1], required=True, key="mixtral layer")
    GalleryPage("mixtral").chart(MIXTRAL_LOAD, layer)
    st.text(
        f"The two kinds that differ most differ by {published_divergence(layer):.4f} bits (Jensen–Shannon; 0 is alike, "
        f"1 is nothing in common). {CAUTION}"
    )
    GalleryPage("mixtral").chart(MIXTRAL_REPETITION)
    _counts()
    read_more(system)
    _ours()


def _counts() -> None:
    info = model_catalog.facts_of_any(SIZES)
    total, active = info.parameters.total, active_parameters(info.parameters, info.top_k)
    figures(
        {
            "Mixtral 8x7B, total": (f"{total:,}", "Counted from its configuration; the paper prints 47B."),
            "Active": (f"{active:,}", "Two experts per layer and everything else; the paper prints 13B."),
        }
    )
    st.markdown(
        "It is not 8 × 7 billion: only the feed-forward blocks are there eight times; attention and embeddings are "
        "there once. All of it has to be in memory, since any token may need any expert: a batch of many texts soon "
        "uses all eight of a layer (32 tokens chosen at random nearly always do). What is saved is compute: a token "
        "runs through two."
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
        heading(chart)
        picture_and_words(chart, frame)
    st.markdown(_what_does_it())
    ours = recorded.evaluation_routing()
    trace_name(ours)
    last = ours.select(layers=ours.model.layers[-1:])
    GalleryPage("mixtral").chart(LOAD_BY_LABEL, last, model=last.model)
    trace_to_other_pages("mixtral", ours, ())


@st.cache_data(show_spinner=False)
def _both() -> list[pd.DataFrame]:
    """Return the routing of the evaluation set by both, by `OF_BOTH`: it ships, so it is the same for everybody."""
    both = {name: reference_routing(name) for name in (EMBEDDED, NATURAL)}
    return [chart.measure(both) for chart in OF_BOTH]


def _what_does_it() -> str:
    study = study_means()
    told, repeats = study["information"], study["repeats"]
    costs = study["nats"]["window", 0.0] - study["nats"]["batch", 0.0]
    return (
        f"**It is the balance that does it.** Of {len(balance_study())} smaller models of ours, those balanced over "
        f"batches have experts that tell {told['batch', 0.0]:.2f} bits about the kind of text without the push, and "
        f"{told['batch', 0.05]:.2f} with it. Balanced within each text, they tell {told['window'].max():.2f} at most, "
        f"and first choices repeat for {percent(repeats['window', 0.0])} of tokens in place of "
        f"{percent(repeats['batch', 0.0])}; in Mixtral, for 14 to 28%. That costs {costs:.2f} nats per token, about "
        "what seeds differ by. How Mixtral was balanced is not published."
    )
