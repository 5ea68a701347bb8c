"""A report: one HTML file with everything there is to see in a trace, to send to a colleague.

It opens without a network, runs no script and fetches nothing; its Content-Security-Policy forbids both. One style
sheet makes it light or dark like the reader's screen, and readable on a phone and on paper.
Token texts, names and labels are a stranger's: in it they are escaped text.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from altair.utils.schemapi import debug_mode

from moeviz.charts import REPORTED, theme
from moeviz.charts.chart import Chart
from moeviz.errors import MoevizError
from moeviz.report.notebook import caution, facts_table, safe
from moeviz.report.pictures import check_installed, picture
from moeviz.report.plots import NO_TOKENS, Choices, about, choices, part_of, with_data_inside
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

MAX_ROWS = 200  # of a table of numbers
MAX_TOKENS = 2_000  # of the text
TOKEN, CELL = 200, 60  # characters of a token in the text, and in a table
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def html_report(
    trace: RoutingTrace,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    token: int | None = None,
    *,
    pause: Callable[[], object] = lambda: None,
) -> bytes:
    """One HTML file: the facts, the text in the colours of its experts, and every chart with its numbers and method.

    Charts of one layer are about `layer` (default: the middle one), those that compare two about `layers` (default: the
    first and the last), those of one token about `token` (default: the last row of `trace.tokens`). If the trace lacks
    what a chart needs, a sentence says so. `pause` is called before each chart: raise in it to stop. Raises
    `MoevizError` if the extra `report` is not installed, and `InvalidTrace` for a layer or a token that the trace does
    not have.
    """
    check_installed()
    empty = trace.tokens.empty
    chosen = choices(trace, layer, layers, token if token is not None or empty else len(trace.tokens) - 1)
    name = safe(trace.model.name)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Routing of {name}</title><style>{sheet()}</style></head><body><main>",
        f"<h1>{len(trace.tokens):,} tokens through {name}</h1>",
        caution(trace),
        f'<div class="facts">{facts_table(trace)}</div>',
        f'<p class="why">{NO_TOKENS}</p>' if empty else _contents() + _text(trace, chosen.layer),
        *([] if empty else _topics(trace, chosen, pause)),
        "<footer>Made by moeviz. This file runs no script and loads nothing from anywhere.</footer>",
        "</main></body></html>\n",
    ]
    return "\n".join(parts).encode()


def _contents() -> str:
    links = (f'<a href="#{escape(topic)}">{escape(topic)}</a>' for topic in REPORTED)
    return f"<nav>{''.join(links)}</nav>"


def _text(trace: RoutingTrace, layer: int) -> str:
    """Show each token in the colour of its first-choice expert, with that expert's id, or with the ids of all."""
    at, shown = trace.model.layers.index(layer), min(len(trace.tokens), MAX_TOKENS)
    experts = trace.experts[at, :shown]
    colours = theme.expert_colours(trace.model.num_experts[at], theme.focus(experts[:, 0])) if trace.ordered else []
    rows = trace.tokens.iloc[:shown]
    several = trace.tokens["sequence"].nunique() > 1
    pieces: list[str] = []
    before: tuple[int | None, str] = (None, "")
    for chosen, text, sequence, phase in zip(experts, rows["text"], rows["sequence"], rows["phase"], strict=True):
        if several and sequence != before[0]:
            pieces.append(f"{'<br>' if pieces else ''}<i>text {sequence + 1}</i>")
        if phase == "generated" and (sequence, phase) != before:
            pieces.append("<i>generated</i>")
        before = (sequence, phase)
        pieces.append(_token(text, chosen, colours, phase))
    left_out = len(trace.tokens) - shown
    more = f"<p>{left_out:,} more tokens are not shown here.</p>" if left_out else ""
    return (
        "<section><h2>Text</h2>"
        f"<p>{_legend(trace, at)}{_without_expert(experts)} Dots under a token: it was generated. ␣ is a space, ⏎ a "
        "line break.</p>"
        f'<div class="text">{"".join(pieces)}</div>{more}</section>'
    )


def _legend(trace: RoutingTrace, at: int) -> str:
    layer = trace.model.layers[at]
    if not trace.ordered:
        return (
            f"The small numbers are the ids of each token's experts in layer {layer}. Tokens have no colours, since "
            "this trace does not say which expert was a token's first choice."
        )
    many = trace.model.num_experts[at] > len(theme.EXPERT_COLOURS)
    grey = f"; the {theme.FOCUS} most frequent here have colours, the others are grey" if many else ""
    return f"Each token in the colour of its first-choice expert in layer {layer}, whose id is the small number{grey}."


def _without_expert(experts: np.ndarray) -> str:
    """Explain the marks of tokens without an expert, if they occur."""
    dropped = " – is a token without an expert." if (experts[:, 0] == NO_EXPERT).any() else ""
    missing = " ? is one whose experts are not recorded." if (experts[:, 0] == NOT_RECORDED).any() else ""
    return dropped + missing


def _token(text: str, experts: np.ndarray, colours: Sequence[str], phase: str) -> str:
    """Show one token. `colours` has one entry per expert, or none; then all ids are given."""
    first = int(experts[0])
    colour = f"c{TOKEN_COLOURS.index(colours[first])}" if colours and first >= 0 else ""
    colour = "missing" if first == NOT_RECORDED else colour
    names = " ".join(filter(None, (colour, phase if phase == "generated" else "")))
    ids = ", ".join(map(str, experts[experts >= 0][: 1 if colours else None]))
    number = ids or ("?" if first == NOT_RECORDED else "–")
    after = "<br>" if "\n" in text else ""
    return f'<span class="{names}">{safe(text, TOKEN)}<sub>{number}</sub></span>{after}'


def _topics(trace: RoutingTrace, chosen: Choices, pause: Callable[[], object]) -> Iterator[str]:
    for topic, charts in REPORTED.items():
        shown = []
        for chart in charts:
            pause()
            with debug_mode(False):  # our drawings are checked by our tests, and not again for each reader
                shown.append(_chart(chart, topic, trace, chosen))
        drawn = "\n".join(shown)
        yield f'<section><h2 id="{escape(topic)}">{escape(topic)}</h2>\n{drawn}</section>'


def _chart(chart: Chart, topic: str, trace: RoutingTrace, chosen: Choices) -> str:
    """Show question, reading, picture, method and numbers of one chart, or why it cannot be drawn."""
    chart = chart.of(trace.model)
    question = f"<h3>{escape(chart.question)}</h3>"
    try:
        frame = chart.measure(part_of(trace, chart, chosen))
        drawing = with_data_inside(chart.draw(frame))
    except MoevizError as error:
        return f'<article>{question}<p class="why">{safe(str(error), 2_000)}</p></article>'
    alternative = f"{chart.question} {chart.reading} The numbers are in the table below."
    return (
        f"<article>{question}<p>{about(trace, chart, chosen)}{escape(chart.reading)}</p>{picture(drawing, alternative)}"
        f"<details><summary>How is this computed?</summary><pre>{escape(chart.method)}</pre></details>"
        f"<details><summary>Numbers</summary>{_numbers(frame, topic)}</details></article>"
    )


def _numbers(frame: pd.DataFrame, topic: str) -> str:
    rows = frame.iloc[:MAX_ROWS]
    head = "".join(f"<th>{safe(str(name))}</th>" for name in frame)
    columns = [_cells(rows[name]) for name in frame]
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
    left_out = len(frame) - len(rows)
    more = (
        f"<p>The first {len(rows):,} of {len(frame):,} rows. <code>moeviz metrics TRACE --topic "
        f"{escape(topic.lower())}</code> prints the rest, from the trace.</p>"
    )
    return f'{more if left_out else ""}<div class="numbers"><table><tr>{head}</tr>{body}</table></div>'


def _cells(column: pd.Series) -> list[str]:
    """Format the cells of one column, empty for a missing value."""
    if pd.api.types.is_float_dtype(column):
        shown = [f"{value:.6g}" for value in column.fillna(0)]
    elif pd.api.types.is_numeric_dtype(column):
        shown = [f"{value}" for value in column.fillna(0)]
    else:
        shown = [safe(str(value), CELL) for value in column]
    return [f"<td>{'' if no else text}</td>" for text, no in zip(shown, column.isna(), strict=True)]


TOKEN_COLOURS = (*theme.EXPERT_COLOURS, theme.OTHER)


def sheet() -> str:
    """Return the style sheet, with a class for each colour of TOKEN_COLOURS: c0, c1 and so on."""
    classes = (
        f".text .c{number} {{ background: {colour}; color: {ink_on(colour)} }}"
        for number, colour in enumerate(TOKEN_COLOURS)
    )
    css = Path(__file__).with_name("page.css").read_text("utf-8")
    return css.replace("ACCENT", theme.ACCENT) + "\n".join(classes)


def ink_on(colour: str) -> str:
    """Black or white, whichever has the higher contrast on that colour (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if luminance > theme.DARK_ENOUGH else "#fff"
