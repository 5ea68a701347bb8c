"""The pictures of the 1991 paper, in numbers: where each expert's answer changes, and how fast the error falls."""

from itertools import combinations

import numpy as np
import pandas as pd

from moeviz.history.local_experts_1991.backpropagation import HIDDEN, train_network
from moeviz.history.local_experts_1991.model import STOP_AT, Mixture
from moeviz.history.shared.plane import ends_of, plane_of
from moeviz.history.shared.vowels import VOWELS, Vowels, encode

STEPS = 201  # along a border of the gate
MIXTURE, NETWORK = "mixture of experts", "one network, backpropagation"
EVERY = 10  # epochs: a curve of as many points as can be seen
SAME = 1e-9  # logits: on a border two are equal, but for rounding


def decision_lines(result: Mixture, data: Vowels, at: int = -1) -> pd.DataFrame:
    """Samples and lines of a mixture at one of its recorded epochs: figures 2 and 3 of the paper.

    A sample belongs to the expert with the highest mixing proportion. An expert's line is where its output is 0.5; it
    is drawn for the experts to which a sample belongs. The gate's line is where two of these have the same proportion
    and no other has a larger one.

    One row per sample, and two per line, its ends. Columns: what str (sample, line or gate) · f1, f2 float64 (kHz) ·
    expert int16 (for the gate's lines, the lower of the two) · vowel str ("" for lines) · right bool (whether the
    mixture's answer is on the right side of 0.5; True for lines) · surviving bool (whether the expert survives
    training) · line str ("" for samples; which line this is an end of).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), figures 2 and 3.
    """
    inputs, desired = encode(data)
    state = result.state(at)
    winner = state.proportions(inputs).argmax(axis=1)
    samples = {
        "what": "sample",
        "f1": inputs[:, 0],
        "f2": inputs[:, 1],
        "expert": winner,
        "vowel": [VOWELS[vowel] for vowel in data.vowel],
        "right": (state.answer(inputs) > 0.5) == (desired > 0.5),
    }
    low, high = plane_of(inputs)
    won = np.unique(winner).tolist()
    lines = [("line", expert, f"{expert}", ends_of(state.experts[:, expert], low, high)) for expert in won]
    lines += [
        ("gate", one, f"{one} and {other}", _border(state.gate, one, other, low, high))
        for one, other in combinations(won, 2)
    ]
    ends = [
        {"what": what, "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True, "line": line}
        for what, expert, line, points in lines
        for f1, f2 in points
    ]
    frame = pd.concat([pd.DataFrame(samples).assign(line=""), pd.DataFrame(ends)], ignore_index=True)
    return frame.assign(surviving=frame["expert"].isin(result.surviving)).astype({"expert": np.int16})


def error_by_epoch(result: Mixture, data: Vowels) -> pd.DataFrame:
    """The average squared error on the training speakers by epoch: of the mixture, and of a network trained beside it.

    The network has one hidden layer and about as many parameters, and starts from the same seed; both stop at 0.08.

    One row per system and tenth epoch, and the last. Columns: system str · epoch int64 · squared_error float64 · goal
    float64 (0.08, where the paper stops).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), table 1.
    """
    network = train_network(data, HIDDEN[len(result.expert_lines[0].T)], int(result.settings["seed"]))
    frames = []
    for name, errors in ((MIXTURE, result.error_by_epoch), (NETWORK, network.error_by_epoch)):
        epochs = np.unique([*range(0, len(errors), EVERY), len(errors) - 1])
        system = pd.Series([name] * len(epochs), dtype="str")
        frames.append(pd.DataFrame({"system": system, "epoch": epochs, "squared_error": errors[epochs]}))
    return pd.concat(frames, ignore_index=True).assign(goal=STOP_AT)


def _border(gate: np.ndarray, one: int, other: int, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """The part of the line between two experts along which no third one is preferred; nothing where there is none."""
    ends = ends_of(gate[:, one] - gate[:, other], low, high)
    if len(ends) < 2:
        return []
    along = np.linspace(*np.array(ends), STEPS)
    logits = np.column_stack([along, np.ones(STEPS)]) @ gate
    highest = np.flatnonzero(logits[:, one] >= logits.max(axis=1) - SAME)
    return [tuple(along[i].tolist()) for i in highest[[0, -1]]] if len(highest) > 1 else []
