"""How evenly a sparsely-gated mixture keeps its experts busy: during training, and as in table 6 of the paper."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.shared.results import WITHOUT_BALANCE, Watch, shipped, unwatched
from moeviz.history.sparsely_gated_2017.model import MEASURES, STEPS, SparselyGated, train

TABLE = Path(__file__).with_name("sweep.csv")
SEEDS = (0, 1, 2)
# (w_importance, w_load): CV(importance), CV(load), max / mean load. Shazeer 2017, table 6: 256 experts, 4 for a word.
PAPER = {
    (0.0, 0.0): (3.04, 3.01, 17.80),
    (0.2, 0.0): (0.06, 0.17, 1.47),
    (0.0, 0.2): (0.22, 0.04, 1.15),
    (0.1, 0.1): (0.06, 0.05, 1.14),
    (0.01, 0.01): (0.48, 0.11, 1.37),
    (1.0, 1.0): (0.03, 0.02, 1.07),
}
EVEN = dict(zip(MEASURES, (0.0, 0.0, 1.0, 1.0), strict=True))  # where all experts are equally busy
COMPARED = (16, 2, 0)  # experts, top-k and groups of what ships
NO_LOSS = "max / mean words, without losses"
TOGETHER = 10  # steps of training that make a point of the curve


def balance_by_step(result: SparselyGated) -> pd.DataFrame:
    """How much busier than the mean expert the busiest one is, during the training of a sparsely-gated mixture.

    "max / mean load" is that of Load(X), equation 10, which the loss pushes towards uniform; "max / mean words" counts
    the words that each expert was given. Both are computed from the words of one step, including the noise, and
    averaged over ten consecutive steps. Uniform is 1. Gates start at 0, so the first words are divided at random, which
    is not quite uniform.

    Beside a run with losses stands the one without them that ships, by words, where it has as many experts.

    One row per ten steps and measure. Columns: step int32 (the last of the ten, from 1) · measure str · value float64 ·
    even float64 (1).

    Source: Shazeer et al. (arXiv 1701.06538), table 6, last column, which has it after training.
    """
    lines = _by_ten(result, MEASURES[2:])
    if without := _without_losses(result):
        lines = pd.concat([lines, _by_ten(without, MEASURES[3:]).assign(measure=NO_LOSS)], ignore_index=True)
    return lines.astype({"measure": "str"}).assign(even=1.0)


def _by_ten(result: SparselyGated, names: tuple[str, ...]) -> pd.DataFrame:
    """The means of ten steps of training, and of the rest at its end. The last of MEASURES, as many as `names`."""
    last = np.append(np.arange(TOGETHER, len(result.balance), TOGETHER), len(result.balance))
    each = np.split(result.balance[:, -len(names) :].astype(np.float64), last[:-1])
    values = np.stack([steps.mean(axis=0) for steps in each])
    steps = np.repeat(last.astype(np.int32), len(names))
    return pd.DataFrame({"step": steps, "measure": np.tile(names, len(last)), "value": values.ravel()})


def _without_losses(result: SparselyGated) -> SparselyGated | None:
    """The run that ships without losses, if this one has them and differs in nothing else but its seed."""
    settings = result.settings
    alike = (settings["experts"], settings["top_k"], settings["groups"]) == COMPARED
    return shipped(SparselyGated, WITHOUT_BALANCE) if alike and settings["importance"] + settings["load"] > 0 else None


def balance_table(seeds: Iterable[int] = SEEDS, steps: int = STEPS, watch: Watch = unwatched) -> pd.DataFrame:
    """Train under each of the six pairs of loss weights of table 6. Takes a quarter of a minute for each and seed.

    One row per pair and seed. Columns: importance, load float64 (weights of the losses) · seed int64 · the four of
    `MEASURES` float64 (means of the last 20 steps) · perplexity float64 (on held-out words).
    """
    runs = [(pair, seed) for seed in seeds for pair in PAPER]
    rows = []
    for done, ((importance, load), seed) in enumerate(runs):

        def of_all(share: float, says: str, done: int = done) -> None:
            watch((done + share) / len(runs), says)

        result = train(importance=importance, load=load, steps=steps, seed=seed, watch=of_all)
        rows.append({"importance": importance, "load": load, "seed": seed, **result.at_end()})
        rows[-1]["perplexity"] = result.perplexity
    return pd.DataFrame(rows)


def shipped_table() -> pd.DataFrame:
    """What `balance_table` gave, from the file that ships. Columns as there."""
    return pd.read_csv(TABLE)


def beside_paper(runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """How far from uniform 16 experts are here under six pairs of loss weights, next to the 256 of the paper's table 6.

    CV is the coefficient of variation, standard deviation / mean, over the experts: of Importance(X), the sums of their
    weights (equation 6), and of Load(X), a smooth count of their words (equation 10). "max / mean load" is the load of
    the busiest expert divided by the mean. Our numbers are from batches of 1,024 words with noise, averaged over the
    last 20 steps and then over all seeds. Numbers for 256 experts and for 16 are not the same thing: with 16, and 2 per
    word, none can have more than 8 times the mean. What can be compared is which pair is closer to uniform.

    `runs` are what `balance_table` gives; by default those that ship. One row per pair and measure. Columns: setting
    str (the weights in words) · measure str · ours float64 (mean of the seeds) · lowest, highest float64 (of the seeds)
    · paper float64 · even float64 (0, or 1 for max / mean) · seeds int64 (how many).

    Source: Shazeer et al. (arXiv 1701.06538), table 6, of which these are the last three columns.
    """
    runs = shipped_table() if runs is None else runs
    rows = []
    for column, measure in enumerate(MEASURES[:3]):
        for pair, printed in PAPER.items():
            values = runs.loc[(runs["importance"] == pair[0]) & (runs["load"] == pair[1]), measure]
            of_seeds = {"ours": values.mean(), "lowest": values.min(), "highest": values.max()}
            facts = {"setting": setting(*pair), "measure": measure, **of_seeds, "paper": printed[column]}
            rows.append(facts | {"even": EVEN[measure], "seeds": len(values)})
    return pd.DataFrame(rows).astype({"setting": "str", "measure": "str"})


def setting(importance: float, load: float) -> str:
    """A pair of loss weights in words.

    >>> setting(0.0, 0.0), setting(0.2, 0.0), setting(0.1, 0.1)
    ('no loss', 'importance 0.2', 'both 0.1')
    """
    if importance == load:
        return f"both {load:g}" if load else "no loss"
    weights = {"importance": importance, "load": load}
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
