"""What each chart of a run says of its numbers, in one computed sentence; nothing where there is nothing to say.

Names of runs are a stranger's: a sentence is for a text node, never for HTML or Markdown.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from moeviz.metrics.said_of_experts import said_of_importance
from moeviz.metrics.tokens import visible
from moeviz.text import with_and
from moeviz.training.recorded.run import ALIVE, runs_of

LONGEST_NAME = 40


def said_of_run(key: str, frame: pd.DataFrame) -> str | None:
    """The sentence of the chart with this key on the numbers that it draws; None where there is none."""
    return SAID[key](frame) if key in SAID and len(frame) else None


def said_of_lacking(key: str, frame: pd.DataFrame) -> str | None:
    """Which of several runs the chart with this key cannot draw, since it lacks what is drawn; None if it draws all."""
    columns, what = NEEDED[key]
    names, drawn = runs_of(frame), {*frame.loc[frame[columns].notna().any(axis=1), "run"]}
    lacking = [name for name in names if name not in drawn]
    if not lacking or not drawn:
        return None
    rest = with_and([_quoted(name) for name in names if name in drawn])
    return f"{with_and([*map(_quoted, lacking)])} has {what}: only {rest} is drawn."


def _load(frame: pd.DataFrame) -> str | None:
    over = "tokens" if "tokens" in frame else "step"
    end = frame[(frame[over] == frame[over].max()) & frame["times_even"].notna()]
    if end.empty:
        return None
    busiest = end.loc[end["times_even"].idxmax()]
    dead = end[end["dead_since"] != ALIVE]
    sentence = f"At the end, expert {busiest['expert']:.0f} has {busiest['times_even']:.1f} times its uniform share"
    if len(dead) == 1:
        first = dead.iloc[0]
        return f"{sentence}, and expert {first['expert']:.0f} has been dead since step {first['dead_since']:,.0f}."
    if len(dead):
        first = dead["dead_since"].min()
        return f"{sentence}, and {len(dead)} of {len(end)} experts are dead, the first of them since step {first:,.0f}."
    return f"{sentence}, and none is dead."


def _violation(frame: pd.DataFrame) -> str | None:
    parts = []
    for name, last in _ends(frame[frame["worst"].notna()]):
        where = f"layer {last['worst_layer']:.0f}" if last["worst_layer"] >= 0 else "a layer"
        luck = "" if pd.isna(last["chance"]) else f", where luck alone gives {last['chance']:.2f}"
        parts.append(f"{name}the worst is {where}, at a MaxVio of {last['worst']:.2f}{luck}")
    return _at_the_end(parts)


def _effective(frame: pd.DataFrame) -> str | None:
    known = frame[frame["fewest"].notna()]
    return _at_the_end(
        [
            f"{name}layer {last['fewest_layer']:.0f} works with {last['fewest']:.0%} of its experts in effect"
            for name, last in _ends(known)
        ]
    )


def _loss(frame: pd.DataFrame) -> str | None:
    return _at_the_end([f"{name}the loss is {last['loss']:.3f}" for name, last in _ends(frame[frame["loss"].notna()])])


def _aux(frame: pd.DataFrame) -> str | None:
    parts = []
    for name, last in _ends(frame):
        if pd.isna(last["aux_loss"]):
            parts.append(f"{name}no aux loss is computed")
        else:
            factor = last["aux_coefficient"]
            how = "" if pd.isna(factor) else f", and its coefficient is {factor:g}"
            parts.append(f"{name}the model's aux loss is {last['aux_loss']:.3g}{how}")
    return _at_the_end(parts)


def _logits(frame: pd.DataFrame) -> str | None:
    z_loss = frame[frame["figure"] == "z-loss"]
    first = dict(_ends(z_loss, 0))
    return _at_the_end(
        [
            f"{name}the z-loss of the worst layer is {last['worst']:.3g}, after {first[name]['worst']:.3g} at first"
            for name, last in _ends(z_loss)
        ]
    )


def _change(frame: pd.DataFrame) -> str | None:
    return _at_the_end(
        [
            f"{name}{last['mean']:.0%} of the choices changed since the snapshot before, most in layer "
            f"{last['most_layer']:.0f}: {last['most']:.0%}"
            for name, last in _ends(frame)
        ]
    )


def _gradients(frame: pd.DataFrame) -> str | None:
    over = "tokens" if "tokens" in frame else "step"
    end = frame[frame[over] == frame[over].max()]
    least, most = (end.loc[getattr(end["router_grad_norm"], name)()] for name in ("idxmin", "idxmax"))
    if len(end) < 2 or not most["router_grad_norm"] > 0:
        return None
    share = least["router_grad_norm"] / most["router_grad_norm"]
    return (
        f"At the end, the router of layer {least['layer']:.0f} has the smallest gradient: {share:.1%} of that of layer "
        f"{most['layer']:.0f}, the largest."
    )


def _ends(frame: pd.DataFrame, row: int = -1) -> Iterator[tuple[str, pd.Series]]:
    """The last row of each run, or its first with 0, and how the part of a sentence about it begins."""
    over = "tokens" if "tokens" in frame else "step"
    names = runs_of(frame)
    for name in names:
        rows = frame[frame["run"] == name].sort_values(over)
        if len(rows):
            yield f"in {_quoted(name)} " if len(names) > 1 else "", rows.iloc[row]


def _quoted(name: str) -> str:
    return f"“{visible(name)[:LONGEST_NAME]}”"


def _at_the_end(parts: list[str]) -> str | None:
    return f"At the end, {'; '.join(parts)}." if parts else None


SAID: dict[str, Callable[[pd.DataFrame], str | None]] = {
    "expert_steps_heatmap": _load,
    "violation_curve": _violation,
    "effective_experts_curve": _effective,
    "loss_curve": _loss,
    "aux_loss_curve": _aux,
    "z_loss_curve": _logits,
    "probe_change_curve": _change,
    "router_gradient_heatmap": _gradients,
    "trusted_and_used": said_of_importance,
}
# The columns that a chart of several runs draws, and what a run has in which they are empty.
NEEDED: dict[str, tuple[list[str], str]] = {
    "violation_curve": (["worst"], "no figures of its layers"),
    "effective_experts_curve": (["fewest"], "no counts of its experts"),
    "loss_curve": (["loss"], "no loss"),
    "aux_loss_curve": (["aux_worst", "aux_loss"], "no aux loss"),
    "z_loss_curve": (["worst"], "no figures of its logits"),
    "probe_change_curve": (["mean"], "fewer than two snapshots of a probe set"),
}
