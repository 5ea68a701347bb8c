"""Charts of two traces side by side. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.comparison import balance_of_both, choices_changed, load_difference, load_divergence
from moeviz.metrics.contrast import contrast


def divergence_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Jensen-Shannon divergence of the loads, with what chance gives. Columns: those of `load_divergence`."""
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: chance"),
        tooltip=theme.tooltip(
            layer="d",
            divergence=("distance in bits", ".3f"),
            chance=("expected at random", ".3f"),
            tokens=("tokens of the first", ","),
            other_tokens=("tokens of the second", ","),
        ),
    )
    bars = base.mark_bar(color=theme.MAIN).encode(
        y=alt.Y("divergence:Q", title="Jensen-Shannon divergence of the loads, bits")
    )
    return theme.framed(theme.layered(bars, theme.ticks(base, "chance")), theme.MEDIUM)


def difference_heatmap(frame: pd.DataFrame, dark: bool = False) -> alt.Chart:
    """Layer by expert, orange where the second trace uses the expert more. Columns: those of `load_difference`."""
    most = float(frame["difference"].abs().max())
    chart = theme.cells(
        frame,
        x=theme.expert_axis(),
        y=theme.layer_rows(),
        color=theme.difference_colour("difference", "second less first, × uniform load (orange: more)", most, dark),
        tooltip=theme.tooltip(
            layer="d",
            expert="d",
            load=("load in the first", ".2%"),
            other_load=("load in the second", ".2%"),
            difference=("difference, × uniform load", "+.2f"),
        ),
    )
    return theme.framed(chart, theme.rows_height(frame["layer"].nunique()), canvas=True)


def balance_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of the busiest expert, one line per trace. Columns: those of `balance_of_both`."""
    lines = theme.lines(
        frame,
        {"point": True},
        x=theme.layer_axis("dashed: uniform load"),
        y=alt.Y("max_over_mean:Q", title="load of the busiest expert, × uniform"),
        color=theme.colour("trace", list(frame["trace"].unique()), theme.PAIR, title="trace"),
        tooltip=theme.tooltip(
            trace="",
            layer="d",
            max_over_mean=("busiest expert, × uniform", ".2f"),
            cv=("std / mean", ".3f"),
            chance_cv=("std / mean at random", ".3f"),
            normalised_entropy=("entropy / ln E", ".3f"),
            dead_experts=("experts with no tokens", "d"),
        ),
    )
    return theme.framed(theme.layered(lines, theme.even_reference()), theme.MEDIUM)


def changed_by_layer(frame: pd.DataFrame) -> alt.Chart:
    """Share of tokens that go to other experts. Columns: those of `choices_changed`."""
    bars = theme.bars(
        frame,
        x=theme.layer_axis(),
        y=alt.Y("changed:Q", title="tokens that go to other experts", axis=theme.share_axis()),
        tooltip=theme.tooltip(
            layer="d",
            changed=("tokens with a different set of experts", ".1%"),
            first_changed=("with a different first choice", ".1%"),
            overlap=("share of the first trace's experts that the second also chose", ".1%"),
        ),
    )
    return theme.framed(bars, theme.MEDIUM)


def contrast_heatmap(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Layer by expert, orange where the first set of texts uses the expert more. Columns: those of `contrast`."""
    most = float(frame["difference"].abs().max())
    base = alt.Chart(frame).encode(
        x=theme.expert_axis(),
        y=theme.layer_rows(),
        tooltip=theme.tooltip(
            layer="d",
            expert="d",
            share=("share of the first texts' tokens", ".1%"),
            other_share=("share of the second's", ".1%"),
            t=("difference / its standard error", "+.1f"),
            q=("false discovery rate", ".3f"),
        ),
    )
    colour = theme.difference_colour("difference", "share, first − second (orange: more)", most, dark)
    within = base.transform_filter("!datum.holds").mark_rect(stroke=None, opacity=0.35).encode(color=colour)
    beyond = base.transform_filter("datum.holds").mark_rect(stroke=None).encode(color=colour)
    return theme.framed(alt.layer(within, beyond), theme.rows_height(frame["layer"].nunique()), canvas=True)


CONTRAST = Chart.row(contrast_heatmap, contrast, themed=True)
COMPARISONS = (
    Chart.row(divergence_by_layer, load_divergence),
    Chart.row(difference_heatmap, load_difference, themed=True),
    Chart.row(balance_lines, balance_of_both),
    Chart.row(changed_by_layer, choices_changed),
)
