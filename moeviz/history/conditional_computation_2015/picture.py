"""Conditional computation in numbers: which blocks a digit switches on, how many, and what leaving blocks off costs."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.conditional_computation_2015.model import CLASSES, UNITS, Conditional, train

SWEEP = Path(__file__).with_name("sweep.csv")
TARGETS = {
    "policy": (1 / 16, 1 / 8, 3 / 16, 1 / 4),
    "straight-through": (1 / 16, 1 / 8, 3 / 16, 1 / 4),
    "uniform": (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4),
}
NAMES = {"policy": "learned policy", "straight-through": "straight-through", "uniform": "uniform dropout"}
SHOWN = "shown above"


def blocks_by_digit(result: Conditional) -> pd.DataFrame:
    """How likely each kind of digit is to switch each block on.

    `probability` is the mean of σ over the test digits of that kind. The blocks of a kind do not sum to 1 but to the
    average number of blocks that it has on. `target` is τ, what all would be if the policy ignored the digit.

    One row per kind and block. Columns: digit int16 · block int16 · probability float64 (0 to 1) · on float64 (share
    of the kind's test digits, in the draw of the trace) · target float64.

    Source: σ of E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    blocks = result.probability.shape[1]
    kinds = [result.digit == digit for digit in range(CLASSES)]
    columns = {
        "digit": np.repeat(np.arange(CLASSES, dtype=np.int16), blocks),
        "block": np.tile(np.arange(blocks, dtype=np.int16), CLASSES),
        "probability": np.concatenate([result.probability[kind].mean(axis=0, dtype=np.float64) for kind in kinds]),
        "on": np.concatenate([result.on[kind].mean(axis=0) for kind in kinds]),
        "target": float(result.settings["target"]),
    }
    return pd.DataFrame(columns)


def blocks_on(result: Conditional) -> pd.DataFrame:
    """How many blocks the test digits have on, from none to all, next to blocks chosen at random.

    At random means uniform block dropout with as many blocks on in all: the binomial distribution of B blocks, each on
    with the mean share. A policy that gave each digit the same number of blocks would be a single bar.

    One row per number of blocks. Columns: blocks_on int16 · digits int64 · share float64 (of the test digits) · by_lot
    float64 (the same at random). Shares sum to 1.

    Source: the independent Bernoullis of E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    samples, blocks = result.on.shape
    counts = np.bincount(result.on.sum(axis=1), minlength=blocks + 1)
    by_lot = np.ones(1)
    for _ in range(blocks):
        by_lot = np.convolve(by_lot, [1 - result.on.mean(), result.on.mean()])
    columns = {"blocks_on": np.arange(blocks + 1, dtype=np.int16), "digits": counts, "share": counts / samples}
    return pd.DataFrame(columns | {"by_lot": by_lot})


def error_by_blocks(result: Conditional, path: Path = SWEEP) -> pd.DataFrame:
    """What share of the test digits is classified wrongly, against the share of blocks that are on.

    Learned policy, straight-through and uniform block dropout, each at several targets; two dense networks, which have
    every unit on; and `result`, named "shown above". Blocks are sampled, except in the dense networks. `mean`, `lowest`
    and `highest` are over three seeds; `result` has one. Most of the computation is done in the blocks that are on;
    that of the policy itself, a sixteenth of the hidden layer's, comes on top and is not in `on_share`.

    One row per network and target. Columns: network str · target float64 (τ) · on_share float64 (of all blocks; 1 for
    dense networks) · mean, lowest, highest float64 (share of test digits that are classified wrongly) · seeds int64.

    Source: E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015), which compares the same
    kinds of network.
    """
    runs = pd.read_csv(path)
    rows = runs.groupby(["network", "target"], sort=False).agg(
        on_share=("on_share", "mean"),
        mean=("error", "mean"),
        lowest=("error", "min"),
        highest=("error", "max"),
        seeds=("seed", "count"),
    )
    own = {"network": SHOWN, "target": result.settings["target"], "on_share": result.on_share, "seeds": 1}
    own |= dict.fromkeys(("mean", "lowest", "highest"), result.error)
    return pd.concat([rows.reset_index(), pd.DataFrame([own])], ignore_index=True)


def sweep(seeds: Iterable[int] = range(3)) -> pd.DataFrame:
    """Train every network of `error_by_blocks`: what ships as sweep.csv. Takes minutes.

    One row per run. Columns: network str · target float64 · seed int64 · on_share float64 · error float64.
    """
    asked = [(NAMES[kind], kind, target, 16) for kind, targets in TARGETS.items() for target in targets]
    asked += [(f"dense, {blocks * UNITS} units", "uniform", 1.0, blocks) for blocks in (16, 2)]
    rows = []
    for name, estimator, target, blocks in asked:
        for seed in seeds:
            run = train(estimator, target, blocks=blocks, seed=seed)
            rows.append((name, target, seed, run.on_share, run.error))
    return pd.DataFrame(rows, columns=["network", "target", "seed", "on_share", "error"]).round(4)
