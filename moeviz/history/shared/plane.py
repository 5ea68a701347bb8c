"""Lines in the plane of two formants: where they enter the part of it that is drawn, and where they leave."""

import numpy as np
from jaxtyping import Float64

MARGIN = 0.05  # of the plane, around the samples


def plane_of(inputs: Float64[np.ndarray, "N D"]) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corner of the plane that is drawn: all samples, and a margin."""
    low, high = inputs[:, :2].min(axis=0), inputs[:, :2].max(axis=0)
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def ends_of(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Where a line a·F1 + b·F2 + c = 0 enters and leaves the plane that is drawn; nothing where it does not."""
    a, b, c = line
    points = []
    if b:
        points += [(f1, -(a * f1 + c) / b) for f1 in (low[0], high[0])]
    if a:
        points += [(-(b * f2 + c) / a, f2) for f2 in (low[1], high[1])]
    inside = [p for p in points if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]]
    return [(float(f1), float(f2)) for f1, f2 in sorted(inside)[:: max(len(inside) - 1, 1)][:2]]
