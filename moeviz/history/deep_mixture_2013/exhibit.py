"""The exhibit of the deep mixture of 2013: do the gates respond to where a digit is, or to what it is?

L layers, C digits, P places, E experts.

Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), figure 2.
"""

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from moeviz.charts import NAMED, theme
from moeviz.history.deep_mixture_2013.model import (
    EPOCHS,
    LABELS,
    LAYERS,
    MOVES,
    SHIFT,
    DeepMixture,
    moves,
    trace_of,
    train,
)
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, shipped
from moeviz.metrics.words import percent

TEXT = words_beside(__file__)
FACTORS = ("where", "what")


def with_and_without(result: DeepMixture) -> dict[bool, DeepMixture]:
    """Return a run with the constraint and one without it: this one, and its counterpart among those that ship.

    With the default settings, they differ only in the constraint.
    """
    mine = bool(result.settings["constraint"])
    return {mine: result, not mine: shipped(DeepMixture, WITHOUT_BALANCE if mine else SHIPPED)}


def gate_by_factor(result: DeepMixture) -> pd.DataFrame:
    """Return the mean gate of every expert for digits at one place, and for digits of one kind: figure 2 of the paper.

    Averaged over all test digits at all 81 positions, so that every position has the same digits and every digit the
    same positions. For one position, or one digit, the gates of a layer's experts sum to 1.

    One row per layer, expert and position, then one per layer, expert and digit. Columns: layer int32 (1 or 2) · expert
    int16 · factor str (where or what) · right, down int16 (pixels from the middle; 0 for what) · digit int16 (-1 for
    where) · gate float64 · uniform float64 (1 / E).

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), figure 2.
    """
    frames = [
        _rows(gate, layer, factor)
        for factor in FACTORS
        for layer, gate in zip(LAYERS, _means(result)[factor], strict=True)
    ]
    kinds = {"layer": np.int32} | dict.fromkeys(("expert", "right", "down", "digit"), np.int16)
    return pd.concat(frames, ignore_index=True).astype({**kinds, "factor": "str"})


def factor_information(result: DeepMixture) -> pd.DataFrame:
    """Return the information that each layer's gates give about where a digit is, and what it is, from 0 to 1.

    Draw a test digit, a position for it, and then an expert with the probabilities that the gate gives. `information`
    is the mutual information of the expert and the factor (the 81 positions, or the 10 digits): the entropy of the mean
    gate minus the mean entropy of the mean gates by position or digit, as a share of ln E, the entropy of a uniform
    gate. It is computed from mean gates, so whatever a gate does for other reasons does not count.

    One row per layer and factor. Columns: layer int32 · factor str (where or what) · information float64 (from 0 to 1).

    Source: Shannon (1948), section 12, of the mean gates in figure 2 of Eigen, Ranzato & Sutskever, arXiv 1312.4314
    (2013). The paper shows the figure but prints no such number.
    """
    weights = {"where": np.full(result.mean_gate.shape[2], 1.0), "what": result.digits_of_kind}
    rows = [
        (layer, factor, information(gate, weights[factor]))
        for factor, gates in _means(result).items()
        for layer, gate in zip(LAYERS, gates, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "factor", "information"])
    return frame.astype({"layer": np.int32, "factor": "str"}).sort_values("layer", kind="stable", ignore_index=True)


def shares(result: DeepMixture) -> Float64[np.ndarray, "L E"]:
    """Return each expert's share of its layer after training: the mean gate over all test digits at all positions."""
    return _means(result)["where"].mean(axis=1)


def share_by_epoch(result: DeepMixture) -> pd.DataFrame:
    """Return the division of work among each layer's experts: the mean gate over the training digits of each epoch.

    `lead` is how far an expert's running total is ahead of the mean of its layer at the end of the epoch, which is what
    the constraint limits: the sum of its gate over all samples so far, minus that mean.

    One row per epoch, layer and expert. Columns: epoch int32 (from 1) · layer int32 (1 or 2) · expert int16 · share
    float64 (sums to 1 in a layer) · uniform float64 (1 / E) · lead float64 (samples) · bound bool (True if the
    constraint held in that epoch).

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), whose constraint is on running totals of the gate.
    """
    share = result.shares.astype(np.float64)
    totals = result.samples * share.cumsum(axis=0)
    epoch, layer, expert = np.indices(share.shape).reshape(3, -1)
    columns = {
        "epoch": (epoch + 1).astype(np.int32),
        "layer": np.asarray(LAYERS, np.int32)[layer],
        "expert": expert.astype(np.int16),
        "share": share.ravel(),
        "uniform": 1 / share.shape[2],
        "lead": (totals - totals.mean(axis=2, keepdims=True)).ravel(),
        "bound": epoch < result.bound,
    }
    return pd.DataFrame(columns)


def information(gate: Float[np.ndarray, "K E"], weight: np.ndarray) -> float:
    """Mutual information of expert and factor in parts of ln E, from the mean gate by value and each value's weight."""
    weight = np.asarray(weight, np.float64) / np.sum(weight)
    mean = weight[None] @ gate
    apart = _entropy(mean)[0] - weight @ _entropy(gate)
    return float(max(apart, 0.0) / np.log(gate.shape[1]))


def _means(result: DeepMixture) -> dict[str, np.ndarray]:
    """Return the mean gate by place, (L, P, E), and by digit, (L, C, E)."""
    gate = result.mean_gate.astype(np.float64)
    share = result.digits_of_kind / result.digits_of_kind.sum()
    return {"where": np.einsum("lcpe,c->lpe", gate, share), "what": gate.mean(axis=2)}


def _rows(gate: np.ndarray, layer: int, factor: str) -> pd.DataFrame:
    value, expert = np.indices(gate.shape).reshape(2, -1)
    right, down, digit = (*moves(value), -1) if factor == "where" else (0, 0, value)
    columns = {"layer": layer, "expert": expert, "factor": factor, "right": right, "down": down, "digit": digit}
    return pd.DataFrame(columns | {"gate": gate.ravel(), "uniform": 1 / gate.shape[1]})


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)


# One panel an expert, in units of a pixel that a digit may be moved: the names of layer and expert, the 9 × 9 places
# and below them the ten digits in two rows of five. All panels lie on one plane: facets do not grow with the page.
LAYER_NAME, NAMES, GAP, BESIDE, BELOW = 1.6, 3.2, 0.5, 1.2, 1.0
COLUMNS, DIGIT_COLUMNS, DIGIT_HEIGHT = 4, 5, 2.2
DIGIT_WIDTH = MOVES / DIGIT_COLUMNS
DIGITS_TOP = NAMES + MOVES + GAP
PANEL = DIGITS_TOP + 2 * DIGIT_HEIGHT + BELOW
SEAMLESS = 1.1  # of a place: each covers the edge of the next, or the page shows between them
UNIT = 8.5  # pixels, to the right as well as down: places are square on any page, and four panels fit a phone


def gates_by_place_and_digit(frame: pd.DataFrame) -> alt.LayerChart:
    """One panel per expert: its mean gate by position, and by digit below. Columns: those of `gate_by_factor`."""
    cells = _cells(frame)
    panels = cells.drop_duplicates(["layer", "expert"])
    rows = int(panels["row"].max()) + 1
    width = (MOVES + BESIDE) * min(COLUMNS, panels["expert"].nunique()) - BESIDE
    across = {"scale": alt.Scale(domain=[0, width], nice=False), "axis": None}
    along = {"scale": alt.Scale(domain=[PANEL * rows - BELOW, 0], nice=False), "axis": None}
    where, what = (cells[cells["factor"] == factor] for factor in FACTORS)
    legend = {"titleLimit": 300, "format": "%"}
    colour = theme.gradient("of_layer", "of its layer's highest gate", {"domainMin": 0}, **legend)
    place = {"x": alt.X("x:Q", **across), "x2": "x2:Q", "y": alt.Y("y:Q", **along), "y2": "y2:Q", "color": colour}
    in_middle = {"x": alt.X("middle:Q", **across), "y": alt.Y("centre:Q", **along)}
    picture = alt.layer(
        theme.cells(where, **place, tooltip=_tooltip("right", "down")),
        theme.cells(what, **place, tooltip=_tooltip("digit")),
        alt.Chart(what).mark_text(fontSize=11).encode(**in_middle, text="digit:Q", color=theme.ink_on("of_layer")),
        _names(panels, "expert", "under_expert", across, along),
        _names(panels.drop_duplicates("layer"), "layer", "under_layer", across, along),
    )
    height = round(UNIT * (PANEL * rows - BELOW))
    size = {"width": round(UNIT * width), "autosize": alt.AutoSizeParams(type="pad")}  # the legend is next to it
    return theme.framed(picture, height, canvas=True).properties(**size)


def _names(panels: pd.DataFrame, field: str, under: str, across: dict, along: dict) -> alt.Chart:
    words = panels.assign(words=field + " " + panels[field].astype(str))
    return (
        alt.Chart(words)
        .mark_text(fontSize=11, color=theme.NOTE, align="left", baseline="bottom", dy=-2)
        .encode(x=alt.X("left:Q", **across), y=alt.Y(f"{under}:Q", **along), text="words:N")
    )


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Place each cell on the plane of all panels: four experts side by side, layer 1 above layer 2."""
    rows_of_layer = int(frame["expert"].max()) // COLUMNS + 1
    row = (frame["layer"] - frame["layer"].min()) * rows_of_layer + frame["expert"] // COLUMNS
    left, top = frame["expert"] % COLUMNS * (MOVES + BESIDE), row * PANEL
    is_place = frame["factor"] == FACTORS[0]
    x = np.where(is_place, frame["right"] + SHIFT, frame["digit"] % DIGIT_COLUMNS * DIGIT_WIDTH)
    y = np.where(is_place, NAMES + frame["down"] + SHIFT, DIGITS_TOP + frame["digit"] // DIGIT_COLUMNS * DIGIT_HEIGHT)
    width, height = np.where(is_place, SEAMLESS, DIGIT_WIDTH), np.where(is_place, SEAMLESS, DIGIT_HEIGHT)
    x, y = x + left, y + top
    places = {"x": x, "x2": x + width, "y": y, "y2": y + height, "middle": x + width / 2, "centre": y + height / 2}
    tops = {"row": row, "left": left, "under_layer": top + LAYER_NAME, "under_expert": top + NAMES}
    of_layer = frame["gate"] / frame.groupby("layer")["gate"].transform("max")
    return theme.compact(frame.assign(of_layer=of_layer, **tops, **places))


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    titles = {"right": "pixels to the right", "down": "pixels down", "digit": "digit"}
    return [
        *theme.tooltip(layer="d", expert="d", **{field: (titles[field], "d") for field in fields}),
        *theme.figures(".3f", gate="mean gate", uniform="uniform share"),
    ]


def information_bars(frame: pd.DataFrame) -> alt.Chart:
    """Bars of the gates' information about where and what, by layer. Columns: those of `factor_information`."""
    bars = theme.bars(
        frame,
        x=theme.layer_axis(),
        xOffset=alt.XOffset("factor:N", sort=list(FACTORS)),
        y=alt.Y("information:Q", title="information / ln E"),
        color=theme.colour("factor", FACTORS, theme.PAIR),
        tooltip=theme.tooltip(layer="d", factor="", information=("information / ln E", ".3f")),
    )
    return theme.framed(bars, theme.MEDIUM)


def shares_over_epochs(frame: pd.DataFrame) -> alt.LayerChart:
    """Each expert's share, a line per expert, solid in layer 1 and dashed in 2. Columns: those of `share_by_epoch`."""
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    stroke = {"title": "layer", "symbolType": "stroke", "symbolStrokeColor": theme.NOTE}
    lines = theme.lines(
        frame,
        {"interpolate": "linear"},
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False)),
        y=alt.Y("share:Q", title="mean gate (orange: uniform share)", axis=theme.share_axis()),
        color=theme.colour("expert", experts, theme.expert_colours(len(experts)), title="expert"),
        strokeDash=theme.named(alt.StrokeDash, "layer", layers, theme.SOLID_AND_DASHED, **stroke),
        tooltip=theme.tooltip(
            epoch="d", layer="d", expert="d", share=("mean gate", ".1%"), uniform=("uniform share", ".1%")
        ),
    )
    even = theme.reference(frame[["uniform"]].head(1), "uniform")
    return theme.framed(alt.layer(lines, even, *_constraint_line(frame)), theme.MEDIUM)


def _constraint_line(frame: pd.DataFrame) -> list[alt.Chart]:
    """Draw a line before the first epoch without the constraint, if there was one with it."""
    if not frame["bound"].any() or frame["bound"].all():
        return []
    at = alt.Chart(pd.DataFrame({"epoch": [frame.loc[frame["bound"], "epoch"].max() + 0.5]})).encode(x="epoch:Q")
    words = {"text": "constraint lifted", "align": "right", "baseline": "bottom", "dx": -4, "dy": -4}
    return [at.mark_rule(color=theme.NOTE), at.mark_text(color=theme.NOTE, **words).encode(y=alt.value("height"))]


GATES_BY_PLACE_AND_DIGIT = TEXT.chart(gate_by_factor, gates_by_place_and_digit)
FACTOR_INFORMATION = TEXT.chart(factor_information, information_bars)
SHARE_BY_EPOCH = TEXT.chart(share_by_epoch, shares_over_epochs)


def picture(page: Page, result: DeepMixture) -> None:
    """Draw the gates with and without the constraint: this run, and its counterpart that ships."""
    both = with_and_without(result)
    most = {held: percent(shares(run).max()) for held, run in both.items()}
    page.compare(
        GATES_BY_PLACE_AND_DIGIT,
        {"With the constraint": both[True], "Without the constraint": both[False]},
        result,
        f"The busiest expert of a layer has {most[True]} of the gate with the constraint, and {most[False]} without "
        "it.",
    )


def details(page: Page, result: DeepMixture) -> None:
    """Draw the error, what the gates know, how shares grow, and who wins the digits or their places."""
    page.figures(TEXT.figures({"Errors": f"{result.error:.1%}"}))
    for chart in (FACTOR_INFORMATION, SHARE_BY_EPOCH):
        page.chart(chart, result)
    with page.row():
        label = page.choose(PageControl("label", "Label", LABELS, kind="buttons"))
        layer = page.choose(PageControl("layer", "Layer", LAYERS, 2, kind="buttons"))
    winners = trace_of(result, label, slots=1).select(layers=[layer])
    page.chart(LOAD_BY_LABEL, winners, model=winners.model)


EXHIBIT = Exhibit(
    choices=(
        PageControl("experts", "Experts per layer", (2, 4, 8), 4, width=160),
        PageControl("epochs", "Epochs", (14, 28, EPOCHS), EPOCHS, width=160),
        PageControl("constraint", "Balance constraint", default=True, kind="toggle"),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=tuple(
        (chart, lambda: (shipped(DeepMixture),))
        for chart in (GATES_BY_PLACE_AND_DIGIT, FACTOR_INFORMATION, SHARE_BY_EPOCH)
    ),
    trace_charts=(NAMED["flow_ribbons"],),
)
