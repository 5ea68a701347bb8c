"""Claims about runs: the caption of each chart, None if nothing can be claimed; and whether a router is healthy.

Names of runs are a stranger's: a claim is for a text node, never for HTML or Markdown.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.metrics.tokens import visible
from moeviz.training.recorded import captions
from moeviz.training.recorded.over_steps import counts_at_end
from moeviz.training.recorded.run import (
    ALIVE,
    SNAPSHOTS,
    WHOLE_RUN,
    TrainingRun,
    axis_of,
    chance_violation,
    max_violation,
    runs_of,
)

Words = Callable[[Any], Claim]


def lacking_caption(frame: pd.DataFrame, columns: Sequence[str], lacks: str) -> Claim | None:
    """Claim which runs a chart of several runs cannot draw: those in which these columns are empty.

    None if it draws all of them, or none.
    """
    names, drawn = runs_of(frame), {*frame.loc[frame[list(columns)].notna().any(axis=1), "run"]}
    lacking = tuple(name for name in names if name not in drawn)
    if not lacking or not drawn:
        return None
    return captions.not_drawn(lacking, tuple(name for name in names if name in drawn), lacks)


def load_over_steps_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which expert is the busiest at the end, and how many are dead. Columns: those of `load_over_steps`."""
    over = axis_of(frame)
    end = frame[(frame[over] == frame[over].max()) & frame["times_uniform"].notna()]
    if end.empty:
        return None
    busiest = end.loc[end["times_uniform"].idxmax()]
    dead = end[end["dead_since"] != ALIVE].sort_values("dead_since", kind="stable")
    was = frame.loc[(frame["dead_since"] != ALIVE) & ~frame["expert"].isin(dead["expert"]), ["expert", "dead_since"]]
    was = was.sort_values("dead_since", kind="stable")
    dead_or_back = (
        captions.Stretch(rows["expert"].nunique(), int(rows["expert"].iloc[0]), float(rows["dead_since"].iloc[0]))
        if len(rows)
        else None
        for rows in (dead, was)
    )
    return captions.load_at_end(int(busiest["expert"]), busiest["times_uniform"], len(end), *dead_or_back)


def violation_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer of each run is the worst at the end. Columns: those of `balance_over_steps`."""
    return _at_the_end(
        captions.violation_at_end,
        frame[frame["worst"].notna()],
        lambda last: (
            int(last["worst_layer"]) if last["worst_layer"] >= 0 else None,
            last["worst"],
            _none_if_nan(last["chance"]),
        ),
    )


def effective_experts_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer uses the fewest experts in effect. Columns: those of `balance_over_steps`."""
    known = frame[frame["fewest"].notna()]
    of = captions.fewest_experts_at_end
    return _at_the_end(of, known, lambda last: (int(last["fewest_layer"]), last["fewest"]))


def loss_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim the last loss of each run, without its aux loss if that is known. Columns: those of `loss_over_steps`."""
    known = frame[frame["loss"].notna()]
    return _at_the_end(captions.loss_at_end, known, lambda last: (last["loss"], _none_if_nan(last["without_aux"])))


def aux_loss_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim the last aux loss of each run, and its coefficient. Columns: those of `aux_over_steps`."""
    names = "aux_loss", "aux_coefficient"
    return _at_the_end(captions.aux_loss_at_end, frame, lambda last: tuple(_none_if_nan(last[name]) for name in names))


def logits_caption(frame: pd.DataFrame) -> Claim | None:
    """Compare the z-loss at the end with that at first. Columns: those of `logits_over_steps`."""
    z_loss = frame[frame["figure"] == "z-loss"]
    over = axis_of(frame)
    first = z_loss.sort_values(over).groupby("run")["worst"].first()
    return _at_the_end(captions.z_loss_at_end, z_loss, lambda last: (last["worst"], float(first[last["run"]])))


def change_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim how many choices changed since the snapshot before. Columns: those of `change_over_steps`."""
    of = captions.change_at_end
    return _at_the_end(of, frame, lambda last: (last["mean"], int(last["most_layer"]), last["most"]))


def gradients_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which router has the smallest gradient at the end. Columns: those of `gradients_over_steps`."""
    over = axis_of(frame)
    end = frame[frame[over] == frame[over].max()]
    least, most = (end.loc[getattr(end["router_grad_norm"], name)()] for name in ("idxmin", "idxmax"))
    if len(end) < 2 or not most["router_grad_norm"] > 0:
        return None
    share = least["router_grad_norm"] / most["router_grad_norm"]
    return captions.smallest_gradient(int(least["layer"]), share, int(most["layer"]))


def _at_the_end(words: Words, frame: pd.DataFrame, values: Callable[[pd.Series], tuple[Any, ...]]) -> Claim | None:
    """Claim values of the last row of each run; None without rows."""
    over = axis_of(frame)
    names = runs_of(frame)
    ends = {name: frame[frame["run"] == name].sort_values(over) for name in names}
    found = tuple((name if len(names) > 1 else None, values(rows.iloc[-1])) for name, rows in ends.items() if len(rows))
    return words(found) if found else None


def _none_if_nan(figure: float) -> float | None:
    return None if pd.isna(figure) else float(figure)


def quiet_caption(run: TrainingRun) -> Claim:
    """Claim how many alarms are on in a run of which none can be named."""
    if run.facts.source == SNAPSHOTS:
        return captions.snapshots_have_no_alarms()
    if run.alarms_on is None:
        return captions.source_has_no_alarms()
    if not len(run.logs):
        return captions.nothing_logged()
    last, warmup = run.logs.iloc[-1], run.facts.rules.warmup
    if run.alarms_on:
        return captions.unnamed_alarms(run.alarms_on, last["step"])
    if 0 < warmup >= last["tokens"]:
        return captions.warming_up(last["step"], warmup)
    return captions.no_alarm(last["step"])


STARVED = 1 / 20  # of a uniform share
LIGHTS = ("green", "amber", "red", "grey")


class Verdict(NamedTuple):
    """A light with its answer, and the sentence next to it: on chance, on other alarms or idle experts; "" for none."""

    light: str  # of LIGHTS; grey if nothing can be claimed
    answer: Claim
    beside: Claim


class Busiest(NamedTuple):
    """The busiest expert of the layer whose busiest has most."""

    layer: int
    expert: int
    times: float
    chance: float


def router_verdict(run: TrainingRun) -> Verdict:
    """Claim whether the router is healthy at the last log: a collapse or a dead expert first, then what is uneven.

    Shares are of the last logs, as many as give a uniform share of 1,000 assignments. What is on, and since when, is
    what the alarms have. Names and sentences in a run are a stranger's: for text nodes only.
    """
    nothing = captions.nothing_more()
    if not len(run.logs) or run.alarms_on is None or run.facts.source != "moeviz":
        return Verdict("amber" if run.alarms_on else "grey", quiet_caption(run), nothing)
    on = run.alarms[run.alarms["on"]]
    by_kind = {kind: rows.sort_values(["began", "layer"]) for kind, rows in on.groupby("kind")}
    if (collapse := by_kind.get("collapse")) is not None:
        return _claim_collapse(run, collapse.iloc[0])
    if (dead := by_kind.get("dead")) is not None:
        return Verdict("red", _alarm_on("No", dead.iloc[0]), _rest(len(dead) - 1))
    busiest = _busiest(run)
    if (load := by_kind.get("load")) is not None:
        return Verdict("amber", _alarm_on("Not quite", load.iloc[0]), _chance(busiest))
    others = on[~on["kind"].isin(["aux_off"])]
    if len(others):
        row = others.sort_values(["began", "layer"]).iloc[0]
        return Verdict("amber", _alarm_on("Not quite", row), _rest(len(others) - 1))
    if 0 < run.facts.rules.warmup >= run.logs["tokens"].iloc[-1]:
        return Verdict("grey", quiet_caption(run), nothing)
    if busiest is None or _choices(run) < run.facts.rules.enough:
        return _early(run)
    if len(on):
        return Verdict("amber", captions.unguarded(*busiest[:3]), _chance(busiest))
    last, over = int(run.logs["step"].iloc[-1]), len(run.alarms) - len(on)
    return Verdict("green", captions.healthy(last, over, *busiest[:3]), _chance(busiest))


def _claim_collapse(run: TrainingRun, alarm: pd.Series) -> Verdict:
    """Claim which experts do the work in that layer, and which do almost nothing."""
    began, layer, nothing = int(alarm["began"]), int(alarm["layer"]), captions.nothing_more()
    if run.counts is None or layer not in run.facts.layers or run.facts.top_k is None:
        return Verdict("red", _alarm_on("No", alarm), nothing)
    row, k = run.facts.layers.index(layer), run.facts.top_k
    counts = counts_at_end(run)[row, : run.facts.num_experts[row]]
    if not counts.sum():
        return Verdict("red", _alarm_on("No", alarm), nothing)
    few = np.argsort(-counts, kind="stable")[:k]
    share = counts[few].sum() / counts.sum()
    answer = captions.collapsed(began, layer, tuple(sorted(few.tolist())), len(counts), share)
    rest = np.delete(counts, few)
    starved = rest[rest < STARVED * counts.sum() / len(counts)]
    if not len(starved):
        return Verdict("red", answer, nothing)
    return Verdict("red", answer, captions.starved(len(starved), len(rest), starved.sum(), counts.sum()))


def _early(run: TrainingRun) -> Verdict:
    if not (known := _choices(run)):
        return Verdict("grey", quiet_caption(run), captions.nothing_more())
    return Verdict("grey", captions.too_early(), captions.judged_from(known, run.facts.rules.enough))


def _choices(run: TrainingRun) -> float:
    if run.counts is None or not run.facts.layers:
        return 0.0
    sums = np.maximum(run.counts, 0).sum(axis=(0, 2), dtype=np.float64)
    return float((sums / np.maximum(np.array(run.facts.num_experts), 1)).min())


def _busiest(run: TrainingRun) -> Busiest | None:
    """Claim the busiest expert of the last logs; None if nothing was assigned."""
    if run.counts is None or not run.facts.layers:
        return None
    counts = counts_at_end(run)
    most = np.array([max_violation(of, size) for of, size in zip(counts, run.facts.num_experts, strict=True)])
    if np.isnan(most).all():
        return None
    row = int(np.nanargmax(most))
    luck = chance_violation(np.array(counts[row].sum()), run.facts.num_experts[row], run.facts.top_k)
    return Busiest(run.facts.layers[row], int(counts[row].argmax()), float(most[row]) + 1, float(luck) + 1)


def _chance(busiest: Busiest | None) -> Claim:
    return captions.nothing_more() if busiest is None else captions.busiest_by_chance(busiest.chance)


def _rest(more: int) -> Claim:
    return captions.nothing_more() if more < 1 else captions.more_alarms(more)


def _alarm_on(degree: str, alarm: pd.Series) -> Claim:
    """Return an alarm's own words, without its step and its cause."""
    text = re.sub(r"^step [\d,]+: ", "", visible(str(alarm["says"])).partition("; ")[0].rstrip("."))
    where, rest = f"at layer {alarm['layer']}, ", text.removeprefix(f"layer {alarm['layer']}: ")
    return captions.alarm_on(degree, int(alarm["began"]), rest if alarm["layer"] == WHOLE_RUN else where + rest)
