"""What a chart is: a question about a trace, the numbers that answer it, and the picture of those numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getdoc
from typing import Literal

import altair as alt
import pandas as pd


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

    def picture(self, frame: pd.DataFrame, dark: bool = False) -> alt.Chart | alt.LayerChart:
        """The picture of these numbers, for a light page or a dark one where that makes a difference."""
        return self.draw(frame, dark=dark) if self.themed else self.draw(frame)

    @property
    def key(self) -> str:
        """Name in file names, tests and widget keys."""
        return self.draw.__name__

    @property
    def method(self) -> str:
        """How the numbers are computed: the metric's own docstring, without the line breaks that an editor needs."""
        paragraphs = (getdoc(self.measure) or "").split("\n\n")
        return "\n\n".join(text if "\n " in text else text.replace("\n", " ") for text in paragraphs)
