"""Captions of the charts of runs: one computed sentence each, or None where there is nothing to say.

Names of runs are a stranger's: a sentence is for a text node, never for HTML or Markdown.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from moeviz.metrics.tokens import visible
from moeviz.text import with_and
from moeviz.training.recorded.run import ALIVE, SNAPSHOTS, TrainingRun, runs_of

LONGEST_NAME = 40


def lacking_caption(frame: pd.DataFrame, columns: Sequence[str], lacks: str) -> str | None:
    """Name the runs that a chart of several runs cannot draw: those in which these columns are empty.

    None if it draws all of them, or none.
    """
    names, drawn = runs_of(frame), {*frame.loc[frame[list(columns)].notna().any(axis=1), "run"]}
    lacking = [name for name in names if name not in drawn]
    if not lacking or not drawn:
        return None
    rest = with_and([_quoted(name) for name in names if name in drawn])
    return f"{with_and([*map(_quoted, lacking)])} has {lacks}: only {rest} is drawn."


def load_over_steps_caption(frame: pd.DataFrame) -> str | None:
    """Name the busiest expert at the end, and say how many are dead. Columns: those of `load_over_steps`."""
    over = "tokens" if "tokens" in frame else "step"
    end = frame[(frame[over] == frame[over].max()) & frame["times_even"].notna()]
    if end.empty:
        return None
    busiest = end.loc[end["times_even"].idxmax()]
    dead = end[end["dead_since"] != ALIVE]
    was = frame.loc[(frame["dead_since"] != ALIVE) & ~frame["expert"].isin(dead["expert"]), ["expert", "dead_since"]]
    sentence = f"At the end, expert {busiest['expert']:.0f} has {busiest['times_even']:.1f} times its uniform share"
    if len(dead) == 1:
        first = dead.iloc[0]
        return f"{sentence}, and expert {first['expert']:.0f} has been dead since step {first['dead_since']:,.0f}."
    if len(dead):
        first = dead["dead_since"].min()
        return f"{sentence}, and {len(dead)} of {len(end)} experts are dead, the first of them since step {first:,.0f}."
    if len(once := was["expert"].unique()) == 1:
        back = f"expert {once[0]:.0f}, which had no token from step {was['dead_since'].min():,.0f} on, has some again"
        return f"{sentence}, and none is dead: {back}."
    if len(once):
        return f"{sentence}, and none is dead: {len(once)} experts without a token before have some again."
    return f"{sentence}, and none is dead."


def violation_caption(frame: pd.DataFrame) -> str | None:
    """Name the worst layer of each run at the end, and its MaxVio. Columns: those of `balance_over_steps`."""
    parts = []
    for name, last in _ends(frame[frame["worst"].notna()]):
        where = f"layer {last['worst_layer']:.0f}" if last["worst_layer"] >= 0 else "a layer"
        luck = "" if pd.isna(last["chance"]) else f", where luck alone gives {last['chance']:.2f}"
        parts.append(f"{name}the worst is {where}, at a MaxVio of {last['worst']:.2f}{luck}")
    return _at_the_end(parts)


def effective_experts_caption(frame: pd.DataFrame) -> str | None:
    """Name the layer that uses the fewest experts in effect. Columns: those of `balance_over_steps`."""
    known = frame[frame["fewest"].notna()]
    return _at_the_end(
        [
            f"{name}layer {last['fewest_layer']:.0f} works with {last['fewest']:.0%} of its experts in effect"
            for name, last in _ends(known)
        ]
    )


def loss_caption(frame: pd.DataFrame) -> str | None:
    """Say the last loss of each run, without its aux loss where that is known. Columns: those of `loss_over_steps`."""
    parts = []
    for name, last in _ends(frame[frame["loss"].notna()]):
        logged, without = last["loss"], last["without_aux"]
        if pd.isna(without):
            parts.append(f"{name}the loss as it was logged is {logged:.3f}")
        else:
            beside = "" if logged == without else f" without the aux loss, and {logged:.3f} with it"
            parts.append(f"{name}the loss is {without:.3f}{beside}")
    return _at_the_end(parts)


def aux_loss_caption(frame: pd.DataFrame) -> str | None:
    """Say the last aux loss of each run, and its coefficient. Columns: those of `aux_over_steps`."""
    parts = []
    for name, last in _ends(frame):
        if pd.isna(last["aux_loss"]):
            parts.append(f"{name}no aux loss is computed")
        else:
            factor = last["aux_coefficient"]
            how = "" if pd.isna(factor) else f", and its coefficient is {factor:g}"
            parts.append(f"{name}the model's aux loss is {last['aux_loss']:.3g}{how}")
    return _at_the_end(parts)


def logits_caption(frame: pd.DataFrame) -> str | None:
    """Compare the z-loss at the end with that at first. Columns: those of `logits_over_steps`."""
    z_loss = frame[frame["figure"] == "z-loss"]
    first = dict(_ends(z_loss, 0))
    return _at_the_end(
        [
            f"{name}the z-loss of the worst layer is {last['worst']:.3g}, after {first[name]['worst']:.3g} at first"
            for name, last in _ends(z_loss)
        ]
    )


def change_caption(frame: pd.DataFrame) -> str | None:
    """Say how many choices changed since the snapshot before. Columns: those of `change_over_steps`."""
    return _at_the_end(
        [
            f"{name}{last['mean']:.0%} of the choices changed since the snapshot before, most in layer "
            f"{last['most_layer']:.0f}: {last['most']:.0%}"
            for name, last in _ends(frame)
        ]
    )


def gradients_caption(frame: pd.DataFrame) -> str | None:
    """Name the router with the smallest gradient at the end. Columns: those of `gradients_over_steps`."""
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


def quiet_caption(run: TrainingRun) -> str:
    """Say how many alarms are on in a run of which none can be named."""
    if run.facts.source == SNAPSHOTS:
        return "Snapshots alone have no alarms: see when the routing settled."
    if run.alarms_on is None:
        return "This source has no alarms: moeviz judges runs that it watched itself."
    if not len(run.logs):
        return "Nothing has been logged yet, so nothing can be said."
    last, warmup = run.logs.iloc[-1], run.facts.rules.warmup
    if run.alarms_on:
        number = "One alarm is" if run.alarms_on == 1 else f"{run.alarms_on:,} alarms are"
        where = "and this source does not say which: open the folder of the run"
        return f"{number} on at step {last['step']:,.0f}, {where}."
    if 0 < warmup >= last["tokens"]:
        return f"No expert is dead at step {last['step']:,.0f}. The other alarms begin after {warmup:,} tokens."
    return f"No alarm is on at step {last['step']:,.0f}."
