"""Token by layer, each cell split among its experts: one drawing for pages, reports, notebooks and exports.

A chart's choice is some of its params, which are signals for whoever holds its Vega view:

    token, layer   the chosen places, from 0; -1: none
    hot            the place of a layer and one of its experts, whose stripes stay while all others dim; [-1, -1]: none
    split          1: all choices of a token; 0: only its first choice
    ink, paper     colours of the page

Its scales `x` and `y` turn a pixel back into a place: a token's column has its place in the middle, a layer's row
begins at its place.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import Int

from moeviz.charts import theme
from moeviz.charts import token_layer_marks as marks
from moeviz.charts.overview import OTHERS, squares
from moeviz.charts.token_layer_marks import LEAST, cell_images
from moeviz.errors import MoevizError
from moeviz.metrics.inputs import check_recorded
from moeviz.metrics.tokens import SPECIAL_TOKEN, visible, whole_characters
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

BROUGHT = alt.NamedData("cells")  # the rows, if a page brings them itself
MOVED = alt.NamedData("moved")  # and places whose first choice is another one than before: token and layer
LINES = "lines"  # of the text
BEGINNINGS = "beginnings"  # of generated tokens, and of the next of several texts
MOST_STRIPES = 4_000  # of more, a browser needs seconds, and they are the pixels of images
KINDS = 64  # of maps, of which the drawing is kept: 10 kB each
LETTERS = 9  # of a token on the axis
LINE_LETTERS = 240  # of a line of the text
CELLS = ["token", "layer", "slot", "expert", "weight"]  # what a row of cells needs


@dataclass(frozen=True)
class MapFacts:
    """Facts that a map shows besides its cells. Tokens and layers go by their places, from 0."""

    layers: list[int]  # the model's own indices
    names: list[str]  # texts of the tokens, made visible and cut
    positions: list[int]
    colours: list[list[str]]  # by layer and expert
    lines: list[dict[str, Any]]  # of the text: start and end (places), and text
    beginnings: list[int]  # tokens at which the next of several texts begins, or what was generated
    slots: int
    ordered: bool  # whether slot 0 is the first choice


def facts_of(frame: pd.DataFrame) -> MapFacts:
    """Return the facts for a frame of `token_choices`. Raises `MoevizError` if it has no tokens."""
    ordered = bool(frame["ordered"].all())
    at, layers = pd.factorize(frame["layer"], sort=True)
    slots = 0 if frame.empty else int(frame["slot"].max()) + 1
    return _facts(frame.drop_duplicates("token"), layers.tolist(), lambda: _colours(frame, at, ordered), slots, ordered)


def facts_of_trace(trace: RoutingTrace) -> MapFacts:
    """Return the facts of all tokens of a trace, as `facts_of(token_choices(trace))`, without a row for each choice.

    Raises `MissingField` if no routing is recorded, and `MoevizError` if there are no tokens.
    """
    check_recorded(trace)
    filled, order = trace.filled.any(axis=(0, 1)), np.argsort(trace.model.layers, kind="stable").tolist()
    slots = int(np.flatnonzero(filled)[-1]) + 1 if filled.any() else 1

    def colours() -> list[list[str]]:
        chosen = (trace.experts[at, :, 0] if trace.ordered else trace.experts[at] for at in order)
        counts = (trace.model.num_experts[at] for at in order)
        return [theme.expert_colours(count, theme.focus(ids)) for count, ids in zip(counts, chosen, strict=True)]

    return _facts(trace.tokens, sorted(trace.model.layers), colours, slots, trace.ordered)


def _facts(
    tokens: pd.DataFrame, layers: list[int], colours: Callable[[], list[list[str]]], slots: int, ordered: bool
) -> MapFacts:
    if tokens.empty:
        raise MoevizError("This trace holds no tokens, so there is nothing to draw.")
    texts, sequence = tokens["text"].tolist(), tokens["sequence"].to_numpy()
    phase = tokens["phase"].cat.codes.to_numpy()
    begins = (np.diff(sequence) != 0) | (np.diff(phase) != 0)
    return MapFacts(
        layers=layers,
        names=[first_letters(text) for text in texts],
        positions=tokens["position"].tolist(),
        colours=colours(),
        lines=_lines(texts, sequence) if marks.has_lines(len(texts)) else [],
        beginnings=(np.flatnonzero(begins) + 1).tolist(),
        slots=slots,
        ordered=ordered,
    )


def _lines(texts: list[str], sequence: Int[np.ndarray, " T"]) -> list[dict[str, Any]]:
    last = np.array(["\n" in text for text in texts])
    last[-1] = True
    last[:-1] |= np.diff(sequence) != 0
    lines, start = [], 0
    for end in (np.flatnonzero(last) + 1).tolist():
        words = (text for text in texts[start:end] if not SPECIAL_TOKEN.fullmatch(text))
        line = "".join(whole_characters(list(words))).strip()
        shown = visible(line)[:LINE_LETTERS] if line else ""
        lines.append({"start": start - 0.5, "end": end - 0.5, "line": shown})
        start = end
    return lines


def _colours(frame: pd.DataFrame, at: Int[np.ndarray, " rows"], ordered: bool) -> list[list[str]]:
    """Colour each layer's experts; if they are many, those that are most often a first choice."""
    expert, counts = frame["expert"].to_numpy(), frame["num_experts"].to_numpy()
    counted = (frame["slot"] == 0).to_numpy() if ordered else np.ones(len(frame), bool)
    rows = [at == place for place in range(at.max() + 1)]
    return [theme.expert_colours(int(counts[mine][0]), theme.focus(expert[mine & counted])) for mine in rows]


def first_letters(text: str) -> str:
    """Return a token as an axis names it: what would vanish is visible, and of a long one the beginning is there.

    >>> first_letters(" the"), first_letters("extraordinarily")
    ('␣the', 'extraord…')
    """
    shown = visible(text)
    return shown if len(shown) <= LETTERS else shown[: LETTERS - 1] + "…"


def shown_texts(texts: pd.Series) -> pd.Series:
    """Make tokens visible, each different one once."""
    return texts.map({text: visible(text) for text in texts.unique()})


def token_layer_map(frame: pd.DataFrame) -> alt.LayerChart:
    """Token by layer, each cell split among its experts. Columns: those of `token_choices`."""
    theme.at_most_max_tokens(frame)
    facts = facts_of(frame)
    cells, images = cells_of(frame), images_of(frame, facts)
    height = marks.row_height(len(facts.layers)) * len(facts.layers) + theme.AROUND
    legend = _legend(facts, bool((frame["expert"] == NOT_RECORDED).any()))
    chart = _layer_marks(facts, cells.iloc[:0] if images else cells, images, height, legend)
    return theme.framed(chart, height, canvas=True)


def images_of(frame: pd.DataFrame, facts: MapFacts) -> list[str]:
    """The cells of a frame of `token_choices` as images for `map_of`, if they are too many to be marks; else none."""
    return cell_images(frame, facts.colours, marks.row_height(len(facts.layers))) if are_images(facts) else []


def are_images(facts: MapFacts) -> bool:
    """Return whether a map has too many cells for marks, so that they are pixels of images."""
    return len(facts.names) * len(facts.layers) * min(facts.slots, 2) > MOST_STRIPES


def cells_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that `map_of` draws, for a frame of `token_choices`; and what a tooltip says of each."""
    return pd.DataFrame(
        {
            "token": pd.factorize(frame["token"])[0].astype(np.int16),
            "layer": pd.factorize(frame["layer"], sort=True)[0].astype(np.int16),
            "slot": frame["slot"],
            "expert": frame["expert"],
            "weight": frame["weight"],
            "shown": shown_texts(frame["text"]),
            "position": frame["position"],
            "phase": frame["phase"],
        }
    )[frame["expert"].to_numpy() != NO_EXPERT]


def map_of(facts: MapFacts, cells: pd.DataFrame | alt.NamedData, images: Sequence[str] = ()) -> alt.LayerChart:
    """Draw the map for a page that is linked to it, and sets its width.

    Columns of `cells`: token and layer (places) · slot · expert (-2: not recorded) · weight, if there are weights; with
    the rest of what `cells_of` gives, each has a tooltip. With `images` (see `images_of`), the rows are only
    those of the hot layer.
    """
    return _layer_marks(
        facts,
        cells,
        images,
        marks.row_height(len(facts.layers)) * len(facts.layers),
        width=600,
        # Nothing is laid out anew at a click, and the cells begin where the padding says.
        autosize=alt.AutoSizeParams(type="none"),
        padding={"left": marks.GUTTER, "top": marks.ABOVE, "right": marks.BESIDE, "bottom": marks.UNDER},
    )


def map_spec(facts: MapFacts, images: Sequence[str] = ()) -> dict[str, Any]:
    """`map_of` as Vega-Lite, for rows that a page brings itself: drawn once for all maps of as many layers and slots.

    Altair takes 20 ms to draw one. Two such maps differ only in the values of some params, and two tables.
    """
    if images:
        return map_of(facts, BROUGHT, images).to_dict(validate=False)
    spec: dict[str, Any] = json.loads(
        _map_of_kind(len(facts.layers), facts.slots, facts.ordered, *_parts_that_fit(facts))
    )
    spec["datasets"] |= _brought(facts)
    known = _trace_params(facts)
    for param in spec["params"]:
        if param["name"] in known:
            param["value"] = known[param["name"]]
    return spec


@lru_cache(KINDS)
def _map_of_kind(layers: int, slots: int, ordered: bool, lined: bool, with_ids: bool) -> str:
    tokens = 1 if with_ids else marks.LINED if lined else marks.LINED + 1  # any number with these parts
    nothing = {"names": [""] * tokens, "positions": [0] * tokens, "layers": [0] * layers, "colours": [[]] * layers}
    facts = MapFacts(**nothing, lines=[], beginnings=[], slots=slots, ordered=ordered)
    return json.dumps(map_of(facts, BROUGHT).to_dict(validate=False))


def _parts_that_fit(facts: MapFacts) -> tuple[bool, bool]:
    """Return whether lines of the text fit under the cells, and ids into them."""
    tokens = len(facts.names)
    wide = tokens * marks.ID <= marks.WIDEST
    return marks.has_lines(tokens), wide and marks.row_height(len(facts.layers)) >= marks.ID_HEIGHT


def _brought(facts: MapFacts) -> dict[str, list[dict[str, Any]]]:
    return {LINES: facts.lines, BEGINNINGS: [{"place": place - 0.5} for place in facts.beginnings]}


def _layer_marks(
    facts: MapFacts,
    cells: pd.DataFrame | alt.NamedData,
    images: Sequence[str],
    height: int,
    *others: alt.Chart,
    **more: Any,
) -> alt.LayerChart:
    lined, with_ids = _parts_that_fit(facts)
    x, y = marks.places(len(facts.layers), lined)
    whole = _parts(facts, cells)
    if images:
        whole = whole.transform_filter("datum.layer == hot[0] && datum.expert == hot[1]")
    tips = _tooltip(cells) if isinstance(cells, pd.DataFrame) and "shown" in cells and not images else []
    parts = [_stripes(whole, tips).encode(x=x, x2="end:Q", y=y, y2="bottom:Q")]
    if images:
        parts.insert(0, marks.image(images))
    elif with_ids:
        parts.append(marks.ids(whole))
    is_brought = isinstance(cells, alt.NamedData)
    tables = _brought(facts)
    data = {name: alt.NamedData(name) if is_brought else alt.InlineData(values=rows) for name, rows in tables.items()}
    if is_brought or facts.beginnings:
        parts += marks.beginnings(data[BEGINNINGS])
    parts += marks.frames()
    if is_brought:
        parts.append(marks.moved(MOVED))
    if not lined:
        parts.append(marks.chosen_text())
    elif is_brought or facts.lines:
        parts += marks.text_lines(data[LINES])
    # All at once: Altair copies every text and number of a chart at each further step.
    bare = alt.ViewBackground(stroke=None)
    named = {"datasets": tables} if is_brought else {}
    return alt.layer(*others, *parts, params=_params(facts, height), view=bare, height=height, **named, **more)


def _params(facts: MapFacts, height: int) -> list[alt.VariableParameter]:
    """Return the selection, the parameters of the trace, and the pixels of one cell."""
    split = 1 if facts.slots <= 2 or not facts.ordered else 0  # eight stripes a cell say less than one colour
    state = {"token": -1, "layer": -1, "hot": [-1, -1], "split": split, "ink": theme.NOTE, "paper": "#ffffff"}
    size = {  # width and height are 0 where the map is one of several pictures
        "across": f"(width || {marks.USUAL}) / tokens",
        "down": f"(height || {height}) / {len(facts.layers)}",
    }
    return [
        *(alt.VariableParameter(name, value=value) for name, value in (state | _trace_params(facts)).items()),
        *(alt.VariableParameter(name, expr=expr) for name, expr in size.items()),
    ]


def _trace_params(facts: MapFacts) -> dict[str, Any]:
    own = [{str(e): colour for e, colour in enumerate(row) if colour != theme.OTHER} for row in facts.colours]
    known = {"names": facts.names, "positions": facts.positions, "layers": facts.layers, "colours": own}
    return {"tokens": len(facts.names)} | known


def _parts(facts: MapFacts, cells: pd.DataFrame | alt.NamedData) -> alt.Chart:
    """Draw each choice from `top` to `bottom`, in its colour: the parts of a cell are stacked with a gap."""
    of_expert = f"colours[datum.layer][datum.expert] || '{theme.OTHER}'"
    inside = "(down > 8 ? 1 - 1 / down : 1)"
    return (
        alt.Chart(cells)
        .transform_filter("split || datum.slot == 0")
        .transform_calculate(share=f"isValid(datum.weight) ? max(datum.weight, {LEAST}) : 1")
        .transform_stack(
            stack="share",
            as_=["from", "to"],
            groupby=["layer", "token"],
            sort=[alt.SortField("slot" if facts.ordered else "expert")],
            offset="normalize",
        )
        .transform_calculate(
            start="datum.token - 0.5",
            end="datum.token + 0.5",
            top=f"datum.layer + datum.from * {inside}",
            bottom=f"datum.layer + datum.to * {inside}",
            colour=f"datum.expert < 0 ? '{theme.PALE}' : {of_expert}",
        )
    )


def _stripes(cells: alt.Chart, tips: list[alt.Tooltip]) -> alt.Chart:
    if tips:
        which = f"datum.expert < 0 ? '{theme.NOT_RECORDED}' : datum.expert"
        cells = cells.transform_calculate(at="layers[datum.layer]", which=which)
    beside = alt.ExprRef("across > 6 ? -1 : 0")
    return cells.mark_rect(stroke=None, x2Offset=beside, tooltip=None).encode(
        color=alt.Color("colour:N", scale=None), opacity=marks.lit(), tooltip=tips or alt.Undefined
    )


def _tooltip(cells: pd.DataFrame) -> list[alt.Tooltip]:
    weight = {"weight": ".3f"} if cells["weight"].notna().any() else {}
    # `shown`, since Vega makes an image or a heading of some names.
    return theme.tooltip(shown=("token", ""), position="d", phase="", at=("layer", "d"), which=("expert", ""), **weight)


def _legend(facts: MapFacts, missing: bool) -> alt.Chart:
    """Draw a legend of the colours, with marks of no size."""
    title, named = _named_colours(facts)
    named |= {theme.NOT_RECORDED: theme.PALE} if missing else {}
    fill = theme.named(alt.Fill, "named", named, named.values(), **squares(title, named))
    rows = alt.Chart(alt.InlineData(values=[{"named": name} for name in named]))
    return rows.mark_rect(opacity=0, tooltip=None).encode(
        fill=fill if named else fill.legend(None), **{side: alt.value(0) for side in ("x", "x2", "y", "y2")}
    )


def _named_colours(facts: MapFacts) -> tuple[str, dict[str, str]]:
    """Return the legend's title and its colours; none if a colour's meaning differs between layers."""
    many = [len(row) > len(theme.EXPERT_COLOURS) for row in facts.colours]
    if all(many):
        ranks = {str(place): colour for place, colour in enumerate(theme.EXPERT_COLOURS[: theme.FOCUS], start=1)}
        return "1 = the layer's busiest expert here", ranks | {OTHERS: theme.OTHER}
    longest = [] if any(many) else max(facts.colours, key=len)
    return "expert", {str(expert): colour for expert, colour in enumerate(longest)}
