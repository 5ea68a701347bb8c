"""The words of every claim about a trace, topic by topic. What is claimed, and when, stands next to each metric.

Sentences that only need their values filled in are in `captions.toml`; those that depend on them are functions here. To
mend a sentence, change it there or here, then run `pytest --update-golden tests/metrics/test_claims.py`. Labels, tokens
and names are quoted as they are.
"""

import tomllib
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from math import isnan
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

from moeviz.claims import Claim, claim
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import bytes_said, percent, short
from moeviz.text import with_and

NAMED = 32  # experts in one sentence
HOLDERS = 5  # experts with the most or the least of a layer
MUCH, LITTLE = "1.5 times {} share or more", "half {} share or less"
NEITHER = "beyond chance, no expert has 1.5 times its share or more, or half of it or less"


def count(number: int, word: str) -> str:
    """Return a number with its noun.

    >>> count(1, "token"), count(2_000, "token")
    ('1 token', '2,000 tokens')
    """
    return f"{number:,} {word}{'s' * (number != 1)}"


def times_said(times: float) -> str:
    """Times a uniform share, with as many digits as distinguish it from 1, and from 0.

    >>> [times_said(times) for times in (2.62, 12.0, 0.43, 0.078, 1.04, 1.0031, 0.0)]
    ['2.6', '12', '0.4', '0.08', '1.04', '1.003', '0']
    """
    if not times:
        return "0"
    digits = next((digits for digits in range(5) if abs(times - 1) >= 10**-digits), 1)
    return f"{times:.{2 if times < 0.095 else max(digits, 1)}f}" if times < 9.95 else f"{times:,.0f}"


def _of_share(times: float) -> str:
    return f"{times_said(times)} {'times its share' if times >= 1 else 'of its share'}"


FORMATS: dict[str, Callable[[Any], str]] = {"percent": percent, "bytes": bytes_said, "short": short, "text": str}


class _Words(Formatter):
    """Format values as `captions.toml` asks: by Python's formats, `FORMATS`, a noun (# token), or as one|or many."""

    def format_field(self, value: Any, spec: str) -> str:
        one, or_many, many = spec.partition("|")
        if or_many:
            return one if value == 1 else many
        if spec.startswith("# "):
            return count(value, spec[2:])
        return FORMATS[spec](value) if spec in FORMATS else format(value, spec)


def _kind(spec: str) -> type:
    if spec in ("short", "text"):
        return str
    return bool if "|" in spec else float if spec in FORMATS or spec[-1:] in ("f", "g", "%") else int


def claims_in(file: Path, module: str) -> dict[str, Callable[..., Claim]]:
    """Read the claims of a table: name = "sentence". Their parameters are what it names in braces, in that order."""

    def wording_of(name: str, sentence: str) -> Callable[..., Claim]:
        def wording(**values: Any) -> str:
            return _Words().vformat(sentence, (), values)

        kinds: dict[str, type] = {}
        for _, field, spec, _ in _Words().parse(sentence):
            if field:
                kinds.setdefault(field, _kind(spec or ""))
        named = [Parameter(field, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for field, kind in kinds.items()]
        wording.__name__, wording.__module__, wording.__annotations__ = name, module, kinds
        wording.__signature__ = Signature(named)  # type: ignore[attr-defined]
        return claim(wording)

    return {name: wording_of(name, words) for name, words in tomllib.loads(file.read_text("utf-8")).items()}


globals().update(claims_in(Path(__file__).with_suffix(".toml"), __name__))
if TYPE_CHECKING:  # those of the table

    def __getattr__(name: str) -> Callable[..., Claim]: ...


# ---- balance: is the work shared evenly? ----------------------------------------------------------------------------


class Holder(NamedTuple):
    """An expert and its load: of all tokens together where the group is "", else of the tokens of a group."""

    group: str
    layer: int
    expert: int
    times: float  # × a uniform share


@claim
def few_counted(number: int, needed: int, what: str) -> str:
    return f"Too little to say: {count(number, what)} at a layer, and {needed} are needed."


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
def load_at_layer(
    layer: int,
    experts: int,
    together: bool,
    much: Sequence[tuple[int, float]],
    little: Sequence[tuple[int, float]],
    empty: int,
) -> str:
    def who(some: Sequence[tuple[int, float]], bound: str) -> str:
        shown = [f"{expert} ({times_said(times)}×)" for expert, times in some[:HOLDERS]]
        more = [f"{len(some) - HOLDERS:,} more"] if len(some) > HOLDERS else []
        gets, its = ("gets", "its") if len(some) == 1 else ("get", "their")
        return f"{len(some):,} of {experts:,} experts {gets} {bound.format(its)}: {with_and(shown + more)}"

    parts = [who(some, bound) for some, bound in ((much, MUCH), (little, LITTLE)) if some]
    parts += [f"{count(empty, 'expert')} without any token"] * bool(empty)
    return f"Layer {layer}{', all groups together' * together}: {'; '.join(parts) or NEITHER}."


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


# ---- confidence and losses ------------------------------------------------------------------------------------------


@claim
def highest_z_loss(layer: int, loss: float, median: float) -> str:
    high, usual = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (loss, median))
    return f"The z-loss is highest at layer {layer}: {high} nats², compared with {usual} at the median layer."


# ---- contrast, and targets of tuning --------------------------------------------------------------------------------


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
def name_that_holds(
    name: str, precision: float, recall: float, f1: float, f1_token: float, f1_kind: float, f1_position: float
) -> str:
    if isnan(f1_token):
        more, by_token = "The trace does not say which tokens they are", ""
    else:
        more = "The token by itself says more" if f1_token > f1 else "It says more than the token by itself"
        by_token = f" {f1_token:.2f} by the token,"
    return (
        f"{name}: it has {percent(precision)} of these tokens, and they are {percent(recall)} of all that it has, on "
        f"texts that did not choose the name. {more}: F1 {f1:.2f} by the name,{by_token} {f1_kind:.2f} by the kind of "
        f"text, {f1_position:.2f} by the position."
    )


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
def labels_of_others(labels: int, here: int, judged: int, borne_out: int, lift: float) -> str:
    begin = f"Of {labels:,} labels of others, {here:,} {'is' if here == 1 else 'are'} of experts here. {judged:,} "
    begin += f"name{'s' * (judged == 1)} a kind of our texts"
    if not judged:
        return f"{begin}, so their scores cannot be checked."
    return f"{begin}, {borne_out:,} of them with a lift of {lift:g} or more there. No other score can be checked."


# ---- findings -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The page that shows a finding, and how its expert is counted."""

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
    much = f"all of {text}" if share == 1 else f"{percent(share)} of {text}: {times:.1f}× a uniform share"
    return f"{_role(place)} {much}{also}."


@claim
def passage(place: Place, length: int, begin: str, end: str, share: float, all_recorded: bool) -> str:
    ends = f"from “{short(begin)}” to “{short(end)}”"
    return f"{_role(place)} {length} {place.item}s in a row, {ends}, {_of_all(place, share, all_recorded)}."


@claim
def habit(place: Place, text: str, times: int, every: bool, share: float, all_recorded: bool) -> str:
    there = "" if every else " it is recorded"
    return f"{_role(place)} “{short(text)}” all {times} times{there}, {_of_all(place, share, all_recorded)}."


# ---- flow between layers --------------------------------------------------------------------------------------------


def _less_chance(information: float, shuffled: float) -> str:
    bits, chance = round(information, 2), round(shuffled, 2)
    return f"{bits - chance:.2f} bits beyond chance ({bits:.2f}, and {chance:.2f} with the tokens shuffled)"


@claim
def information_about_next(layer: int, next_layer: int, information: float, shuffled: float) -> str:
    return f"Layer {layer} says the most about the next, layer {next_layer}: {_less_chance(information, shuffled)}."


@claim
def information_about_later(layer: int, later_layer: int, information: float, shuffled: float) -> str:
    return f"Layer {layer} says the most about a later one, layer {later_layer}: {_less_chance(information, shuffled)}."


@claim
def information_of_two(information: float, shuffled: float) -> str:
    return f"The first choices of the two layers share {_less_chance(information, shuffled)}."


# ---- load -----------------------------------------------------------------------------------------------------------


@claim
def widest_load(layer: int, times: float, twice: int, layers: int) -> str:
    vary = "varies" if twice == 1 else "vary"
    also = f"; {twice} of {layers} layers {vary} at least twice as much" if layers > 1 else ""
    return f"The load of layer {layer} varies {times:.1f} times as much as at random{also}."


@claim
def loads_of_layers(
    expert: int,
    layer: int,
    layers: int,
    most: tuple[float, float],
    least: tuple[float, float],
    beyond: int,
    experts: int,
) -> str:
    """Least and most times a uniform share that the busiest expert of a layer has, and that the least busy one has."""
    outside = f"{beyond:,} of {experts:,} differ beyond chance"
    if layers == 1:
        return (
            f"Expert {expert} is the busiest of layer {layer}, with {times_said(most[1])} times a uniform share; the "
            f"least busy has {times_said(least[0])}; {outside}."
        )
    low, high = (" to ".join(dict.fromkeys(map(times_said, ends))) for ends in (most, least))
    return f"By layer, the busiest expert has {low} times a uniform share, the least busy {high}; {outside}."


@claim
def busiest_layer(layer: int, times: float, layers: int) -> str:
    most = ", the most of all layers" if layers > 1 else ""
    return f"The busiest expert of layer {layer} has {times:.1f}× a uniform share{most}."


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


# ---- several traces -------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A figure of one trace, next to what chance gives, and its limit if it has one."""

    trace: str
    value: float
    chance: float = float("nan")
    most: float = float("nan")


def _format_signed(share: float) -> str:
    """Format a share that may be below chance."""
    if -0.005 < share < 0:
        return "just below 0%"
    return f"−{percent(-share)}" if share < 0 else percent(share)


@claim
def repetition_alike(figures: Sequence[Figure]) -> str:
    each = ", ".join(f"{one.trace} {_format_signed(one.value)}" for one in figures)
    return f"How often the first choice repeats, beyond chance, differs by no more than chance explains: {each}."


@claim
def repetition(most: str, least: str, figures: Sequence[Figure]) -> str:
    each = ", ".join(f"{one.trace} {_format_signed(one.value)}" for one in figures)
    loads = ", ".join(f"{one.trace} {_format_signed(one.chance)}" for one in figures)
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
def active_parameters(active: int, total: int) -> str:
    return f"One token runs through {percent(active / total)} of all parameters: {active:,} of {total:,}."


# ---- who takes a word -----------------------------------------------------------------------------------------------


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
    band = "" if low != low else f" (in 95% of resampled sets of texts, {percent(low)} to {percent(high)})"
    return (
        f"Of the other routes that a token could have taken, {percent(rank)} are better for the next token{band}; at "
        f"random half would be. With differences up to {tie:g} nats as ties: {percent(rank_ties)}. The other routes "
        f"cost {abs(gain):.3f} nats {'more' if gain >= 0 else 'less'} on average, over {count(tokens, 'token')} of "
        f"{count(texts, 'text')}."
    )


@claim
def route_of_kind(at_random: float, of_kind: float) -> str:
    share = 1 - of_kind / at_random if at_random > 0 else float("nan")
    known = f": {percent(share)} of what the routers gain comes with the kind" if 0 <= share <= 1 else ""
    return (
        f"A route at random costs {at_random:.3f} nats more than a token's own, and that of another token of the same "
        f"kind of text {of_kind:.3f}{known}."
    )


@claim
def blind_spots(groups: int, blind: int, shown: Sequence[str], with_ties: int) -> str:
    ties = f"; with small differences as ties, in {with_ties:,}"
    if not blind:
        judged = "the only group" if groups == 1 else f"each of {groups:,} groups"
        also = f"{ties} they may not" if with_ties else ", also with small differences as ties"
        return f"In {judged} of tokens large enough to judge, the routers choose better than chance{also}."
    named = with_and([f"“{short(name)}”" for name in shown[:3]])
    return (
        f"In {blind:,} of {groups:,} groups of tokens the routers may choose no better than chance{ties}. Highest: "
        f"{named}. Of many groups one or two get there by chance."
    )


# ---- paths ----------------------------------------------------------------------------------------------------------


@claim
def paths_beyond(layers: int, distinct: int, shuffled: float, often: int, holding: int, by_chance: int) -> str:
    depend = "are not independent" if distinct < shuffled else "look independent"
    return (
        f"Tokens take {distinct:,} different paths of {layers} layers, and {shuffled:,.0f} if each layer's choices are "
        f"shuffled within the kind of text: layers {depend} given the kind. Of {often:,} common paths, "
        f"{holding:,} come more often than that also on texts set aside; of shuffled ones {by_chance:,}."
    )


@claim
def path_that_holds(path: Sequence[int], tokens: int, lift: float, lift_aside: float) -> str:
    return (
        f"The path that holds best on texts set aside leads through experts {', '.join(map(str, path))}: "
        f"{count(tokens, 'token')}, {lift:,.1f}× as many as independent layers give, and {lift_aside:,.1f}× there."
    )


@claim
def names_that_predict(better: int, names: int, f1: float, f1_token: float, f1_kind: float) -> str:
    if isnan(f1_token):
        return (
            f"This trace has neither texts nor ids of tokens, so the rules of {count(names, 'expert')} are compared "
            f"with the kind of text only: F1 {f1:.2f} on average, by the kind of text {f1_kind:.2f}."
        )
    decoration = " So a name in words is mostly decoration here." if 2 * better < names else ""
    return (
        f"On texts that did not choose them, the rules of {better:,} of {names:,} experts predict better than the "
        f"token by itself: F1 {f1:.2f} on average, by the token {f1_token:.2f}, by the kind of text {f1_kind:.2f}."
        f"{decoration}"
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
