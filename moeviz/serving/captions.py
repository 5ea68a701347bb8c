"""The words of every claim about serving. What is claimed, and when, stands next to each answer.

To mend a sentence, change it here or in `captions.toml`, then run
`pytest --update-golden tests/metrics/test_claims.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moeviz.claims import Claim, claim
from moeviz.metrics.captions import claims_in, count
from moeviz.metrics.words import bytes_said, percent

LITTLE = "Too little evidence"

globals().update(claims_in(Path(__file__).with_suffix(".toml"), __name__))
if TYPE_CHECKING:  # those of the table

    def __getattr__(name: str) -> Callable[..., Claim]: ...


def _signed_share(share: float) -> str:
    return f"{100 * share:+.1f}%".replace("-", "−")


def _points(least: float, most: float) -> str:
    if max(-least, most) < 0.0005:
        return "less than 0.1 points"
    return f"{100 * least:+.1f} to {100 * most:+.1f} points".replace("-", "−")


# ---- memory for experts ---------------------------------------------------------------------------------------------


@claim
def split_memory(
    verdict: str, capacity: int, experts: int, least: float, most: float, equal: float, chance: float
) -> str:
    return (
        f"{verdict}: memory for {capacity} of {experts} experts per layer, split over layers where it gains most, "
        f"changes hits by {_points(least, most)} on tokens that the split was not made from. Split equally they "
        f"are {percent(equal)} (chance: {percent(chance)}). A gain of one point is required in every judgement."
    )


def _held(memory: float, capacity: int, fewest: int, most: int) -> str:
    of = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{bytes_said(memory)} hold {capacity} of the {of} experts of each layer"


@claim
def less_than_a_token(memory: float, capacity: int, fewest: int, most: int, needed: float) -> str:
    held = _held(memory, capacity, fewest, most)
    return f"{held}. That is less than one token needs: {bytes_said(needed)} or more."


@claim
def hits_unknown(memory: float, capacity: int, fewest: int, most: int) -> str:
    held = _held(memory, capacity, fewest, most)
    return f"{held}. What it finds is not known: no expert was chosen in the second half of the tokens."


@claim
def lru_hits(
    memory: float, capacity: int, fewest: int, most: int, hits: float, chance: float, bound: float, fetched: float
) -> str:
    return (
        f"{_held(memory, capacity, fewest, most)}: LRU finds {percent(hits)} of what a token needs there (a random set "
        f"would have {percent(chance)}, and no rule that fetches on demand over {percent(bound)}), and fetches "
        f"{bytes_said(fetched)} per token."
    )


@claim
def most_used_of_counts(
    memory: float, capacity: int, fewest: int, most: int, same: float, kind: str, others: float | None, chance: float
) -> str:
    begin = f"{_held(memory, capacity, fewest, most)}: the most used {capacity} have {percent(same)} of the assignments"
    if others is None:
        return f"{begin}."
    other = f"of a {kind} that they were not chosen from {percent(others)}"
    return f"{begin}; {other}, compared with {percent(chance)} by chance."


@claim
def most_used_half(same: float, other: float | None, kind: str, chance: float, ordered: bool) -> str:
    begin, end = "The most used half of each layer's experts", f"(chance: {percent(chance)})."
    if ordered and other is not None:
        share = f"has {percent(other)} of the assignments of the second"
        return f"{begin}, chosen from the first half of the tokens, {share} {end}"
    if other is None:
        return f"{begin} has {percent(same)} of the assignments that it was chosen from; counts have no others {end}"
    also = f"and of a {kind} that it was not chosen from {percent(other)}"
    return f"{begin} has {percent(same)} of the assignments, {also} {end}"


@claim
def recency_or_popularity(capacity: int, recent: float, popular: float, chance: float) -> str:
    what = "Recency" if recent > popular else "Popularity"
    return (
        f"{what} decides: with {capacity} experts per layer, LRU hits {percent(recent)} and the most used experts "
        f"{percent(popular)}; chance is {percent(chance)}."
    )


# ---- batches and drafts ---------------------------------------------------------------------------------------------


@claim
def draft_needs(draft: int, one: float, needed: float, experts: int, chance: float) -> str:
    times = needed / one
    return (
        f"{times:.1f} times the experts: {draft} tokens in a row need {needed:.1f} of {experts} experts of a layer, "
        f"and one needs {one:.1f} (at random {chance / one:.1f} times). In reads of experts, such a draft pays if more "
        f"than {times:.1f} of its tokens are kept on average, with the one that the model adds."
    )


# ---- placement on devices -------------------------------------------------------------------------------------------


@claim
def placement_trial(
    verdict: str,
    devices: int,
    least: float,
    most: float,
    stretches: float | None,
    at_random: float,
    kept: float,
    chance: float,
    worth: float,
    needed: int,
) -> str:
    span = _signed_share(least) if least == most else f"{_signed_share(least)} to {_signed_share(most)}"
    alike = ""
    if stretches is not None:
        alike = f" Neighbouring windows are alike: they count as {stretches:.0f} independent ones ({needed} needed)."
    return (
        f"{verdict}: on {devices} devices a balanced plan changes the load of the busiest by {span}, judged on tokens "
        f"it was not made from; placements at random change it by {_signed_share(at_random)}. Of the busiest quarter "
        f"of experts, {percent(kept)} or more are the busiest again (chance: {percent(chance)}). Every judgement must "
        f"be {percent(worth)} lower, lower than 19 of 20 placements at random, and have more experts busy again than "
        f"by chance.{alike}"
    )


@claim
def busiest_device(
    devices: int, most_devices: int, in_order: float, balanced: float, copies: float, reached: float
) -> str:
    number = f"{devices}" if devices == most_devices else f"{devices} to {most_devices}"
    return (
        f"On {number} devices, the busiest has {balanced:.2f} times the mean load if experts are balanced, "
        f"{copies:.2f} with copies and {in_order:.2f} in order; a token reaches {reached:.1f} devices at a layer."
    )


@claim
def device_pairs(
    in_order: float, balanced: float, most: tuple[int, int, float], least: tuple[int, int, float] | None, chance: float
) -> str:
    last = "" if least is None else f", devices {least[0]} and {least[1]} least, by {percent(least[2])}"
    return (
        f"With experts in order, a token needs {in_order:.1f} devices at a layer (balanced: {balanced:.1f}). Devices "
        f"{most[0]} and {most[1]} are needed together most, by {percent(most[2])} of tokens{last} (at random each pair "
        f"is by {percent(chance)})."
    )


# ---- cards ----------------------------------------------------------------------------------------------------------


@claim
def model_fits(card: str, cards: int, bits: int, together: float, usable: float, tight: bool) -> str:
    scales = " With the scales of such a format it may not." if tight else ""
    return (
        f"Yes, at {bits} bits: it takes {bytes_said(together)} of the {bytes_said(usable)} usable on "
        f"{_cards(cards, card)}.{scales}"
    )


@claim
def model_does_not_fit(card: str, cards: int, bits: int, fit: int, experts: int, top_k: int, needed: int) -> str:
    on, more = _cards(cards, card), f"{needed:,} of these cards are needed"
    if fit < 0:
        return f"No: at {bits} bits, not even the rest without experts fits on {on}. For the whole model, {more}."
    held = f"{fit} of the {experts} experts of each layer fit{'s' * (fit == 1)} on {on}"
    if fit < top_k:
        return f"No: at {bits} bits, {held}, and a token needs {top_k}. For the whole model, {more}."
    stay = "1 stays" if experts - fit == 1 else f"{experts - fit} stay"
    return f"Not whole: at {bits} bits, {held}. {stay} in the computer's memory, or {more}."


def _cards(cards: int, card: str) -> str:
    return f"one {card}" if cards == 1 else f"{cards} × {card}"


# ---- plans in engines' files ----------------------------------------------------------------------------------------


@claim
def layers_planned(planned: str, layers: int, missing: str, elsewhere: str, all_known: bool) -> str:
    unknown = "" if all_known else "The trace does not record how many layers the model has in all. "
    has = f"{unknown}The plan is for {count(layers, 'layer')}: {planned}."
    if not missing:
        return has
    return (
        f"{has} For {missing} the file has {elsewhere}: that is right if they are dense. If they have experts, record "
        "them too."
    )


@claim
def plan_judged(tokens: int, kind: str | None, copies: float, balanced: float, in_order: float) -> str:
    how = "planned from the first half, judged on the second"
    how = how if kind is None else f"each {kind} by a plan from the others"
    return (
        f"It is made from all {tokens:,} tokens. Judged on tokens it was not made from ({how}): the busiest device has "
        f"up to {copies:.2f} times the mean load; without copies {balanced:.2f}, with experts in order {in_order:.2f}."
    )
