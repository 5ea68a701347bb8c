"""Table 1 of the paper of 1991, and the same figures of ours. `python -m benchmarks.table_1991` makes it anew."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.local_experts_1991.backpropagation import HIDDEN, Network, train_network
from moeviz.history.local_experts_1991.model import Mixture, train
from moeviz.history.shared.vowels import Vowels, at_hand

TABLE = Path(__file__).with_name("sweep.csv")
SEEDS = range(25)  # as many simulations as in the paper
EXPERTS = (4, 8)
# Of the experts, how many are left; epochs, and their standard deviation; accuracies on training and test speakers.
PRINTED = {
    "4 experts": ("2 or 3", 1124, 23, 0.88, 0.90),
    "8 experts": ("2 or 3", 1083, 12, 0.88, 0.90),
    "backpropagation, 6 hidden units": ("", 2209, 83, 0.88, 0.90),
    "backpropagation, 12 hidden units": ("", 2435, 124, 0.88, 0.90),
}
PAPER, MEASURED, STAND_IN = "the paper, measured vowels", "ours, measured vowels", "ours, stand-in vowels"
FIGURES = ["experts left", "epochs", "deviation", "training", "test"]


def table_1(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """The table of the paper, line by line beside ours, of the stand-in and of the measured vowels if they are at hand.

    One row per system and whose figures they are. Columns: system, of str · experts left str ("2", "2 or 3"; "" for a
    network without experts) · epochs, deviation float64 (mean and standard deviation of the epochs to the error 0.08
    of the runs that reach it) · training, test float64 (mean share of the samples classified correctly) · missed
    float64 (runs that do not reach the error; NaN for the paper).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), table 1 and section 2.
    """
    printed = [(name, PAPER, *figures, float("nan")) for name, figures in PRINTED.items()]
    rows = [*printed, *(row for data in at_hand() for row in _ours(data, seeds))]
    frame = pd.DataFrame(rows, columns=["system", "of", *FIGURES, "missed"])
    return frame.sort_values("system", key=lambda names: names.map(list(PRINTED).index), kind="stable").reset_index(
        drop=True
    )


def shipped_table_1() -> pd.DataFrame:
    """The table that ships. Columns: those of `table_1`."""
    return pd.read_csv(TABLE, dtype={"experts left": "str"}).fillna({"experts left": ""})


def _ours(data: Vowels, seeds: Sequence[int]) -> Iterator[tuple[str | float, ...]]:
    """A row for each of the four systems."""
    of = MEASURED if data.measured else STAND_IN
    for experts in EXPERTS:
        mixtures = [train(data, experts, seed=seed) for seed in seeds]
        left = " or ".join(str(number) for number in sorted({len(run.surviving) for run in mixtures}))
        yield (f"{experts} experts", of, left, *_figures(mixtures))
    for experts in EXPERTS:
        networks = [train_network(data, HIDDEN[experts], seed) for seed in seeds]
        yield (f"backpropagation, {HIDDEN[experts]} hidden units", of, "", *_figures(networks))


def _figures(runs: Sequence[Mixture | Network]) -> tuple[float, ...]:
    epochs = [run.epochs for run in runs if run.epochs is not None]
    return (
        float(np.mean(epochs)) if epochs else float("nan"),
        float(np.std(epochs)) if epochs else float("nan"),
        float(np.mean([run.train_accuracy for run in runs])),
        float(np.mean([run.test_accuracy for run in runs])),
        float(len(runs) - len(epochs)),
    )
