"""What more experts bring at the same compute: small models trained on the text of the embedded one.

`python -m models.training.payoff` trains them; their figures ship, their weights do not.
"""

from pathlib import Path

import pandas as pd

TABLE = Path(__file__).with_name("payoff.csv")


def payoff_runs() -> pd.DataFrame:
    """The runs that ship, a row a model.

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
    """Sum up the figures in words, whichever way they fall. `frame` has the columns of `loss_by_parameters`."""
    of = frame.groupby("experts").first()
    largest, dense, noise = of.iloc[-1], of.loc[1], frame["spread"].max()
    begun = (
        f"All compute with {_millions(dense['active'])} parameters for a token and read the same "
        f"{_millions(dense['tokens'])} tokens, with {frame['seed'].nunique()} seeds each."
    )
    return " ".join([begun, _outcome(largest, dense, noise), *_of_two_experts(of, noise)])


def _outcome(largest: pd.Series, dense: pd.Series, noise: float) -> str:
    experts = f"{largest.name} experts"
    if abs(largest["gain"]) <= noise:
        return (
            f"At this size it does not come out: {experts} change the mean loss by {-largest['gain']:+.3f} nats a "
            f"token, and seeds alone by up to {noise:.3f}."
        )
    better = "better" if largest["gain"] > 0 else "worse"
    return (
        f"The model with {experts} holds {_millions(largest['parameters'])} and predicts {better} than the dense one: "
        f"{largest['mean']:.3f} nats a token against {dense['mean']:.3f}. Seeds differ by at most {noise:.3f}."
    )


def _of_two_experts(of: pd.DataFrame, noise: float) -> list[str]:
    """Say what two experts bring: they hold what the dense model holds, so it is not the parameters that do it."""
    if 2 not in of.index or of["gain"].iloc[-1] <= noise or of.loc[2, "gain"] <= noise:
        return []
    more = of.loc[2, "mean"] - of["mean"].iloc[-1]
    than = "less" if abs(more) <= noise else "more"
    return [
        f"Two experts, which hold what the dense one holds and are both computed, come to {of.loc[2, 'mean']:.3f} "
        f"without more parameters. What those add is {more:.3f}, {than} than seeds make."
    ]


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} million"
