"""Is the router healthy? One sentence about a run as it stands, and what it is beside; the alarms stand under it."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from moeviz.metrics.balance import times_said
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent
from moeviz.text import listed
from moeviz.training.recorded.bins import chance_violation, max_violation
from moeviz.training.recorded.captions import quiet_caption
from moeviz.training.recorded.over_steps import counts_at_end
from moeviz.training.recorded.run import WHOLE_RUN, TrainingRun

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
