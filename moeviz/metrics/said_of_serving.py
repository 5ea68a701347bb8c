"""One sentence on a chart of what a routing costs to serve: what stands out, or None."""

import pandas as pd

from moeviz.metrics.words import one_row, percent

A_TENTH, A_FIFTH, STANDARD_ERRORS = 0.1, 0.2, 4
HALF = 0.5


def said_of_hits(frame: pd.DataFrame) -> str | None:
    """Recency or popularity: which of LRU and the fixed set has more hits where it holds half of the experts.

    By a tenth of all requests, and by four standard errors of a difference of two shares.
    """
    rates = frame.pivot(index="capacity", columns="policy", values="rate")
    if not {"lru", "static"} <= set(rates.columns):
        return None
    size = rates.index[int((rates["chance"] - HALF).abs().argmin())]
    row, judged = rates.loc[size], max(int(frame["requests"].iloc[0]) // 2, 1)
    if not abs(row["lru"] - row["static"]) >= max(A_TENTH, STANDARD_ERRORS * (HALF / judged) ** 0.5):
        return None
    lru, fixed = percent(row["lru"]), percent(row["static"])
    where = f"with {size} experts a layer, LRU hits {lru} and the most used experts {fixed}"
    what = "Recency" if row["lru"] > row["static"] else "Popularity"
    return f"{what} decides: {where}; chance is {percent(row['chance'])}."


def said_of_batches(frame: pd.DataFrame) -> str | None:
    """What the largest batch in a row that is short of all experts needs, if a fifth less than at random."""
    means = frame.groupby("batch")[["consecutive", "even"]].mean().reset_index().dropna()
    fewer = means[means["consecutive"] <= (1 - A_FIFTH) * means["even"]]
    if fewer.empty:
        return None
    row = one_row(fewer, fewer.index[-1])
    needs = f"{row.batch:.0f} tokens in a row need {row.consecutive:.1f} experts a layer"
    return f"{needs}; if they chose at random, it would be {row.even:.1f}."


def said_of_placements(frame: pd.DataFrame) -> str | None:
    """What balancing or copies change in the busiest device, on tokens the plan was not made from: a fifth or more."""
    means = frame.groupby("placement")["imbalance"].mean()
    if not {"contiguous", "balanced", "copies"} <= set(means.index) or not means["contiguous"] > 1:
        return None
    better = means[["balanced", "copies"]].min()
    if not abs(means["contiguous"] - better) >= A_FIFTH * means["contiguous"] or frame["imbalance"].isna().any():
        return None
    plan = f"balanced {means['balanced']:.2f}×, with copies {means['copies']:.2f}×"
    return f"The busiest device has {means['contiguous']:.2f}× the mean load with experts in order, {plan} (held out)."
