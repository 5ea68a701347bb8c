"""The load of each expert, of all tokens or of groups, compared with what chance gives."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics import captions
from moeviz.metrics.inputs import LayerCounts, Statistics, layer_counts
from moeviz.metrics.significance import HANDFUL, RARE
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted
from moeviz.text import spans

MOST_GROUPS = 4  # that stand under all tokens together: of more, there are only all together
UNEVEN, VERY = 1.5, 2.0  # times a uniform share
SURE = 1e6  # variance from which a binomial is a normal distribution
EVERYTHING = 0  # the part that is all tokens together
COLUMNS: dict[str, Any] = {
    "part": np.int16,
    "group": "str",
    "layer": np.int32,
    "expert": np.int16,
    "tokens": np.int64,
    "counted": np.int64,
    "times_uniform": np.float64,
    "luck_low": np.float64,
    "luck_high": np.float64,
    "beyond_luck": bool,
    "by_token_id": bool,
}


def load_beside_luck(counted: Counted | Statistics) -> pd.DataFrame:
    """Compute the load of each expert, and the range of loads that chance gives.

    Chance is a router that sends each token to k different experts at random, so an expert's tokens are binomial, with
    p = k / E; k is the mean if some slots are empty. A load is beyond chance if chance brings one as far away to any
    cell in at most one of a thousand tables. Tokens are taken as independent: neighbours are not, so a load that is
    hardly beyond chance may still be the text's.

    One row per part, layer and expert. Part 0 is all tokens together, with the group ""; counts in two to four groups
    have a part for each of them too. Columns: part int16 · group str · layer int32 · expert int16 · tokens int64
    (routed to this expert) · counted int64 (tokens counted at the layer) · times_uniform float64 (load, × uniform; NaN
    where nothing was assigned) · luck_low, luck_high float64 (the least and the most that luck may bring, × uniform) ·
    beyond_luck bool · by_token_id bool (of a hash layer, which no training balances).

    Source: exact binomial tails, with Bonferroni's correction for the number of cells.
    """
    parts = [("", counted.counts())]
    if isinstance(counted, ExpertCounts) and 1 < len(counted.groups) <= MOST_GROUPS:
        parts += [(str(group), counted.of_group(at)) for at, group in enumerate(counted.groups)]
    found = [(part, group, layer) for part, (group, of) in enumerate(parts) for layer in _layers(of, counted)]
    cells = sum(layer.num_experts for _, _, layer in found)
    hashed = counted.model.hash_layers
    frames = [
        _layer_against_chance(layer, RARE / cells).assign(part=part, group=group, by_token_id=layer.layer in hashed)
        for part, group, layer in found
    ]
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)].astype(COLUMNS)


def _layers(of: ExpertCounts, counted: Counted | Statistics) -> list[LayerCounts]:
    return [layer._replace(counts=of.assignments[:, layer.row, : layer.num_experts], tokens=of.tokens[:, layer.row])
            for layer in layer_counts(counted)]  # fmt: skip


def _layer_against_chance(found: LayerCounts, rare: float) -> pd.DataFrame:
    tokens, counted = found.counts[0], int(found.tokens[0])
    even = int(tokens.sum()) / found.num_experts
    low, high = luck_band(counted, even / max(counted, 1), rare)
    known = even > 0
    return pd.DataFrame(
        {
            "layer": found.layer,
            "expert": np.arange(found.num_experts),
            "tokens": tokens,
            "counted": counted,
            "times_uniform": tokens / even if known else np.nan,
            "luck_low": low / even if known else np.nan,
            "luck_high": high / even if known else np.nan,
            "beyond_luck": (tokens < low) | (tokens > high),
        }
    )


def luck_band(tokens: int, chance: float, rare: float) -> tuple[int, int]:
    """Return the fewest and the most of these tokens that an expert gets by chance: rare / 2 of cases pass either.

    >>> luck_band(52, 0.25, 0.05), luck_band(52, 0.25, 0.05 / 48), luck_band(52, 1.0, 0.05)
    ((7, 19), (4, 24), (52, 52))
    """
    mean, variance = tokens * chance, tokens * chance * (1 - chance)
    if not variance > 0:
        return round(mean), round(mean)
    if variance > SURE:
        wide = -NormalDist().inv_cdf(rare / 2) * sqrt(variance)
        return max(int(mean - wide), 0), min(int(mean + wide) + 1, tokens)
    reach = 12 * sqrt(mean) + 12  # beyond it, probabilities are under 1e-20
    got = np.arange(max(0, int(mean - reach)), min(tokens, int(mean + reach)) + 1)
    ratios = (tokens - got[:-1]) / (got[:-1] + 1) * chance / (1 - chance)
    logs = np.concatenate([[0.0], np.log(ratios).cumsum()])
    probability = np.exp(logs - logs.max())
    probability /= probability.sum()
    low, high = (np.searchsorted(each.cumsum(), rare / 2, side="right") for each in (probability, probability[::-1]))
    return int(got[low]), int(got[::-1][high])


def balance_sentence(frame: pd.DataFrame) -> Claim:
    """Claim whether the work is shared evenly: who has most of it, and who least, beyond chance.

    Columns: those of `load_beside_luck`. Groups are judged one by one, and whether their sum hides it.
    """
    some = frame[frame["times_uniform"].notna()]
    if some.empty:
        return captions.nothing_counted()
    if (why := _why_not_judged(some)) is not None:
        return why
    whole, groups = some[some["part"] == EVERYTHING], some[some["part"] != EVERYTHING]
    parts = whole if groups.empty else groups
    clear = parts[parts["beyond_luck"]]
    if clear.empty:
        return captions.even_load(parts["counted"].max())
    most, least = clear["times_uniform"].max(), clear["times_uniform"].min()
    degree = "No" if most >= VERY or least == 0 else "Not quite" if most >= UNEVEN or least <= 1 / VERY else "Nearly"
    top = whole["times_uniform"].max()
    return captions.uneven_load(
        degree,
        most=_holder(clear, clear["times_uniform"].idxmax()) if most > 1 else None,
        least=_holder(clear, clear["times_uniform"].idxmin()) if least < 1 else None,
        empty=(clear["tokens"] == 0).sum(),
        together=top if most >= UNEVEN and top - 1 < (most - 1) / 2 else None,
    )


def _why_not_judged(some: pd.DataFrame) -> Claim | None:
    """Claim why the balance cannot be judged; None if it can be."""
    if not some["expert"].any():
        return captions.one_choice()
    number = some["counted"].max()
    return captions.few_counted(number, HANDFUL, "token") if number < HANDFUL else None


def _holder(clear: pd.DataFrame, at: object) -> captions.Holder:
    row = one_row(clear, at)
    return captions.Holder(row.group if row.part != EVERYTHING else "", row.layer, row.expert, row.times_uniform)


def hash_sentence(layers: Sequence[int]) -> Claim | None:
    """Claim that the loads of these layers, of those with hash routers, are no router's doing; None without layers."""
    return captions.by_token_id(layers=spans(layers)) if layers else None


def luck_sentence(frame: pd.DataFrame) -> Claim | None:
    """Claim what chance may bring, and how many experts have more or less. None if there is too little to judge.

    Columns: those of `load_beside_luck`.
    """
    some = frame[frame["times_uniform"].notna()]
    if some.empty or _why_not_judged(some) is not None:
        return None
    return captions.random_load(
        fewest=some["counted"].min(),
        tokens=some["counted"].max(),
        low=some["luck_low"].min(),
        high=some["luck_high"].max(),
        beyond=int(some["beyond_luck"].sum()),
        experts=len(some),
    )


def layer_sentence(frame: pd.DataFrame, layer: int) -> Claim | None:
    """Claim which experts of a layer have too much, next to nothing or none, beyond chance. None if it is not judged.

    Columns: those of `load_beside_luck`, of all tokens together.
    """
    some = frame[(frame["part"] == EVERYTHING) & (frame["layer"] == layer) & frame["times_uniform"].notna()]
    if some.empty or _why_not_judged(some) is not None:
        return None
    clear = some[some["beyond_luck"]].sort_values("times_uniform", ascending=False, kind="stable")
    pairs = [*zip(clear["expert"].tolist(), clear["times_uniform"].tolist(), strict=True)]
    much = [pair for pair in pairs if pair[1] >= UNEVEN]
    little = sorted((pair for pair in pairs if 0 < pair[1] <= 1 / VERY), key=lambda pair: pair[1])
    together = bool((frame["part"] != EVERYTHING).any())
    return captions.load_at_layer(layer, len(some), together, much, little, sum(times == 0 for _, times in pairs))


def elsewhere_sentence(frame: pd.DataFrame, other: pd.DataFrame) -> Claim | None:
    """Claim what the busiest expert has of other texts; None if none is beyond chance. Both: `load_beside_luck`."""
    clear = frame[frame["beyond_luck"] & (frame["times_uniform"] > 1)]
    if clear.empty:
        return None
    row = one_row(clear, clear["times_uniform"].idxmax())
    there = other[(other["part"] == EVERYTHING) & (other["layer"] == row.layer) & (other["expert"] == row.expert)]
    if there.empty or there["times_uniform"].isna().any():
        return None
    return captions.load_elsewhere(there["counted"].iloc[0], row.layer, row.expert, there["times_uniform"].iloc[0])
