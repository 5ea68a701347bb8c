"""The words of every claim about a trace, topic by topic. What is claimed, and when, stands next to each metric.

To mend a sentence, change it here, then run `pytest --update-golden tests/metrics/test_claims.py`. Labels, tokens and
names are quoted as they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from moeviz.claims import claim
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent, short
from moeviz.text import with_and

NAMED = 32  # experts in one sentence


def count(number: int, word: str) -> str:
    """A number with its noun.

    >>> count(1, "token"), count(2_000, "token")
    ('1 token', '2,000 tokens')
    """
    return f"{number:,} {word}{'s' * (number != 1)}"


def times_said(times: float) -> str:
    """Times a uniform share, with as many digits as distinguish it from 1, and from 0.

    >>> [times_said(times) for times in (2.62, 12.0, 0.43, 0.078, 1.04, 1.0031)]
    ['2.6', '12', '0.4', '0.08', '1.04', '1.003']
    """
    digits = next((digits for digits in range(5) if abs(times - 1) >= 10**-digits), 1)
    return f"{times:.{2 if times < 0.095 else max(digits, 1)}f}" if times < 9.95 else f"{times:,.0f}"


def _of_share(times: float) -> str:
    return f"{times_said(times)} {'times its share' if times >= 1 else 'of its share'}"


# ---- balance: is the work shared evenly? ----------------------------------------------------------------------------


class Holder(NamedTuple):
    """An expert and its load: of all tokens together where the group is "", else of the tokens of a group."""

    group: str
    layer: int
    expert: int
    times: float  # × a uniform share


@claim
def nothing_counted() -> str:
    return "No token was counted, so nothing can be said."


@claim
def few_counted(number: int, needed: int, what: str) -> str:
    return f"Too little to say: {count(number, what)} at a layer, and {needed} are needed."


@claim
def one_choice() -> str:
    return "Each layer has one expert, so nothing is chosen."


@claim
def even_load(tokens: int) -> str:
    return f"As far as {count(tokens, 'token')} can tell, yes: no expert has more or less than chance may bring."


@claim
def uneven_load(degree: str, most: Holder | None, least: Holder | None, empty: int, together: float | None) -> str:
    def name(holder: Holder) -> str:
        group = f"in “{short(holder.group)}”, " if holder.group else ""
        begin = f"{group}expert {holder.expert} of layer {holder.layer} has"
        if holder.times:
            return f"{begin} {_of_share(holder.times)}"
        return f"{begin} no token" + (f", like {empty - 1:,} more" if empty > 1 else "")

    hidden = "" if together is None else f" Over all groups together it is at most {times_said(together)} times."
    return f"{degree}: {'; '.join(name(one) for one in (most, least) if one)}.{hidden}"


@claim
def random_load(fewest: int, tokens: int, low: float, high: float, beyond: int, experts: int) -> str:
    several = f"{tokens:,}" if fewest == tokens else f"{fewest:,}–{tokens:,}"
    return (
        f"Of {several} tokens sent at random, an expert gets {times_said(low)} to {times_said(high)} times its share; "
        f"{beyond:,} of {experts:,} here are outside."
    )


@claim
def load_elsewhere(tokens: int, layer: int, expert: int, times: float) -> str:
    return f"Of {tokens:,} tokens of other texts, expert {expert} of layer {layer} has {_of_share(times)}."


# ---- bits -----------------------------------------------------------------------------------------------------------


@claim
def unreached(experts: int, none: Sequence[tuple[int, int]], hardly: int, fewest: int) -> str:
    few = f"; {hardly:,} more have fewer than {fewest}" if hardly else ""
    if not none:
        return f"Each of {experts:,} experts got a token of the texts that calibrate{few}."
    shown = none[:NAMED]
    names = "; ".join(
        f"layer {layer}: {', '.join(str(expert) for of, expert in shown if of == layer)}"
        for layer in dict.fromkeys(layer for layer, _ in shown)
    )
    more = f"; and {len(none) - NAMED:,} more" if len(none) > NAMED else ""
    return (
        f"No token of the texts that calibrate reached {len(none):,} of {experts:,} experts ({names}{more}){few}: "
        "nothing is known of what rounding them costs, and they get the few bits."
    )


# ---- co-activation --------------------------------------------------------------------------------------------------


@claim
def company(layer: int, expert: int, partner: int, share: float, chance: float, beyond: int, pairs: int) -> str:
    return (
        f"At layer {layer}, {percent(share)} of expert {expert}'s tokens also go to expert {partner}; at random, "
        f"{percent(chance)}. Beyond chance: {beyond:,} of {pairs:,} pairs."
    )


@claim
def pair(layer: int, expert: int, partner: int, tokens: int, chance: float, beyond: int, pairs: int) -> str:
    return (
        f"Experts {expert} and {partner} of layer {layer} share {tokens:,} tokens; at random, about {chance:,.0f}. "
        f"Beyond chance: {beyond:,} of {pairs:,} pairs."
    )


# ---- confidence and losses ------------------------------------------------------------------------------------------


@claim
def undecided(most_layer: int, least_layer: int, most: float, least: float) -> str:
    return (
        f"Routers are most undecided at layer {most_layer}, least at layer {least_layer}: median entropy {most:.2f} "
        f"and {least:.2f} of 1."
    )


@claim
def ahead(most_layer: int, least_layer: int, most: float, least: float) -> str:
    return (
        f"The most probable expert leads most at layer {most_layer}, least at layer {least_layer}: median {most:.2f} "
        f"and {least:.2f}."
    )


@claim
def highest_aux_loss(layer: int, loss: float, uniform: float) -> str:
    return f"The loss is highest at layer {layer}: {loss:.2f}, compared with {uniform:.0f} for a uniform load."


@claim
def highest_z_loss(layer: int, loss: float, median: float) -> str:
    high, usual = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (loss, median))
    return f"The z-loss is highest at layer {layer}: {high} nats², compared with {usual} at the median layer."


# ---- contrast, and targets of tuning --------------------------------------------------------------------------------


@claim
def no_contrast(one: str, other: str) -> str:
    return f"No expert distinguishes {one} from {other}: chance explains all differences."


@claim
def contrast(
    one: str, other: str, held: int, experts: int, layer: int, expert: int, share: float, other_share: float
) -> str:
    which = "1 expert distinguishes" if held == 1 else f"{held:,} of {experts:,} experts distinguish"
    return (
        f"{which} {one} from {other}. The largest difference is that of expert {expert} of layer {layer}: it takes "
        f"{percent(share)} of the tokens of {one} and {percent(other_share)} of {other}."
    )


@claim
def tune_targets(esft: int, experts: int, share: float, layers: int, targets: int) -> str:
    where = "their layer" if layers == 1 else f"each of {layers:,} layers"
    busiest = f"The {esft:,} busiest of {experts:,} experts do {percent(share)} of the work in {where}."
    more = "None of them is" if not targets else f"{targets:,} of them {'is' if targets == 1 else 'are'}"
    return f"{busiest} {more} used more here than by other texts, beyond chance."


# ---- contribution, and direct attribution ---------------------------------------------------------------------------


@claim
def often_and_added(correlation: float, chance: float) -> str:
    more = "more" if correlation > 0 else "less"
    return (
        f"Within a layer, experts that are chosen more often add {more} each time: rank correlation "
        f"{correlation:+.2f}; chance rarely passes ±{chance:.2f}."
    )


@claim
def added_and_missed(correlation: float, chance: float, of_choices: float | None) -> str:
    also = "" if of_choices is None else f"; with how often they are chosen it is {of_choices:+.2f}"
    return (
        f"Within a layer, experts that add more are missed more: rank correlation {correlation:+.2f} with the loss "
        f"without them; chance rarely passes ±{chance:.2f}{also}."
    )


@claim
def direct_parts(expert: int, above: float, parts: Sequence[tuple[str, float]]) -> str:
    named = ", ".join(f"{part} {value:+.2f}" for part, value in parts)
    return f"Expert {expert} is {abs(above):.2f} {'above' if above >= 0 else 'below'} the mean of all experts: {named}."


# ---- coverage -------------------------------------------------------------------------------------------------------


@claim
def half_of_work(layer: int, needed: int, chance: int, clear: int, layers: int) -> str:
    return (
        f"At layer {layer}, {count(needed, 'expert')} do{'es' * (needed == 1)} half of the work or more; at random, "
        f"{chance} would. Clearly fewer than at random: {clear} of {layers} layers."
    )


@claim
def used_experts(layer: int, used: int, experts: int, chance: float, clear: int, layers: int) -> str:
    return (
        f"Layer {layer} uses {used} of its {experts} experts; random choices would use about {chance:.0f}. "
        f"Beyond chance: {clear} of {layers} layers."
    )


# ---- a changed word -------------------------------------------------------------------------------------------------


@claim
def changed_choices(changed: int, of: int, layer: int | None, most: int, of_layer: int, before: int) -> str:
    if not changed:
        return f"None of {of:,} first choices changes."
    where = "" if layer is None else f", most at layer {layer}: {most:,} of {of_layer:,}"
    early = f"; {before:,} of them stand{'s' * (before == 1)} before the changed word" if before else ""
    return f"{changed:,} of {of:,} first choices change{'s' * (changed == 1)}{where}{early}."


class Nearest(NamedTuple):
    """The choice that is nearest to another one: an expert, and how far it is from coming in or going out."""

    layer: int
    expert: int
    text: str
    chosen: bool
    logits: float


@claim
def choices_moved(moved: int, of: int, layers: Sequence[tuple[int, int]], nearest: Nearest | None) -> str:
    none = f"None of {of:,} choices becomes another set of experts."
    if moved:
        shown = [f"{number:,} at layer {layer}" for layer, number in layers[:8]]
        if rest := layers[8:]:
            shown.append(f"{sum(number for _, number in rest):,} at {len(rest)} more")
        return f"{moved:,} of {of:,} choices become{'s' * (moved == 1)} another set of experts: {with_and(shown)}."
    if nearest is None:
        return f"{none} How near one is, is not known: logits alone do not decide here."
    side = "above the best one left out" if nearest.chosen else "below the last one chosen"
    near = f"The nearest is at layer {nearest.layer}, for “{short(nearest.text)}”"
    return f"{none} {near}: expert {nearest.expert} is {nearest.logits:.2g} logits {side}."


# ---- one expert -----------------------------------------------------------------------------------------------------


@claim
def needed_by(
    needed: Sequence[tuple[str, float]], others: int, least: float, taken: Sequence[tuple[str, float]], idle: float
) -> str:
    losses = with_and([f"{loss:.2f} on {visible(kind)}" for kind, loss in needed])
    more = f", and more than {least} on {others} other kinds" if others else ""
    first = f"Without it the model loses, in nats per token, {losses}{more}."
    first = first if needed else f"Without it no kind of text loses more than {least} nats per token."
    shares = with_and([f"{percent(share)} of {visible(kind)}" for kind, share in taken]) if taken else ""
    also = f" Being chosen is not being needed: it has {shares}, and without it these lose nothing (under {idle})."
    return first + also * bool(taken)


@claim
def no_name(phi: float) -> str:
    return (
        "No kind of text or class of tokens names it: what fits best on half of the texts does not hold on the other "
        f"half (correlation {phi:.2f}). Single tokens may still keep to it."
    )


@claim
def name_that_holds(
    name: str, precision: float, recall: float, f1: float, f1_token: float, f1_kind: float, f1_position: float
) -> str:
    more = "The token by itself says more" if f1_token > f1 else "It says more than the token by itself"
    return (
        f"{name}: it has {percent(precision)} of these tokens, and they are {percent(recall)} of all that it has, on "
        f"texts that did not choose the name. {more}: F1 {f1:.2f} by the name, {f1_token:.2f} by the token, "
        f"{f1_kind:.2f} by the kind of text, {f1_position:.2f} by the position."
    )


@claim
def names_that_hold(held: int, experts: int, layer: int, expert: int, name: str) -> str:
    return (
        f"{held:,} of {experts:,} experts have a name that holds; the clearest is expert {expert} of layer {layer}: "
        f"“{short(name)}”."
    )


@claim
def names_that_predict(better: int, names: int, f1: float, f1_token: float, f1_kind: float) -> str:
    decoration = " So a name in words is mostly decoration here." if 2 * better < names else ""
    return (
        f"On texts that did not choose them, the rules of {better:,} of {names:,} experts predict better than the "
        f"token by itself: F1 {f1:.2f} on average, by the token {f1_token:.2f}, by the kind of text {f1_kind:.2f}."
        f"{decoration}"
    )


@claim
def not_recorded_here() -> str:
    return "No token was recorded at this layer, so nothing is known of this expert here."


@claim
def too_short(has: int, recorded: int) -> str:
    return f"This text is too short to say what it does: it has {has} of {count(recorded, 'token')}."


@claim
def takes_nothing(recorded: int) -> str:
    return f"Nothing here was routed to it: it has none of {count(recorded, 'token')}."


@claim
def takes_everything(recorded: int) -> str:
    return f"Everything here was routed to it: it has all of {count(recorded, 'token')}."


@claim
def nothing_stands_out(kinds: bool, judged: bool) -> str:
    if not kinds:
        return "No token stands out: chance could explain which ones it takes."
    if not judged:
        return "No token stands out; whether a kind of text does cannot be judged by so few texts or kinds."
    return "No kind of text and no token stands out: chance could explain what it takes."


class Taken(NamedTuple):
    """A kind of text of which an expert has a large share."""

    kind: str
    share: float
    tokens: int
    texts: int


class Keeping(NamedTuple):
    """A token of the vocabulary, how often an expert has it, and how often it occurs."""

    text: str
    tokens: int
    of: int


@claim
def stands_out(kinds: Sequence[Taken], uniform: float, tokens: Sequence[Keeping]) -> str:
    parts = []
    if kinds:
        named = [
            f"{percent(kind.share)} of {visible(kind.kind)} "
            f"({count(kind.tokens, 'token')} in {count(kind.texts, 'text')})"
            for kind in kinds
        ]
        parts.append(f"Takes {with_and(named)}; a uniform share would be {percent(uniform)}.")
    if tokens:
        words = with_and([f"“{visible(token.text)}” ({token.tokens} of {token.of})" for token in tokens])
        every = all(token.tokens == token.of for token in tokens)
        parts.append(f"{'All' if every else 'All, or nearly all,'} of these go to it: {words}.")
    return " ".join(parts)


# ---- all experts in a table -----------------------------------------------------------------------------------------


@claim
def expert_note(dead: bool, idle: bool, twins: Sequence[tuple[str, int]], greatest: float | None) -> str:
    notes = ["no token is sent to it"] * dead + ["it adds nothing"] * idle
    notes += [f"like expert {expert} by its {by}" for by, expert in twins]
    if greatest is not None:
        figure = f"{greatest:,.0f}" if greatest >= 100 else f"{greatest:.3g}"
        notes.append(f"a Super Expert, whose outputs reach {figure}")
    return "; ".join(notes)


@claim
def odd_expert(layer: int, expert: int, note: str) -> str:
    return f"Layer {layer}, expert {expert}: {note}."


@claim
def breadths(experts: int, narrow: int, broad: int, none: int) -> str:
    return (
        f"Of {experts:,} experts, {narrow:,} {'is' if narrow == 1 else 'are'} narrow, {broad:,} "
        f"{'is' if broad == 1 else 'are'} broad, and {none:,} {'has' if none == 1 else 'have'} no kind of text."
    )


@claim
def names_by_chance(mean: float, fewest: int, most: int, experts: int) -> str:
    return f"With the routing of other texts, {mean:.1f} of {experts:,} names hold ({fewest:,} to {most:,})."


@claim
def committee(members: int, share: float, uniform: float) -> str:
    return (
        f"{members:,} of them lead most kinds of text, and each takes {percent(share)} of its layer's assignments on "
        f"average; a uniform share is {percent(uniform)}."
    )


@claim
def writers(writers: int, experts: int) -> str:
    if not writers:
        return (
            f"None of the {experts:,} experts is shown to write: tokens that their outputs promote follow no more "
            "often than by chance."
        )
    return (
        f"{writers:,} of {experts:,} experts write tokens that then follow; nothing is claimed of the others, whatever "
        "their outputs promote."
    )


@claim
def dead_experts(dead: int, experts: int) -> str:
    return f"No token is sent to {dead:,} of {experts:,} experts."


@claim
def labels_of_others(labels: int, here: int, judged: int, borne_out: int, lift: float) -> str:
    begin = f"Of {labels:,} labels of others, {here:,} {'is' if here == 1 else 'are'} of experts here. {judged:,} "
    begin += f"name{'s' * (judged == 1)} a kind of our texts"
    if not judged:
        return f"{begin}, so their scores cannot be checked."
    return f"{begin}, {borne_out:,} of them with a lift of {lift:g} or more there. No other score can be checked."


# ---- findings -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a finding is seen, and how its expert is counted."""

    layer: int
    expert: int
    first: bool  # by first choices; else by any of k
    top_k: int
    step: str  # what a layer is called
    item: str  # and a token


def _role(place: Place) -> str:
    role = "the first choice for" if place.first else f"among the {place.top_k} experts of"
    return f"At {place.step} {place.layer}, expert {place.expert} is {role}"


def _of_all(place: Place, share: float, all_recorded: bool) -> str:
    every = f"all {place.item}s" if all_recorded else f"the {place.item}s recorded there"
    return f"and {'for' if place.first else 'of'} {percent(share)} of {every}"


@claim
def busiest_of_text(
    place: Place, share: float, times: float, usual: float | None, all_recorded: bool, one_text: bool
) -> str:
    text = "this text" if one_text else "these texts"
    text = text if all_recorded else f"the {place.item}s recorded there"
    also = "" if usual is None else f", and {share / usual:.1f}× its share of other texts" if usual else None
    also = ", and of other texts it never is" if also is None else also
    return f"{_role(place)} {percent(share)} of {text}: {times:.1f}× a uniform share{also}."


@claim
def passage(place: Place, length: int, begin: str, end: str, share: float, all_recorded: bool) -> str:
    ends = f"from “{short(begin)}” to “{short(end)}”"
    return f"{_role(place)} {length} {place.item}s in a row, {ends}, {_of_all(place, share, all_recorded)}."


@claim
def habit(place: Place, text: str, times: int, every: bool, share: float, all_recorded: bool) -> str:
    there = "" if every else " it is recorded"
    return f"{_role(place)} “{short(text)}” all {times} times{there}, {_of_all(place, share, all_recorded)}."


# ---- flow between layers --------------------------------------------------------------------------------------------


@claim
def next_choice(
    layer: int, expert: int, to_layer: int, to_expert: int, share: float, chance: float, beyond: int, pairs: int
) -> str:
    return (
        f"Expert {expert} of layer {layer} sends {percent(share)} of its tokens to expert {to_expert} of layer "
        f"{to_layer} (random: {percent(chance)}). Beyond chance: {beyond:,} of {pairs:,} pairs."
    )


def _less_chance(information: float, shuffled: float) -> str:
    bits, chance = round(information, 2), round(shuffled, 2)
    return f"{bits - chance:.2f} bits beyond chance ({bits:.2f}, less the {chance:.2f} of shuffled tokens)"


@claim
def information_about_next(layer: int, next_layer: int, information: float, shuffled: float) -> str:
    return f"Layer {layer} tells most about the next one, {next_layer}: {_less_chance(information, shuffled)}."


@claim
def information_about_later(layer: int, later_layer: int, information: float, shuffled: float) -> str:
    return f"Layer {layer} tells most about a later one, {later_layer}: {_less_chance(information, shuffled)}."


@claim
def information_of_two(information: float, shuffled: float) -> str:
    return f"The first choices of the two layers share {_less_chance(information, shuffled)}."


@claim
def busier_of_two(layer: int, times: float, other_layer: int, other_times: float) -> str:
    return (
        f"The busiest expert has {times:.1f}× a uniform share at layer {layer}, and {other_times:.1f}× at layer "
        f"{other_layer}."
    )


@claim
def wider_of_two(layer: int, spread: float, other_layer: int, other_spread: float) -> str:
    return (
        f"The load varies more at layer {layer} than at layer {other_layer}: std / mean of {spread:.2f} and "
        f"{other_spread:.2f}."
    )


# ---- load -----------------------------------------------------------------------------------------------------------


@claim
def busiest_expert(layer: int, expert: int, share: float, times: float) -> str:
    return (
        f"The busiest is expert {expert} of layer {layer}, with {percent(share)} of the layer's assignments: "
        f"{times:.1f}× a uniform share."
    )


@claim
def load_and_probability(layer: int, expert: int, load: float, importance: float, clear: int, experts: int) -> str:
    return (
        f"Expert {expert} of layer {layer} has {percent(load)} of the assignments, at a mean probability of "
        f"{percent(importance)}. As far apart: {clear:,} of {experts:,} experts."
    )


@claim
def widest_load(layer: int, times: float, twice: int, layers: int) -> str:
    also = f"; {twice} of {layers} layers, at least twice" if layers > 1 else ""
    return f"The load of layer {layer} varies {times:.1f} times as much as at random{also}."


@claim
def busiest_layer(layer: int, times: float, layers: int) -> str:
    most = ", the most of all layers" if layers > 1 else ""
    return f"The busiest expert of layer {layer} has {times:.1f}× a uniform share{most}."


@claim
def no_assignment() -> str:
    return "No token was counted in any layer."


@claim
def load_of_all(
    layer: int,
    expert: int,
    share: float,
    times: float,
    experts: int,
    least: tuple[int, int, float] | None,
    unused: int,
    unused_layers: int,
    most_unused: tuple[int, int] | None,
) -> str:
    busiest = (
        f"The busiest is expert {expert} of layer {layer}, with {percent(share)} of the layer's assignments, "
        f"{times:.1f}× a uniform share."
    )
    if least is not None:
        who = f"expert {least[1]} of layer {least[0]} has the least, {percent(least[2])}"
        return f"{busiest} Each of the {experts:,} experts got a token; {who}."
    where, number = most_unused or (0, 0)
    where_most = f"in layer {where}" if unused_layers == 1 else f"most of them in layer {where}: {number:,}"
    return f"{busiest} Of {experts:,} experts, {unused:,} got no token, {where_most}."


# ---- locality -------------------------------------------------------------------------------------------------------


@claim
def repeated_choice(layer: int, share: float, chance: float, first: bool, beyond: int, layers: int) -> str:
    what = "have the same first choice" if first else "share an expert"
    return (
        f"At layer {layer}, {percent(share)} of neighbouring tokens {what}; at random, {percent(chance)} would. Beyond "
        f"chance: {beyond} of {layers} layers."
    )


@claim
def used_first(used: int, experts: int) -> str:
    return f"{used:,} of {experts:,} experts come first here."


@claim
def staying(stay: int, pairs: int, chance: float, used: int, experts: int) -> str:
    return (
        f"{stay:,} of {pairs:,} tokens stay{'s' * (stay == 1)} with the expert of the token before, compared with "
        f"{chance:,.0f} in random order; {used:,} of {experts:,} experts come first here."
    )


# ---- several traces -------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A figure of one trace, next to what chance gives, and its limit if it has one."""

    trace: str
    value: float
    chance: float = float("nan")
    most: float = float("nan")


def _signed(share: float) -> str:
    """A share that may be below chance."""
    if -0.005 < share < 0:
        return "just below 0%"
    return f"−{percent(-share)}" if share < 0 else percent(share)


@claim
def other_texts() -> str:
    return "These traces are not of the same tokens: part of what differs is due to the texts."


@claim
def repetition_alike(figures: Sequence[Figure]) -> str:
    each = ", ".join(f"{one.trace} {_signed(one.value)}" for one in figures)
    return f"How often the first choice repeats, beyond chance, differs by no more than chance explains: {each}."


@claim
def repetition(most: str, least: str, figures: Sequence[Figure]) -> str:
    each = ", ".join(f"{one.trace} {_signed(one.value)}" for one in figures)
    loads = ", ".join(f"{one.trace} {_signed(one.chance)}" for one in figures)
    return (
        f"Beyond chance, the first choice repeats most in {most} and least in {least}: {each}. Their loads by "
        f"themselves would give: {loads}."
    )


@claim
def bits_of_labels(figures: Sequence[Figure]) -> str:
    bits = ", ".join(
        f"{one.trace} {one.value:.2f} ({'not known' if one.chance != one.chance else f'{one.chance:.2f}'})"
        for one in figures
    )
    return f"Bits that the expert tells about the kind of text (with labels shuffled): {bits}."


@claim
def busiest_of_several(figures: Sequence[Figure]) -> str:
    loads = ", ".join(f"{one.trace} {one.value:.2f} ({one.chance:.2f})" for one in figures)
    return f"Load of the busiest expert, × the mean (at random): {loads}."


@claim
def sets_of_several(figures: Sequence[Figure]) -> str:
    sets = ", ".join(f"{one.trace} {one.value:,.0f} of {one.most:,.0f} ({one.chance:,.0f})" for one in figures)
    return f"Different sets of experts that tokens go to (at random): {sets}."


# ---- parameters -----------------------------------------------------------------------------------------------------


@claim
def routed_parameters(share: float, used: float) -> str:
    return f"Routed experts are {percent(share)} of all parameters; one token runs through {percent(used)} of them."


@claim
def active_parameters(active: int, total: int) -> str:
    return f"One token runs through {percent(active / total)} of all parameters: {active:,} of {total:,}."


@claim
def touched_parameters(tokens: int, touched: float, active: float) -> str:
    return (
        f"Together, {tokens:,} tokens run through {percent(touched)} of all parameters, one token through "
        f"{percent(active)}."
    )


# ---- placement ------------------------------------------------------------------------------------------------------


@claim
def balanced_devices(before: float, after: float, lower: int, higher: int, layers: int) -> str:
    return (
        f"On held-out tokens, balancing changes the busiest device's mean load from {before:.2f}× to {after:.2f}× a "
        f"uniform share: lower at {lower} of {layers} layers, higher at {higher}."
    )


# ---- kinds of text, and of tokens -----------------------------------------------------------------------------------


@claim
def expert_of_kind(layer: int, label: str, expert: int, share: float, times: float, beyond: int, cells: int) -> str:
    return (
        f"At layer {layer}, expert {expert} has {percent(share)} of the assignments of “{short(label)}”, {times:.1f}× "
        f"a uniform share. Beyond chance: {beyond:,} of {cells:,}."
    )


@claim
def information_about_kinds(layer: int, information: float, maximum: float, shuffled: float) -> str:
    return (
        f"The expert tells most about the label at layer {layer}: {information:.2f} bits of {maximum:.2f}; with "
        f"shuffled labels {shuffled:.2f}."
    )


@claim
def most_different_kinds(label: str, other: str, divergence: float, shuffled: float) -> str:
    return (
        f"“{short(label)}” and “{short(other)}” are routed most differently: {divergence:.2f} of 1 bit; with shuffled "
        f"labels {shuffled:.2f}."
    )


@claim
def expert_of_class(layer: int, kind: str, expert: int, share: float, lift: float, beyond: int, cells: int) -> str:
    return (
        f"At layer {layer}, expert {expert} has {percent(share)} of the assignments of “{kind}”, {lift:.1f}× its share "
        f"of all tokens. Beyond chance: {beyond:,} of {cells:,}."
    )


@claim
def keeping_of_layer(layer: int, share: float, shuffled: float, clear: int, layers: int) -> str:
    return (
        f"At layer {layer}, a token keeps to one expert in {percent(share)} of its occurrences; shuffled, "
        f"{percent(shuffled)}. Clearly more than shuffled: {clear} of {layers} layers."
    )


@claim
def keeping_of_expert(layer: int, expert: int, share: float, shuffled: float, clear: int, experts: int) -> str:
    return (
        f"At layer {layer}, tokens of expert {expert} go there in {percent(share)} of their occurrences; shuffled, "
        f"{percent(shuffled)}. Clearly more: {clear:,} of {experts:,} experts."
    )


# ---- who takes a word -----------------------------------------------------------------------------------------------


@claim
def word_not_found(word: str) -> str:
    return f"“{word}” is not in these texts."


@claim
def word_is_rare(what: str, tokens: int) -> str:
    return f"Only {count(tokens, 'token')} {what} in these texts: too few to distinguish experts."


@claim
def nobody_takes(what: str, tokens: int) -> str:
    return f"{tokens:,} tokens {what}; no expert takes clearly more of them than of others."


@claim
def taker(layer: int, expert: int, tokens: int, of: int, what: str, weight: float | None, usual: float) -> str:
    part = "" if weight is None else f", with {percent(weight)} of the weight"
    usually = f"{percent(usual)}{' of the weight' * (weight is not None)}"
    return (
        f"Layer {layer}, expert {expert} takes {tokens:,} of the {of:,} tokens {what}{part}; of all tokens it has "
        f"{usually}."
    )


# ---- routes ---------------------------------------------------------------------------------------------------------


@claim
def routes_alike(cells: int) -> str:
    return f"All routes of {count(cells, 'token')} and layers give the same loss, so none is better than another."


@claim
def route_of_token(
    text: str,
    next_text: str,
    layer: int,
    experts: Sequence[int],
    loss: float,
    mean: float,
    others: int,
    better: int,
    best: float,
) -> str:
    return (
        f"“{visible(text)}” → “{visible(next_text)}” at layer {layer}: the next token costs {loss:.2f} nats on the "
        f"route taken ({with_and([str(expert) for expert in experts])}), and {mean:.2f} on the other {others:,} on "
        f"average; {better:,} of them are better, the best by {best:.3f} nats; at random {others / 2:g} would be."
    )


@claim
def route_ranks(
    tokens: int, texts: int, rank: float, rank_ties: float, tie: float, gain: float, low: float, high: float
) -> str:
    band = "" if low != low else f" (95 % of resampled texts: {percent(low)} to {percent(high)})"
    return (
        f"Of the other routes that a token could have taken, {percent(rank)} are better for the next token{band}; at "
        f"random half would be. With differences up to {tie:g} nats as ties: {percent(rank_ties)}. The other routes "
        f"cost {abs(gain):.3f} nats {'more' if gain >= 0 else 'less'} on average, over {count(tokens, 'token')} of "
        f"{count(texts, 'text')}."
    )


@claim
def route_certainty(surest: float, least: float, surest_ties: float, least_ties: float, tie: float) -> str:
    return (
        f"Where the model is surest, {percent(surest)} of the other routes are better, and where it is least sure "
        f"{percent(least)}; with differences up to {tie:g} nats as ties {percent(surest_ties)} and "
        f"{percent(least_ties)}."
    )


@claim
def route_stakes(most: float, related: float) -> str:
    return (
        f"A tenth of the tokens and layers holds {percent(most)} of what is at stake (the spread over routes). How "
        f"much is at stake and how well it is done have a rank correlation of {related:.2f}."
    )


@claim
def route_of_kind(at_random: float, of_kind: float) -> str:
    share = 1 - of_kind / at_random if at_random > 0 else float("nan")
    known = f": {percent(share)} of what the routers gain is the kind" if 0 <= share <= 1 else ""
    return (
        f"A route at random costs {at_random:.3f} nats more than a token's own, and that of another token of the same "
        f"kind of text {of_kind:.3f}{known}."
    )


@claim
def blind_spots(groups: int, blind: int, shown: Sequence[str], with_ties: int) -> str:
    ties = f"; with small differences as ties, in {with_ties:,}"
    if not blind:
        return f"In all {groups:,} groups of tokens the routers choose better than chance{ties} they do not."
    named = with_and([f"“{short(name)}”" for name in shown[:3]])
    return (
        f"In {blind:,} of {groups:,} groups of tokens the routers may choose no better than chance{ties}. Highest: "
        f"{named}. Of many groups one or two get there by chance."
    )


# ---- paths ----------------------------------------------------------------------------------------------------------


@claim
def paths_beyond(distinct: int, shuffled: float, often: int, holding: int, by_chance: int) -> str:
    depend = "are not independent" if distinct < shuffled else "look independent"
    return (
        f"Tokens take {distinct:,} different paths, and {shuffled:,.0f} if each layer's choices are shuffled within "
        f"the kind of text: layers {depend} given the kind. Of {often:,} common paths, {holding:,} come more often "
        f"than that also on texts set aside; of shuffled ones {by_chance:,}."
    )


@claim
def path_that_holds(path: Sequence[int], tokens: int, lift: float, lift_aside: float) -> str:
    return (
        f"The path that holds best on texts set aside leads through experts {', '.join(map(str, path))}: "
        f"{count(tokens, 'token')}, {lift:,.1f}× as many as independent layers give, and {lift_aside:,.1f}× there."
    )


@claim
def map_of_experts(halves: float, renamed: float, kept: float, plane: float, chance: float) -> str:
    return (
        f"How alike experts are on one half of the texts and on the other has a rank correlation of {halves:.2f} (with "
        f"experts renamed at random, at most {renamed:.2f}); {percent(kept)} of the three nearest stay. Of the "
        f"three nearest in the plane, {percent(plane)} are so in truth, and by chance {percent(chance)} would be."
    )


# ---- a plan of one recording, judged on another ---------------------------------------------------------------------

FIGURES = {  # what is judged, and its unit
    "imbalance": ("the busiest device does", " times the mean"),
    "hits": ("hits are", "%"),
    "loss": ("the cost is", " nats per token"),
}
MORE_IS_BETTER = ("hits",)


@claim
def stale_plan(
    verdict: str, plan: str, figure: str, stale: float, fresh: float, chance: float, kept: float | None
) -> str:
    what, unit = FIGURES.get(figure, FIGURES["loss"])
    of_stale, of_fresh, of_chance = (percent(n) if unit == "%" else f"{n:.3g}" for n in (stale, fresh, chance))
    unit = "" if unit == "%" else unit
    share = "" if kept is None or verdict == "No better than chance" else percent(min(kept, 1.0))
    keeps = f" It keeps {share} of what the fresh one gains over chance." if share else ""
    return (
        f"{verdict}: with the plan ({plan}) of the first recording, {what} {of_stale}{unit} on the second; with a "
        f"fresh plan {of_fresh}, at random {of_chance}.{keeps}"
    )
