"""A system's page in the gallery, described without Streamlit: choices, charts and words.

The app draws what an exhibit asks of its `Page`; the site and the tests draw its `charts`. The plane of two formants is
what the experts of 1991, the tree of 1994 and the soft experts of 2002 divide.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.charts import NAMED, theme
from moeviz.charts.chart import Chart
from moeviz.history.shared.datasets import VOWELS, Vowels, encode
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

LOAD_BY_LABEL = NAMED["label_load_heatmap"]


@dataclass(frozen=True, slots=True)
class ExhibitWords:
    """Words of a system's charts and figures, from its `exhibit.toml`."""

    of_charts: dict[str, dict[str, str]]  # question and reading, by the name of the function that draws
    meanings: dict[str, str]  # of figures, by their labels, with places for what they quote

    def chart(self, measure: Callable[..., pd.DataFrame], draw: Callable[..., alt.Chart | alt.LayerChart]) -> Chart:
        """Return the chart of these two functions."""
        words = self.of_charts[draw.__name__]
        return Chart(words["question"], words["reading"], measure, draw)

    def figures(self, values: Mapping[str, int | str], **quoted: object) -> dict[str, tuple[int | str, str]]:
        """Return figures with what they mean, for `Page.figures`."""
        return {label: (value, self.meanings[label].format_map(quoted)) for label, value in values.items()}


def words_beside(file: str) -> ExhibitWords:
    """Read the words in the TOML file next to an exhibit's Python file."""
    words = tomllib.loads(Path(file).with_suffix(".toml").read_text(encoding="utf-8"))
    charts = {name: {part: " ".join(text.split()) for part, text in of.items()} for name, of in words["charts"].items()}
    return ExhibitWords(charts, {label: " ".join(text.split()) for label, text in words.get("figures", {}).items()})


@dataclass(frozen=True, slots=True, eq=False)
class PageControl:
    """A control of the page: one of its options is chosen. The first choices of a page are arguments of `train`."""

    name: str  # of the argument
    label: str  # on the page
    options: Sequence[Any] = (False, True)  # of a number, the lowest and the highest
    default: Any = None  # the first option where it is None
    kind: Literal["slider", "list", "buttons", "number", "toggle"] = "slider"
    width: int | None = None  # pixels
    help: str | None = None
    written: Callable[[Any], str] = str  # an option in words
    key: str | None = None  # in the session, if it differs from the name; "" for none, so that a new default counts
    offered: Callable[[dict[str, Any]], bool] = lambda chosen: True  # with what is chosen before it

    @property
    def first(self) -> Any:
        """The option that is chosen at first."""
        return self.options[0] if self.default is None else self.default


@runtime_checkable
class Page(Protocol):
    """The page as an exhibit sees it: everything is drawn below what was drawn before it."""

    def choose(self, choice: PageControl) -> Any:
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
        """Draw a chart of several results side by side, each under its title; next to them, words and data of `own`."""

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

    choices: tuple[PageControl, ...]
    train: Callable[..., Any]  # of `settings`, seed and watch
    trace_of: Callable[[Any], RoutingTrace]
    picture: Callable[[Page, Any], None]  # of a result: the first picture, which is what the page is about
    details: Callable[[Page, Any], None]  # of a result: figures and further pictures
    charts: tuple[tuple[Chart, Callable[[], tuple[Any, ...]]], ...]  # each with what `measure` is given of what ships
    settings: Callable[[dict[str, Any]], dict[str, Any]] = dict  # arguments of `train` from what is chosen
    trace_charts: tuple[Chart, ...] = ()  # charts of any trace that say something of this one too


MARGIN = 0.05  # of the plane, around the samples


def plane_of(inputs: Float64[np.ndarray, "N D"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper corner of the plane that is drawn: all samples, and a margin."""
    low, high = inputs[:, :2].min(axis=0), inputs[:, :2].max(axis=0)
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def ends_of(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Points where a line a·F1 + b·F2 + c = 0 enters and leaves the plane that is drawn; none if it does not."""
    a, b, c = line
    points = []
    if b:
        points += [(f1, -(a * f1 + c) / b) for f1 in (low[0], high[0])]
    if a:
        points += [(-(b * f2 + c) / a, f2) for f2 in (low[1], high[1])]
    inside = [p for p in points if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]]
    return [(float(f1), float(f2)) for f1, f2 in sorted(inside)[:: max(len(inside) - 1, 1)][:2]]


def plane_frame(
    data: Vowels,
    winner: np.ndarray,
    answer: np.ndarray,
    lines: Iterable[tuple[str, int, str, Sequence[tuple[float, float]]]],
) -> pd.DataFrame:
    """Samples with the expert that wins them and whether the answer is right, and lines, each with its ends.

    A line is what it is (line or gate), its expert, its name and its points. Columns: those of 1991's `decision_lines`.
    """
    inputs, desired = encode(data)
    samples = {"what": "sample", "f1": inputs[:, 0], "f2": inputs[:, 1], "expert": winner}
    samples |= {"vowel": [VOWELS[vowel] for vowel in data.vowel], "right": (answer > 0.5) == (desired > 0.5)}
    ends = [
        {"what": what, "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True, "line": line}
        for what, expert, line, points in lines
        for f1, f2 in points
    ]
    frame = pd.concat([pd.DataFrame(samples).assign(line=""), pd.DataFrame(ends)], ignore_index=True)
    return frame.astype({"expert": np.int16})


FORMANTS = ("first formant F1, kHz", "second formant F2, kHz")


def formant_plane(frame: pd.DataFrame, axes: tuple[str, str] = FORMANTS, kind: str = "vowel") -> alt.LayerChart:
    """Samples and experts' lines over two formants. Columns: those of 1991's `decision_lines`.

    `axes` name f1 and f2, and `kind` names `vowel`, if the samples are of another kind.
    """
    samples, lines, borders = (frame[frame["what"] == what].drop(columns="what") for what in ("sample", "line", "gate"))
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    colours = [theme.EXPERT_COLOURS[expert % len(theme.EXPERT_COLOURS)] for expert in experts]
    colour = theme.colour("expert", experts, colours, title="expert")
    x = alt.X("f1:Q", title=axes[0], scale=alt.Scale(zero=False))
    y = alt.Y("f2:Q", title=axes[1], scale=alt.Scale(zero=False))
    points = theme.points(
        samples,
        {"size": 36, "opacity": 0.8},
        x=x,
        y=y,
        color=colour,
        shape=alt.Shape("vowel:N", legend=alt.Legend(title=kind, orient="top")),
        tooltip=theme.tooltip(
            vowel=(kind, ""),
            f1=(axes[0], ".2f"),
            f2=(axes[1], ".2f"),
            expert=("goes to expert", "d"),
            right=("classified correctly", ""),
        ),
    )
    strokes = theme.lines(lines, {"strokeWidth": 3}, x=x, y=y, color=colour)
    gate = theme.lines(
        borders,
        {"strokeWidth": 3, "color": theme.CHANCE, "strokeDash": list(theme.DASH)},
        x=x,
        y=y,
        detail="line:N",
        tooltip=alt.Tooltip("line:N", title="the gate is undecided between"),
    )
    return theme.framed(points + strokes + gate, theme.MEDIUM + 60)
