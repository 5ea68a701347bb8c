"""What a chart is: a question about a trace, the numbers that answer it, and the picture of those numbers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from inspect import getdoc
from typing import Any, Literal

import altair as alt
import pandas as pd

from moeviz.charts.titles import Say, with_titles
from moeviz.metrics.words import in_words_of
from moeviz.model_info import ModelInfo

USUAL_WORDS = "token, layer, kind of text"


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

    def picture(self, frame: pd.DataFrame, dark: bool = False) -> alt.Chart | alt.LayerChart:
        """The picture of these numbers, for a light page or a dark one where that makes a difference."""
        return self.draw(frame, dark=dark) if self.themed else self.draw(frame)

    def of(self, model: ModelInfo) -> "Chart":
        """The same chart in the words of a model: its question, how to read it, and all titles in its picture.

        Ask for it once, since the words are those of models that route tokens in layers.
        """
        say = partial(in_words_of, model)
        if say(USUAL_WORDS) == USUAL_WORDS:
            return self
        return replace(self, question=say(self.question), reading=say(self.reading), draw=_with_words(self.draw, say))

    def caption(self, frame: pd.DataFrame) -> str | None:
        """What stands out in these numbers, in one sentence of at most 25 words; None where nothing does.

        It is computed from the very frame that is drawn, and quotes labels as they are: it is for a text node, never
        for HTML or Markdown. Where chance is known, luck among all that is drawn must explain what is said at most once
        in a thousand times (`moeviz.metrics.significance`); elsewhere each function states the size that it asks for.
        """
        return self.say(frame) if self.say is not None and len(frame) else None

    @property
    def key(self) -> str:
        """Name in file names, tests and widget keys."""
        return self.draw.__name__

    @property
    def method(self) -> str:
        """How the numbers are computed: the metric's own docstring, without the line breaks that an editor needs."""
        paragraphs = (getdoc(self.measure) or "").split("\n\n")
        return "\n\n".join(text if "\n " in text else text.replace("\n", " ") for text in paragraphs)


def _with_words(draw: Callable[..., Any], say: Say) -> Callable[..., Any]:
    """The same picture with its titles as `say` says them, under the same key."""

    @wraps(draw)
    def drawn(*frames: pd.DataFrame, **options: Any) -> Any:
        return with_titles(draw(*frames, **options), say)

    return drawn
