"""How the experts of the soft mixture divide the plane of two formants, and how the mixture improves, in numbers."""

import numpy as np
import pandas as pd

from moeviz.history.shared.vowels import VOWELS, Vowels, encode
from moeviz.history.svm_experts_2002.em import SoftMixture
from moeviz.history.svm_experts_2002.picture import long_errors

MARGIN = 0.05  # of the plane, around the samples


def svm_lines(result: SoftMixture, data: Vowels, at: int = -1) -> pd.DataFrame:
    """Samples, and the line of each support vector machine, at one iteration.

    An expert's line is where its margin is 0; it is drawn for the experts that win a sample. A sample belongs to the
    expert that the gate gives the highest proportion.

    One row per sample, and two per line, its ends. Columns: what str (sample or line) · f1, f2 float64 (kHz) · expert
    int16 · vowel str ("" for lines) · right bool (whether the mixture's answer is on the right side of 0.5; True for
    lines).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), for the mixture; the picture is that of
    Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), figure 2.
    """
    inputs, desired = encode(data)
    winner = result.logits(inputs, at).argmax(axis=1)
    samples = pd.DataFrame(
        {
            "what": "sample",
            "f1": inputs[:, 0],
            "f2": inputs[:, 1],
            "expert": winner,
            "vowel": [VOWELS[vowel] for vowel in data.vowel],
            "right": (result.answer(inputs, at) > 0.5) == (desired > 0.5),
        }
    )
    low, high = inputs[:, :2].min(axis=0), inputs[:, :2].max(axis=0)
    low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
    lines = [
        {"what": "line", "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True}
        for expert in np.unique(winner)
        for f1, f2 in ends(result.expert_lines[at][:, expert], low, high)
    ]
    return pd.concat([samples, pd.DataFrame(lines)], ignore_index=True).astype({"expert": np.int16})


def ends(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Where the line a·x + b·y + c = 0 enters a box and leaves it; nothing where it does not meet it."""
    normal, shift = line[:2], line[2]
    if not normal.any():
        return []
    along, nearest = np.array([normal[1], -normal[0]]), -shift * normal / (normal @ normal)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = np.sort([(low - nearest) / along, (high - nearest) / along], axis=0)
    begin, end = np.nanmax(first), np.nanmin(last)
    return [tuple((nearest + t * along).tolist()) for t in (begin, end)] if begin < end else []


def soft_errors(result: SoftMixture) -> pd.DataFrame:
    """How many vowels are on the wrong side of 0.5, iteration by iteration.

    One row per iteration and system. Columns: iteration int32 (from 1) · system str · error float64 (share of samples).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), for the method.
    """
    single = np.full(len(result.test_error), result.single_error)
    systems = {"mixture, test": result.test_error, "mixture, training": result.train_error, "one machine, test": single}
    return long_errors(systems)
