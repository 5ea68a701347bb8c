"""A mixture next to its dense twins, in numbers: what each costs, and how well each predicts the next word."""

from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.dense_contrast.decoder_costs import cost
from moeviz.history.dense_contrast.model import KINDS, Run, sizes_of, train
from moeviz.history.dense_contrast.small_mixtral import MIXTRAL_8X7B
from moeviz.history.shared.results import Watch, unwatched

SEEDS = (0, 1, 2)
SWEEP = Path(__file__).with_name("sweep.csv")
HERE, REAL = "trained here", "Mixtral 8x7B"
THIS_RUN, OTHERS = "the run on this page", "runs that ship"


def memory_against_compute(result: Run) -> pd.DataFrame:
    """Memory and compute of a mixture and its dense twins: those trained here, and those of Mixtral 8x7B.

    Memory depends on all parameters, compute on those that work on one word (active: K of E experts in each layer, and
    everything else, including embeddings). Both are counted from the modules of a decoder of these sizes, which for
    Mixtral 8x7B are created without allocating memory. Both are given as shares of the parameters of the mixture. A
    dense network uses all its parameters for every word, so its shares are equal.

    One row per network and kind. Columns: network str (trained here, or Mixtral 8x7B) · kind str (sparse, as fast, as
    large) · total, active int64 (parameters) · multiply_adds int64 (for one word, by matrices; attention between words
    is not counted) · memory, compute float64 (total and active, as shares of the total of the network's mixture).

    Source: Jiang et al. (arXiv 2401.04088), section 2.1: "sparse" and "active parameter count".
    """
    ours = sizes_of(result.settings["experts"], result.settings["top_k"])
    rows = []
    for network, sizes in {HERE: ours, REAL: MIXTRAL_8X7B}.items():
        whole = cost(sizes).total
        for kind, of in KINDS.items():
            counted = cost(of(sizes))
            counts = {"total": counted.total, "active": counted.active, "multiply_adds": counted.multiply_adds}
            shares = {"memory": counted.total / whole, "compute": counted.active / whole}
            rows.append({"network": network, "kind": kind} | counts | shares)
    return pd.DataFrame(rows).astype({"network": "str", "kind": "str"})


def sweep(seeds: tuple[int, ...] = SEEDS, watch: Watch = unwatched, **settings: int) -> pd.DataFrame:
    """Train each kind from each of these seeds. `settings` are passed to `train`.

    One row per run and recorded step. Columns: kind str · seed int64 · step int64 · perplexity float64 (on held-out
    words).
    """
    runs = [(kind, seed) for kind in KINDS for seed in seeds]
    frames = []
    for number, (kind, seed) in enumerate(runs):

        def part(done: float, says: str, before: int = number) -> None:
            watch((before + done) / len(runs), f"run {before + 1} of {len(runs)}, {says}")

        frames.append(_curve(train(kind=kind, seed=seed, **settings, watch=part)))
    return pd.concat(frames, ignore_index=True)


def shipped_sweep() -> pd.DataFrame:
    """The sweep that ships, of the default settings. Columns: those of `sweep`."""
    return pd.read_csv(SWEEP)


def perplexity_by_step(result: Run, runs: pd.DataFrame) -> pd.DataFrame:
    """How well a network predicts the next held-out word during training: one run, next to a sweep over all kinds.

    Perplexity is e to the power of the mean loss in nats over all held-out words, each given those before it in its
    sequence of 48; lower is better. Step 0, before training, is left out.

    One row per run and recorded step. Columns: run str (the run on this page, or runs that ship) · kind str · seed
    int64 · step int64 · perplexity float64.

    Source: the measure of Jelinek, Mercer, Bahl & Baker (1977); the comparison is our own.
    """
    frame = pd.concat([runs.assign(run=OTHERS), _curve(result).assign(run=THIS_RUN)], ignore_index=True)
    frame = frame.loc[frame["step"] > 0, ["run", "kind", "seed", "step", "perplexity"]]
    return frame.reset_index(drop=True).astype({"run": "str", "kind": "str"})


def _curve(result: Run) -> pd.DataFrame:
    steps = {"step": np.array(result.recorded, np.int64), "perplexity": result.perplexity}
    return pd.DataFrame({"kind": result.settings["kind"], "seed": result.settings["seed"]} | steps)
