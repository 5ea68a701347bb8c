"""The words of every claim about serving. What is claimed, and when, stands next to each answer.

To mend a sentence, change it here, then run `pytest --update-golden tests/metrics/test_claims.py`.
"""

from moeviz.claims import claim
from moeviz.metrics.captions import count
from moeviz.metrics.words import bytes_said, percent

LITTLE = "Too little evidence"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}%".replace("-", "−")


def _points(least: float, most: float) -> str:
    return f"{100 * least:+.1f} to {100 * most:+.1f}".replace("-", "−")


# ---- too little to judge --------------------------------------------------------------------------------------------


@claim
def few_tokens(tokens: int, needed: int) -> str:
    return f"{LITTLE}: {count(tokens, 'token')} to judge on, and {needed:,} are needed."


@claim
def few_windows(windows: int, needed: int) -> str:
    return f"{LITTLE}: there are {count(windows, 'window')} of time, and {needed} are needed."


@claim
def few_choices(choices: int, needed: int) -> str:
    return f"{LITTLE}: one half has {count(choices, 'choice')} at a layer, and {needed:,} are needed."


@claim
def few_choices_per_device(choices: float, needed: int) -> str:
    return f"{LITTLE}: a device has {choices:,.0f} choices in a part of them, and {needed:,} are needed."


@claim
def few_choices_for_staleness(choices: int, needed: int) -> str:
    return f"{LITTLE}: a layer has {count(choices, 'choice')} in a part of the recordings, and {needed:,} are needed."


# ---- a plan of one recording, judged on another ---------------------------------------------------------------------


@claim
def layers_judged(judged: int, layers: int) -> str:
    return f"{judged} of {count(layers, 'layer')} were judged: the others are not in both, or have other experts there."


@claim
def fresh_plan_fits() -> str:
    return "The fresh plan is made from the tokens that judge it, since these counts are in no order: it is a bound."


@claim
def texts_in_both(again: int, texts: int) -> str:
    return f"{again:,} of {count(texts, 'text')} that judge are also in the first recording."


# ---- memory for experts ---------------------------------------------------------------------------------------------


@claim
def split_memory(
    verdict: str, capacity: int, experts: int, least: float, most: float, equal: float, chance: float
) -> str:
    return (
        f"{verdict}: memory for {capacity} of {experts} experts per layer, split over layers where it gains most, "
        f"changes hits by {_points(least, most)} points on tokens that the split was not made from. Split equally they "
        f"are {percent(equal)} (chance: {percent(chance)}). A gain of one point is required in every judgement."
    )


@claim
def all_held(memory: float, needed: float) -> str:
    return f"{bytes_said(memory)} hold all experts, which take {bytes_said(needed)}: nothing is fetched."


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
def batch_needs(batch: int, needed: float, chance: float) -> str:
    return (
        f"{batch} tokens in a row need {needed:.1f} experts per layer; tokens that choose at random would need "
        f"{chance:.1f}."
    )


@claim
def draft_unknown(draft: int, needed: float, experts: int) -> str:
    return (
        f"Not known: counts do not record which token followed which. {draft} unrelated tokens need {needed:.1f} of "
        f"{experts} experts of a layer."
    )


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
def one_expert_per_device(experts: int, devices: int) -> str:
    return f"{experts} experts on {devices} devices are one each, so there is nothing to place."


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
    span = _signed(least) if least == most else f"{_signed(least)} to {_signed(most)}"
    alike = ""
    if stretches is not None:
        alike = f" Neighbouring windows are alike: they count as {stretches:.0f} independent ones ({needed} needed)."
    return (
        f"{verdict}: on {devices} devices a balanced plan changes the load of the busiest by {span}, judged on tokens "
        f"it was not made from; placements at random change it by {_signed(at_random)}. Of the busiest quarter of "
        f"experts, {percent(kept)} or more are the busiest again (chance: {percent(chance)}). Every judgement must be "
        f"{percent(worth)} lower, lower than 19 of 20 placements at random, and have more experts busy again than by "
        f"chance.{alike}"
    )


@claim
def drift(verdict: str, kept: float, chance: float, moved: float, dealt: float, beyond: int, layers: int) -> str:
    return (
        f"{verdict}: of the busiest quarter of experts in the first half, {percent(kept)} are among the busiest of the "
        f"second (chance: {percent(chance)}). {percent(moved)} of the choices went to other experts; windows in random "
        f"order move {percent(dealt)}. That is more than in each of 20 random orders at {beyond} of {layers} layers."
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
def balanced_or_copied(in_order: float, balanced: float, copies: float) -> str:
    return (
        f"The busiest device has {in_order:.2f}× the mean load with experts in order, balanced {balanced:.2f}×, with "
        f"copies {copies:.2f}× (held out)."
    )


@claim
def kept_whole_unknown(needed: int) -> str:
    return f"How many tokens find all of their experts on the GPU is not judged: {needed:,} tokens are needed."


@claim
def kept_whole(busiest: float, together: float, chance: float) -> str:
    return (
        f"With half of each layer's experts, chosen from the first half of the tokens, {percent(together)} of the "
        f"tokens of the second find all of theirs; with the busiest {percent(busiest)} (chance: {percent(chance)})."
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
def slots_changed(changed: int) -> str:
    return (
        f"{count(changed, 'slot')} {'was' if changed == 1 else 'were'} changed, so that no device has an expert twice."
    )


@claim
def made_from_all(tokens: int) -> str:
    return f"It is made from all {tokens:,} tokens, and was not judged on others."


@claim
def layers_on_gpu(engine: str, on_gpu: int, layers: int) -> str:
    return (
        f"{engine} places whole layers: the experts of {on_gpu} of {layers} stay on the GPU, in those layers of which "
        "a step reads most."
    )


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
def plan_not_judged(tokens: int, why: str) -> str:
    return f"It is made from all {tokens:,} tokens, and could not be judged on others: {why}."


@claim
def plan_judged(tokens: int, kind: str | None, copies: float, balanced: float, in_order: float) -> str:
    how = "planned from the first half, judged on the second"
    how = how if kind is None else f"each {kind} by a plan from the others"
    return (
        f"It is made from all {tokens:,} tokens. Judged on tokens it was not made from ({how}): the busiest device has "
        f"up to {copies:.2f} times the mean load; without copies {balanced:.2f}, with experts in order {in_order:.2f}."
    )
