"""What `moeviz metrics` measures: a chart's numbers, for the layers and the token that were asked for."""

from argparse import Namespace

import pandas as pd

from moeviz.charts.chart import Chart
from moeviz.errors import MissingField
from moeviz.routing_trace import RoutingTrace


def measured(chart: Chart, trace: RoutingTrace, args: Namespace) -> pd.DataFrame:
    """The numbers of one chart; those of one layer for each layer in turn."""
    name = chart.measure.__name__
    if args.layers:
        trace = trace.select(layers=args.layers)
    if chart.layers == "two" and len(trace.model.layers) != 2:
        raise MissingField(f"{name} compares two layers. Give --layers A B, two of {trace.model.layers}.")
    if chart.tokens == "one":
        if args.token is None or args.token >= len(trace.tokens):
            raise MissingField(f"{name} is about one token. Give --token N, from 0 to {len(trace.tokens) - 1}.")
        trace = trace.select(tokens=slice(args.token, args.token + 1))
    if chart.layers == "one":
        return pd.concat([chart.measure(trace.select(layers=[layer])) for layer in trace.model.layers])
    return chart.measure(trace)
