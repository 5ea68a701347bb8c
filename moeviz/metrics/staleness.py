"""The worth of a plan made on one recording for another, compared with a fresh plan and with random plans."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moeviz.claims import Claim
from moeviz.metrics import captions

MANY = 100  # plans at random
BEATEN = 0.05  # share of the random plans that may beat a plan which counts as better than chance
GOOD = 0.9  # of what a fresh plan gains, for a plan that is still good
STILL, OLDER, CHANCE, NOTHING = "Still good", "Gets old", "No better than chance", "Nothing to gain"


class Staleness(NamedTuple):
    """The worth of one recording's plan on another, in the unit of `figure`, one of `captions.FIGURES`."""

    plan: str
    figure: str
    stale: float  # the plan of the first recording
    fresh: float  # a plan of other tokens of the second
    chance: float  # the mean of plans at random
    luck: float  # the worst of the best twentieth of these, or the best
    kept: float  # share of the gain of `fresh` over chance that `stale` has; NaN if `fresh` does not beat chance
    verdict: str


def staleness(plan: str, figure: str, stale: float, fresh: float, drawn: Sequence[float]) -> Staleness:
    """Compare a plan of one recording with a fresh one and with plans at random, all judged on the same tokens.

    >>> staleness("balanced", "imbalance", 1.3, 1.1, [1.5, 1.6, 1.4])._asdict()["kept"]
    0.5
    """
    better = np.sort(drawn) if figure not in captions.MORE_IS_BETTER else np.sort(drawn)[::-1]
    chance, luck = float(np.mean(drawn)), float(better[max(int((len(better) + 1) * BEATEN) - 1, 0)])
    sign = 1 if figure in captions.MORE_IS_BETTER else -1
    if not sign * (fresh - luck) > 0:
        return Staleness(plan, figure, stale, fresh, chance, luck, np.nan, NOTHING)
    kept = round((stale - chance) / (fresh - chance), 12)
    verdict = CHANCE if not sign * (stale - luck) > 0 else STILL if kept >= GOOD else OLDER
    return Staleness(plan, figure, stale, fresh, chance, luck, kept, verdict)


def staleness_claim(of: Staleness) -> Claim:
    """Claim what is left of a plan on another recording."""
    kept = None if np.isnan(of.kept) else of.kept
    return captions.stale_plan(of.verdict, of.plan, of.figure, of.stale, of.fresh, of.chance, kept)
