"""From the sums of a log to what is logged of each layer. No torch.

Letters: L layers, E experts (of the layer with the most). Columns of the sums, behind the E sums of probabilities:
SUMS. A layer whose router gives no logits has none of them: its figures are NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from moeviz.metrics.load import balance_of_counts

SUMS = ("entropy", "z", "square", "mass", "known", "scored")  # known: tokens with logits; scored: with probabilities


def rows_of(
    counts: Int64[np.ndarray, "L E"],
    tokens: Int64[np.ndarray, " L"],
    sums: Float64[np.ndarray, "L columns"],
    layers: Sequence[int],
    num_experts: Sequence[int],
) -> list[dict[str, Any]]:
    """What `TrainingRun.layers` has of each layer, and counts and importance of its experts."""
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
