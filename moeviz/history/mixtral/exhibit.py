"""The exhibit of Mixtral 8x7B: the numbers that were published of its own routing. No weights of it are needed."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.history.shared.exhibit import words_beside
from moeviz.metrics.locality import MIXTRAL_LAYERS, MIXTRAL_TABLE_5
from moeviz.metrics.significance import divergences
from moeviz.metrics.specialization import load_by_label
from moeviz.published import published_counts

TEXT = words_beside(__file__)
CHOICES = {"first choice": 1 / 8, "first or second choice": 1 - (6 * 5) / (8 * 7)}  # and its chance
KINDS = ["code", "books", "web"]


def published_load(layer: int) -> pd.DataFrame:
    """Load of the experts of one layer of Mixtral 8x7B by code, books and the web: 208,896 tokens of each.

    Columns: those of `load_by_label`. Raises `InvalidTrace` for a layer that was not counted (0, 7 and 15 were).

    Source: counted by the authors of OLMoE (arXiv 2409.02060), `scripts/routing_output` of allenai/OLMoE.
    """
    return load_by_label(published_counts("Mixtral-8x7B").select(layers=[layer]))


def published_divergence(layer: int) -> float:
    """Return the divergence of the two kinds of text that the layer treats most differently: bits, from 0 to 1."""
    counts = published_counts("Mixtral-8x7B").select(layers=[layer]).assignments[:, 0]
    return float(divergences(counts, *np.triu_indices(len(counts), k=1)).max())


def published_repetition() -> pd.DataFrame:
    """Return the share of neighbouring tokens that go to the same expert in Mixtral 8x7B, in eight data sets.

    One row per choice, layer and data set. Columns: choice str (first choice, or any expert in common) · layer int32 ·
    data_set str · share float64 (of pairs) · chance float64 (1 / 8, or 1 - C(6, 2) / C(8, 2)).

    Source: Jiang and others, Mixtral of Experts (arXiv 2401.04088), table 5.
    """
    rows = [
        {"choice": choice, "layer": layer, "data_set": name, "share": figures[3 * at + place] / 100, "chance": chance}
        for at, (choice, chance) in enumerate(CHOICES.items())
        for place, layer in enumerate(MIXTRAL_LAYERS)
        for name, figures in MIXTRAL_TABLE_5.items()
    ]
    return pd.DataFrame(rows).astype({"choice": "str", "layer": "int32", "data_set": "str"})


def mixtral_load(frame: pd.DataFrame) -> alt.LayerChart:
    """Three bars an expert, a kind of text each, and the uniform share. Columns: those of `published_load`."""
    bars = theme.bars(
        frame,
        x=theme.expert_axis("dashed: uniform share"),
        xOffset=alt.XOffset("label:N", sort=KINDS),
        y=alt.Y("share:Q", title="share of assignments", axis=theme.share_axis()),
        color=theme.colour("label", KINDS, theme.EXPERT_COLOURS[: len(KINDS)]),
        tooltip=theme.tooltip(
            label=("kind of text", ""),
            layer="d",
            expert="d",
            assignments=",",
            share=("share of its assignments", ".1%"),
        ),
    )
    return theme.framed(bars + theme.reference(frame[["uniform"]].head(1), "uniform", theme.NOTE), theme.MEDIUM)


def mixtral_repetition(frame: pd.DataFrame) -> alt.LayerChart:
    """Return a dot per data set and layer, with chance as a dashed line. Columns: those of `published_repetition`."""
    colour = theme.colour("choice", CHOICES, theme.PAIR, columns=1)
    dots = theme.points(
        frame,
        {"filled": True, "size": 50, "opacity": 0.7},
        x=theme.layer_axis("dashed: chance"),
        y=alt.Y("share:Q", title="pairs of neighbouring tokens", axis=theme.share_axis()),
        color=colour,
        tooltip=theme.tooltip(
            data_set=("data set", ""), layer="d", choice="", share=("share of pairs", ".1%"), chance=".1%"
        ),
    )
    chance = alt.Chart(frame.drop_duplicates("choice")).mark_rule(strokeDash=list(theme.DASH), strokeWidth=2)
    return theme.framed(dots + chance.encode(y="chance:Q", color=colour), theme.MEDIUM)


MIXTRAL_LOAD = TEXT.chart(published_load, mixtral_load)
MIXTRAL_REPETITION = TEXT.chart(published_repetition, mixtral_repetition)
