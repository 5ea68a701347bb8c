"""What a chart cannot do without, found out by taking it away."""

from dataclasses import replace
from functools import cache

from moeviz import ParameterCounts, RoutingTrace
from moeviz.charts.chart import Chart
from moeviz.errors import MissingField, MoevizError
from moeviz.report.plots import choices, part_of
from moeviz.testing import sample_trace

WITHOUT = {
    "weights": lambda trace: replace(trace, weights=None),
    "logits": lambda trace: replace(trace, logits=None),
    "labels": lambda trace: replace(trace, tokens=trace.tokens.drop(columns="label")),
    "parameter counts": lambda trace: replace(trace, model=replace(trace.model, parameters=None)),
}


@cache
def whole() -> RoutingTrace:
    """A made-up trace that has everything: labels and parameter counts too."""
    trace = sample_trace(tokens=64)
    layers = len(trace.model.layers)
    counts = ParameterCounts(6_000, 6_000, 20_000, 400, 24_000 * layers, 0, 0, 90, per_expert=(3_000,) * layers)
    labels = ["prose", "code"] * (len(trace.tokens) // 2)
    return replace(
        trace,
        model=replace(trace.model, parameters=counts),
        tokens=trace.tokens.assign(label=labels).astype({"label": "str"}),
    )


def needs(chart: Chart) -> str:
    """The fields of a trace without which a chart says `MissingField`; ids are always needed.

    >>> from moeviz.charts import load
    >>> needs(load.CHARTS[0]), needs(load.CHARTS[-1])
    ('ids', 'ids, logits')
    """
    return ", ".join(["ids", *(what for what, without in WITHOUT.items() if _misses(chart, without(whole())))])


def _misses(chart: Chart, trace: RoutingTrace) -> bool:
    try:
        chart.measure(part_of(trace, chart, choices(trace, None, None, 4)))
    except MissingField:
        return True
    except MoevizError:  # another sentence, as that no token comes ten times in so short a text
        return False
    return False
