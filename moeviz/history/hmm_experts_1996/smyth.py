"""Smyth's synthetic pair: two hidden Markov models that give the same numbers in another order, to be told apart.

Both have two states, whose numbers are normal around 0 and around 3 with variance 1. In one a state tends to stay, in
the other to change: no single frame tells which model it is of, and no histogram of a sequence does.

Source: Smyth, Clustering sequences with hidden Markov models, NIPS 9:648-654 (1996). Its constants are given here from
memory, and nothing is compared with what it prints.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from moeviz.history.hmm_experts_1996.experts import log_gate, side_by_side
from moeviz.history.hmm_experts_1996.model import ASSIGNMENTS, STARTS, fit, matched

STAYS = (0.6, 0.4)  # probability that a state is followed by itself, of the first model and of the second
MEANS = (0.0, 3.0)
SEQUENCES, FRAMES = 40, 200
DATA_SETS = 20
FOUND = 0.9  # accuracy from which on the two models count as found
TABLE = Path(__file__).with_name("sweep.csv")


def pair(seed: int, frames: int = FRAMES) -> tuple[tuple[Float64[np.ndarray, "_ 1"], ...], Int64[np.ndarray, " N"]]:
    """40 sequences, by turns of the first model and of the second, and of which each is."""
    rng = np.random.default_rng(seed)
    model = np.arange(SEQUENCES) % 2
    state = np.empty((SEQUENCES, frames), np.int64)
    state[:, 0] = rng.integers(2, size=SEQUENCES)
    changes = rng.random((SEQUENCES, frames)) >= np.array(STAYS)[model][:, None]
    state[:, 1:] = (state[:, :1] + np.cumsum(changes[:, 1:], axis=1)) % 2
    values = rng.normal(np.array(MEANS)[state])
    return tuple(each[:, None] for each in values), model


def accuracy(seed: int, assignment: str, start: str) -> float:
    """Share of a data set's sequences that a mixture of two experts with two states groups right: 0.5 is chance."""
    sequences, model = pair(seed)
    experts, _ = fit(sequences, 2, 2, assignment, start, seed)
    expert = log_gate(experts, side_by_side(sequences))[-1].argmax(axis=1)
    return float((matched(expert, model, 2)[expert] == model).mean())


def accuracies(data_sets: Iterable[int] = range(DATA_SETS)) -> pd.DataFrame:
    """How well soft and hard EM find Smyth's two models, from either start, data set by data set.

    Accuracy is the share of a data set's 40 sequences, of 200 frames each, that are with the expert of their model.

    One row per assignment, start and data set. Columns: assignment str (soft or hard) · start str (k-means or random) ·
    data_set int64 (its seed, and that of the start) · accuracy float64 (0.5 is chance) · found bool (0.9 or more).

    Source: Smyth, NIPS 9:648-654 (1996), for the two models; their constants are from memory.
    """
    data_sets = list(data_sets)
    cases = [(assignment, start, seed) for assignment in ASSIGNMENTS for start in STARTS for seed in data_sets]
    rows = [(assignment, start, seed, accuracy(seed, assignment, start)) for assignment, start, seed in cases]
    frame = pd.DataFrame(rows, columns=["assignment", "start", "data_set", "accuracy"])
    return _typed(frame.assign(found=frame["accuracy"] >= FOUND))


def shipped_accuracies() -> pd.DataFrame:
    """How well soft and hard EM find Smyth's two models, from either start: what `accuracies` came to, in a file.

    Accuracy is the share of a data set's 40 sequences, of 200 frames each, that are with the expert of their model.

    One row per assignment, start and data set. Columns: those of `accuracies`.

    Source: Smyth, NIPS 9:648-654 (1996), for the two models; their constants are from memory.
    """
    return _typed(pd.read_csv(TABLE))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"assignment": "str", "start": "str"})
