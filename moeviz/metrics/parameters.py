"""The part of a model that one token runs through, and that a whole text does. Needs the model's parameter counts."""

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import distinct_so_far, needs_tokens, recorded_together
from moeviz.metrics.words import one_row
from moeviz.model_info import PARTS, ParameterCounts
from moeviz.parameters import CONVENTIONS, active_parameters, touched_parameters
from moeviz.routing_trace import NO_EXPERT, Counted, RoutingTrace


def parameter_split(trace: Counted) -> pd.DataFrame:
    """Parameters of a model by what they are for, and how many of each part one token runs through.

    Active parameters are the k of E routed experts that a token is sent to, and all the rest. Model makers publish that
    number by three conventions, so all three are given: counting everything, without the input embedding (a look-up,
    not a matrix product), and without both embeddings.

    One row per convention and part. Columns: convention str · part str · parameters int64 (all of them) · active int64
    (that one token runs through and this convention counts). Raises `MissingField` if the trace does not have its
    model's parameter counts.

    Source: Mixtral of Experts (arXiv 2401.04088), section 2.1; `moeviz.parameters` says who counts how.
    """
    counts, top_k = _counts(trace, "The split of parameters"), trace.model.top_k
    parts = {part: getattr(counts, part) for part in PARTS}
    routed = active_parameters(counts, top_k) - (counts.total - counts.routed_experts)
    rows = []
    for convention in CONVENTIONS:
        active = parts | {"routed_experts": routed}
        left_out = active_parameters(counts, top_k) - active_parameters(counts, top_k, convention)
        for embedding in ("input_embedding", "output_embedding"):
            taken = min(left_out, active[embedding])
            active[embedding] -= taken
            left_out -= taken
        rows += [(convention, part, parts[part], active[part]) for part in PARTS]
    return pd.DataFrame(rows, columns=["convention", "part", "parameters", "active"])


@needs_tokens
def touched_growth(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the part of the model that a text has touched after its first t tokens.

    Touched parameters are all that at least one of the tokens ran through: each expert that was chosen, once, and
    everything that is not a routed expert. One token touches about the active parameters; a long text may touch all.

    Tokens that are not recorded at every layer are left out, as what they ran through is not known.

    One row per t from 1 to T. Columns: tokens int32 (t) · experts int32 (different experts chosen so far, summed over
    layers) · touched int64 (parameters) · chance float64 (parameters expected if every choice were random: of E
    experts, E(1 - prod(1 - k/E)) are chosen) · active int64 · total int64 (of the model). Active is by convention
    'all'. Raises `MissingField` if the trace does not have its model's parameter counts.

    Source: simple counting; the expectation is that of the coupon collector's problem.
    """
    counts, model = _counts(trace, "The growth of touched parameters"), trace.model
    trace = recorded_together(trace)
    distinct = np.stack([distinct_so_far(experts) for experts in _with_parameters(trace)])
    experts = distinct.sum(axis=0)
    changes = np.flatnonzero(np.diff(experts, prepend=-1))
    touched = np.array([touched_parameters(counts, distinct[:, t].tolist()) for t in changes], np.int64)
    return pd.DataFrame(
        {
            "tokens": np.arange(1, len(experts) + 1, dtype=np.int32),
            "experts": experts.astype(np.int32),
            "touched": touched[np.searchsorted(changes, np.arange(len(experts)), side="right") - 1],
            "chance": _touched_by_chance(trace, counts),
            "active": np.int64(active_parameters(counts, model.top_k)),
            "total": np.int64(counts.total),
        }
    )


def varying_routes_in_words(trace: RoutingTrace) -> str | None:
    """Say how many experts that compute a token really got; None if each got as many as it can at every layer.

    It gets fewer if slots are empty (it was dropped, or the layer has fewer), or hold an expert that computes nothing
    (`model.zero_experts`).
    """
    model, found = trace.model, (_with_parameters(trace) >= 0).sum(axis=2)[trace.recorded]
    if not len(found) or found.min() == model.top_k:
        return None
    said = (
        f"A token can use {model.top_k} per layer, and got {found.mean():.2f} experts that compute on average, from "
        f"{found.min()} to {found.max()}"
    )
    if not model.zero_experts:
        return f"{said}."
    nothing = 1 - found.sum() / max(int(trace.filled.sum()), 1)
    return f"{said}; {nothing:.0%} of all assignments went to the last {model.zero_experts}, which compute nothing."


def _with_parameters(trace: RoutingTrace) -> np.ndarray:
    first_zero = np.asarray(trace.model.num_experts)[:, None, None] - trace.model.zero_experts
    return np.where(trace.experts < first_zero, trace.experts, NO_EXPERT)


def _touched_by_chance(trace: RoutingTrace, counts: ParameterCounts) -> np.ndarray:
    num_experts = np.asarray(trace.model.num_experts)[:, None]
    missed = np.cumprod(1 - (trace.experts >= 0).sum(axis=2) / num_experts, axis=1)
    sizes = np.asarray(counts.per_expert, np.float64)
    experts: np.ndarray = sizes @ ((num_experts - trace.model.zero_experts) * (1 - missed))
    return counts.total - counts.routed_experts + experts


def _counts(trace: Counted, why: str) -> ParameterCounts:
    if trace.model.parameters is None:
        raise MissingField(
            f"{why} needs the model's parameter counts, and this trace ({trace.model.backend}) has none. If the trace "
            "holds only some of the model's layers, use one with all of them; otherwise record it again with moeviz."
        )
    return trace.model.parameters


def parts_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what share of all parameters are routed experts, and how much of them one token uses, if half or more."""
    every = frame[frame["convention"] == CONVENTIONS[0]]
    routed, total = every[every["part"] == "routed_experts"], every["parameters"].sum()
    if len(routed) != 1 or routed["parameters"].iloc[0] < 0.5 * total:
        return None
    row = one_row(routed, routed.index[0])
    return captions.routed_parameters(row.parameters / total, row.active / row.parameters)


def active_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what share of the parameters one token runs through, if it is half or less."""
    every = frame[frame["convention"] == CONVENTIONS[0]]
    active, total = int(every["active"].sum()), int(every["parameters"].sum())
    return captions.active_parameters(active, total) if total and active <= 0.5 * total else None


def touched_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what the whole text has touched, if it is a fifth more than one token runs through."""
    if frame.empty or frame["touched"].iloc[-1] < 1.2 * frame["active"].iloc[-1]:
        return None
    row = one_row(frame, frame.index[-1])
    return captions.touched_parameters(row.tokens, row.touched / row.total, row.active / row.total)
