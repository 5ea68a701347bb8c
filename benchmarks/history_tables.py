"""The tables over many settings that ship with the systems of the history: each trains its system again and again.

`python -m benchmarks.history NAME --sweeps` writes them. The checks train parts of them from other seeds.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64

from benchmarks.gates_1994 import error_by_shape
from benchmarks.measured_vowels import at_hand
from moeviz.history.conditional_computation_2015 import exhibit as conditional_exhibit
from moeviz.history.conditional_computation_2015 import model as conditional
from moeviz.history.dense_contrast import exhibit as dense_exhibit
from moeviz.history.dense_contrast import model as dense
from moeviz.history.hmm_experts_1996.hidden_markov import log_gate, side_by_side
from moeviz.history.hmm_experts_1996.model import ASSIGNMENTS, STARTS, fit, matched
from moeviz.history.local_experts_1991 import exhibit as table_1991
from moeviz.history.local_experts_1991.model import (
    HIDDEN,
    AdaptiveMixture,
    BackpropagationNetwork,
    train,
    train_network,
)
from moeviz.history.shared.datasets import Vowels
from moeviz.history.shared.experts import balancing_loss
from moeviz.history.sparsely_gated_2017 import exhibit as sparse_exhibit
from moeviz.history.sparsely_gated_2017 import model as sparse
from moeviz.history.svm_experts_2002 import model as svm
from moeviz.history.switch_2021 import exhibit as switch_exhibit
from moeviz.history.switch_2021 import model as switch
from moeviz.history.switch_2021.model import Switch

# 1991


def table_1(seeds: Iterable[int] = range(25)) -> pd.DataFrame:
    """Train the table of `shipped_table_1` again, with the measured vowels too if they are at hand."""
    printed = [(name, table_1991.PAPER, *figures, float("nan")) for name, figures in table_1991.PRINTED.items()]
    rows = [*printed, *(row for data in at_hand() for row in _our_rows(data, seeds))]
    frame = pd.DataFrame(rows, columns=["system", "of", *table_1991.FIGURES, "missed"])
    return frame.sort_values(
        "system", key=lambda names: names.map(list(table_1991.PRINTED).index), kind="stable"
    ).reset_index(drop=True)


def _our_rows(data: Vowels, seeds: Iterable[int]) -> Iterator[tuple[str | float, ...]]:
    of = table_1991.MEASURED if data.measured else table_1991.STAND_IN
    for experts in (4, 8):
        mixtures = [train(data, experts, seed=seed) for seed in seeds]
        left = " or ".join(str(number) for number in sorted({len(run.surviving) for run in mixtures}))
        yield (f"{experts} experts", of, left, *_epochs_and_accuracies(mixtures))
    for experts in (4, 8):
        networks = [train_network(data, HIDDEN[experts], seed) for seed in seeds]
        yield (f"backpropagation, {HIDDEN[experts]} hidden units", of, "", *_epochs_and_accuracies(networks))


def _epochs_and_accuracies(runs: Sequence[AdaptiveMixture | BackpropagationNetwork]) -> tuple[float, ...]:
    epochs = [run.epochs for run in runs if run.epochs is not None]
    return (
        float(np.mean(epochs)) if epochs else float("nan"),
        float(np.std(epochs)) if epochs else float("nan"),
        float(np.mean([run.train_accuracy for run in runs])),
        float(np.mean([run.test_accuracy for run in runs])),
        float(len(runs) - len(epochs)),
    )


# 1996: sequences of Smyth's two models.

STAYS = (0.6, 0.4)  # probability that a state is followed by itself, of the first model and of the second
MEANS = (0.0, 3.0)
SEQUENCES, FRAMES = 40, 200
DATA_SETS = 20
FOUND = 0.9  # accuracy from which on the two models count as found


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
    """Train the table of `shipped_accuracies` anew."""
    data_sets = list(data_sets)
    cases = [(assignment, start, seed) for assignment in ASSIGNMENTS for start in STARTS for seed in data_sets]
    rows = [(assignment, start, seed, accuracy(seed, assignment, start)) for assignment, start, seed in cases]
    frame = pd.DataFrame(rows, columns=["assignment", "start", "data_set", "accuracy"])
    frame = frame.assign(found=frame["accuracy"] >= FOUND)
    return frame.astype({"assignment": "str", "start": "str"})


# 2002

MACHINE_SEEDS = range(5)
SWEPT_EXPERTS = {"linear": (2, 4, 8, 16, 32), "rbf": (2, 4, 8, 16)}


def machines() -> pd.DataFrame:
    """Train the table of `swept` anew: each number of experts, linear ones that know nothing too. Takes minutes."""
    grid = [(kernel, m, s) for kernel, many in SWEPT_EXPERTS.items() for m, s in product(many, (False, True))]
    grid = [row for row in grid if row[0] == "linear" or not row[2]]
    rows = []
    for (kernel, experts, shuffled), seed in product(grid, MACHINE_SEEDS):
        run = svm.train(experts, kernel=kernel, shuffled=shuffled, seed=seed)
        errors = {"single": run.single_error, "uniform": run.uniform_error, "gated": run.test_error[-1]}
        rows.append({"kernel": kernel, "experts": experts, "shuffled": shuffled, "seed": seed} | errors)
    return pd.DataFrame(rows)


# 2015

TARGETS = {
    "policy": (1 / 16, 1 / 8, 3 / 16, 1 / 4),
    "straight-through": (1 / 16, 1 / 8, 3 / 16, 1 / 4),
    "uniform": (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4),
}


def blocks_on(seeds: Iterable[int] = range(3)) -> pd.DataFrame:
    """Train every network of `error_by_blocks`. Takes minutes.

    One row per run. Columns: network str · target float64 · seed int64 · on_share float64 · error float64.
    """
    asked = [
        (conditional_exhibit.NAMES[kind], kind, target, 16) for kind, targets in TARGETS.items() for target in targets
    ]
    asked += [(f"dense, {blocks * conditional.UNITS} units", "uniform", 1.0, blocks) for blocks in (16, 2)]
    rows = []
    for name, estimator, target, blocks in asked:
        for seed in seeds:
            run = conditional.train(estimator, target, blocks=blocks, seed=seed)
            rows.append((name, target, seed, run.on_share, run.error))
    return pd.DataFrame(rows, columns=["network", "target", "seed", "on_share", "error"]).round(4)


# 2017


def balance_table(seeds: Iterable[int] = (0, 1, 2), steps: int = sparse.STEPS) -> pd.DataFrame:
    """Train under each of the six pairs of loss weights of table 6. Takes a quarter of a minute for each and seed.

    Columns: those of `shipped_table`.
    """
    rows = []
    for seed, (importance, load) in product(seeds, sparse_exhibit.PRINTED_TABLE):
        result = sparse.train(importance=importance, load=load, steps=steps, seed=seed)
        rows.append({"importance": importance, "load": load, "seed": seed, **result.at_end()})
        rows[-1]["perplexity"] = result.perplexity
    return pd.DataFrame(rows)


# 2021


def dropping(
    kinds: Sequence[switch_exhibit.Kind] = switch_exhibit.KINDS,
    seeds: Sequence[int] = switch_exhibit.SEEDS,
    **settings: int,
) -> pd.DataFrame:
    """Train each kind of Switch Transformer, and the dense twin, from each of these seeds.

    `settings` are passed to `train`. Columns: those of `shipped_sweep`.
    """
    frames = []
    for kind, seed in product(kinds, seeds):
        result = switch.train(seed=seed, **kind, **settings)
        columns = {"dense": False, "capacity_factor": math.nan, "aux_weight": math.nan} | kind
        frames.append(switch_exhibit.by_window(result).assign(**columns, seed=seed, perplexity=result.perplexity))
    order = ["dense", "capacity_factor", "aux_weight", "seed", "step", "dropped", "perplexity"]
    return pd.concat(frames, ignore_index=True)[order]


OFFSETS = (0, 16, 64, 256, 1024)
Z_WEIGHT, DESCENT = 1e-3, 3000  # ST-MoE's weight of the z-loss, and steps of 1 down its slope


def large_logits(result: Switch) -> pd.DataFrame:
    """Add an offset to all router logits of the held-out words: what 16 bits make of them, and what the z-loss does.

    A softmax does not see an offset, and so no loss that is made of it does: only the z-loss, the mean of
    log² Σ exp(h), has a slope along it. bfloat16 has 8 significant bits, so it rounds large logits by much.

    One row per offset. Columns: offset int64 · changed float64 (share of words whose expert changes if logits are
    rounded to bfloat16) · rounded float64 (largest change of a probability) · without, with_z_loss float64 (what
    is left of the offset after 3,000 steps down the slope of the auxiliary loss, without and with the z-loss of
    weight 0.001).

    Source: Zoph et al., ST-MoE (arXiv 2202.08906), section 3, for the z-loss.
    """
    logits, chosen = torch.from_numpy(result.logits), torch.from_numpy(result.chosen.astype(np.int64))
    rows = []
    for offset in OFFSETS:
        short = (logits + offset).bfloat16().float()
        moved = (short.softmax(-1) - logits.softmax(-1)).abs().max()
        left = [_descend(logits.double(), chosen, float(offset), weight) for weight in (0.0, Z_WEIGHT)]
        rows.append((offset, float((short.argmax(-1) != chosen).float().mean()), float(moved), *left))
    return pd.DataFrame(rows, columns=["offset", "changed", "rounded", "without", "with_z_loss"])


def _descend(logits: torch.Tensor, chosen: torch.Tensor, offset: float, weight: float) -> float:
    left = torch.tensor(offset, dtype=torch.float64, requires_grad=True)
    for _ in range(DESCENT):
        seen = logits + left
        loss = 1e-2 * balancing_loss(seen.softmax(-1), chosen) + weight * seen.logsumexp(-1).square().mean()
        (slope,) = torch.autograd.grad(loss, left)
        left = (left - slope).detach().requires_grad_()
    return left.item()


# 2023


def perplexities(seeds: Iterable[int] = dense_exhibit.SEEDS, **settings: int) -> pd.DataFrame:
    """Train each kind from each of these seeds. `settings` are passed to `train`. Columns: those of `shipped_sweep`."""
    runs = (dense.train(kind=kind, seed=seed, **settings) for kind, seed in product(dense.KINDS, seeds))
    return pd.concat([dense_exhibit.curve_of(run) for run in runs], ignore_index=True)


SWEEPS: dict[str, Callable[[], pd.DataFrame]] = {  # by system: the table that ships as its sweep.csv
    "local-experts": table_1,
    "hierarchical": error_by_shape,
    "hmm-experts": accuracies,
    "svm-experts": machines,
    "conditional": blocks_on,
    "sparsely-gated": balance_table,
    "switch": dropping,
    "dense": perplexities,
}
