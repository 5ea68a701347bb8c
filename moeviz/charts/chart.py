"""Charts: a question about a trace, the numbers that answer it, and the picture of those numbers."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from inspect import getdoc
from pathlib import Path
from typing import Any, Literal

import altair as alt
import pandas as pd

from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.words import in_words_of
from moeviz.model_info import ModelInfo

USUAL_WORDS = "token, layer, kind of text"
EXPERT, PAIR = "expert", "pair"  # names of the selections
Say = Callable[[str], str]
WORDS = ("title", "text", "description")  # properties that are words for a reader
DATA = ("data", "datasets")
LITERAL = re.compile("'[^']*'")  # in a formula; with a space it is words: "'from layer ' + datum.layer"
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
FIELD = re.compile(r"([a-z]+):[A-Z]")  # "layer:Q": without a title, its name is one


@dataclass(frozen=True, slots=True)
class Chart:
    """One row of a topic's CHARTS table."""

    question: str  # the chart's title, ends in "?"
    reading: str  # one sentence: how to read it
    measure: Callable[..., pd.DataFrame]  # of a trace; of several, for charts that belong to no topic
    draw: Callable[..., alt.Chart | alt.LayerChart]
    layers: Literal["all", "one", "two"] = "all"  # how many layers the trace given to `measure` may have
    tokens: Literal["all", "window", "one"] = "all"  # and tokens; a window has theme.MAX_TOKENS at most

    expert: str = ""  # where marks are experts, the column with their ids: a click on one leads to its page
    two_layers: bool = False  # whether marks are pairs of layers: a click on one chooses them
    themed: bool = False  # whether `draw` takes `dark`, for colours that suit a dark page

    say: Callable[[pd.DataFrame], str | None] | None = None  # of the numbers that are drawn: see `caption`

    @classmethod
    def row(
        cls, draw: Callable[..., Any], measure: Callable[..., pd.DataFrame], say: Any = None, **options: Any
    ) -> "Chart":
        """Make the chart of a drawing whose question and reading are in `chart.toml`, under the drawing's name."""
        return cls(**_TABLE[draw.__name__], measure=measure, draw=draw, say=say, **options)

    def picture(self, frame: pd.DataFrame, dark: bool = False) -> alt.Chart | alt.LayerChart:
        """Draw the picture of these numbers, for a light page or a dark one where that makes a difference."""
        return self.draw(frame, dark=dark) if self.themed else self.draw(frame)

    def of(self, model: ModelInfo) -> "Chart":
        """Put the chart into the words of a model: its question, how to read it, and all titles in its picture.

        Ask for it once, since the words are those of models that route tokens in layers.
        """
        say = partial(in_words_of, model)
        if say(USUAL_WORDS) == USUAL_WORDS:
            return self
        return replace(self, question=say(self.question), reading=say(self.reading), draw=_with_words(self.draw, say))

    def caption(self, frame: pd.DataFrame, tokens: int | None = None) -> str | None:
        """Return what stands out in these numbers, in one sentence of at most 25 words; None if nothing does.

        `tokens`: the number that the figures are of, if known; fewer than a handful have no caption.

        It is computed from the very frame that is drawn, and quotes labels as they are: it is for a text node, never
        for HTML or Markdown. If chance is known, it must explain the finding, among all that is drawn, at most once
        in a thousand times (`moeviz.metrics.significance`); elsewhere each function states the size that it requires.
        """
        few = tokens is not None and tokens < HANDFUL
        return self.say(frame) if self.say is not None and len(frame) and not few else None

    @property
    def key(self) -> str:
        """Name in file names, tests and widget keys."""
        return self.draw.__name__

    @property
    def method(self) -> str:
        """Return how the numbers are computed: the metric's own docstring, without an editor's line breaks."""
        paragraphs = (getdoc(self.measure) or "").split("\n\n")
        return "\n\n".join(text if "\n " in text else text.replace("\n", " ") for text in paragraphs)


def _with_words(draw: Callable[..., Any], say: Say) -> Callable[..., Any]:
    """Make a drawing function whose titles go through `say`, under the same key."""

    @wraps(draw)
    def drawn(*frames: pd.DataFrame, **options: Any) -> Any:
        return with_titles(draw(*frames, **options), say)

    return drawn


def with_titles(part: Any, say: Say) -> Any:
    """A copy of a picture, or of a part of one, whose titles are as `say` says them. Its data stay as they are."""
    if isinstance(part, list):
        return [with_titles(each, say) for each in part]
    if isinstance(part, dict):
        return {name: _reworded(name, value, say) for name, value in part.items()}
    if not isinstance(part, alt.SchemaBase):
        return part
    copy = part.copy(deep=False)
    for name, value in list(part._kwds.items()):
        copy._kwds[name] = _reworded(name, value, say)
    if titled := _title_of_field(part, say):
        copy._kwds["title"] = titled
    return copy


def _reworded(name: str, value: Any, say: Say) -> Any:
    if name in DATA:
        return value
    if name in WORDS and isinstance(value, str):
        return say(value)
    if name == "calculate" and isinstance(value, str):
        return LITERAL.sub(lambda words: say(words[0]) if " " in words[0] else words[0], value)
    if name in WORDS and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return [say(line) for line in value]
    return with_titles(value, say)


def _title_of_field(part: alt.SchemaBase, say: Say) -> str | None:
    """Title a channel that has none, to hide the name of its field; None if that name may be shown."""
    field = FIELD.fullmatch(str(part._kwds.get("shorthand", "")))
    if field is None or _titled(part) or any(_titled(part._kwds.get(own)) for own in ("axis", "legend")):
        return None
    return say(field[1]) if say(field[1]) != field[1] else None


def _titled(part: Any) -> bool:
    return isinstance(part, alt.SchemaBase) and part._kwds.get("title", alt.Undefined) is not alt.Undefined


def clickable(picture: alt.Chart | alt.LayerChart, fields: list[str], name: str = EXPERT) -> alt.Chart | alt.LayerChart:
    """Return the chart with a selection of one mark, by these columns of its data, and a hand cursor over such marks.

    In a layered picture a click on any mark of it counts; one whose data has no such columns selects nothing.
    """
    chosen: Any = alt.selection_point(name=name, fields=fields, on="click", empty=False)
    handed: alt.LayerChart | alt.Chart = _with_hand(picture, fields[-1], picture.data)
    if isinstance(handed, alt.Chart):
        return handed.add_params(chosen)
    first: Any = handed
    while isinstance(first, alt.LayerChart):
        first = first.layer[0]
    first.name = "view_0"
    of_first = alt.TopLevelSelectionParameter(name=name, select=chosen.param.select, views=[first.name])
    own: Any = handed.params
    handed.params = [*([] if own is alt.Undefined else own), of_first]
    return handed


def _with_hand(picture: Any, field: str, above: Any) -> Any:
    data = above if picture.data is alt.Undefined else picture.data
    picture = picture.copy(deep=False)  # nothing inside is changed, only replaced
    if isinstance(picture, alt.LayerChart):
        picture.layer = [_with_hand(part, field, data) for part in picture.layer]
    elif field in getattr(data, "columns", ()):
        mark = {"type": picture.mark} if isinstance(picture.mark, str) else picture.mark.to_dict()
        picture.mark = alt.MarkDef(**mark | {"cursor": "pointer"})
    return picture
