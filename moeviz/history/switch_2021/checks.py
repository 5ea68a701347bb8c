"""Does a tiny Switch Transformer drop tokens, and learn not to, as its paper of 2021 says?"""

import pandas as pd
import torch

from moeviz.history.shared.claims import NOT_PRINTED, Claim
from moeviz.history.switch_2021.layer import balancing_loss
from moeviz.history.switch_2021.picture import AUX_WEIGHTS, EARLY, KINDS, LATE, TWIN, WINDOW, sweep

QUICK = tuple({"aux_weight": w, "capacity_factor": c} for w, c in ((1e-2, 1.0), (1e-2, 2.0), (0.0, 1.0)))
DEFAULT = {"aux_weight": 1e-2, "capacity_factor": 1.25}
QUICK_STEPS, SHORT_STEPS = 60, 200  # enough for what is dropped; perplexities take all the steps


def claims(quick: bool = False) -> list[Claim]:
    """Short runs of each kind of Switch Transformer, and the default and its dense twin from two seeds.

    Where it is to be quick, three shorter runs and no twin.
    """
    if quick:
        return [uniform(), *dropping(sweep(QUICK, seeds=(0,), steps=QUICK_STEPS))]
    short = sweep([kind for kind in KINDS if kind != TWIN], seeds=(0,), steps=SHORT_STEPS)
    return [uniform(), *dropping(short), *against_the_twin(sweep((DEFAULT, TWIN)))]


def dropping(runs: pd.DataFrame) -> list[Claim]:
    """By capacity, over training, and with the auxiliary loss and without, in the columns of `sweep`.

    The paper prints no rate of dropped tokens that could stand beside ours.

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.2.
    """
    switch = runs[~runs["dense"]]
    late = _dropped(switch, LATE)
    return [*_by_capacity(late), *_over_training(_dropped(switch, EARLY), late), *_without_loss(late)]


def against_the_twin(runs: pd.DataFrame) -> list[Claim]:
    """Perplexity on held-out words, with the auxiliary loss: the highest ratio of any seed, in the columns of `sweep`.

    The paper's perplexities are of other text.

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), Table 1.
    """
    twin = runs[runs["dense"]].groupby("seed")["perplexity"].first()
    switch = runs[runs["aux_weight"] == AUX_WEIGHTS[0]].groupby(["capacity_factor", "seed"])["perplexity"].first()
    ratios = switch.div(twin, level="seed").groupby("capacity_factor").max()
    return [
        Claim(
            f"perplexity, Switch / dense twin with as many multiplications, capacity factor {factor:g}",
            float(ratio),
            NOT_PRINTED,
            "below 1",
            bool(ratio < 1),
        )
        for factor, ratio in ratios.items()
    ]


def uniform() -> Claim:
    """Eight experts, each as probable as the others and chosen as often."""
    loss = float(balancing_loss(torch.full((64, 8), 1 / 8), torch.arange(64) % 8))
    return Claim("auxiliary loss / α if routing is uniform", loss, 1.0, "exactly", loss == 1)


def _by_capacity(late: pd.Series) -> list[Claim]:
    """From each capacity factor to the next: the highest change of any seed."""
    claims = []
    for weight in AUX_WEIGHTS:
        table = late[weight].unstack("capacity_factor")
        for less, more in zip(table.columns, table.columns[1:], strict=False):
            change = float((table[more] - table[less]).max())
            what = f"share of words dropped at capacity factor {more:g}, minus that at {less:g}, aux weight {weight:g}"
            claims.append(Claim(what, change, NOT_PRINTED, "below 0", change < 0))
    return claims


def _over_training(early: pd.Series, late: pd.Series) -> list[Claim]:
    """The highest ratio of any seed."""
    ratios = (late / early).groupby(["aux_weight", "capacity_factor"]).max()
    return [
        Claim(
            f"words dropped, last 50 steps / first 20, aux weight {weight:g}, capacity factor {factor:g}",
            float(ratio),
            NOT_PRINTED,
            "below 1",
            bool(ratio < 1),
        )
        for (weight, factor), ratio in ratios.items()
    ]


def _without_loss(late: pd.Series) -> list[Claim]:
    """What the auxiliary loss saves: the lowest of any seed that was trained with and without."""
    balanced, alone = (late[weight] for weight in AUX_WEIGHTS)
    rise = (alone - balanced).dropna().groupby("capacity_factor").min()
    return [
        Claim(
            f"share of words dropped without the auxiliary loss, minus that with it, capacity factor {factor:g}",
            float(more),
            NOT_PRINTED,
            "above 0",
            bool(more > 0),
        )
        for factor, more in rise.items()
    ]


def _dropped(runs: pd.DataFrame, steps: slice) -> pd.Series:
    """Mean share of words dropped in these steps, by aux weight, capacity factor and seed."""
    windows = slice(*(None if step is None else step // WINDOW for step in (steps.start, steps.stop)))
    each = runs.sort_values("step").groupby(["aux_weight", "capacity_factor", "seed"])["dropped"]
    return each.agg(lambda dropped: dropped.iloc[windows].mean())
