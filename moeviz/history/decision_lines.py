"""The picture of the 1991 paper, in numbers: where each expert's answer changes, over the plane of two formants."""

import numpy as np
import pandas as pd

from moeviz.history.adaptive_mixtures import Mixture, encode
from moeviz.history.vowels import VOWELS, Vowels

MARGIN = 0.05  # of the plane, around the samples


def decision_lines(result: Mixture, data: Vowels, at: int = -1) -> pd.DataFrame:
    """Samples and lines of a mixture at one of its recorded epochs: figures 2 and 3 of the paper.

    An expert's line is where its output is 0.5; it is drawn for the experts that win a sample there. A sample belongs
    to the expert with the highest mixing proportion.

    One row per sample, and two per line, its ends. Columns: what str (sample or line) · f1, f2 float64 (kHz) · expert
    int16 · vowel str ("" for lines) · right bool (whether the mixture's answer is on the right side of 0.5; True for
    lines) · surviving bool (whether the expert survives training).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), figures 2 and 3.
    """
    inputs, desired = encode(data)
    proportions, outputs = result.proportions[at], result.outputs[at]
    winner = proportions.argmax(axis=1)
    answer = (proportions * outputs).sum(axis=1)
    samples = {
        "what": "sample",
        "f1": inputs[:, 0],
        "f2": inputs[:, 1],
        "expert": winner,
        "vowel": [VOWELS[vowel] for vowel in data.vowel],
        "right": (answer > 0.5) == (desired > 0.5),
    }
    low, high = inputs[:, :2].min(axis=0), inputs[:, :2].max(axis=0)
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    ends = [_ends(result.expert_lines[at][:, expert], low, high) for expert in np.unique(winner)]
    lines = [
        {"what": "line", "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True}
        for expert, points in zip(np.unique(winner), ends, strict=True)
        for f1, f2 in points
    ]
    frame = pd.concat([pd.DataFrame(samples), pd.DataFrame(lines)], ignore_index=True)
    return frame.assign(surviving=frame["expert"].isin(result.surviving)).astype({"expert": np.int16})


def _ends(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Where a line a·F1 + b·F2 + c = 0 enters and leaves the plane that is drawn; nothing where it does not."""
    a, b, c = line
    points = []
    if b:
        points += [(f1, -(a * f1 + c) / b) for f1 in (low[0], high[0])]
    if a:
        points += [(-(b * f2 + c) / a, f2) for f2 in (low[1], high[1])]
    inside = [p for p in points if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]]
    return [(float(f1), float(f2)) for f1, f2 in sorted(inside)[:: max(len(inside) - 1, 1)][:2]]
