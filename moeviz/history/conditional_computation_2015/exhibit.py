"""Conditional computation in numbers: which blocks a digit switches on, how many, and what leaving blocks off costs."""

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.history.conditional_computation_2015.model import CLASSES, ESTIMATORS, Conditional, trace_of, train
from moeviz.history.shared.exhibit import Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import shipped

TEXT = words_beside(__file__)
SWEEP = Path(__file__).with_name("sweep.csv")
NAMES = {"policy": "learned policy", "straight-through": "straight-through", "uniform": "uniform dropout"}
DRAWN_BLOCKS = "shown above"


def blocks_by_digit(result: Conditional) -> pd.DataFrame:
    """Return the probability of each block being on for each kind of digit.

    `probability` is the mean of σ over the test digits of that kind. The blocks of a kind do not sum to 1 but to the
    average number of blocks that it has on. `target` is τ, what all would be if the policy ignored the digit.

    One row per kind and block. Columns: digit int16 · block int16 · probability float64 (0 to 1) · on float64 (share
    of the kind's test digits, in the draw of the trace) · target float64.

    Source: σ of E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    blocks = result.probability.shape[1]
    kinds = [result.digit == digit for digit in range(CLASSES)]
    columns = {
        "digit": np.repeat(np.arange(CLASSES, dtype=np.int16), blocks),
        "block": np.tile(np.arange(blocks, dtype=np.int16), CLASSES),
        "probability": np.concatenate([result.probability[kind].mean(axis=0, dtype=np.float64) for kind in kinds]),
        "on": np.concatenate([result.on[kind].mean(axis=0) for kind in kinds]),
        "target": float(result.settings["target"]),
    }
    return pd.DataFrame(columns)


def blocks_on(result: Conditional) -> pd.DataFrame:
    """Count the blocks that the test digits have on, from none to all, next to blocks chosen at random.

    At random means uniform block dropout with as many blocks on in all: the binomial distribution of B blocks, each on
    with the mean share. A policy that gave each digit the same number of blocks would be a single bar.

    One row per number of blocks. Columns: blocks_on int16 · digits int64 · share float64 (of the test digits) · by_lot
    float64 (the same at random). Shares sum to 1.

    Source: the independent Bernoullis of E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    samples, blocks = result.on.shape
    counts = np.bincount(result.on.sum(axis=1), minlength=blocks + 1)
    by_lot = np.ones(1)
    for _ in range(blocks):
        by_lot = np.convolve(by_lot, [1 - result.on.mean(), result.on.mean()])
    columns = {"blocks_on": np.arange(blocks + 1, dtype=np.int16), "digits": counts, "share": counts / samples}
    return pd.DataFrame(columns | {"by_lot": by_lot})


def error_by_blocks(result: Conditional, path: Path = SWEEP) -> pd.DataFrame:
    """Share of the test digits that are classified wrongly, against the share of blocks that are on.

    Learned policy, straight-through and uniform block dropout, each at several targets; two dense networks, which have
    every unit on; and `result`, named "shown above". Blocks are sampled, except in the dense networks. `mean`, `lowest`
    and `highest` are over three seeds; `result` has one. Most of the computation is done in the blocks that are on;
    that of the policy itself, a sixteenth of the hidden layer's, comes on top and is not in `on_share`.

    One row per network and target. Columns: network str · target float64 (τ) · on_share float64 (of all blocks; 1 for
    dense networks) · mean, lowest, highest float64 (share of test digits that are classified wrongly) · seeds int64.

    Source: E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015), which compares the same
    kinds of network.
    """
    runs = pd.read_csv(path)
    rows = runs.groupby(["network", "target"], sort=False).agg(
        on_share=("on_share", "mean"),
        mean=("error", "mean"),
        lowest=("error", "min"),
        highest=("error", "max"),
        seeds=("seed", "count"),
    )
    own = {"network": DRAWN_BLOCKS, "target": result.settings["target"], "on_share": result.on_share, "seeds": 1}
    own |= dict.fromkeys(("mean", "lowest", "highest"), result.error)
    return pd.concat([rows.reset_index(), pd.DataFrame([own])], ignore_index=True)


LEARNT, STRAIGHT, UNIFORM = NAMES.values()
COLOURS = {LEARNT: theme.MAIN, STRAIGHT: theme.EXPERT_COLOURS[2], UNIFORM: theme.CHANCE}
SHAPES = {LEARNT: "circle", STRAIGHT: "triangle-up", UNIFORM: "square"}


def block_probability_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Kind of digit by block, coloured by the probability of being on. Columns: those of `blocks_by_digit`."""
    chart = theme.cells(
        frame,
        x=alt.X("block:O", title="block", axis=theme.ids_axis()),
        y=alt.Y("digit:O", title="digit", axis=alt.Axis(labelOverlap=False)),
        color=theme.gradient("probability", "probability of being on", {"domain": [0, 1]}, format="%"),
        tooltip=theme.tooltip(
            digit="d",
            block="d",
            probability=("probability of being on", ".1%"),
            on=("share of these digits with the block on", ".1%"),
            target=("target τ", ".2%"),
        ),
    )
    return theme.framed(chart, theme.MEDIUM, canvas=True)


def blocks_on_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the share of digits by the blocks that are on, and the same at random. Columns: those of `blocks_on`."""
    base = alt.Chart(frame).encode(
        x=alt.X("blocks_on:O", title="blocks on (orange: at random)", axis=theme.ids_axis()),
        tooltip=theme.tooltip(
            blocks_on=("blocks on", "d"), digits=",", share=("share of the digits", ".1%"), by_lot=("at random", ".1%")
        ),
    )
    bars = base.mark_bar(color=theme.MAIN).encode(
        y=alt.Y("share:Q", title="share of the digits", axis=theme.share_axis())
    )
    return theme.framed(bars + theme.ticks(base, "by_lot"), theme.SHORT + 60)


def error_against_blocks_on(frame: pd.DataFrame) -> alt.LayerChart:
    """Error against the share of blocks on, one line per kind of gate. Columns: those of `error_by_blocks`."""
    gated = frame[frame["network"].isin(list(COLOURS))]
    legend = {"columns": 2, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    base = alt.Chart(gated).encode(
        x=_share_of_blocks(), color=theme.colour("network", COLOURS, COLOURS.values(), **legend), tooltip=_tooltip()
    )
    shape = theme.named(alt.Shape, "network", SHAPES, SHAPES.values(), **legend)
    lines = base.mark_line(strokeWidth=2).encode(y=_error("mean"))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=_error("mean"), shape=shape)
    spread = base.mark_rule(strokeWidth=2).encode(y=_error("lowest"), y2="highest:Q")
    ring = theme.points(
        frame[frame["network"] == DRAWN_BLOCKS],
        {"filled": False, "size": 220, "strokeWidth": 2.5, "color": theme.ACCENT, "opacity": 1},
        x=_share_of_blocks(),
        y=_error("mean"),
        tooltip=_tooltip(),
    )
    return theme.framed(alt.layer(*_dense(frame), lines, spread, points, ring), theme.MEDIUM + 40)


def _dense(frame: pd.DataFrame) -> list[alt.LayerChart]:
    """Draw a named dashed line for each dense network: the better one below its line, so that the names do not meet."""
    dense = frame[frame["network"].str.startswith("dense")].sort_values("mean")
    rows = [dense.iloc[[i]][["network", "mean"]] for i in range(len(dense))]
    return [theme.named_reference(row, "mean", row["network"].item(), below=i == 0) for i, row in enumerate(rows)]


def _share_of_blocks() -> alt.X:
    return alt.X("on_share:Q", title="share of blocks on", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1]))


def _error(field: str) -> alt.Y:
    axis = alt.Axis(format="%", values=[0.05, 0.1, 0.2, 0.4, 0.8])
    return alt.Y(
        f"{field}:Q",
        title="share of the test digits classified wrongly",
        scale=alt.Scale(type="log", domainMin=0.04, nice=False),
        axis=axis,
    )


def _tooltip() -> list[alt.Tooltip]:
    return theme.tooltip(
        network="",
        target=("target τ", ".2%"),
        on_share=("share of blocks on", ".1%"),
        mean=("wrong", ".1%"),
        lowest=("best seed", ".1%"),
        highest=("worst seed", ".1%"),
    )


BLOCKS_BY_DIGIT = TEXT.chart(blocks_by_digit, block_probability_heatmap)
BLOCKS_ON = TEXT.chart(blocks_on, blocks_on_bars)
ERROR_BY_BLOCKS = TEXT.chart(error_by_blocks, error_against_blocks_on)


def picture(page: Page, result: Conditional) -> None:
    """Draw the error by the share of blocks that are on."""
    page.chart(ERROR_BY_BLOCKS, result)


def details(page: Page, result: Conditional) -> None:
    """Draw the figures, which digits switch which blocks on, and how many are on."""
    figures = {
        "Blocks on": f"{result.on_share:.1%}",
        "Errors": f"{result.error:.1%}",
        "Blocks on (p > ½)": f"{result.threshold_on_share:.1%}",
        "Errors (p > ½)": f"{result.threshold_error:.1%}",
    }
    page.figures(TEXT.figures(figures, target=f"{result.settings['target']:.1%}"))
    for chart in (BLOCKS_BY_DIGIT, BLOCKS_ON):
        page.chart(chart, result)


WEIGHTS, TARGETS = (0.0, 0.5, 1.0, 2.0), (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
EXHIBIT = Exhibit(
    choices=(
        PageControl("estimator", "Estimator", ESTIMATORS, kind="list", width=150),
        PageControl("target", "Target τ", TARGETS, 1 / 8, width=150, written="{:.3g}".format),
        PageControl("sparsity", "Sparsity λₛ", WEIGHTS, 1.0, width=150),
        PageControl("variance", "Variance λᵥ", WEIGHTS, 1.0, width=150),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=tuple((chart, lambda: (shipped(Conditional),)) for chart in (BLOCKS_BY_DIGIT, BLOCKS_ON, ERROR_BY_BLOCKS)),
)
