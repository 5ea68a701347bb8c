"""What `moeviz metrics` measures: a chart's numbers, for the layers and the token that were asked for."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd

from moeviz.charts import TOPICS as CHARTS
from moeviz.charts.chart import Chart
from moeviz.cli.dataset import is_dataset, say_left_out
from moeviz.cli.importing import read
from moeviz.corpus.answers import FROM_ROWS, FROM_TABLES
from moeviz.errors import InvalidTrace, MissingField
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.metrics.inputs import CELLS_A_SLOT, MAX_CELLS
from moeviz.names import listed
from moeviz.routing_trace import Counted, RoutingTrace


def measures(args: Namespace) -> Iterator[tuple[str, Callable[[], pd.DataFrame]]]:
    """The metrics of a topic: each one's name, and how it is measured of what was named: a trace, or a dataset."""
    charts = {name.lower(): charts for name, charts in CHARTS.items()}[args.topic]
    names = {chart.measure: chart for chart in charts}.values()
    if is_dataset(args.trace):
        yield from _of_dataset([chart.measure.__name__ for chart in names], args)
        return
    trace = read(args.trace, args)
    for chart in names:
        yield chart.measure.__name__, partial(measured, chart, trace, args)


def _of_dataset(names: list[str], args: Namespace) -> Iterator[tuple[str, Callable[[], pd.DataFrame]]]:
    dataset = read_dataset(args.trace, partial=args.partial)
    say_left_out(dataset)
    for name in [*names, *(["balance_over_time"] if args.topic == "load" else [])]:
        yield name, partial(_analysed, name, dataset, args.layers)


def _analysed(name: str, dataset: Dataset, layers: list[int] | None) -> pd.DataFrame:
    analysis = FROM_TABLES.get(name) or FROM_ROWS.get(name)
    if analysis is None:
        raise MissingField(
            f"{name} needs all tokens at once, and a dataset is never read whole. Convert a small one to a trace: "
            "“moeviz convert FOLDER trace.npz”."
        )
    frame: pd.DataFrame = analysis(dataset, layers)
    return frame


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
