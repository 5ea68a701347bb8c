"""What each expert adds when it is chosen, and the rate at which it is. Reads what `expert_table` gives."""

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.metrics import captions

RARE = 3.29  # standard deviations, which chance passes once in a thousand times


def contribution(table: pd.DataFrame) -> pd.DataFrame:
    """Compute the rate at which each expert is chosen, and what it adds each time, both compared with its layer.

    table   of `moeviz.metrics.expert_table.expert_table`, of a trace or a dataset with the experts' outputs.

    What an expert adds is the norm of its output times its weight, and the mean over its tokens is the saliency of
    REAP. The residual stream grows from layer to layer and outputs with it, so `added_times` is relative to the mean
    over all choices of the layer. It says how far the output moves the stream, and not that the model needs it.

    One row per expert that has a token and whose outputs are recorded. Columns: layer int32 · expert int16 · tokens
    int64 (that it has) · times_uniform float64 (its share of the layer's choices, times a uniform share) · added
    float64 · added_times float64 (1: as much as a choice of this layer adds on average) · role str · name str · super
    bool (a Super Expert).

    Source: REAP (arXiv 2510.13999), equation 9.
    """
    known = table[(table["tokens"] > 0) & table["added"].notna()]
    sums = (known["added"] * known["tokens"]).groupby(known["layer"]).transform("sum")
    mean = sums / known["tokens"].groupby(known["layer"]).transform("sum")
    times = np.divide(known["added"], mean, out=np.full(len(known), np.nan), where=mean.to_numpy() > 0)
    columns = ["layer", "expert", "tokens", "times_uniform", "added", "added_times", "role", "name", "super"]
    return known.assign(added_times=times)[columns].reset_index(drop=True)


def contribution_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim whether experts that are chosen more often add more or less each time, if chance would rarely bring it.

    The mean over layers of Spearman's rank correlation is held against its standard deviation for unrelated ranks,
    sqrt(sum of 1 / (E - 1)) / L for L layers of E experts.
    """
    if (found := _rank_correlation(frame, "times_uniform", "added")) is None or abs(found[0]) <= found[1]:
        return None
    return captions.often_and_added(*found)


def missed_sentence(table: pd.DataFrame) -> Claim | None:
    """Claim that experts that add more are missed more, if losses without them are known and chance is rarely so.

    table   as for `contribution`, with loss_change. Chance is that of `contribution_caption`.
    """
    if "loss_change" not in table or (found := _rank_correlation(table, "added", "loss_change")) is None:
        return None
    if found[0] <= found[1]:
        return None
    chosen = _rank_correlation(table, "times_uniform", "loss_change")
    return captions.added_and_missed(*found, None if chosen is None else chosen[0])


def _rank_correlation(frame: pd.DataFrame, one: str, other: str) -> tuple[float, float] | None:
    """Compute the mean over layers, and what chance rarely passes; None if no layer has three experts that differ."""
    found = []
    for _, layer in frame.dropna(subset=[one, other]).groupby("layer", sort=False):
        ranks = layer[[one, other]].rank().to_numpy()
        if len(ranks) > 2 and (ranks.std(axis=0) > 0).all():
            found.append((float(np.corrcoef(ranks.T)[0, 1]), 1 / (len(ranks) - 1)))
    if not found:
        return None
    of_layers, variances = zip(*found, strict=True)
    return float(np.mean(of_layers)), RARE * float(np.sqrt(sum(variances))) / len(found)
