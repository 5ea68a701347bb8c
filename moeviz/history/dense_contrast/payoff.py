"""Why anybody makes a mixture: loss against parameters, at the same compute for each token.

The models are trained by `python -m moeviz.embedded.training.payoff`, on the text of the embedded model; their figures
ship, their weights do not.
"""

from pathlib import Path

import pandas as pd

from moeviz.charts.parameters import written

TABLE = Path(__file__).with_name("payoff.csv")


def payoff_runs() -> pd.DataFrame:
    """The runs that ship, a row a model.

    Columns: experts int64 (1 is the dense model) · seed int64 · tokens int64 (read in training) · parameters, active
    int64 (in all, and at work for a token; routers aside) · nats float64 (held-out loss of a token, mean over 15
    domains) · bits_per_byte float64.
    """
    return pd.read_csv(TABLE)


def loss_by_parameters(runs: pd.DataFrame) -> pd.DataFrame:
    """Held-out loss of models that compute the same for a token, by how many experts each chooses from.

    `runs` is what `payoff_runs` returns. A row a run; its columns, and: mean, spread float64 (of nats over the seeds of
    as many experts; spread is the largest less the smallest) · gain float64 (how far that mean is below the dense
    model's, in nats).

    Source: Shazeer et al. (arXiv 1701.06538), figure 2 (test perplexity of mixtures of equal compute); the comparison
    at this size is our own.
    """
    nats = runs.groupby("experts")["nats"]
    mean = nats.transform("mean")
    dense = runs.loc[runs["experts"] == 1, "nats"].mean()
    return runs.assign(mean=mean, spread=nats.transform("max") - nats.transform("min"), gain=dense - mean)


def payoff_words(frame: pd.DataFrame) -> str:
    """What the figures say, whichever way they fall. `frame` is what `loss_by_parameters` returns."""
    largest, dense = (frame[frame["experts"] == count].iloc[0] for count in (frame["experts"].max(), 1))
    sizes = written(int(dense["active"])), written(int(largest["parameters"]))
    seeds, noise = frame["seed"].nunique(), frame["spread"].max()
    begun = (
        f"All compute with {sizes[0]} parameters for a token and read the same {written(int(dense['tokens']))} tokens, "
        f"with {seeds} seeds each. "
    )
    if abs(largest["gain"]) <= noise:
        return begun + (
            f"At this size it does not come out: {int(largest['experts'])} experts change the mean loss by "
            f"{-largest['gain']:+.3f} nats a token, and seeds alone by up to {noise:.3f}."
        )
    better = "better" if largest["gain"] > 0 else "worse"
    return begun + (
        f"The model with {int(largest['experts'])} experts holds {sizes[1]} and predicts {better} than the dense one: "
        f"{largest['mean']:.3f} nats a token against {dense['mean']:.3f}. Seeds differ by at most {noise:.3f}."
    )
