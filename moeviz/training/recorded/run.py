"""TrainingRun: the routing of a model while it trained, as it was logged. No torch, no model.

Its logs are put together, so that a long run has no more columns than a picture can show: sums first, then measures.

Letters: S logs, B bins of logs that follow each other, L MoE layers, E experts (of the layer with the most).
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int32, Int64, Num

from moeviz.errors import MissingField
from moeviz.training.recorded.rules import Rules

# Figures of each layer's sums at a log, and the end that is bad.
FIGURES = {
    "max_violation": "high",
    "normalised_entropy": "low",
    "router_entropy": "low",
    "z_loss": "high",
    "aux": "high",
    "logit_rms": "high",
    "mass": "high",
}
LOGS = {
    "step": "int64",
    "steps": "int64",
    "tokens": "int64",
    "loss": "float64",
    "aux_loss": "float64",
    "aux_coefficient": "float64",
    "aux_in_loss": "float64",
    "alarms": "int64",
}
LAYERS = {
    "step": "int64",
    "layer": "int32",
    "tokens": "int64",
    "assignments": "int64",
    **dict.fromkeys(FIGURES, "float64"),
    "dead": "int64",
    "router_grad_norm": "float64",
    "experts_without_grad": "float64",
}
CHANGED = {"step": "int64", "tokens": "int64", "layer": "int32", "changed": "float64"}
ALARMS = {"kind": "str", "layer": "int32", "began": "int64", "over": "float64", "on": "bool", "says": "str"}
SUMMARY = {"step": "int64", "figure": "str", "mean": "float64", "worst": "float64"}
SNAPSHOTS = "snapshots"  # the folder of trace files in that of a run
WHOLE_RUN = -1  # instead of a layer, for an alarm of the whole run
NOT_COUNTED = -1  # in `counts` of a log without any, in `dead` and in the `alarms` of a log if they are unknown
ALIVE = -1  # in `dead_since`
Over = Literal["step", "tokens"]  # the axis


def empty(columns: dict[str, str]) -> pd.DataFrame:
    """Return a frame of these columns, without rows."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


def runs_of(frame: pd.DataFrame) -> list[str]:
    """List the runs of a frame: if `run` is a category, those without a row too."""
    runs = frame["run"]
    return [*runs.cat.categories] if isinstance(runs.dtype, pd.CategoricalDtype) else [*dict.fromkeys(runs)]


def axis_of(frame: pd.DataFrame) -> Over:
    """Return the column of a frame's axis."""
    return "tokens" if "tokens" in frame else "step"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts of a run, apart from its numbers. Unknown ones are None, or ""."""

    source: str  # "moeviz", "tensorboard" or "megatron-lm"
    model: str = ""
    layers: tuple[int, ...] = ()  # the model's own indices, as in a trace
    num_experts: tuple[int, ...] = ()  # of each of them
    top_k: int | None = None
    counted: str = ""  # "real": tokens that are not padding; "trained": those whose next token is learnt
    score_function: str = ""
    has_aux: bool | None = None  # whether this family of models computes a balancing loss
    aux_coefficient: float | None = None  # as configured
    aux_effective: float | None = None  # what the aux loss of a micro-batch really counts, relative to the loss
    rules: Rules = field(default_factory=Rules)
    said: tuple[str, ...] = ()  # facts that are no alarms: frozen routers, the effective coefficient


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TrainingRun:
    """The routing of a model while it trained, log by log. A measure is of the sums of all steps since the last log.

    name         of the file or folder.
    logs         one row per log, by ascending step: step · steps (since the log before) · tokens (so far) · loss ·
                 aux_loss (as the model computed it, mean over micro-batches; NaN if it computed none) ·
                 aux_coefficient · aux_in_loss (what part of the loss it is; NaN where that is not known) · alarms (how
                 many are on after this log; NOT_COUNTED where that is not known).
    layers       one row per log and layer: step · layer · tokens, assignments (of these steps) · max_violation (busiest
                 expert / uniform share, minus 1) · normalised_entropy (of the load; 1 is even) · router_entropy (of the
                 probabilities, mean of tokens, / ln E) · z_loss · aux (E sum f P of this layer; 1 is even) · logit_rms
                 · mass (probability of the selected experts, mean of tokens) · dead (experts; NOT_COUNTED where it is
                 not known) · router_grad_norm · experts_without_grad. NaN where it is not known.
    counts       assignments of each expert at each log; NOT_COUNTED where a log has none. None: no log has any.
    importance   mean probability of each expert at each log, NaN where a log has none.
    dead_since   the step since when an expert is dead, at each log; ALIVE where it is not.
    alarms       one row per alarm: kind (`rules.KINDS`) · layer (WHOLE_RUN if of none) · began (step) · over (step; NaN
                 while on) · on · says (its last sentence).
    evaluations  as `layers`, of the forwards in evaluation up to a step.
    changed      one row per snapshot of the probe set and layer: step · tokens · layer · changed (1 - the router
                 saturation since the snapshot before).
    summary      one row per log and figure: step · figure · mean and worst over layers.
    snapshots    trace files of the probe set, by the number of training tokens before it.
    notes        sentences for the reader, such as about lines that were left out.
    events       what `alarms` is made of: each step with an alarm that begins, goes on with other words, or is over.
    """

    name: str
    facts: RunFacts
    logs: pd.DataFrame
    layers: pd.DataFrame
    counts: Int64[np.ndarray, "S L E"] | None = None
    importance: Float32[np.ndarray, "S L E"] | None = None
    dead_since: Int32[np.ndarray, "S L E"] | None = None
    alarms: pd.DataFrame = field(default_factory=lambda: empty(ALARMS))
    evaluations: pd.DataFrame = field(default_factory=lambda: empty(LAYERS))
    changed: pd.DataFrame = field(default_factory=lambda: empty(CHANGED))
    summary: pd.DataFrame = field(default_factory=lambda: empty(SUMMARY))
    snapshots: dict[int, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    events: tuple[tuple[int, dict[str, Any]], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays and frames take."""
        arrays = [values for values in (self.counts, self.importance, self.dead_since) if values is not None]
        frames = (self.logs, self.layers, self.alarms, self.evaluations, self.changed, self.summary)
        return sum(values.nbytes for values in arrays) + sum(int(frame.memory_usage().sum()) for frame in frames)

    @property
    def alarms_on(self) -> int | None:
        """Number of alarms that are on after the last log; None if the source does not say."""
        if self.facts.source == "moeviz":
            return int(self.alarms["on"].sum())
        last = self.logs["alarms"].iloc[-1] if len(self.logs) else NOT_COUNTED
        return None if last == NOT_COUNTED else int(last)

    def __repr__(self) -> str:
        last = f"step {self.logs['step'].iloc[-1]:,}" if len(self.logs) else "no log yet"
        on = self.alarms_on
        alarms = "alarms unknown" if on is None else f"{on} alarm{'s' * (on != 1)} on"
        return f"<TrainingRun {self.name!r}: {len(self.logs)} logs, {last}, {alarms}>"


def summary_of(layers: pd.DataFrame) -> pd.DataFrame:
    """Mean and worst over layers of each figure at each step. A layer that has no number does not count."""
    parts = []
    for name, bad in FIGURES.items():
        grouped = layers.groupby("step", sort=True)[name]
        worst = grouped.max() if bad == "high" else grouped.min()
        parts.append(pd.DataFrame({"figure": name, "mean": grouped.mean(), "worst": worst}).reset_index())
    whole = pd.concat(parts, ignore_index=True)
    return whole.dropna(subset=["mean"]).astype(SUMMARY).reset_index(drop=True)


MOST_BINS = 120


@dataclass(frozen=True, slots=True)
class Bins:
    """Columns of a picture: which logs stand in each, and where it is on the axis."""

    every: int  # logs in each, the last may have fewer
    first: Int64[np.ndarray, " B"]  # its first log
    last: Int64[np.ndarray, " B"]
    after: Num[np.ndarray, " B"]  # the axis, before its first step
    at: Num[np.ndarray, " B"]  # and at its last


def bins_of(run: TrainingRun, over: Over, most: int = MOST_BINS) -> Bins:
    """Return at most `most` bins of the logs of a run."""
    logs = len(run.logs)
    every = max(-(-logs // most), 1)
    first = np.arange(0, logs, every)
    last = np.minimum(first + every, logs) - 1
    at = run.logs[over].to_numpy()
    begin = int(run.logs["step"].iloc[0] - run.logs["steps"].iloc[0]) if logs and over == "step" else 0
    return Bins(every, first, last, np.concatenate([[max(begin, 0)], at[last[:-1]]])[: len(first)], at[last])


def need_counts(run: TrainingRun, why: str) -> Int64[np.ndarray, "S L E"]:
    """Return the counts of a run. Raises `MissingField` if it has none."""
    if run.counts is None or not len(run.logs):
        raise MissingField(f"{why} needs counts of experts, and this run has none. Open the folder that moeviz wrote.")
    return run.counts


def sums(counts: Int64[np.ndarray, "S ..."], bins: Bins) -> Int64[np.ndarray, "B ..."]:
    """Sum the logs of each bin that have counts; 0 if none has."""
    return np.add.reduceat(np.maximum(counts, 0), bins.first, axis=0)


def max_violation(counts: Int64[np.ndarray, "... E"], experts: int) -> Float64[np.ndarray, "..."]:
    """Busiest expert / uniform share, minus 1; NaN where nothing was assigned."""
    total = counts.sum(axis=-1)
    return np.asarray(np.where(total > 0, counts.max(axis=-1) * experts / np.maximum(total, 1) - 1, np.nan))


def effective_experts(counts: Int64[np.ndarray, "... E"]) -> Float64[np.ndarray, "..."]:
    """exp(entropy of load): this many experts, used evenly, would be as uneven. NaN if nothing was assigned."""
    total = counts.sum(axis=-1, keepdims=True)
    share = counts / np.maximum(total, 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), np.nan)


def chance_violation(
    assignments: Num[np.ndarray, "..."], experts: int, top_k: int | None
) -> Float64[np.ndarray, "..."]:
    """Return the MaxVio that chance gives on average, if each token chose k different experts at random.

    The largest of E normal numbers (Blom 1958), as wide and as skewed as a binomial with p = k / E (Cornish & Fisher
    1938). Within a tenth of what a simulation gives, from 20 assignments per uniform share on.
    """
    share = (top_k or 1) / experts
    if experts < 2 or share >= 1:
        return np.zeros(np.shape(assignments))
    even = np.where(np.asarray(assignments) > 0, assignments, np.nan) / experts
    z = NormalDist().inv_cdf((experts - 0.375) / (experts + 0.25))
    wide = np.sqrt(even * (1 - share))
    found = (z + (z**2 - 1) * (1 - 2 * share) / wide / 6) * wide / even
    return np.asarray(found)


def dead_since(run: TrainingRun, row: int) -> Int64[np.ndarray, "S E"]:
    """Return the step since when each expert of a layer was dead in the steps of each log; ALIVE where it was not.

    Known afterwards: when an alarm says that an expert is dead, it has been so from after its last token on. A log that
    has tokens from before that is not among them.
    """
    counts = need_counts(run, "Dead experts")[:, row]
    found = np.full(counts.shape, ALIVE, np.int64)
    if run.dead_since is None:
        return found
    later = found[0]
    for log in range(len(found) - 1, -1, -1):
        now, step = run.dead_since[log, row], run.logs["step"].iloc[log]
        later = np.where(now != ALIVE, now, np.where(later <= step, later, ALIVE))
        found[log] = np.where(counts[log] == 0, later, ALIVE)
    return found
