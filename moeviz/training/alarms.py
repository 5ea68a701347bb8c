"""The alarms of a run: when each begins and ends, in a sentence with its step and its cause. Needs no torch.

A figure that hovers at a threshold is one alarm and not twenty: an alarm that is on is over only when its figure is
back by `Rules.margin`, and load was judged `CALM` times in a row; and that of a dead expert when it has 1/100 of its
share again, over as many assignments as made it dead.

Letters: W steps since the last log, L layers, E experts (of the layer with the most).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
from jaxtyping import Int64

from moeviz.metrics.load import balance_of_counts
from moeviz.training.recorded import captions
from moeviz.training.recorded.rules import ALARM_KINDS, Rules
from moeviz.training.recorded.run import WHOLE_RUN

Key = tuple[str, int]  # kind of alarm, layer
Cause = tuple[float | None, bool]  # the coefficient of the aux loss, if it is known; whether none is computed
JUDGED_TOGETHER = ("load", "collapse", "confidence")
CALM = 3  # judgements in a row
SELDOM = 1 / 100  # of a uniform share: an expert that gets less is not back


@dataclass(frozen=True, slots=True)
class Watched:
    """Facts of the model and its training that the alarms need."""

    layers: tuple[int, ...]
    num_experts: tuple[int, ...]
    top_k: int
    has_aux: bool = False  # whether the family has an aux loss


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Figures of one log, as the alarms see them."""

    step: int
    counts: Int64[np.ndarray, "L E"]
    rows: Sequence[dict[str, Any]]  # one per layer: z_loss, logit_rms, mass, tokens
    tokens: int  # trained on so far
    aux_computed: bool = False
    aux_coefficient: float | None = None
    low_precision: bool = False  # logits are in bfloat16 or float16


@dataclass(slots=True)
class Alarms:
    """Alarms that are on, and the state that decides when the next one is due."""

    watched: Watched
    rules: Rules = field(default_factory=Rules)
    on: dict[Key, str] = field(default_factory=dict)  # the last sentence of each
    missed: np.ndarray = field(init=False)  # L, E: assignments of a uniform share since each expert last had one
    since: np.ndarray = field(init=False)  # L, E: the step after it last had one
    down: np.ndarray = field(init=False)  # L, E: was dead at a log, and is not back
    named: np.ndarray = field(init=False)  # L, E: is dead, as the last sentence says
    lately: np.ndarray = field(init=False)  # L, E: what it gets of a uniform share, over some `Rules.dead` of one
    judged: np.ndarray = field(init=False)  # L, E: counts that load will be judged by
    mass: np.ndarray = field(init=False)  # L, 3: sum of masses and tokens since judged, and the mass judged last
    calm: dict[Key, int] = field(default_factory=dict)  # judgements in a row in which a figure was back
    z_losses: list[tuple[int, list[float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = len(self.watched.layers), max(self.watched.num_experts)
        self.missed, self.since = np.zeros(shape), np.ones(shape, np.int64)
        self.down, self.named, self.lately = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape)
        self.judged, self.mass = np.zeros(shape, np.int64), np.zeros((shape[0], 3))

    def judge(self, seen: LogFigures) -> list[dict[str, Any]]:
        """Return the events of a log: alarms that begin, that change, and that are over.

        Its steps have been followed already.
        """
        step, cause = seen.step, self._cause(seen)
        self._gather(seen)
        due, news = self._dead(cause)
        if seen.tokens > self.rules.warmup:
            due |= self._load(cause) | self._logits(step, seen) | self._aux(seen)
        due = {key: text for key, text in due.items() if key[0] not in self.rules.ignore}
        said = [_event(step, key, True, text) for key, text in due.items() if key not in self.on or key in news]
        said += [_event(step, key, False, _over(key, due)) for key in self.on if key not in due]
        self.on = due
        return said

    def dead_of(self, row: int) -> list[list[int]]:
        """Return the dead experts of a layer, each with the step since when."""
        experts = np.flatnonzero(self.missed[row, : self.watched.num_experts[row]] >= self.rules.dead)
        return [[int(expert), int(self.since[row, expert])] for expert in experts]

    def follow(self, steps: Sequence[int], counts: Int64[np.ndarray, "W L E"]) -> None:
        """See which experts got tokens in each step: whether one is dead is exact, however rarely a log is made."""
        sizes = np.array(self.watched.num_experts)[:, None]
        for step, now in zip(steps, counts, strict=True):
            share = now.sum(axis=1, keepdims=True) / sizes
            old = np.exp(-share / self.rules.dead)
            self.missed = np.where(now > 0, 0, self.missed + share)
            self.since = np.where(now > 0, step + 1, self.since)
            self.lately = old * self.lately + (1 - old) * now / np.maximum(share, 1e-9)

    def _gather(self, seen: LogFigures) -> None:
        if seen.tokens - max(row["tokens"] for row in seen.rows) < self.rules.warmup:
            return  # steps of the warm-up are not judged afterwards either
        self.judged = self.judged + seen.counts
        self.mass[:, :2] += np.nan_to_num([[row["mass"] * row["tokens"], row["tokens"]] for row in seen.rows])

    def _dead(self, cause: Cause) -> tuple[dict[Key, str], set[Key]]:
        """Return the layers with experts that are dead or not back yet; and those whose sentence has changed."""
        due: dict[Key, str] = {}
        news: set[Key] = set()
        before, now = self.down, self.missed >= self.rules.dead
        self.down = now | (before & (self.lately < SELDOM))
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            key, died = ("dead", layer), (now & ~before)[row, :size].any()
            if died or (self.named & ~now)[row, :size].any():
                news.add(key)
                self.named[row, :size] = now[row, :size] & (self.named[row, :size] | died)
            dead = np.flatnonzero(self.named[row, :size])
            if len(dead):
                since = self.since[row, dead].max()
                due[key] = captions.alarm_dead(layer, tuple(dead.tolist()), size, since, *cause)
            elif self.down[row, :size].any() and key in self.on:
                due[key] = captions.alarm_hardly_back(layer, *cause)
        return due, news

    def _load(self, cause: Cause) -> dict[Key, str]:
        """Judge load, collapse and confidence over enough steps for chance to matter little; until then, as before."""
        due: dict[Key, str] = {}
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            if self.judged[row].sum() < self.rules.enough * size:
                due |= {(kind, layer): self.on[kind, layer] for kind in JUDGED_TOGETHER if (kind, layer) in self.on}
                continue
            due |= self._load_of(row, layer, size, cause) | self._confidence(row, layer, size)
            self.judged[row], self.mass[row, :2] = 0, 0
        return due

    def _load_of(self, row: int, layer: int, size: int, cause: Cause) -> dict[Key, str]:
        counts = self.judged[row, :size]
        share, busy = counts / counts.sum(), np.argsort(-counts, kind="stable")
        limit = self.rules.collapsed * (1 + self._margin("collapse", layer))
        if self._due(("collapse", layer), _effective(counts) < limit):
            few = busy[: self.watched.top_k]
            names = tuple(sorted(few.tolist()))
            return {("collapse", layer): captions.alarm_collapse(layer, names, size, share[few].sum(), *cause)}
        most = min(
            self.rules.max_violation, (size / self.watched.top_k - 1) / 2
        )  # MaxVio: half of the greatest possible
        limit = most * (1 - self._margin("load", layer))
        if self._due(("load", layer), bool(share[busy[0]] * size - 1 > limit)):
            times, most = share[busy[0]] * size, size / self.watched.top_k
            return {("load", layer): captions.alarm_load(layer, busy[0], times, most, *cause)}
        return {}

    def _due(self, key: Key, now: bool) -> bool:
        """Return True while an alarm is on: until its figure was back often enough in a row."""
        self.calm[key] = 0 if now else self.calm.get(key, 0) + 1
        return now or (key in self.on and self.calm[key] < CALM)

    def _margin(self, kind: str, layer: int) -> float:
        """Return the part of its threshold by which a figure must be back: 0 for an alarm that is not on."""
        return self.rules.margin if (kind, layer) in self.on else 0.0

    def _confidence(self, row: int, layer: int, size: int) -> dict[Key, str]:
        total, tokens, before = self.mass[row]
        mass = total / tokens if tokens else np.nan
        self.mass[row, 2] = mass
        rising = mass > before > 0 or ("confidence", layer) in self.on
        others = (1 - self.rules.mass) * (1 + self._margin("confidence", layer))  # what is left to the other experts
        if not self._due(("confidence", layer), bool(self.watched.top_k < size and rising and 1 - mass < others)):
            return {}
        return {("confidence", layer): captions.alarm_confidence(layer, mass)}

    def _logits(self, step: int, seen: LogFigures) -> dict[Key, str]:
        due: dict[Key, str] = {}
        now = [float(row["z_loss"]) for row in seen.rows]
        recent = [values for at, values in self.z_losses if at >= step - self.rules.z_steps] or [
            values for _, values in self.z_losses[-1:]
        ]
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            lowest = min((values[row] for values in recent), default=np.nan)
            rms, less = float(seen.rows[row]["logit_rms"]), 1 - self._margin("logits", layer)
            growth = 1 + (self.rules.z_growth - 1) * less
            if now[row] >= growth * lowest and now[row] > log(size) ** 2:
                due["logits", layer] = captions.alarm_z_loss(layer, lowest, now[row], self.rules.z_steps)
            elif seen.low_precision and rms > self.rules.logit_rms * less:
                due["logits", layer] = captions.alarm_logits(layer, rms)
        self.z_losses = [(at, values) for at, values in self.z_losses if at >= step - self.rules.z_steps]
        self.z_losses.append((step, now))
        return due

    def _aux(self, seen: LogFigures) -> dict[Key, str]:
        if not self.watched.has_aux or (seen.aux_computed and seen.aux_coefficient != 0):
            return {}
        if not seen.counts.any():  # nothing was trained on
            return {key: text for key, text in self.on.items() if key[0] == "aux_off"}
        return {("aux_off", WHOLE_RUN): captions.alarm_aux_off(seen.aux_computed)}

    def _cause(self, seen: LogFigures) -> Cause:
        return seen.aux_coefficient if seen.aux_computed else None, self.watched.has_aux and not seen.aux_computed

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the alarms, as JSON."""
        away = np.argwhere(self.missed > 0).tolist()
        return {
            "on": [[*key, text] for key, text in self.on.items()],
            "missed": [[row, expert, float(self.missed[row, expert])] for row, expert in away],
            "since": self.since.tolist() if away else [],
            "named": np.argwhere(self.named).tolist(),
            "down": [[row, expert, float(self.lately[row, expert])] for row, expert in np.argwhere(self.down).tolist()],
            "judged": self.judged.tolist() if self.judged.any() else [],
            "mass": self.mass.tolist(),
            "calm": [[*key, times] for key, times in self.calm.items() if times and key in self.on],
            "z_losses": self.z_losses,
        }

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.on = {(kind, layer): text for kind, layer, text in kept["on"]}
        for row, expert, value in kept["missed"]:
            self.missed[row, expert] = value
        for row, expert, value in kept["down"]:
            self.down[row, expert], self.lately[row, expert] = True, value
        for row, expert in kept["named"]:
            self.named[row, expert] = True
        self.calm = {(kind, layer): times for kind, layer, times in kept["calm"]}
        self.since = np.array(kept["since"] or self.since, np.int64)
        self.judged = np.array(kept["judged"] or self.judged, np.int64)
        self.mass = np.array(kept["mass"], np.float64)
        self.z_losses = [(step, values) for step, values in kept["z_losses"]]


def _effective(counts: np.ndarray) -> float:
    """Return exp(entropy of load) / E."""
    size = len(counts)
    return float(size ** balance_of_counts(counts)["normalised_entropy"] / size) if size > 1 else 1.0


def _over(key: Key, due: dict[Key, str]) -> str:
    kind, layer = key
    where = "" if layer == WHOLE_RUN else f"layer {layer}: "
    if kind == "load" and ("collapse", layer) in due:
        return f"{where}the uneven load has become a collapse"
    if kind == "collapse" and ("load", layer) in due:
        return f"{where}the collapse has become an uneven load"
    return f"{where}{ALARM_KINDS[kind].over}"


def _event(step: int, key: Key, on: bool, says: str) -> dict[str, Any]:
    layer = None if key[1] == WHOLE_RUN else key[1]
    return {"kind": key[0], "layer": layer, "on": on, "says": f"step {step}: {says}"}
