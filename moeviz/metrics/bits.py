"""A plan of bits: which experts, or layers, get many under a budget, and which few. Figures only; no model."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import CaptureError
from moeviz.metrics import captions
from moeviz.metrics.expert_table import super_experts as super_experts
from moeviz.metrics.significance import HANDFUL
from moeviz.text import quoted

KL, LOSS, FREQUENCY, RANDOM = RULES = ("kl", "loss", "frequency", "random")
SAYS = {  # by rule: what gets the many bits
    KL: "by how far rounding only this one moves the next token's distribution",
    LOSS: "by the cost of rounding only this one",
    FREQUENCY: "by how often they are chosen",
    RANDOM: "at random",
}
PROTECTED = 8  # bits of a Super Expert
Bits = dict[tuple[int, int], int]  # by layer and expert


def plan_of_bits(
    units: pd.DataFrame, rule: str, bits: tuple[int, int], budget: float, seed: int = 0, draw: int = 0
) -> Bits:
    """Give each unit few or many bits: many to those that need them most by a rule, until the budget is spent.

    Super Experts come before all others and get 8 bits; a layer that has one gets many. Needs are counted by the
    weight: what the many bits save, over how many weights a unit has. Of equal needs the first unit goes first.

    units    a row per expert, or per layer (expert -1). Columns: layer, expert, weights (how many), super, tokens,
             loss_few, loss_many, kl_few, kl_many; as `moeviz.analyses.pruning.bits.bits_study` gives them.
    bits     few, many.
    budget   mean bits of a weight.
    seed     with `draw`, of the order at random.

    Raises `CaptureError` for a budget outside of the bits, or one that Super Experts exceed by themselves.
    """
    few, many = bits
    if not few <= budget <= many:
        raise CaptureError(f"Mean bits between {few} and {many} can be had with these two, not {budget:g}.")
    weights = units["weights"].to_numpy(np.float64)
    room = (budget - few) * weights.sum() * (1 + 1e-9)
    by_expert, is_super = bool((units["expert"] >= 0).all()), units["super"].to_numpy(bool)
    given = np.full(len(units), few)
    if by_expert and many < PROTECTED:
        given[is_super] = PROTECTED
        room -= (PROTECTED - few) * weights[is_super].sum()
        if room < 0:
            least = few + (PROTECTED - few) * weights[is_super].sum() / weights.sum()
            raise CaptureError(
                f"{int(is_super.sum()):,} Super Experts of {len(units):,} experts get {PROTECTED} bits, which takes "
                f"{least:.3f} bits a weight with {few} for all others. Raise the budget of {budget:g}."
            )
    need = np.where(is_super, np.inf, _needs(units, rule, seed, draw))
    for at in np.argsort(-need, kind="stable"):
        cost = (many - few) * weights[at]
        if given[at] == few and cost <= room:
            given[at], room = many, room - cost
    places = zip(units["layer"].tolist(), units["expert"].tolist(), strict=True)
    return dict(zip(places, given.tolist(), strict=True))


def _needs(units: pd.DataFrame, rule: str, seed: int, draw: int) -> np.ndarray:
    """Compute each unit's gain per weight from many bits over few; by frequency its tokens, at random a draw."""
    if rule not in RULES:
        raise CaptureError(f"There is no rule {quoted(rule)}. Choose among {', '.join(RULES)}.")
    if rule == RANDOM:
        return np.random.default_rng([seed, draw]).random(len(units))
    saved = units["tokens"] if rule == FREQUENCY else (units[f"{rule}_few"] - units[f"{rule}_many"]) / units["weights"]
    needs: np.ndarray = saved.to_numpy(np.float64)
    return needs


def mean_bits(units: pd.DataFrame, plan: Mapping[tuple[int, int], int]) -> float:
    """Mean bits of a weight under a plan."""
    places = zip(units["layer"].tolist(), units["expert"].tolist(), strict=True)
    return float(np.average([plan[place] for place in places], weights=units["weights"]))


def unreached_sentence(tokens: pd.DataFrame) -> Claim:
    """Claim which experts the texts that calibrate never reached, or hardly. Columns: layer, expert, tokens."""
    none, hardly = tokens[tokens["tokens"] == 0], int(tokens["tokens"].between(1, HANDFUL - 1).sum())
    names = tuple(zip(none["layer"].tolist(), none["expert"].tolist(), strict=True))
    return captions.unreached(len(tokens), names, hardly, HANDFUL)
