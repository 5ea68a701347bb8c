"""A system's page in the gallery, described without Streamlit: what can be chosen, what is drawn, and what is said.

The app draws what an exhibit asks of its `Page`; the site and the tests draw its `charts`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import pandas as pd

from moeviz.charts import NAMED
from moeviz.charts.chart import Chart
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

LOAD_BY_LABEL = NAMED["label_load_heatmap"]


def always(chosen: dict[str, Any]) -> bool:
    """Offer a choice whatever else is chosen."""
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A control of the page: one of its options is chosen. The first choices of a page are arguments of `train`."""

    name: str  # of the argument
    label: str  # on the page
    options: Sequence[Any] = (False, True)  # of a number, the lowest and the highest
    default: Any = None  # the first option where it is None
    kind: Literal["slider", "list", "buttons", "number", "toggle"] = "slider"
    width: int | None = None  # pixels
    help: str | None = None
    written: Callable[[Any], str] = str  # an option in words
    key: str | None = None  # in the session, where it is not the name; "" for none, so that a new default counts
    offered: Callable[[dict[str, Any]], bool] = always  # with what is chosen before it

    @property
    def first(self) -> Any:
        """The option that is chosen at first."""
        return self.options[0] if self.default is None else self.default


@runtime_checkable
class Page(Protocol):
    """The page as an exhibit sees it: everything is drawn below what was drawn before it."""

    def choose(self, choice: Choice) -> Any:
        """Draw a control and return the option that is chosen."""

    def row(self) -> AbstractContextManager[Any]:
        """Draw side by side within this block."""

    def figures(self, rows: dict[str, tuple[int | str, str]]) -> None:
        """Draw a row of numbers: by name, the value and what it means."""

    def heading(self, chart: Chart, model: ModelInfo | None = None) -> None:
        """Draw a chart's question, in the words of `model`."""

    def picture(self, chart: Chart, *given: Any, model: ModelInfo | None = None) -> None:
        """Measure a chart on `given`, and draw it with how to read it."""

    def chart(self, chart: Chart, *given: Any, model: ModelInfo | None = None) -> None:
        """Draw a chart under its question."""

    def compare(self, chart: Chart, results: dict[str, Any], own: Any, words: str) -> None:
        """Draw a chart of several results side by side, each under its title; beside them, words and data of `own`."""

    def title(self, text: str) -> None:
        """Draw a heading."""

    def text(self, text: str) -> None:
        """Draw plain text."""

    def markdown(self, text: str) -> None:
        """Draw Markdown of our own."""

    def table(self, frame: pd.DataFrame) -> None:
        """Draw a table with the frame's index as its first column."""


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """A system's page: its controls, what it trains, and what is drawn of a result."""

    choices: tuple[Choice, ...]
    train: Callable[..., Any]  # of `settings`, seed and watch
    trace_of: Callable[[Any], RoutingTrace]
    picture: Callable[[Page, Any], None]  # of a result: the first picture, which is what the page is about
    details: Callable[[Page, Any], None]  # of a result: figures and further pictures
    charts: tuple[tuple[Chart, Callable[[], tuple[Any, ...]]], ...]  # each with what `measure` is given of what ships
    settings: Callable[[dict[str, Any]], dict[str, Any]] = dict  # arguments of `train` from what is chosen
    trace_charts: tuple[Chart, ...] = ()  # charts of any trace that say something of this one too
    sweep: Callable[[], pd.DataFrame] | None = None  # trains over many settings: the table that ships as sweep.csv
