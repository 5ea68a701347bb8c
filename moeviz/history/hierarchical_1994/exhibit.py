"""The exhibit of 1994: how a tree divides the vowels and a square that needs two cuts, and what makes it learn."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.hierarchical_1994.model import (
    ALL_PASSES,
    BRANCHES,
    EM,
    FLAT,
    ONE_CUT,
    SHAPES,
    TREE,
    Hierarchy,
    errors,
    train,
    two_cuts,
)
from moeviz.history.hierarchical_1994.trace import trace_of
from moeviz.history.shared.datasets import ONES, VOWELS, Vowels, encode, stand_in
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, ends_of, formant_plane, plane_of
from moeviz.history.shared.results import shipped

TABLE = Path(__file__).with_name("sweep.csv")
SEEDS = range(20)  # as many as the full check has


def error_by_shape(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """The error of each shape of gates by passes over points that need two cuts, fitted in both ways.

    One row per way, shape and pass, at about equal ratios. Columns: way, shape str · passes int64 · squared_error,
    lower, upper float64 (average squared error on the training points: median, and quartiles of the seeds) · seeds
    int64.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), equations 6 to 12; the points and the comparison
    are ours.
    """
    frames = [_curve(way, shape, seeds) for way in ALL_PASSES for shape in SHAPES]
    return pd.concat(frames, ignore_index=True)


def shipped_error_by_shape() -> pd.DataFrame:
    """The curves that ship. Columns: those of `error_by_shape`.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), equations 6 to 12; the points are ours.
    """
    return pd.read_csv(TABLE)


def ended(curves: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Median of the error after the last pass, by way and shape."""
    last = curves.groupby(["way", "shape"])["squared_error"].last()
    return {way: last[way].to_dict() for way in ALL_PASSES}


def _curve(way: str, shape: str, seeds: Sequence[int]) -> pd.DataFrame:
    runs = np.stack([errors(way, shape, seed, ALL_PASSES[way]) for seed in seeds])
    passes = np.unique(np.geomspace(1, ALL_PASSES[way], 50).round().astype(np.int64))
    lower, median, upper = np.quantile(runs[:, passes - 1], (0.25, 0.5, 0.75), axis=0)
    columns = {"passes": passes, "squared_error": median, "lower": lower, "upper": upper, "seeds": len(seeds)}
    return pd.DataFrame({"way": way, "shape": shape} | columns).astype({"way": "str", "shape": "str"})


SQUARE_SEED = 1


def tree_lines(result: Hierarchy, data: Vowels) -> pd.DataFrame:
    """Samples, and the lines of all gates and experts in use: how a tree divides the plane of two formants.

    A sample belongs to the likeliest leaf. An expert's line is where its output is 0.5, and a gate's is where it has
    no preference; a lower gate is drawn where both of its leaves have samples, or its line divides nothing.

    One row per sample, and two per line, its ends. Columns: what str (sample, line or gate) · f1, f2 float64 (kHz) ·
    expert int16 (the leaf; for gates 0) · vowel str ("" for lines) · right bool (True if the tree's answer is on the
    right side of 0.5; True for lines) · line str (the gate or leaf; "" for samples).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1.
    """
    (inputs, desired), tree = encode(data), result.tree()
    leaf = tree.leaves(inputs).argmax(axis=1)
    plane = plane_of(inputs)
    won = np.unique(leaf).tolist()
    gates = {f"branch {i}": line for i, line in enumerate(tree.gates) if {BRANCHES * i, BRANCHES * i + 1} <= set(won)}
    lines = [("line", e, f"leaf {e}", tree.experts[e]) for e in won]
    lines += [("gate", 0, name, line) for name, line in ({"root": tree.root} | gates).items()]
    ends = [
        {"what": what, "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True, "line": name}
        for what, expert, name, line in lines
        for f1, f2 in ends_of(line, *plane)
    ]
    samples = {
        "what": "sample",
        "f1": inputs[:, 0],
        "f2": inputs[:, 1],
        "expert": leaf,
        "vowel": [VOWELS[vowel] for vowel in data.vowel],
        "right": (tree.answer(inputs) > 0.5) == (desired > 0.5),
    }
    frame = pd.concat([pd.DataFrame(samples).assign(line=""), pd.DataFrame(ends)], ignore_index=True)
    return frame.astype({"expert": np.int16})


def square_lines() -> pd.DataFrame:
    """How a tree divides the points that need two cuts, trained with seed 1. Columns: those of `tree_lines`.

    `vowel` is the desired answer, 1 or 0, and f1 and f2 are how far a point is to the right of the middle, and above.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1; the points are made up.
    """
    frame = tree_lines(_square(), two_cuts())
    answers = {vowel: str(int(number in ONES)) for number, vowel in enumerate(VOWELS)}
    return frame.assign(vowel=frame["vowel"].map(answers | {"": ""}))


@cache
def _square() -> Hierarchy:
    """Train a tree on the square with seed 1: with seed 0 it is one of the few that stay of little use."""
    return train(two_cuts(), seed=SQUARE_SEED)


def error_by_passes(frame: pd.DataFrame) -> alt.LayerChart:
    """A line per shape of gates and way of fitting it, with the quartiles. Columns: of `error_by_shape`."""
    above, below = ({"orient": orient, "labelLimit": 280, "columns": 1} for orient in ("top", "bottom"))
    stroke = {"symbolType": "stroke", "symbolStrokeColor": theme.NOTE, "symbolSize": 300}
    base = alt.Chart(frame).encode(
        x=alt.X(
            "passes:Q",
            title="passes over the data",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=[1, 10, 100, 1000], format="d"),
        ),
        color=theme.colour("shape", SHAPES, [*theme.PAIR, theme.OTHER], **above, symbolOpacity=1),
        detail="way:N",
    )
    bands = base.mark_area(opacity=0.15).encode(y=_error("lower"), y2="upper:Q")
    lines = base.mark_line(strokeWidth=3).encode(
        y=_error("squared_error"),
        strokeDash=theme.named(alt.StrokeDash, "way", ALL_PASSES, theme.SOLID_AND_DASHED, **below, **stroke),
        tooltip=theme.tooltip(
            shape=("gates", ""),
            way=("fitted by", ""),
            passes=",d",
            squared_error=("average squared error, median", ".3f"),
            lower=("lower quartile of the seeds", ".3f"),
            upper=("upper quartile", ".3f"),
            seeds=("seeds", "d"),
        ),
    )
    return theme.framed(bands + lines, theme.MEDIUM)


def _error(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="average squared error", scale=alt.Scale(domainMin=0))


def square_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """The square that needs two cuts, divided by a tree. Columns: those of `square_lines`."""
    return formant_plane(frame, ("to the right of the middle", "above the middle"), "answer wanted")


def tree_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """The plane of 1991, divided by a tree. Columns: those of `tree_lines`."""
    return formant_plane(frame)


TREE_LINES = Chart(
    "How does the tree divide the plane?",
    "Each mark is one spoken vowel in the colour of the leaf that it most likely reaches, and each line is where that "
    "leaf's answer changes. Dashed lines are gates: at the root's, cases part into two branches, and at a lower one, "
    "within a branch.",
    measure=tree_lines,
    draw=tree_plane,
)
SQUARE_LINES = Chart(
    "How does the tree divide what one cut cannot part?",
    "Each mark is a made-up point that is to be answered 1 or 0, in the colour of the leaf that it most likely "
    "reaches. Each quarter of the square has a line of its own, so the root parts two halves and each lower gate cuts "
    "its half again; solid lines are where a leaf's answer changes.",
    measure=square_lines,
    draw=square_plane,
)
LEARNING_CURVES = Chart(
    "What makes it learn fast, and what makes it learn at all?",
    "Each line is the error on the points of the square, in the median of the seeds, with the middle half of them pale "
    "around it; lower is better, and further left is faster. Solid lines are fitted by expectation maximisation, and "
    "dashed ones by gradient descent: this is what makes it fast. Grey lines have a root that stays uniform: with one "
    "cut they stay above the others, however long they learn.",
    measure=shipped_error_by_shape,
    draw=error_by_passes,
)


def picture(page: Page, result: Hierarchy) -> None:
    """Draw how the tree divides the vowels."""
    page.text(f"The vowels are a {stand_in().source}.")
    page.chart(TREE_LINES, result, stand_in())


def details(page: Page, result: Hierarchy) -> None:
    """Draw the figures, the points that need two cuts, what makes the tree learn, and who wins the vowels."""
    page.figures(
        {
            "Passes": (f"{result.settings['passes']}", "Over all samples of the training speakers."),
            "Error": (
                f"{result.squared_error[-1]:.3f}",
                "Average squared error on the training speakers; the paper of 1991 stops at 0.08.",
            ),
            "Correct, training": (f"{result.train_accuracy:.0%}", "Share of the samples of the first 50 speakers."),
            "Correct, test": (f"{result.test_accuracy:.0%}", "Share of the samples of the other 25 speakers."),
        }
    )
    page.markdown(
        "One cut is enough for these vowels, so the root has little to do. The points below need two, and keep it busy."
    )
    page.chart(SQUARE_LINES)
    page.chart(LEARNING_CURVES)
    error = ended(shipped_error_by_shape())[EM]
    page.markdown(
        f"After the last pass of expectation maximisation, the error is {error[TREE]:.3f} with the tree, "
        f"{error[ONE_CUT]:.3f} with a root that stays uniform, and {error[FLAT]:.3f} with one gate over all four "
        "experts, which can cut twice as well. So these points need gates that cut twice, but not a tree. What the "
        "tree adds is that each of its gates is fitted alone, as one line."
    )
    names = ("the root's branches", "the leaves")
    level = page.choose(PageControl("level", "Level", (0, 1), 1, kind="buttons", written=names.__getitem__))
    winners = trace_of(result, slots=1).select(layers=[level])
    page.chart(LOAD_BY_LABEL, winners, model=winners.model)


EXHIBIT = Exhibit(
    choices=(PageControl("passes", "Passes", (5, 10, 20, 40, 80), 40, width=200),),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=(
        (TREE_LINES, lambda: (shipped(Hierarchy), stand_in())),
        (SQUARE_LINES, lambda: ()),
        (LEARNING_CURVES, lambda: ()),
    ),
    sweep=error_by_shape,
)
