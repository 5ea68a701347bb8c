"""The plane of two formants, which the experts of 1991, the tree of 1994 and the soft experts of 2002 divide."""

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.charts import marks, theme

MARGIN = 0.05  # of the plane, around the samples


def plane_of(inputs: Float64[np.ndarray, "N D"]) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corner of the plane that is drawn: all samples, and a margin."""
    low, high = inputs[:, :2].min(axis=0), inputs[:, :2].max(axis=0)
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def ends_of(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Points where a line a·F1 + b·F2 + c = 0 enters and leaves the plane that is drawn; none where it does not."""
    a, b, c = line
    points = []
    if b:
        points += [(f1, -(a * f1 + c) / b) for f1 in (low[0], high[0])]
    if a:
        points += [(-(b * f2 + c) / a, f2) for f2 in (low[1], high[1])]
    inside = [p for p in points if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]]
    return [(float(f1), float(f2)) for f1, f2 in sorted(inside)[:: max(len(inside) - 1, 1)][:2]]


FORMANTS = ("first formant F1, kHz", "second formant F2, kHz")


def formant_plane(frame: pd.DataFrame, axes: tuple[str, str] = FORMANTS, kind: str = "vowel") -> alt.LayerChart:
    """Samples and experts' lines over two formants. Columns: those of 1991's `decision_lines`.

    `axes` are what f1 and f2 are, and `kind` is what `vowel` says, where the samples are of another kind.
    """
    samples, lines, borders = (frame[frame["what"] == what].drop(columns="what") for what in ("sample", "line", "gate"))
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    colours = [theme.EXPERT_COLOURS[expert % len(theme.EXPERT_COLOURS)] for expert in experts]
    colour = theme.colour("expert", experts, colours, title="expert")
    x = alt.X("f1:Q", title=axes[0], scale=alt.Scale(zero=False))
    y = alt.Y("f2:Q", title=axes[1], scale=alt.Scale(zero=False))
    points = marks.points(
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
    strokes = marks.lines(lines, {"strokeWidth": 3}, x=x, y=y, color=colour)
    gate = marks.lines(
        borders,
        {"strokeWidth": 3, "color": theme.CHANCE, "strokeDash": list(theme.DASH)},
        x=x,
        y=y,
        detail="line:N",
        tooltip=alt.Tooltip("line:N", title="the gate is undecided between"),
    )
    return theme.framed(points + strokes + gate, theme.MEDIUM + 60)
