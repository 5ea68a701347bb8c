"""The gain from more experts at the same compute: small models trained on the text of the embedded one.

`python -m models.training.payoff` trains them; their figures ship, their weights do not.
"""

from pathlib import Path

import pandas as pd

TABLE = Path(__file__).with_name("payoff.csv")


def payoff_runs() -> pd.DataFrame:
    """Return the runs that ship, a row a model.

    Columns: experts int64 (1 is the dense model) · seed int64 · tokens int64 (read in training) · parameters, active
    int64 (in all, and at work for a token; routers aside) · nats float64 (held-out loss of a token, mean over 15
    domains) · bits_per_byte float64.
    """
    return pd.read_csv(TABLE)


def loss_by_parameters(runs: pd.DataFrame) -> pd.DataFrame:
    """Held-out loss of models that compute the same for a token, by how many experts each chooses two from.

    `runs` is what `payoff_runs` returns. One row a run. Columns: those of `payoff_runs` · mean, spread float64 (of nats
    over the seeds of as many experts; spread is the largest less the smallest) · gain float64 (how far that mean is
    below the dense model's, in nats).

    Source: Shazeer et al. (arXiv 1701.06538), figure 2 (test perplexity of mixtures of equal compute); the comparison
    at this size is our own.
    """
    nats = runs.groupby("experts")["nats"]
    mean = nats.transform("mean")
    dense = runs.loc[runs["experts"] == 1, "nats"].mean()
    return runs.assign(mean=mean, spread=nats.transform("max") - nats.transform("min"), gain=dense - mean)


def payoff_words(frame: pd.DataFrame) -> str:
    """Sum up the figures of `loss_by_parameters` in words.

    Two experts hold what the dense model holds and are both computed: what they gain is not due to more parameters.
    """
    of, noise = frame.groupby("experts").first(), frame["spread"].max()
    largest, dense, two = of.iloc[-1], of.loc[1], of.loc[2, "mean"]
    more = two - largest["mean"]
    return (
        f"All compute with {_millions(dense['active'])} parameters for a token and read the same "
        f"{_millions(dense['tokens'])} tokens, with {frame['seed'].nunique()} seeds each. The model with "
        f"{largest.name} experts holds {_millions(largest['parameters'])}, at {largest['mean']:.3f} nats per token "
        f"against {dense['mean']:.3f} of the dense one; seeds differ by at most {noise:.3f}. Two experts, which hold "
        f"what the dense one holds and are both computed, come to {two:.3f}. What more parameters add is {more:.3f}, "
        f"{'less' if abs(more) <= noise else 'more'} than seeds make."
    )


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} million"
