"""Print the numbers behind the app's charts: `moeviz metrics`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.options import add_import_options, add_json, add_segment, number, numbers, open_dataset, read
from moeviz.cli.output import DONE, ERROR, fitting_text, frame_texts, note, print_tables, visible_line
from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.text import listed

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.charts.chart import Chart
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.routing_trace import Counted

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
BALANCED = ("load", "losses")  # topics that judge how evenly the work is shared
SHORT = 20  # rows that are printed without --all


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE")
    parser.add_argument("--topic", choices=TOPICS, default="load")
    parser.add_argument("--layers", **numbers(int, 0))
    parser.add_argument("--token", type=number(int, 0), metavar="N")
    parser.add_argument("--partial", action="store_true")
    add_json(parser)
    add_segment(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    tables, said, lacking = {}, [], []
    for name, say, measure in metrics_of(args):
        try:
            tables[name] = measure()
            said += say(tables[name])
        except MoevizError as error:
            lacking.append(str(error))
    for sentence in dict.fromkeys(lacking):
        note(sentence)
    if args.json:
        print_tables(tables, dict.fromkeys(said))
    elif tables and not args.all:
        print(in_short(args.topic, tables, [visible_line(sentence) for sentence in dict.fromkeys(said)]))
    for name, frame in tables.items() if args.all and not args.json else ():
        print(name)
        for text in frame_texts(frame):
            print(text)
        print()
    return DONE if tables else ERROR


def in_short(topic: str, tables: dict[str, "pd.DataFrame"], sentences: list[str]) -> str:
    """Return what stands out in a topic, its table of layers or else its shortest, and how to see more."""
    by_layer = [name for name, frame in tables.items() if "layer" in frame and frame["layer"].is_unique]
    name = (by_layer or sorted(tables, key=lambda one: len(tables[one])))[0]
    frame = first_choices_by_token(tables[name]) if name == "token_choices" else tables[name]
    rows = [] if len(frame) <= SHORT else [f"the first {SHORT} of {len(frame):,} rows"]
    others = [f"{len(tables) - 1} more tables of {topic}"] if len(tables) > 1 else []
    more = f"{name}: {'; '.join([*rows, *others])}. " if rows or others else ""
    table = fitting_text(frame.head(SHORT).round(3), "--all")
    return "\n".join([*sentences, *[""] * bool(sentences), table, "", f"{more}More: --all, or --json for programs."])


def first_choices_by_token(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a row per token: its text, and its first choice at each layer, or any of its experts if none is first.

    A dot marks a slot that is empty or not recorded.
    """
    first = frame[frame["slot"] == 0].pivot(index="token", columns="layer", values="expert").add_prefix("layer ")
    first = first.astype(object).mask(first < 0, "·")
    texts = frame.drop_duplicates("token").set_index("token")[["text", "phase"]]
    return texts.join(first).reset_index().rename_axis(columns=None)


Measured = tuple[str, Callable[["pd.DataFrame"], list[str]], Callable[[], "pd.DataFrame"]]


def metrics_of(args: Namespace) -> Iterator[Measured]:
    """Yield the metrics of a topic: the name of each, a function for what stands out, and one for its table."""
    from moeviz.charts import TOPICS as CHARTS
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.routing_trace import RoutingTrace

    charts = {name.lower(): charts for name, charts in CHARTS.items()}[args.topic]
    charts = [*{chart.measure: chart for chart in charts}.values()]
    if is_dataset(args.trace):
        yield from _of_dataset(charts, args)
        return
    trace = read(args.trace, args)
    if args.token is not None and isinstance(trace, RoutingTrace) and args.token >= len(trace.tokens):
        raise MissingField(f"There is no token {args.token}: the trace has tokens 0 to {len(trace.tokens) - 1}.")
    brief = not (args.all or args.json)
    for chart in charts:
        if brief and chart.tokens == "one" and args.token is None:
            continue
        say = partial(_stands_out, chart, trace, args)
        yield chart.measure.__name__, say, partial(measure_chart, chart, trace, args)


def _stands_out(chart: "Chart", trace: "Counted", args: Namespace, frame: "pd.DataFrame") -> list[str]:
    """Return sentences on what stands out in a chart's numbers; for a chart of one layer, only if one is named."""
    from moeviz.metrics.balance import hash_sentence
    from moeviz.metrics.findings import findings
    from moeviz.metrics.words import in_words_of, layer_word
    from moeviz.routing_trace import RoutingTrace

    if chart.measure.__name__ == "token_choices" and isinstance(trace, RoutingTrace):
        found = findings(trace.select(layers=args.layers) if args.layers else trace)
        return [one.sentence for one in found]
    if layer_word(trace.model) != "layer" or (chart.layers == "one" and len(args.layers or trace.model.layers) > 1):
        return []  # captions speak of layers
    tokens = len(trace.tokens) if isinstance(trace, RoutingTrace) else None
    hashed = [layer for layer in trace.model.hash_layers if layer in (args.layers or trace.model.layers)]
    judged = hash_sentence(hashed) if args.topic in BALANCED else None
    said = [chart.caption(frame, tokens), judged]
    return [in_words_of(trace.model, sentence) for sentence in said if sentence is not None]


def _caption(chart: "Chart | None", frame: "pd.DataFrame") -> list[str]:
    return [sentence for sentence in [chart and chart.caption(frame)] if sentence]


def _of_dataset(charts: "list[Chart]", args: Namespace) -> Iterator[Measured]:
    dataset = open_dataset(args.trace, args)
    for chart in charts:
        name, several = chart.measure.__name__, chart.layers == "one" and len(args.layers or dataset.model.layers) > 1
        yield name, partial(_caption, None if several else chart), partial(_analysed, name, dataset, args.layers)
    if args.topic == "load":
        name = "balance_over_time"
        yield name, partial(_caption, None), partial(_analysed, name, dataset, args.layers)


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
    """Measure the numbers of one chart; for a chart of one layer, of each layer in turn.

    Raises `MissingField` if an option is missing, and `InvalidTrace` if all layers together make too large a table.
    """
    from moeviz.routing_trace import RoutingTrace

    if args.layers:
        trace = trace.select(layers=args.layers)
    if chart.layers == "two" and not args.layers and len(trace.model.layers) > 2:
        trace = trace.select(layers=[trace.model.layers[0], trace.model.layers[-1]])
    if chart.layers == "two" and len(trace.model.layers) != 2:
        raise MissingField(f"This topic compares two layers. Give --layers A,B, two of {listed(trace.model.layers)}.")
    if chart.tokens == "one":
        if not isinstance(trace, RoutingTrace):
            raise MissingField(f"A table of one token needs a trace, and {trace!r} does not record where a token went.")
        if args.token is None:
            raise MissingField(f"A table of one token needs --token N, from 0 to {len(trace.tokens) - 1}.")
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
