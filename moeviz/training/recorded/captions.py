"""Sentences about runs: the caption of each chart, None where there is nothing to say; and whether a router is healthy.

Names of runs are a stranger's: a sentence is for a text node, never for HTML or Markdown.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from moeviz.metrics.balance import times_said
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent
from moeviz.text import listed, with_and
from moeviz.training.recorded.over_steps import counts_at_end
from moeviz.training.recorded.run import (
    ALIVE,
    SNAPSHOTS,
    WHOLE_RUN,
    TrainingRun,
    chance_violation,
    max_violation,
    runs_of,
)

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


STARVED = 1 / 20  # of a uniform share
LIGHTS = ("green", "amber", "red", "grey")


class Verdict(NamedTuple):
    """A light with an answer, and what the answer is beside: luck, or who else gets nothing."""

    light: str  # of LIGHTS; grey where nothing can be said
    answer: str
    beside: str


class Busiest(NamedTuple):
    """The busiest expert of the layer whose busiest has most."""

    layer: int
    expert: int
    times: float
    luck: float


def router_verdict(run: TrainingRun) -> Verdict:
    """Say whether the router is healthy at the last log: a collapse or a dead expert first, then what is uneven.

    Shares are of the last logs, so many that a uniform share is 1,000 assignments. What is on, and since when, is what
    the alarms say. Names and sentences in a run are a stranger's: for text nodes alone.
    """
    if not len(run.logs) or run.alarms_on is None or run.facts.source != "moeviz":
        return Verdict("amber" if run.alarms_on else "grey", quiet_caption(run), "")
    on = run.alarms[run.alarms["on"]]
    by_kind = {kind: rows.sort_values(["began", "layer"]) for kind, rows in on.groupby("kind")}
    if (collapse := by_kind.get("collapse")) is not None:
        return _collapsed(run, collapse.iloc[0])
    if (dead := by_kind.get("dead")) is not None:
        return Verdict("red", f"No, since step {dead['began'].iloc[0]:,}: {_said(dead.iloc[0])}.", _rest(len(dead) - 1))
    busiest = _busiest(run)
    if (load := by_kind.get("load")) is not None:
        since = f"Not quite, since step {load['began'].iloc[0]:,}"
        return Verdict("amber", f"{since}: {_said(load.iloc[0])}.", _luck(busiest))
    others = on[~on["kind"].isin(["aux_off"])]
    if len(others):
        row = others.sort_values(["began", "layer"]).iloc[0]
        return Verdict("amber", f"Not quite, since step {row['began']:,}: {_said(row)}.", _rest(len(others) - 1))
    if 0 < run.facts.rules.warmup >= run.logs["tokens"].iloc[-1]:
        return Verdict("grey", quiet_caption(run), "")
    if busiest is None or _choices(run) < run.facts.rules.enough:
        return _early(run)
    last, over = int(run.logs["step"].iloc[-1]), len(run.alarms) - len(on)
    was = "" if not over else " One alarm is over." if over == 1 else f" {over:,} alarms are over."
    whose = f"The busiest, expert {busiest.expert} of layer {busiest.layer}"
    who = f"{whose}, has {times_said(busiest.times)} times its share."
    if len(on):
        return Verdict("amber", f"So far, but nothing keeps the load even: the aux loss is off. {who}", _luck(busiest))
    return Verdict("green", f"Yes: no alarm is on at step {last:,}.{was} {who}", _luck(busiest))


def _collapsed(run: TrainingRun, alarm: pd.Series) -> Verdict:
    """Who does the work in that layer, and who nearly none."""
    since, layer = f"No, since step {alarm['began']:,}", int(alarm["layer"])
    if run.counts is None or layer not in run.facts.layers or run.facts.top_k is None:
        return Verdict("red", f"{since}: {_said(alarm)}.", "")
    row, k = run.facts.layers.index(layer), run.facts.top_k
    counts = counts_at_end(run)[row, : run.facts.num_experts[row]]
    if not counts.sum():
        return Verdict("red", f"{since}: {_said(alarm)}.", "")
    few = np.argsort(-counts, kind="stable")[:k]
    share = percent(counts[few].sum() / counts.sum())
    names = f"experts {listed(sorted(few.tolist()), 8)}" if k > 1 else f"expert {few[0]}"
    does = f"in layer {layer}, {names} of {len(counts)} {'do' if k > 1 else 'does'} {share} of the work"
    rest = np.delete(counts, few)
    starved = rest[rest < STARVED * counts.sum() / len(counts)]
    if not len(starved):
        return Verdict("red", f"{since}: {does}.", "")
    get = "1 gets" if len(starved) == 1 else f"{len(starved):,} get"
    beside = (
        f"Of the other {len(rest):,}, {get} less than a twentieth of a uniform share: {starved.sum():,} of the last "
    )
    return Verdict("red", f"{since}: {does}.", f"{beside}{counts.sum():,} assignments.")


def _early(run: TrainingRun) -> Verdict:
    known = _choices(run)
    if not known:
        return Verdict("grey", quiet_caption(run), "")
    enough = f"the load is judged from {run.facts.rules.enough:,} on"
    takes = f"A uniform share is {known:,.0f} assignments so far, and {enough}."
    return Verdict("grey", "Too early to say.", takes)


def _choices(run: TrainingRun) -> float:
    """Assignments of a uniform share, of all logs, in the layer with the fewest."""
    if run.counts is None or not run.facts.layers:
        return 0.0
    sums = np.maximum(run.counts, 0).sum(axis=(0, 2), dtype=np.float64)
    return float((sums / np.maximum(np.array(run.facts.num_experts), 1)).min())


def _busiest(run: TrainingRun) -> Busiest | None:
    """Of the last logs; None where nothing was assigned."""
    if run.counts is None or not run.facts.layers:
        return None
    counts = counts_at_end(run)
    most = np.array([max_violation(of, size) for of, size in zip(counts, run.facts.num_experts, strict=True)])
    if np.isnan(most).all():
        return None
    row = int(np.nanargmax(most))
    luck = chance_violation(np.array(counts[row].sum()), run.facts.num_experts[row], run.facts.top_k)
    return Busiest(run.facts.layers[row], int(counts[row].argmax()), float(most[row]) + 1, float(luck) + 1)


def _luck(busiest: Busiest | None) -> str:
    return "" if busiest is None else f"Luck alone would give the busiest {busiest.luck:.2f} times its share."


def _rest(more: int) -> str:
    return "" if more < 1 else "One more alarm like it is on." if more == 1 else f"{more:,} more alarms like it are on."


def _said(alarm: pd.Series) -> str:
    """An alarm in its own words, without its step and its cause."""
    text = re.sub(r"^step [\d,]+: ", "", visible(str(alarm["says"])).partition("; ")[0].rstrip("."))
    where, rest = f"at layer {alarm['layer']}, ", text.removeprefix(f"layer {alarm['layer']}: ")
    return rest if alarm["layer"] == WHOLE_RUN else where + rest
