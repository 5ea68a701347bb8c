"""Components that show a text: token by token, line by line, during a run, and for typing over.

A strip has each token in the colour of its first-choice expert, to click and to walk through with the keys; if the
trace does not say which expert that is, tokens have no colour, and the ids of all their experts. A running text
sends `moeviz:running` to the prompt box (`ask.py`), and receives `moeviz:stop` from it; after the run the box is sent
`moeviz:ran`.
"""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from moeviz.charts import theme
from moeviz.errors import InvalidPrompt
from moeviz.metrics.tokens import PART_OF_CHARACTER, visible, written_text
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace
from moeviz_app.widgets.components import component

STRIP = """<div class="strip" role="listbox" aria-orientation="horizontal"></div>
<div class="said" aria-live="polite"></div>"""
MOST_IDS = 4  # of a token's experts under it, if it has no first choice
CHANGED, NEW = "changed", "new"  # than in the same text with a word changed: another first choice; a token of its own
MOST_LINE_BREAKS = 2  # in a row: blank lines say nothing about routing and push the rest off the screen

_strip = component("token_strip", STRIP, "token strip", "token strip")


def token_strip(
    trace: RoutingTrace,
    layer: int,
    rows: range,
    selected: int | None,
    colours: Sequence[str],
    on_pick: Callable[[], None] | None = None,
    key: str | None = None,
    changes: Mapping[int, str] | None = None,
    names: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Draw the tokens in `rows` of `trace`, each in the colour of its first-choice expert in `layer`.

    `colours` has one entry per expert, or none: see `colours_of`. A click, or Enter, leaves the row in the widget's
    `pick` and calls `on_pick`; without `on_pick` the strip is read-only, and shows its end. `changes`, for comparing
    with another strip: the rows that are `CHANGED` there, or `NEW`; all others are pale. `names` of the layer's
    experts stand next to their ids, when a token is pointed at or read out.
    """
    at = trace.model.layers.index(layer)
    tokens = _tokens(trace, at, rows, colours, names)
    for row in rows if changes is not None else ():
        tokens[row - rows.start]["what"] = changes.get(row, "same")
    for row, mark in beginnings(trace, rows).items():
        tokens[row - rows.start]["mark"] = mark
    data = {
        "tokens": tokens,
        "start": rows.start,
        "selected": selected - rows.start if selected in rows else None,
        "name": f"Tokens {rows.start} to {rows.stop - 1}, {'first-choice ' * trace.ordered}experts in layer {layer}",
    }
    if on_pick is None:
        _strip(key=key, data=data | {"live": True})
    else:
        _strip(key=key, data=data, on_pick_change=on_pick)


def colours_of(trace: RoutingTrace, layer: int, rows: range) -> list[str]:
    """Return the colour of each expert of the layer, for a strip of these rows; none if first choices are not known."""
    at = trace.model.layers.index(layer)
    if not trace.ordered:
        return []
    return theme.expert_colours(trace.model.num_experts[at], theme.focus(trace.experts[at, rows.start : rows.stop, 0]))


def _tokens(
    trace: RoutingTrace, at: int, rows: range, colours: Sequence[str], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    part = slice(rows.start, rows.stop)
    columns = [trace.tokens[name].iloc[part].tolist() for name in ("text", "phase", "position")]
    experts = trace.experts[at, part].tolist()
    weights = [None] * len(rows) if trace.weights is None else trace.weights[at, part, 0].tolist()
    found = []
    for text, phase, position, slots, weight in zip(*columns, experts, weights, strict=True):
        ids, missing = [expert for expert in slots if expert >= 0], slots[0] == NOT_RECORDED
        token = {
            "text": visible(text),
            "part": PART_OF_CHARACTER.fullmatch(text) is not None,
            "missing": missing,
            "newlines": min(text.count("\n"), MOST_LINE_BREAKS),
            "phase": phase,
            "position": position,
            **_choice(ids[:1] if colours else sorted(ids), missing, names),
            "weight": None if weight is None or not ids else f"{weight:.3f}",
            "colour": colours[ids[0]] if colours and ids else None,
        }
        found.append(token)
    return found


def _choice(ids: list[int], missing: bool, names: Mapping[int, str]) -> dict[str, str]:
    """Show where a token went: in a mark under it, and in words."""
    if not ids:
        return {"expert": "?", "choice": "not recorded"} if missing else {"expert": "–", "choice": "no expert"}
    mark = ", ".join(map(str, ids[:MOST_IDS])) + " …" * (len(ids) > MOST_IDS)
    said = (f"{expert} ({names[expert]})" if expert in names else str(expert) for expert in ids)
    return {"expert": mark, "choice": f"expert{'s' * (len(ids) > 1)} {', '.join(said)}"}


def beginnings(trace: RoutingTrace, rows: range) -> dict[int, str]:
    """Return words for the rows where generated tokens begin, or the next of several texts does."""
    sequence, phase = trace.tokens["sequence"].to_numpy(), trace.tokens["phase"].to_numpy()
    several, marks = len(sequence) > 0 and sequence[-1] > 0, {}
    for row in rows:
        first = row == 0 or sequence[row] != sequence[row - 1]
        if first and several:
            marks[row] = f"text {sequence[row] + 1}"
        elif phase[row] == "generated" and (first or phase[row - 1] == "prompt"):
            marks[row] = "generated"
    return marks


_kwic = component("kwic", '<div class="kwic" role="list"></div>', "kwic", "token kwic")


AROUND = 20  # characters on either side of a token


def keyword_in_context(lines: pd.DataFrame, colour: str, key: str) -> None:
    """Draw the rows of `moeviz.metrics.expert_tokens.contexts`, each token on the expert's colour."""
    weights = [None if pd.isna(weight) else f"{weight:.2f}" for weight in lines["weight"]]
    near = {"before": lines["before"].str[-AROUND:], "after": lines["after"].str[:AROUND]}
    columns = lines[["text", "label"]].assign(**near, weight=pd.Series(weights, lines.index, object))
    _kwic(key=key, data={"lines": columns.to_dict("records"), "colour": colour})


NO_TEXT = {"given": "", "continued": ""}

_written = component(
    "written", '<p class="written" role="group" aria-label="The text so far"></p>', "written", "written"
)


def written(trace: RoutingTrace, key: str | None = None) -> None:
    """Draw the text of the trace's first sequence with generated tokens; nothing where none has any."""
    given, continued = text_of(trace)
    if continued:
        _written(key=key, data={"given": given, "continued": continued, "run": None, "ran": None})


def going_on(on_stop: Callable[[], None], key: str) -> None:
    """Tell the prompt box that a run goes on, for as long as this stays on the page. Its Stop calls `on_stop`."""
    _written(key=key, data=NO_TEXT | {"run": monotonic(), "ran": None}, on_stop_change=on_stop)


def has_run(text: str, runs: int) -> None:
    """Tell the prompt box that the run it asked for as number `runs` is over, and that this is the text on screen."""
    _written(key="has run", data=NO_TEXT | {"run": None, "ran": {"ran": text, "runs": runs}})


def text_of(trace: RoutingTrace) -> tuple[str, str]:
    """Prompt and continuation of the first sequence that has one; two empty strings where none has."""
    generated = (trace.tokens["phase"] == "generated").to_numpy()
    if not generated.any():
        return "", ""
    one = int(trace.tokens["sequence"].iat[int(generated.argmax())])
    return written_text(trace, "prompt", one), written_text(trace, "generated", one)


WORDS_TO_EDIT = """<p class="words" role="group" aria-label="The text. Choose a word, and type another over it."></p>
<p class="hint">Click a word and type another over it; Enter runs the text with it, Esc leaves it as it is.</p>"""

_word_edit = component("word_edit", WORDS_TO_EDIT, "word_edit", "word_edit")


class Edit(NamedTuple):
    """A word of a text, from its first character to its last, and what stands in its place."""

    start: int
    end: int
    text: str

    def of(self, text: str) -> str:
        """Return the text with the edit made in it."""
        return f"{text[: self.start]}{self.text}{text[self.end :]}"


def word_edit(text: str, edit: Edit | None, on_edit: Callable[[], None], key: str) -> None:
    """Draw the text with its edit, if there is one. A new edit is left in the widget, for `told`."""
    _word_edit(key=key, data={"text": text, "edit": edit}, on_edit_change=on_edit)


def told(said: Any, text: str, most: int) -> Edit | None:
    """Return the edit of this text that a browser asks for; None for an invalid one. It can be any browser and
    message. `most` is the number of characters that the edited text may have. Raises `InvalidPrompt` if it has more.
    """
    if not isinstance(said, Mapping):
        return None
    start, end, new = (said.get(name) for name in ("start", "end", "text"))
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text) or not isinstance(new, str):
        return None
    edited = (edit := Edit(start, end, new)).of(text)
    if len(edited) > most:
        raise InvalidPrompt(
            f"With that word the text has {len(edited):,} characters, and {most:,} are allowed here. Type a shorter "
            "one."
        )
    return edit if edited.strip() and edited != text else None
