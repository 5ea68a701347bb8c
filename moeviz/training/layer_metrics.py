"""Figures of each layer from the sums of a log. No torch.

Letters: L layers, E experts (of the layer with the most). Columns of the sums, behind the E sums of probabilities:
SUMS. A layer whose router gives no logits has none of them: its figures are NaN.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from moeviz.metrics.load import balance_of_counts
from moeviz.training.recorded.run import FIGURES

SUMS = ("entropy", "z", "square", "mass", "known", "scored")  # known: tokens with logits; scored: with probabilities
Detail = Literal["brief", "layers"]
PREFIX = "moe/"
OF_LAYERS = ("router_grad_norm", "experts_without_grad")


def layer_metrics(
    counts: Int64[np.ndarray, "L E"],
    tokens: Int64[np.ndarray, " L"],
    sums: Float64[np.ndarray, "L columns"],
    layers: Sequence[int],
    num_experts: Sequence[int],
) -> list[dict[str, Any]]:
    """Compute the columns of `TrainingRun.layers` for each layer, and counts and importance of its experts."""
    rows = []
    for row, (layer, size) in enumerate(zip(layers, num_experts, strict=True)):
        of_experts, total = counts[row, :size], dict(zip(SUMS, sums[row, -len(SUMS) :].tolist(), strict=True))
        known, scored = (total[name] or np.nan for name in ("known", "scored"))
        importance, balance = sums[row, :size] / scored, balance_of_counts(of_experts)
        assigned = int(of_experts.sum())
        rows.append(
            {
                "layer": layer,
                "tokens": int(tokens[row]),
                "assignments": assigned,
                "max_violation": float(balance["max_violation"]),
                "normalised_entropy": float(balance["normalised_entropy"]),
                "router_entropy": total["entropy"] / scored / np.log(size) if size > 1 else np.nan,
                "z_loss": total["z"] / known,
                "aux": size * float(of_experts @ importance) / assigned if assigned else np.nan,
                "logit_rms": (total["square"] / known) ** 0.5,
                "mass": total["mass"] / scored,
                "counts": of_experts,
                "importance": importance,
            }
        )
    return rows


def log_metrics(
    rows: Sequence[Mapping[str, Any]], detail: Detail | str, **others: float | int | None
) -> dict[str, float]:
    """`moe/{figure}/mean` and `/worst` over layers, `/layer_3` too with "layers", and others by their names.

    An unknown figure has no key: trackers keep no NaN.
    """
    found: dict[str, float | int | None] = {}
    for name, bad in FIGURES.items():
        found |= _of_layers(name, rows, detail, bad)
    for name in OF_LAYERS:
        found |= _of_layers(name, [row for row in rows if name in row], detail, "low" if "norm" in name else "high")
    found |= {PREFIX + name: value for name, value in others.items()}
    return {name: float(value) for name, value in found.items() if value is not None and isfinite(value)}


def _of_layers(
    name: str, rows: Sequence[Mapping[str, Any]], detail: Detail | str, bad: str
) -> dict[str, float | int | None]:
    values = np.array([row[name] for row in rows], np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    found = {
        f"{PREFIX}{name}/mean": known.mean(),
        f"{PREFIX}{name}/worst": known.min() if bad == "low" else known.max(),
    }
    if detail == "layers":
        found |= {f"{PREFIX}{name}/layer_{row['layer']}": row[name] for row in rows}
    return found
