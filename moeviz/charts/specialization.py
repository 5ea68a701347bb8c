"""Charts of which experts each kind of text uses. Labels come from anyone: they stay data, never part of a spec."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.errors import MoevizError
from moeviz.metrics.expert_names import expert_names, expert_names_caption
from moeviz.metrics.specialization import (
    MAX_LABELS,
    label_divergence,
    label_divergence_caption,
    label_information,
    label_information_caption,
    label_load_caption,
    load_by_label,
)
from moeviz.metrics.tokens import visible

LABEL_WIDTH = 105  # pixels of a label's name: two thirds of a phone are left for the picture


def expert_names_grid(frame: pd.DataFrame) -> alt.Chart:
    """Layer by expert, coloured by how far the expert's name holds. Columns: those of `expert_names`."""
    chart = theme.cells(
        frame.assign(name=frame["name"].map(visible)),
        x=theme.expert_axis(),
        y=theme.layer_rows(),
        color=theme.gradient("phi", "correlation on other texts", {"domain": [0, 1], "clamp": True}, format=".1f"),
        tooltip=theme.tooltip(
            layer="d",
            expert="d",
            name="",
            phi=("correlation on texts set aside", ".2f"),
            precision=("tokens of the name that it has", ".0%"),
            recall=("its tokens that are of the name", ".0%"),
            f1=("F1 of the name", ".2f"),
            f1_token=("F1 of the token by itself", ".2f"),
            tokens=("tokens that it has", ","),
        ),
    )
    return theme.framed(chart, theme.rows_height(frame["layer"].nunique()), canvas=True)


def label_load_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Label by expert of one layer, coloured by share of the label's assignments. Columns: those of `load_by_label`."""
    labels = frame["label"].nunique()
    if labels > MAX_LABELS:
        raise MoevizError(
            f"This chart shows at most {MAX_LABELS} labels, and the trace has {labels:,}. Trace fewer kinds of text."
        )
    chart = theme.cells(
        frame.assign(label=frame["label"].map(visible)),
        x=theme.expert_axis(),
        y=alt.Y("label:N", title=None, sort=None, axis=_labels_axis()),
        color=theme.gradient("share", "share of assignments", {"domainMin": 0}, format="%"),
        tooltip=theme.tooltip(
            label="",
            layer="d",
            expert="d",
            assignments=",",
            share=("share of the label's assignments", ".1%"),
            uniform=("uniform share", ".1%"),
            share_of_tokens=("share of the label's tokens", ".1%"),
        ),
    )
    return theme.framed(chart, theme.rows_height(labels), canvas=True)


def _labels_axis(**options: object) -> alt.Axis:
    return alt.Axis(labelLimit=LABEL_WIDTH, labelOverlap=True, **options)


def information_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw how much experts tell about labels, with chance level and maximum. Columns: those of `label_information`."""
    bits = theme.figures(
        ".3f",
        information="bits about the label",
        shuffled="with labels shuffled",
        shuffled_highest="highest of the shuffles",
        maximum="maximum",
    )
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: labels shuffled, grey: maximum"), tooltip=[*theme.tooltip(layer="d"), *bits]
    )
    bars = base.mark_bar(color=theme.MAIN).encode(y=alt.Y("information:Q", title="bits"))
    highest = base.mark_rule(color=theme.CHANCE, strokeWidth=2).encode(y="shuffled:Q", y2="shuffled_highest:Q")
    luck = [highest, theme.ticks(base, "shuffled")] if theme.known(frame, "shuffled") else []
    return theme.framed(theme.layered(bars, theme.ticks(base, "maximum", theme.NOTE), *luck), theme.MEDIUM)


def label_divergence_grid(frame: pd.DataFrame) -> alt.Chart:
    """Label by label in one layer, coloured by how differently they are routed. Columns: of `label_divergence`."""
    square = _both_ways(frame)
    chart = theme.cells(
        square,
        x=alt.X("other:N", title=None, sort=None, axis=_labels_axis(labelAngle=-90)),
        y=alt.Y("label:N", title=None, sort=None, axis=_labels_axis()),
        color=theme.gradient("divergence", "divergence in bits", {"domain": [0, 1]}),
        tooltip=theme.tooltip(
            label="",
            other=("other label", ""),
            layer="d",
            divergence=("divergence in bits", ".3f"),
            shuffled=("with labels shuffled", ".3f"),
        ),
    )
    return theme.framed(chart, theme.rows_height(square["label"].nunique()) + LABEL_WIDTH, canvas=True)


def _both_ways(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each pair in both directions. First each label with itself, which also orders both axes alike."""
    frame = frame.assign(label=frame["label"].map(visible), other=frame["other"].map(visible))
    labels = pd.Series(pd.concat([frame["label"], frame["other"]]).unique(), dtype="str")
    itself = pd.DataFrame({"label": labels, "other": labels, "divergence": 0.0, "shuffled": np.nan})
    turned = frame.rename(columns={"label": "other", "other": "label"})
    layer = frame["layer"].iloc[0] if len(frame) else np.int32(0)
    return pd.concat([itself.assign(layer=layer), frame, turned], ignore_index=True).dropna(subset="divergence")


NAMES = Chart.row(expert_names_grid, expert_names, expert_names_caption, expert="expert")
CHARTS = (  # all of these need labels
    Chart.row(label_load_heatmap, load_by_label, label_load_caption, expert="expert", layers="one"),
    Chart.row(information_by_layer, label_information, label_information_caption),
    Chart.row(label_divergence_grid, label_divergence, label_divergence_caption, layers="one"),
)
