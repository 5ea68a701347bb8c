"""The words of every claim about experts that are cut, or given fewer bits.

To mend a sentence, change it here, then run `pytest --update-golden tests/metrics/test_claims.py`. Kinds of text are as
their files have them.
"""

from collections.abc import Sequence

from moeviz.claims import claim
from moeviz.metrics.captions import count
from moeviz.text import quoted


@claim
def texts_of_study(verb: str, chose: int, judged: int, seed: int, loss: float, segment: str | None) -> str:
    only = "" if segment is None else f", each by the tokens of its segment {quoted(segment)} alone"
    return (
        f"{count(chose, 'text')} {verb} and {count(judged, 'text')} judged, by the split of seed {seed}{only}; the "
        f"whole model's loss on these is {loss:.3f} nats per token."
    )


# ---- cuts -----------------------------------------------------------------------------------------------------------


@claim
def mean_output_instead() -> str:
    return "A cut expert gives every token its mean output over the texts that chose."


@claim
def cost_of_cut(
    cut: int,
    experts: int | None,
    how: str,
    cost: float,
    at_random: float | None,
    sd: float | None,
    kinds: int,
    worst: tuple[str, float] | None,
) -> str:
    of = "" if experts is None else f" of {experts:,}"
    spread = "" if sd is None else f" ± {sd:.3f}"
    costs = f"Cutting {cut:,}{of} experts per layer {how} costs {cost:.3f} nats per token"
    if at_random is None:
        costs += spread
    else:
        costs += f"; at random {at_random:.3f}{spread}"
        if cost >= at_random:
            costs += ", no more"
        elif cost > at_random - (sd or 0):
            costs += ", less than a standard deviation more"
    if worst is not None:
        costs += f"; of {kinds:,} kinds of text {worst[0]} loses most, {worst[1]:.3f}"
    return f"{costs}."


@claim
def own_choice(cut: int, own: float, others: float) -> str:
    return (
        f"With {cut:,} cut, a kind of text loses {own:.3f} nats per token if its own texts chose, and {others:.3f} if "
        "those of another kind did, on average over kinds."
    )


# ---- bits -----------------------------------------------------------------------------------------------------------


@claim
def super_experts(experts: Sequence[tuple[int, int]]) -> str:
    names = ", ".join(f"{expert} of layer {layer}" for layer, expert in experts)
    return f"Super Experts, which are given bits before all others: {names}."


@claim
def cost_of_bits(
    budget: float, how: str, cost: float, uniform: float, by_frequency: float, at_random: float, sd: float | None
) -> str:
    spread = "" if sd is None else f" ± {sd:.4f}"
    costs = (
        f"At {budget:g} bits per weight of an expert, chosen {how}, rounding costs {cost:.4f} nats per token; uniform "
        f"{uniform:.4f}, by frequency {by_frequency:.4f}, at random {at_random:.4f}{spread}."
    )
    if uniform <= cost:
        return f"{costs} Uniform bits cost no more: take them if a format has them."
    if cost >= at_random:
        return f"{costs} Bits at random cost no more."
    if cost > at_random - (sd or 0):
        return f"{costs} Bits at random cost less than a standard deviation more."
    if by_frequency < cost:
        return f"{costs} Bits by frequency cost less."
    return costs


@claim
def cost_in_all(
    total: int, least: int, most: int, criterion: str, increase: float, alike: float | None, at_random: float | None
) -> str:
    same = "" if alike is None else f"; as many from each layer {alike:+.3f}"
    chance = "" if at_random is None else f"; at random {at_random:+.3f}"
    return (
        f"Without {total:,} experts in all, {least} to {most} per layer, {criterion}: {increase:+.3f} nats per token"
        f"{same}{chance}."
    )
