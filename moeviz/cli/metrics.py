"""Print the numbers behind the app's charts: `moeviz metrics`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.inputs import open_dataset, read
from moeviz.cli.options import ANY_FILE, add_import_options, add_json, number, numbers
from moeviz.cli.output import DONE, ERROR, frame_texts, note, print_tables
from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.text import listed

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.charts.chart import Chart
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.routing_trace import Counted

HELP = "Print the numbers behind the app's charts, for a trace in any format."
EXAMPLES = """examples:
  moeviz metrics trace.npz
  moeviz metrics trace.csv --topic layers --layers 0,5
  moeviz metrics trace.json --topic confidence --json | jq .
  moeviz metrics folder --topic co-activation         of a dataset, where it lies"""
# moeviz.charts.TOPICS, known without loading it
TOPICS = (
    "tokens",
    "load",
    "specialization",
    "co-activation",
    "confidence",
    "locality",
    "losses",
    "layers",
    "flow",
    "parameters",
    "coverage",
    "placement",
)
OLD_TOPICS = {"cooperation": "co-activation", "repetition": "locality"}  # as they were once called


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz metrics`."""
    parser.add_argument("trace", metavar="TRACE", help=f"{ANY_FILE}, or counts, or a dataset's folder")
    parser.add_argument("--topic", type=_topic, choices=TOPICS, default="load", help="which topic (default: load)")
    parser.add_argument("--layers", **numbers(int, 0), help="only these layers, as 0,5, by the model's own index")
    parser.add_argument(
        "--token", type=number(int, 0), metavar="N", help="which token, for metrics about a single token"
    )
    parser.add_argument("--partial", action="store_true", help="of a dataset: read the shards that are whole")
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    """Run `moeviz metrics`."""
    tables, lacking = {}, []
    for name, measure in metrics_of(args):
        try:
            tables[name] = measure()
        except MoevizError as error:
            lacking.append(str(error))
    for sentence in dict.fromkeys(lacking):
        note(sentence)
    if args.json:
        print_tables(tables)
    for name, frame in {} if args.json else tables.items():
        print(name)
        for text in frame_texts(frame):
            print(text)
        print()
    return DONE if tables else ERROR


def _topic(word: str) -> str:
    return OLD_TOPICS.get(word, word)


def metrics_of(args: Namespace) -> Iterator[tuple[str, Callable[[], "pd.DataFrame"]]]:
    """Yield the metrics of a topic: each one's name, and a function that measures the trace or the dataset named."""
    from moeviz.charts import TOPICS as CHARTS
    from moeviz.formats.dataset.opening import is_dataset

    charts = {name.lower(): charts for name, charts in CHARTS.items()}[args.topic]
    names = {chart.measure: chart for chart in charts}.values()
    if is_dataset(args.trace):
        yield from _of_dataset([chart.measure.__name__ for chart in names], args)
        return
    trace = read(args.trace, args)
    for chart in names:
        yield chart.measure.__name__, partial(measure_chart, chart, trace, args)


def _of_dataset(names: list[str], args: Namespace) -> Iterator[tuple[str, Callable[[], "pd.DataFrame"]]]:
    dataset = open_dataset(args.trace, args)
    for name in [*names, *(["balance_over_time"] if args.topic == "load" else [])]:
        yield name, partial(_analysed, name, dataset, args.layers)


def _analysed(name: str, dataset: "Dataset", layers: list[int] | None) -> "pd.DataFrame":
    from moeviz.corpus.analyses import FROM_ROWS, FROM_TABLES

    analysis = FROM_TABLES.get(name) or FROM_ROWS.get(name)
    if analysis is None:
        raise MissingField(
            f"{name} needs all tokens at once, and a dataset is never read whole. Convert a small one to a trace: "
            "“moeviz convert FOLDER trace.npz”."
        )
    frame: pd.DataFrame = analysis(dataset, layers)
    return frame


def measure_chart(chart: "Chart", trace: "Counted", args: Namespace) -> "pd.DataFrame":
    """Measure the numbers of one chart; those of one layer for each layer in turn.

    Raises `MissingField` where an option is missing, and `InvalidTrace` if all layers together are too large a table.
    """
    from moeviz.routing_trace import RoutingTrace

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


def _layer_by_layer(chart: "Chart", trace: "Counted") -> "pd.DataFrame":
    import pandas as pd

    from moeviz.metrics.inputs import CELLS_A_SLOT, MAX_CELLS

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


def _size(trace: "Counted") -> int:
    from moeviz.routing_trace import RoutingTrace

    return int(trace.experts.size if isinstance(trace, RoutingTrace) else trace.assignments.size)
