"""The alarms of a run: when each begins and when it is over, in a sentence with its step and its cause. No torch.

Letters: W steps since the last log, L layers, E experts (of the layer with the most).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
from jaxtyping import Int64

from moeviz.metrics.load import balance_of_counts
from moeviz.names import listed
from moeviz.training.recorded.rules import Rules
from moeviz.training.recorded.run import WHOLE_RUN

Key = tuple[str, int]  # kind of alarm, layer


@dataclass(frozen=True, slots=True)
class Watched:
    """What of the model and its training the alarms need."""

    layers: tuple[int, ...]
    num_experts: tuple[int, ...]
    top_k: int
    has_aux: bool = False  # whether the family has an aux loss


@dataclass(frozen=True, slots=True)
class Seen:
    """What one log saw."""

    step: int
    counts: Int64[np.ndarray, "L E"]
    rows: Sequence[dict[str, Any]]  # one a layer: z_loss, logit_rms, mass, tokens
    tokens: int  # trained on so far
    aux_computed: bool = False
    aux_coefficient: float | None = None
    low_precision: bool = False  # logits are in bfloat16 or float16


@dataclass(slots=True)
class Alarms:
    """Which alarms are on, and what is needed to know when the next one is due."""

    watched: Watched
    rules: Rules = field(default_factory=Rules)
    on: dict[Key, str] = field(default_factory=dict)  # the last sentence of each
    missed: np.ndarray = field(init=False)  # L, E: assignments of a uniform share since each expert last had one
    since: np.ndarray = field(init=False)  # L, E: the step after it last had one
    judged: np.ndarray = field(init=False)  # L, E: counts that load will be judged by
    mass: np.ndarray = field(init=False)  # L, 3: sum of masses and tokens since judged, and the mass judged last
    z_losses: list[tuple[int, list[float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = len(self.watched.layers), max(self.watched.num_experts)
        self.missed, self.since = np.zeros(shape), np.ones(shape, np.int64)
        self.judged, self.mass = np.zeros(shape, np.int64), np.zeros((shape[0], 3))

    def judge(self, seen: Seen) -> list[dict[str, Any]]:
        """What is to be said after a log: alarms that begin, that change, and that are over.

        Its steps have been followed already.
        """
        step, cause = seen.step, self._cause(seen)
        self._gather(seen)
        due = self._dead(cause)
        if seen.tokens > self.rules.warmup:
            due |= self._load(cause) | self._logits(step, seen) | self._aux(seen)
        due = {key: text for key, text in due.items() if key[0] not in self.rules.ignore}
        said = [_event(step, key, True, text) for key, text in due.items() if _news(text, self.on.get(key))]
        said += [_event(step, key, False, _over(key, due)) for key in self.on if key not in due]
        self.on = due
        return said

    def dead_of(self, row: int) -> list[list[int]]:
        """The dead experts of a layer, each with the step since when."""
        experts = np.flatnonzero(self.missed[row, : self.watched.num_experts[row]] >= self.rules.dead)
        return [[int(expert), int(self.since[row, expert])] for expert in experts]

    def follow(self, steps: Sequence[int], counts: Int64[np.ndarray, "W L E"]) -> None:
        """See which experts got tokens in each step: whether one is dead is exact, however rarely a log is made."""
        sizes = np.array(self.watched.num_experts)[:, None]
        for step, now in zip(steps, counts, strict=True):
            self.missed = np.where(now > 0, 0, self.missed + now.sum(axis=1, keepdims=True) / sizes)
            self.since = np.where(now > 0, step + 1, self.since)

    def _gather(self, seen: Seen) -> None:
        self.judged = self.judged + seen.counts
        self.mass[:, :2] += np.nan_to_num([[row["mass"] * row["tokens"], row["tokens"]] for row in seen.rows])

    def _dead(self, cause: str) -> dict[Key, str]:
        due = {}
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            if dead := self.dead_of(row):
                names = f"expert {dead[0][0]} of {size} is" if len(dead) == 1 else f"{len(dead)} of {size} experts are"
                due["dead", layer] = f"layer {layer}: {names} dead since step {max(s for _, s in dead)}{cause}"
        return due

    def _load(self, cause: str) -> dict[Key, str]:
        """Load, collapse and confidence: of so many steps that luck has little part in it, and until then as before."""
        shares = self.judged.sum(axis=1) / np.array(self.watched.num_experts)
        if shares.min() < self.rules.enough:
            return {key: text for key, text in self.on.items() if key[0] in ("load", "collapse", "confidence")}
        due: dict[Key, str] = {}
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            counts = self.judged[row, :size]
            share, busy = counts / counts.sum(), np.argsort(-counts, kind="stable")
            if _effective(counts) < self.rules.collapsed:
                few = busy[: self.watched.top_k]
                names = (
                    f"experts {listed(sorted(few.tolist()), 8)} of {size} do"
                    if len(few) > 1
                    else (f"expert {few[0]} of {size} does")
                )
                due["collapse", layer] = f"layer {layer}: {names} {share[few].sum():.0%} of the work{cause}"
            elif share[busy[0]] * size - 1 > self._most(size):
                times = f"{share[busy[0]] * size:.1f} times its share (of at most {size / self.watched.top_k:.3g})"
                due["load", layer] = f"layer {layer}: expert {busy[0]} has {times}{cause}"
            due |= self._confidence(row, layer, size)
        self.judged = np.zeros_like(self.judged)
        self.mass[:, :2] = 0
        return due

    def _most(self, size: int) -> float:
        """The MaxVio that is allowed: half of the greatest there is, where that is less than the rule."""
        return min(self.rules.max_violation, (size / self.watched.top_k - 1) / 2)

    def _confidence(self, row: int, layer: int, size: int) -> dict[Key, str]:
        total, tokens, before = self.mass[row]
        mass = total / tokens if tokens else np.nan
        self.mass[row, 2] = mass
        rising = mass > before > 0 or ("confidence", layer) in self.on
        if self.watched.top_k >= size or not (mass > self.rules.mass and rising):
            return {}
        what = f"the selected experts have {mass:.1%} of the probability, so the router explores no other"
        return {("confidence", layer): f"layer {layer}: {what}"}

    def _logits(self, step: int, seen: Seen) -> dict[Key, str]:
        due: dict[Key, str] = {}
        now = [float(row["z_loss"]) for row in seen.rows]
        recent = [values for at, values in self.z_losses if at >= step - self.rules.z_steps] or [
            values for _, values in self.z_losses[-1:]
        ]
        for row, (layer, size) in enumerate(zip(self.watched.layers, self.watched.num_experts, strict=True)):
            lowest = min((values[row] for values in recent), default=np.nan)
            rms = float(seen.rows[row]["logit_rms"])
            if now[row] >= self.rules.z_growth * lowest and now[row] > log(size) ** 2:
                what = f"the z-loss went from {lowest:.3g} to {now[row]:.3g} within {self.rules.z_steps} steps"
                due["logits", layer] = f"layer {layer}: {what}"
            elif seen.low_precision and rms > self.rules.logit_rms:
                what = f"the root mean square of the router's logits is {rms:.3g}, in half precision"
                due["logits", layer] = f"layer {layer}: {what}"
        self.z_losses = [(at, values) for at, values in self.z_losses if at >= step - self.rules.z_steps]
        self.z_losses.append((step, now))
        return due

    def _aux(self, seen: Seen) -> dict[Key, str]:
        if not self.watched.has_aux or (seen.aux_computed and seen.aux_coefficient != 0):
            return {}
        if not seen.counts.any():  # nothing was trained on
            return {key: text for key, text in self.on.items() if key[0] == "aux_off"}
        why = "its coefficient is 0" if seen.aux_computed else "none is computed"
        return {("aux_off", WHOLE_RUN): f"the aux loss is off: {why}, so nothing keeps the load even"}

    def _cause(self, seen: Seen) -> str:
        if seen.aux_computed and seen.aux_coefficient is not None:
            return f"; the coefficient of the aux loss is {seen.aux_coefficient:g}"
        return "; no aux loss is computed" if self.watched.has_aux and not seen.aux_computed else ""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        away = np.argwhere(self.missed > 0).tolist()
        return {
            "on": [[*key, text] for key, text in self.on.items()],
            "missed": [[row, expert, float(self.missed[row, expert])] for row, expert in away],
            "since": self.since.tolist() if away else [],
            "judged": self.judged.tolist() if self.judged.any() else [],
            "mass": self.mass.tolist(),
            "z_losses": self.z_losses,
        }

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.on = {(kind, layer): text for kind, layer, text in kept["on"]}
        for row, expert, value in kept["missed"]:
            self.missed[row, expert] = value
        self.since = np.array(kept["since"] or self.since, np.int64)
        self.judged = np.array(kept["judged"] or self.judged, np.int64)
        self.mass = np.array(kept["mass"], np.float64)
        self.z_losses = [(step, values) for step, values in kept["z_losses"]]


def _effective(counts: np.ndarray) -> float:
    """exp(entropy of load) / E."""
    size = len(counts)
    return float(size ** balance_of_counts(counts)["normalised_entropy"] / size) if size > 1 else 1.0


def _news(text: str, before: str | None) -> bool:
    """Whether it was not said yet: an alarm is said when it begins, and when other experts are dead."""
    return before is None or (" dead since " in text and text.partition(" dead")[0] != before.partition(" dead")[0])


def _over(key: Key, due: dict[Key, str]) -> str:
    kind, layer = key
    where = "" if layer == WHOLE_RUN else f"layer {layer}: "
    if kind == "load" and ("collapse", layer) in due:
        return f"{where}load has become collapse"
    if kind == "collapse" and ("load", layer) in due:
        return f"{where}collapse has become load"
    return f"{where}{kind.replace('_', ' ')} is over"


def _event(step: int, key: Key, on: bool, says: str) -> dict[str, Any]:
    layer = None if key[1] == WHOLE_RUN else key[1]
    return {"kind": key[0], "layer": layer, "on": on, "says": f"step {step}: {says}"}
