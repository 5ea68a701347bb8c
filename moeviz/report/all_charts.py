"""All charts of a trace as one zip: a folder for each topic, in it each chart as a picture and as a table."""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from textwrap import fill
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from moeviz.charts import REPORTED
from moeviz.charts.chart import Chart
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.metrics.tokens import visible
from moeviz.report.notebook import facts
from moeviz.report.pictures import installed, svg
from moeviz.report.plots import NO_TOKENS, Choices, about, choices, part_of, with_data_inside
from moeviz.routing_trace import RoutingTrace
from moeviz.spreadsheets import table_as_csv

README = "README.txt"
LINE = 100  # characters
MOST_SAID = 2_000  # characters of a stranger's text
HOW_TO_READ = (
    "Each chart is here as a picture (.svg) and as the numbers that it draws (.csv, in UTF-8). In a table, a text that "
    "a spreadsheet would run as a formula has an apostrophe in front."
)
NO_PICTURES = (
    'The pictures are left out, since what draws them is not installed: run `pip install "moeviz[report]"`, and make '
    "this file again."
)


def charts_zip(
    trace: RoutingTrace,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    token: int | None = None,
    *,
    pause: Callable[[], object] = lambda: None,
) -> bytes:
    """Return a zip with every chart that the trace allows, as SVG and CSV; README.txt says which are left out, and why.

    Charts of one layer are about `layer` (default: the middle one), those that compare two about `layers` (default: the
    first and the last), those of one token about `token` (default: the last row of `trace.tokens`); README.txt says
    which. Without the extra `report` it holds only the tables. The same trace gives the same bytes. `pause` is called
    before each chart: raise in it to stop. Raises `InvalidTrace` for a layer or a token that the trace does not have.

    >>> from moeviz.testing import sample_trace
    >>> from zipfile import ZipFile
    >>> names = ZipFile(BytesIO(charts_zip(sample_trace()))).namelist()
    >>> [name for name in names if "load_heatmap.csv" in name or "README" in name]
    ['load/load_heatmap.csv', 'README.txt']
    """
    empty = trace.tokens.empty
    chosen = choices(trace, layer, layers, token if token is not None or empty else len(trace.tokens) - 1)
    here, left_out, whole = [], [], BytesIO()
    with ZipFile(whole, "w") as file:
        for topic, chart in ((topic, chart.of(trace.model)) for topic, charts in REPORTED.items() for chart in charts):
            name = f"{topic.lower().replace(' ', '-')}/{chart.key}"
            pause()
            try:
                for suffix, data in _files(chart, trace, chosen):
                    _add(file, f"{name}.{suffix}", data)
                here.append(_entry(name, f"{chart.question} {about(trace, chart, chosen)}{chart.reading}"))
            except MoevizError as why:
                left_out.append(_entry(name, f"{chart.question} {why}"))
        parts = [
            _heading(trace),
            *_section("Charts that are here", here),
            *_section("Charts left out, and why", left_out),
        ]
        _add(file, README, "\n\n".join(parts).encode(errors="replace") + b"\n")
    return whole.getvalue()


def _files(chart: Chart, trace: RoutingTrace, chosen: Choices) -> Iterator[tuple[str, bytes]]:
    """Return the suffix and the bytes of each file of a chart: all are made before the first is written."""
    if trace.tokens.empty:
        raise InvalidTrace(NO_TOKENS)
    frame = chart.measure(part_of(trace, chart, chosen))
    pictures = {"svg": svg(with_data_inside(chart.draw(frame)))} if installed() else {}
    yield from (pictures | {"csv": table_as_csv(frame)}).items()


def _add(file: ZipFile, name: str, data: bytes) -> None:
    """Add a file without the time of day, so that the same trace gives the same archive."""
    file.writestr(ZipInfo(name), data, ZIP_DEFLATED)


def _heading(trace: RoutingTrace) -> str:
    lines = [f"{name}: {_safe(value)}" for name, value in facts(trace).items()]
    lines += [f"Caution: {_safe(trace.model.caution)}"] if trace.model.caution else []
    notes = [HOW_TO_READ] if installed() else [HOW_TO_READ, NO_PICTURES]
    return "\n".join(
        ["All charts of one trace, made by moeviz.", "", *lines, "", *(fill(note, LINE) for note in notes)]
    )


def _section(title: str, entries: list[str]) -> list[str]:
    return [title, *entries] if entries else []


def _entry(name: str, words: str) -> str:
    indent = "    "
    return f"  {name}\n{fill(_safe(words), LINE, initial_indent=indent, subsequent_indent=indent)}"


def _safe(text: str) -> str:
    return visible(text[:MOST_SAID])
