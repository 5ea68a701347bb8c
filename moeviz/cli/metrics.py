"""What `moeviz metrics` measures: a chart's numbers, for the layers and the token that were asked for."""

from argparse import Namespace

import pandas as pd

from moeviz.charts.chart import Chart
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.budget import CELLS_A_SLOT, MAX_CELLS
from moeviz.names import listed
from moeviz.routing_trace import Counted, RoutingTrace


def measured(chart: Chart, trace: Counted, args: Namespace) -> pd.DataFrame:
    """The numbers of one chart; those of one layer for each layer in turn.

    Raises `MissingField` where an option is missing, and `InvalidTrace` if all layers together are too large a table.
    """
    name = chart.measure.__name__
    if args.layers:
        trace = trace.select(layers=args.layers)
    if chart.layers == "two" and len(trace.model.layers) != 2:
        raise MissingField(f"{name} compares two layers. Give --layers A B, two of {listed(trace.model.layers)}.")
    if chart.tokens == "one":
        if not isinstance(trace, RoutingTrace):
            raise MissingField(f"{name} is about one token, and {trace!r} does not say where a token went.")
        if args.token is None or args.token >= len(trace.tokens):
            raise MissingField(f"{name} is about one token. Give --token N, from 0 to {len(trace.tokens) - 1}.")
        trace = trace.select(tokens=slice(args.token, args.token + 1))
    if chart.layers == "one":
        return _layer_by_layer(chart, trace)
    return chart.measure(trace)


def _layer_by_layer(chart: Chart, trace: Counted) -> pd.DataFrame:
    frames, rows, most = [], 0, max(MAX_CELLS, CELLS_A_SLOT * _size(trace))
    for layer in trace.model.layers:
        frames.append(chart.measure(trace.select(layers=[layer])))
        rows += len(frames[-1])
        if rows > most:
            raise InvalidTrace(
                f"{chart.measure.__name__} of {len(trace.model.layers)} layers has more than the {most:,} rows that "
                "are made of a trace of this size. Give fewer layers with --layers."
            )
    return pd.concat(frames)


def _size(trace: Counted) -> int:
    return int(trace.experts.size if isinstance(trace, RoutingTrace) else trace.assignments.size)
