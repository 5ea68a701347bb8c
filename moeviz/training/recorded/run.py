"""TrainingRun: how the routing of a model went while it trained, as it was logged. No torch, no model.

Letters: S logs, L MoE layers, E experts (of the layer with the most).
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32, Int64

from moeviz.training.recorded.rules import Rules

# What is measured of each layer's sums at a log, and which end is the bad one.
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
WHOLE_RUN = -1  # in place of a layer, of an alarm that is of no layer
NOT_COUNTED = -1  # in `counts` where a log has none, in `dead` and in the `alarms` of a log where they are not known
ALIVE = -1  # in `dead_since`


def empty(columns: dict[str, str]) -> pd.DataFrame:
    """A frame of these columns, without rows."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


def runs_of(frame: pd.DataFrame) -> list[str]:
    """The runs that a frame is of: where `run` is a category, those without a row too."""
    runs = frame["run"]
    return [*runs.cat.categories] if isinstance(runs.dtype, pd.CategoricalDtype) else [*dict.fromkeys(runs)]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts of a run beside its numbers. What a source does not say is None, or ""."""

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
    """How routing went while a model trained, log by log. A measure is of the sums of all steps since the last log.

    name         of the file or folder.
    logs         one row a log, by ascending step: step · steps (since the log before) · tokens (so far) · loss ·
                 aux_loss (as the model computed it, mean over micro-batches; NaN if it computed none) ·
                 aux_coefficient · aux_in_loss (what part of the loss it is; NaN where that is not known) · alarms (how
                 many are on after this log; NOT_COUNTED where that is not known).
    layers       one row a log and layer: step · layer · tokens, assignments (of these steps) · max_violation (busiest
                 expert / uniform share, minus 1) · normalised_entropy (of the load; 1 is even) · router_entropy (of the
                 probabilities, mean of tokens, / ln E) · z_loss · aux (E sum f P of this layer; 1 is even) · logit_rms
                 · mass (probability of the selected experts, mean of tokens) · dead (experts; NOT_COUNTED where it is
                 not known) · router_grad_norm · experts_without_grad. NaN where it is not known.
    counts       assignments of each expert at each log; NOT_COUNTED where a log has none. None: no log has any.
    importance   mean probability of each expert at each log, NaN where a log has none.
    dead_since   the step since when an expert is dead, at each log; ALIVE where it is not.
    alarms       one row an alarm: kind (`rules.KINDS`) · layer (WHOLE_RUN if of none) · began (step) · over (step; NaN
                 while on) · on · says (its last sentence).
    evaluations  as `layers`, of the forwards in evaluation up to a step.
    changed      one row a snapshot of the probe set and layer: step · tokens · layer · changed, which is 1 - the router
                 saturation since the snapshot before.
    summary      one row a log and figure: step · figure · mean and worst over layers.
    snapshots    trace files of the probe set, by how many tokens the model had been trained on.
    notes        what a reader has to know: lines that were left out.
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

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays and frames take."""
        arrays = [values for values in (self.counts, self.importance, self.dead_since) if values is not None]
        frames = (self.logs, self.layers, self.alarms, self.evaluations, self.changed, self.summary)
        return sum(values.nbytes for values in arrays) + sum(int(frame.memory_usage().sum()) for frame in frames)

    @property
    def alarms_on(self) -> int | None:
        """How many alarms are on after the last log; None where the source does not say."""
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
