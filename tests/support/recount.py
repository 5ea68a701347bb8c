"""A second reading of what moeviz says of a trace: each claim of a sentence is counted again from the arrays, plainly.

It shares nothing with the metrics, on purpose: a mistake that both make would be seen by neither. `CHECKS` says for each
function that writes sentences how its sentences are read. `Refuted` is raised where a claim is not so.
"""

import random
import re
from collections.abc import Callable
from itertools import combinations, pairwise
from math import comb, exp, log, log1p, log2, sqrt

import numpy as np

HANDFUL = 8
PCT = r"(over 99%|under 1%|\d+%)"
NUMBER = r"([\d.,]+)"
CHECKS: dict[str, tuple[re.Pattern[str], Callable]] = {}
SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


class Refuted(AssertionError):
    """A sentence says what is not so."""


def claim(holds: bool, what: str) -> None:
    if not holds:
        raise Refuted(what)


def reads(of: str, pattern: str):
    """Register how sentences of a function are read."""

    def register(check: Callable) -> Callable:
        CHECKS[of] = (re.compile(pattern, re.DOTALL), check)
        return check

    return register


def check(of: str, sentence: str, trace, *more) -> None:
    """Read a sentence again, and raise `Refuted` where a claim of it does not hold."""
    pattern, checked = CHECKS[of]
    found = pattern.fullmatch(sentence)
    claim(found is not None, f"cannot be read: {sentence!r}")
    try:
        checked(Seen(trace), *found.groups(), *more)
    except Refuted as refuted:
        raise Refuted(f"{sentence!r}: {refuted}") from None


def share(said: str, value: float, what: str = "share", slack: float = 1e-11) -> None:
    """A share in per cent, rounded; never all or nothing of what is not quite."""
    if said == "over 99%":
        good = 0.995 - 1e-9 <= value < 1 + slack - 1e-11
    elif said == "under 1%":
        good = 0 < value < 0.005 + 1e-9
    else:
        number = int(said[:-1])
        good = abs(100 * value - number) <= 0.5 + 1e-6 and (0 < number < 100 or abs(value - number / 100) <= slack)
    claim(good, f"{what} is {value:.6f}, not {said}")


def about(said: str, value: float, what: str = "number", slack: float = 0.0) -> None:
    """A number, rounded to the digits that are written."""
    text = said.rstrip(".").replace(",", "")
    digits = len(text.partition(".")[2])
    good = value is not None and abs(float(text) - value) <= 0.5 * 10**-digits * (1 + 1e-3) + 1e-7 + slack
    claim(good, f"{what} is {value}, not {said}")


def whole(said: str, value: int, what: str = "count") -> None:
    claim(int(said.replace(",", "")) == value, f"{what} is {value}, not {said}")


class Seen:
    """A trace as lists."""

    def __init__(self, trace) -> None:
        model, tokens = trace.model, trace.tokens
        self.trace, self.model, self.K, self.T = trace, model, model.top_k, len(tokens)
        self.layers = list(model.layers)
        self.E = dict(zip(model.layers, model.num_experts, strict=True))
        self.slots = dict(zip(model.layers, trace.experts.tolist(), strict=True))
        self.text, self.sequence = list(tokens["text"]), [int(n) for n in tokens["sequence"]]
        self.position, self.phase = [int(n) for n in tokens["position"]], [str(p) for p in tokens["phase"]]
        self.ids = [int(n) for n in tokens["token_id"]]
        self.label = [str(name) for name in tokens["label"]] if "label" in tokens else None
        self.ordered = model.slot_order == "weight" or model.top_k == 1

    def layer(self, said: str) -> int:
        claim(int(said) in self.slots, f"there is no layer {said}")
        return int(said)

    def expert(self, layer: int, said: str) -> int:
        claim(int(said) < self.E[layer], f"layer {layer} has no expert {said}")
        return int(said)

    def recorded(self, layer: int) -> list[int]:
        return [t for t, row in enumerate(self.slots[layer]) if row[0] != -2]

    def has(self, layer: int, t: int) -> list[int]:
        return [e for e in self.slots[layer][t] if e >= 0]

    def first(self, layer: int, t: int) -> int:
        return self.slots[layer][t][0]

    def counts(self, layer: int) -> list[int]:
        counts = [0] * self.E[layer]
        for t in range(self.T):
            for e in self.has(layer, t):
                counts[e] += 1
        return counts

    def some(self) -> list[int]:
        """Layers at which something is recorded."""
        return [layer for layer in self.layers if self.recorded(layer)]

    def times(self, layer: int) -> list[float]:
        counts = self.counts(layer)
        return [n * len(counts) / max(sum(counts), 1) for n in counts]

    def probabilities(self, layer: int) -> list[list[float]]:
        rows = []
        for logits in self.trace.logits[self.layers.index(layer)].astype(float).tolist():
            z = logits[: self.E[layer]]
            if self.model.score_function == "softmax":
                scores = [exp(x - max(z)) for x in z]
            elif self.model.score_function == "sigmoid":
                scores = [1 / (1 + exp(-x)) for x in z]
            else:
                scores = [sqrt(log1p(exp(x))) for x in z]
            rows.append([s / sum(scores) for s in scores])
        return rows

    def neighbours(self, layer: int) -> list[tuple[int, int]]:
        """Pairs of recorded tokens, each directly before the other in its text."""
        places = {(self.sequence[t], self.position[t]): t for t in self.recorded(layer)}
        return [(t, places[s, p + 1]) for (s, p), t in places.items() if (s, p + 1) in places]


def shown(text: str) -> str:
    """A token as the strip shows it."""
    inside = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inside else len(text)
    after = len(text) - len(text.rstrip(" ")) if inside else 0
    return "␣" * before + "".join(SHOWN.get(c, c) if c != " " else c for c in inside) + "␣" * after or "∅"


def quoted(text: str) -> str:
    """A token as sentences quote its beginning and end of a passage."""
    return shown(text.strip(" ") or " ")


# ---- findings -------------------------------------------------------------------------------------------------------

ROLE = r"At (?P<word>[a-z ]+) (\d+), expert (\d+) is (the first choice for|among the \d+ experts of) "
FINDING = {
    "busiest": re.compile(ROLE + PCT + rf" of (this text|these texts|the (?:[a-z ]+)s recorded there): {NUMBER}× a "
                          rf"uniform share(?:, and (?:{NUMBER}× its share of other texts|(in other texts it never is)))?\."),
    "passage": re.compile(ROLE + r"(\d+) ([a-z ]+)s in a row, from “(.*)” to “(.*)”, and (?:for|of) " + PCT
                          + r" of (all (?:[a-z ]+)s|the (?:[a-z ]+)s recorded there)\.", re.DOTALL),
    "habit": re.compile(ROLE + r"“(.*)” all (\d+) times( it is recorded)?, and (?:for|of) " + PCT
                        + r" of (all (?:[a-z ]+)s|the (?:[a-z ]+)s recorded there)\.", re.DOTALL),
}  # fmt: skip


def check_finding(trace, finding, usual=None) -> str:
    """Count a finding again, as the strip shows it. Returns its kind."""
    for kind, pattern in FINDING.items():
        if found := pattern.fullmatch(finding.sentence):
            _, layer, expert, role, *said = found.groups()
            seen = Seen(trace)
            try:
                _finding(seen, kind, seen.layer(layer), int(expert), role, said, finding, usual)
            except Refuted as refuted:
                raise Refuted(f"{finding.sentence!r}: {refuted}") from None
            return kind
    raise Refuted(f"cannot be read: {finding.sentence!r}")


def _finding(seen: Seen, kind: str, layer: int, expert: int, role: str, said: list, finding, usual) -> None:
    claim(seen.ordered == role.startswith("the first"), "another kind of choice is counted than the strip shows")
    if not seen.ordered:
        claim(role == f"among the {seen.K} experts of", f"a token has {seen.K} experts")

    def has(t: int) -> bool:
        return seen.first(layer, t) == expert if seen.ordered else expert in seen.has(layer, t)

    rows = seen.recorded(layer)
    own = [t for t in rows if has(t)]
    claim(len(rows) >= HANDFUL, f"only {len(rows)} tokens are recorded at layer {layer}")
    claim((finding.layer, finding.expert) == (layer, expert), "it leads to another place")
    claim(has(finding.token), "it leads to a token that the expert does not have")
    every = len(rows) == seen.T
    if kind == "busiest":
        part, of, times, other, never = said
        claim(("recorded" in of) == (not every), f"{len(rows)} of {seen.T} tokens are recorded")
        claim(of != "this text" or len(set(seen.sequence)) == 1, "these are several texts")
        share(part, len(own) / len(rows))
        assigned = sum(
            1 for t in rows for e in ([seen.first(layer, t)] if seen.ordered else seen.has(layer, t)) if e >= 0
        )
        about(times, len(own) * seen.E[layer] / assigned, "times uniform")
        if other or never:
            before = Seen(usual)
            there = before.recorded(layer)
            hits = sum(
                before.first(layer, t) == expert if seen.ordered else expert in before.has(layer, t) for t in there
            )
            claim(bool(never) == (hits == 0), f"other texts have it {hits} times")
            if other:
                about(other, len(own) / len(rows) / (hits / len(there)), "times its usual share")
        return
    if kind == "passage":
        length, _, begin, end, part, of = said
        t, n = finding.token, int(length)
        claim(t + n <= seen.T and all(has(i) for i in range(t, t + n)), f"not all {n} tokens from {t} on have it")
        together = all(seen.sequence[i] == seen.sequence[t] and seen.position[i] == seen.position[t] + i - t
                       for i in range(t, t + n))  # fmt: skip
        claim(together, "the passage is not in one piece")
        claim((quoted(seen.text[t]), quoted(seen.text[t + n - 1])) == (begin, end), "it begins or ends elsewhere")
    else:
        word, times, there, part, of = said
        like = [t for t in range(seen.T) if shown(seen.text[t]) == word]
        seen_there = [t for t in like if t in set(rows)]
        claim(bool(there) == (len(seen_there) < len(like)), f"of {len(like)} places {len(seen_there)} are recorded")
        whole(times, len(seen_there), f"occurrences of {word!r}")
        claim(all(has(t) for t in seen_there), "not each of them has it")
    claim(("recorded" in of) == (not every), f"{len(rows)} of {seen.T} tokens are recorded")
    share(part, len(own) / len(rows))


# ---- load and balance -----------------------------------------------------------------------------------------------


@reads(
    "moeviz.metrics.load.load_caption",
    rf"Expert (\d+) of layer (\d+) has {PCT} of the layer's assignments: {NUMBER}× a uniform share\.",
)
def _(seen, expert, layer, part, times):
    layer = seen.layer(layer)
    counts, expert = seen.counts(layer), seen.expert(layer, expert)
    share(part, counts[expert] / sum(counts))
    about(times, seen.times(layer)[expert])


@reads(
    "moeviz.metrics.load.importance_caption",
    rf"Expert (\d+) of layer (\d+) has {PCT} of the assignments, and a mean probability of {PCT}\.",
)
def _(seen, expert, layer, part, probability):
    layer = seen.layer(layer)
    counts, expert = seen.counts(layer), seen.expert(layer, expert)
    share(part, counts[expert] / sum(counts))
    share(probability, sum(row[expert] for row in seen.probabilities(layer)) / seen.T, slack=1e-5)


def spread(seen: Seen, layer: int) -> tuple[float, float]:
    """std / mean of the load of a layer, and the same of choices at random."""
    counts = seen.counts(layer)
    mean = sum(counts) / len(counts)
    if not mean:
        return float("nan"), float("nan")
    variance = 0.0
    for t in seen.recorded(layer):
        p = len(seen.has(layer, t)) / len(counts)
        variance += p * (1 - p)
    return sqrt(sum((n - mean) ** 2 for n in counts) / len(counts)) / mean, sqrt(variance) / mean


@reads(
    "moeviz.metrics.load.balance_caption",
    rf"The load of layer (\d+) is spread {NUMBER} times as widely as at random(?:; (\d+) of (\d+) layers, at least twice)?\.",
)
def _(seen, layer, times, several, of):
    ratios = {one: cv / chance for one in seen.some() for cv, chance in [spread(seen, one)] if chance > 0}
    about(times, ratios[seen.layer(layer)])
    claim((several is None) == (len(seen.some()) == 1), "of how many layers?")
    if several:
        whole(several, sum(ratio >= 2 - 1e-9 for ratio in ratios.values()), "layers at least twice as wide")
        whole(of, len(seen.some()), "layers")


@reads(
    "moeviz.metrics.load.busiest_caption",
    rf"The busiest expert of layer (\d+) has {NUMBER}× a uniform share(, the most of all layers)?\.",
)
def _(seen, layer, times, most):
    highest = {one: max(seen.times(one)) for one in seen.some()}
    about(times, highest[seen.layer(layer)])
    claim(bool(most) == (len(highest) > 1), "of how many layers?")
    claim(highest[int(layer)] >= max(highest.values()) - 1e-9, "another layer has a busier one")


@reads(
    "moeviz.metrics.load.counts_summary",
    rf"(?:No token was counted in any layer\.|The busiest is expert (\d+) of layer (\d+), with {PCT} of the layer's assignments, {NUMBER}× a uniform share\. "
    rf"(?:Every one of the {NUMBER} experts got some tokens; expert (\d+) of layer (\d+) has the least, {PCT}\."
    rf"|Of {NUMBER} experts, {NUMBER} got no token, (?:in layer (\d+)|most of them in layer (\d+): {NUMBER})\.))",
)
def _(seen, expert, layer, part, times, every, poor, poor_layer, least, of, unused, only, most, number):
    counted = [one for one in seen.some() if sum(seen.counts(one))]
    claim((expert is None) == (not counted), "something was counted, or nothing")
    if expert is None:
        return
    layer = seen.layer(layer)
    counts, highest = seen.counts(layer), max(max(seen.times(one)) for one in counted)
    share(part, counts[seen.expert(layer, expert)] / sum(counts))
    about(times, seen.times(layer)[int(expert)])
    claim(seen.times(layer)[int(expert)] >= highest - 1e-9, "another is busier")
    zeros = {one: seen.counts(one).count(0) for one in counted}
    claim((every is not None) == (not sum(zeros.values())), f"{sum(zeros.values())} got no token")
    whole(every or of, sum(seen.E[one] for one in counted), "experts")
    if every:
        poor_layer = seen.layer(poor_layer)
        counts = seen.counts(poor_layer)
        share(least, counts[seen.expert(poor_layer, poor)] / sum(counts))
        fewest = min(min(seen.times(one)) for one in counted)
        claim(seen.times(poor_layer)[int(poor)] <= fewest + 1e-9, "another has less")
        return
    whole(unused, sum(zeros.values()), "experts without a token")
    where = seen.layer(only or most)
    claim((only is not None) == (sum(n > 0 for n in zeros.values()) == 1), "in how many layers?")
    claim(zeros[where] == max(zeros.values()), "another layer has more of them")
    if number:
        whole(number, zeros[where], "of them there")


# ---- coverage -------------------------------------------------------------------------------------------------------


@reads(
    "moeviz.metrics.coverage.experts_needed_caption",
    r"At layer (\d+), (\d+) experts? do(?:es)? half of the work or more; at random it would take (\d+)\.",
)
def _(seen, layer, needed, lot):
    layer = seen.layer(layer)
    counts = sorted(seen.counts(layer), reverse=True)
    fewest = next(n for n in range(1, len(counts) + 1) if 2 * sum(counts[:n]) >= sum(counts))
    whole(needed, fewest, "experts that do half of the work")
    N, E, work = sum(1 for t in seen.recorded(layer) if seen.has(layer, t)), seen.E[layer], sum(counts)
    p = work / (N * E)
    carried = used = 0.0
    for n in range(N, 0, -1):
        experts = E * comb(N, n) * p**n * (1 - p) ** (N - n)
        if carried + experts * n >= work / 2 - 1e-9:
            used += (work / 2 - carried) / n
            break
        carried, used = carried + experts * n, used + experts
    claim(abs(int(lot) - used) < 1 + 1e-3 and int(lot) >= used - 1e-3, f"at random it takes {used:.3f}, not {lot}")


@reads(
    "moeviz.metrics.coverage.experts_touched_caption",
    rf"Layer (\d+) uses (\d+) of its (\d+) experts; choosing at random would use about {NUMBER}\.",
)
def _(seen, layer, used, of, chance):
    layer = seen.layer(layer)
    whole(used, sum(n > 0 for n in seen.counts(layer)), "experts that are used")
    whole(of, seen.E[layer], "experts")
    missed = 1.0
    for t in seen.recorded(layer):
        missed *= 1 - len(seen.has(layer, t)) / seen.E[layer]
    about(chance, seen.E[layer] * (1 - missed), "experts at random")


# ---- two layers, and flow -------------------------------------------------------------------------------------------


@reads(
    "moeviz.metrics.layers.ranked_load_caption",
    rf"The busiest expert has {NUMBER}× a uniform share at layer (\d+), and {NUMBER}× at layer (\d+)\.",
)
def _(seen, high, layer, low, other):
    about(high, max(seen.times(seen.layer(layer))))
    about(low, max(seen.times(seen.layer(other))))
    claim(layer != other, "a layer is compared with itself")


@reads(
    "moeviz.metrics.layers.two_balances_caption",
    rf"The load is spread more widely at layer (\d+) than at layer (\d+): std / mean of {NUMBER} and {NUMBER}\.",
)
def _(seen, layer, other, high, low):
    wide, narrow = spread(seen, seen.layer(layer))[0], spread(seen, seen.layer(other))[0]
    about(high, wide)
    about(low, narrow)
    claim(wide > narrow, "it is the other way round")


def bits(values) -> float:
    table: dict = {}
    for value in values:
        table[value] = table.get(value, 0) + 1
    return -sum(n / len(values) * log2(n / len(values)) for n in table.values())


def information(pairs) -> float:
    return max(bits([a for a, _ in pairs]) + bits([b for _, b in pairs]) - bits(pairs), 0.0) if pairs else 0.0


def shuffled(pairs, times: int = 60) -> tuple[float, float]:
    """Mean information of shuffled pairs, and its standard deviation."""
    dice, found = random.Random(7), []
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    for _ in range(times):
        dice.shuffle(right)
        found.append(information(list(zip(left, right, strict=True))))
    mean = sum(found) / times
    return mean, sqrt(sum((x - mean) ** 2 for x in found) / times)


def first_pairs(seen: Seen, one: int, other: int) -> list[tuple[int, int]]:
    both = set(seen.recorded(one)) & set(seen.recorded(other))
    return [(a, b) for t in sorted(both) for a, b in [(seen.first(one, t), seen.first(other, t))] if a >= 0 and b >= 0]


@reads(
    "moeviz.metrics.layers.overlap_caption",
    rf"One layer's first choice tells {NUMBER} bits about the other's; with shuffled tokens, {NUMBER}\.",
)
def _(seen, said, luck):
    pairs = first_pairs(seen, *seen.layers)
    about(said, information(pairs))
    mean, deviation = shuffled(pairs)
    about(luck, mean, "with shuffled tokens", 5 * deviation * sqrt(1 / 100 + 1 / 60))


@reads(
    "moeviz.metrics.flow.transitions_caption",
    rf"Of the tokens whose first choice at layer (\d+) is expert (\d+), {PCT} choose expert (\d+) first at layer (\d+); at random, {PCT} would\.",
)
def _(seen, layer, expert, part, to, other, chance):
    pairs = first_pairs(seen, seen.layer(layer), seen.layer(other))
    here = seen.layers.index(int(layer))
    claim(seen.layers[here + 1] == int(other), "that is not the next layer")
    whole_rows = [b for a, b in pairs if a == int(expert)]
    claim(bool(whole_rows), "no token has that first choice")
    share(part, whole_rows.count(int(to)) / len(whole_rows))
    share(chance, sum(b == int(to) for _, b in pairs) / len(pairs), "at random")


def _most_told(seen, layer, other, said, luck, couples, times):
    gains = {}
    for one, two in couples:
        if pairs := first_pairs(seen, one, two):
            mean, deviation = shuffled(pairs)
            gains[one, two] = (information(pairs), mean, 5 * deviation * sqrt(1 / times + 1 / 60))
    told, mean, slack = gains[seen.layer(layer), seen.layer(other)]
    about(said, told)
    about(luck, mean, "with shuffled tokens", slack)
    for couple, (more, less, other_slack) in gains.items():
        claim(more - less <= told - mean + slack + other_slack + 1e-9, f"layers {couple} tell more beyond chance")


@reads(
    "moeviz.metrics.flow.consecutive_information_caption",
    rf"Beyond chance, layer (\d+) tells most about the next, layer (\d+): {NUMBER} bits; with shuffled tokens, {NUMBER}\.",
)
def _(seen, layer, other, said, luck):
    _most_told(seen, layer, other, said, luck, list(pairwise(seen.layers)), 100)


@reads(
    "moeviz.metrics.flow.information_between_layers_caption",
    rf"Beyond chance, layer (\d+) tells most about a later one, layer (\d+): {NUMBER} bits; with shuffled tokens, {NUMBER}\.",
)
def _(seen, layer, other, said, luck):
    _most_told(seen, layer, other, said, luck, list(combinations(seen.layers, 2)), 20)


# ---- confidence and losses ------------------------------------------------------------------------------------------


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _ends(seen, high, low, top, bottom, of_row):
    medians = {}
    for layer in seen.layers:
        if values := [v for row in seen.probabilities(layer) if (v := of_row(row, seen.E[layer])) is not None]:
            medians[layer] = middle(values)
    about(top, medians[seen.layer(high)], slack=1e-5)
    about(bottom, medians[seen.layer(low)], slack=1e-5)
    claim(medians[int(high)] >= max(medians.values()) - 1e-6, "another layer is higher")
    claim(medians[int(low)] <= min(medians.values()) + 1e-6, "another layer is lower")


@reads(
    "moeviz.metrics.confidence.entropy_caption",
    rf"Routers are most undecided at layer (\d+), least at layer (\d+): median {NUMBER} and {NUMBER} of 1\.",
)
def _(seen, high, low, top, bottom):
    _ends(
        seen, high, low, top, bottom, lambda row, E: -sum(p * log(p) for p in row if p > 0) / log(E) if E > 1 else None
    )


@reads(
    "moeviz.metrics.confidence.margin_caption",
    rf"The most probable expert leads most at layer (\d+), least at layer (\d+): median {NUMBER} and {NUMBER}\.",
)
def _(seen, high, low, top, bottom):
    _ends(seen, high, low, top, bottom, lambda row, E: max(row) - (sorted(row)[-2] if E > 1 else 0))


@reads(
    "moeviz.metrics.losses.aux_loss_caption",
    rf"The loss is highest at layer (\d+): {NUMBER}, where a uniform load has (\d+)\.",
)
def _(seen, layer, said, even):
    losses = {}
    for one in seen.layers:
        rows, counts = seen.probabilities(one), seen.counts(one)
        losses[one] = seen.E[one] * sum(n / seen.T * sum(row[e] for row in rows) / seen.T for e, n in enumerate(counts))
    about(said, losses[seen.layer(layer)], slack=1e-4)
    claim(losses[int(layer)] >= max(losses.values()) - 1e-6, "another layer has more")
    whole(even, seen.K, "k")


@reads(
    "moeviz.metrics.losses.z_loss_caption",
    rf"The z-loss is highest at layer (\d+): {NUMBER} nats², where the median layer has {NUMBER}\.",
)
def _(seen, layer, said, median):
    losses = {}
    for at, one in enumerate(seen.layers):
        rows = [row[: seen.E[one]] for row in seen.trace.logits[at].astype(float).tolist()]
        sums = [max(row) + log(sum(exp(x - max(row)) for x in row)) for row in rows]
        losses[one] = sum(x * x for x in sums) / len(sums)
    about(said, losses[seen.layer(layer)], slack=1e-5 * losses[int(layer)])
    about(median, middle(list(losses.values())), slack=1e-5 * losses[int(layer)])
    claim(losses[int(layer)] >= max(losses.values()) - 1e-6, "another layer has more")


# ---- parameters -----------------------------------------------------------------------------------------------------


def _all_and_active(seen) -> tuple[int, int, int, int]:
    p = seen.model.parameters
    rest = (
        p.input_embedding + p.output_embedding + p.attention + p.routers + p.shared_experts + p.dense_layers + p.other
    )
    running = sum(seen.K * size for size in p.per_expert)
    return rest + p.routed_experts, rest + running, p.routed_experts, running


@reads(
    "moeviz.metrics.parameters.parts_caption",
    rf"Routed experts are {PCT} of all parameters; one token runs through {PCT} of them\.",
)
def _(seen, part, through):
    total, _, routed, running = _all_and_active(seen)
    share(part, routed / total)
    share(through, running / routed)


@reads(
    "moeviz.metrics.parameters.active_caption",
    rf"One token runs through {PCT} of all parameters: {NUMBER} of {NUMBER}\.",
)
def _(seen, part, active, of):
    total, running, _, _ = _all_and_active(seen)
    share(part, running / total)
    whole(active, running, "active")
    whole(of, total, "all")


@reads(
    "moeviz.metrics.parameters.touched_caption",
    rf"Together, {NUMBER} tokens run through {PCT} of all parameters, one token through {PCT}\.",
)
def _(seen, tokens, touched, one):
    together = set(range(seen.T)).intersection(*(seen.recorded(layer) for layer in seen.layers))
    whole(tokens, len(together), "tokens that are recorded everywhere")
    total, active, routed, _ = _all_and_active(seen)
    ran = total - routed
    for layer, size in zip(seen.layers, seen.model.parameters.per_expert, strict=True):
        first_zero = seen.E[layer] - seen.model.zero_experts
        ran += size * len({e for t in together for e in seen.has(layer, t) if e < first_zero})
    share(touched, ran / total)
    share(one, active / total)


# ---- locality and co-activation -------------------------------------------------------------------------------------


def _repeats(seen, layer, part, chance, alike):
    layer = seen.layer(layer)
    some = [t for t in seen.recorded(layer) if seen.has(layer, t)]
    pairs = [(a, b) for a, b in seen.neighbours(layer) if seen.has(layer, a) and seen.has(layer, b)]
    share(part, sum(alike(layer, a, b) for a, b in pairs) / len(pairs))
    share(chance, sum(alike(layer, a, b) for a in some for b in some) / len(some) ** 2, "at random")


@reads(
    "moeviz.metrics.locality.first_choice_caption",
    rf"At layer (\d+), {PCT} of neighbouring tokens have the same first choice; at random it would be {PCT}\.",
)
def _(seen, layer, part, chance):
    _repeats(seen, layer, part, chance, lambda at, a, b: seen.first(at, a) == seen.first(at, b))


@reads(
    "moeviz.metrics.locality.any_choice_caption",
    rf"At layer (\d+), {PCT} of neighbouring tokens have an expert in common; at random it would be {PCT}\.",
)
def _(seen, layer, part, chance):
    _repeats(seen, layer, part, chance, lambda at, a, b: bool(set(seen.has(at, a)) & set(seen.has(at, b))))


def pairs_at_random(seen, layer: int) -> dict[tuple[int, int], float]:
    """Tokens that two experts would share at random with these loads: over all sets of experts, one by one.

    Weights are found by trial: those of the distribution that favours nothing but the loads.
    """
    sets = [frozenset(seen.has(layer, t)) for t in seen.recorded(layer) if seen.has(layer, t)]
    load = {e: sum(e in one for one in sets) for one in sets for e in one}
    always = {e for e, n in load.items() if n == len(sets)}
    free = sorted(set(load) - always)
    sizes: dict[int, int] = {}
    for one in sets:
        sizes[len(one - always)] = sizes.get(len(one - always), 0) + 1
    found = {(a, b): load[a] * load[b] / len(sets) for a in load for b in load}
    if not free:
        return found
    tables = {}
    for size, n in sizes.items():
        if size:
            rows = np.array([[e in chosen for e in free] for chosen in map(set, combinations(free, size))], float)
            tables[size] = (rows, n)
    wanted, weights = np.array([load[e] for e in free], float), np.ones(len(free))
    for _ in range(3000):
        drawn, together = np.zeros(len(free)), np.zeros((len(free),) * 2)
        for rows, n in tables.values():
            chance = np.exp(rows @ np.log(weights))
            chance *= n / chance.sum()
            drawn += chance @ rows
            together += rows.T @ (rows * chance[:, None])
        if abs(drawn - wanted).max() < 1e-7:
            break
        odds = (wanted / (len(sets) - wanted)) / (drawn / np.maximum(len(sets) - drawn, 1e-9))
        weights *= odds
        weights /= np.exp(np.log(weights).mean())
    for i, a in enumerate(free):
        for j, b in enumerate(free):
            found[a, b] = together[i, j]
    return found


def together(seen, layer: int, one: int, other: int) -> int:
    return sum(one in seen.has(layer, t) and other in seen.has(layer, t) for t in seen.recorded(layer))


@reads(
    "moeviz.metrics.co_activation.co_activation_caption",
    rf"At layer (\d+), {PCT} of the tokens of expert (\d+) also go to expert (\d+); at random it would be {PCT}\.",
)
def _(seen, layer, part, expert, partner, chance):
    layer = seen.layer(layer)
    expert, partner = seen.expert(layer, expert), seen.expert(layer, partner)
    own = seen.counts(layer)[expert]
    claim(own > 0 and expert != partner, "no such pair")
    share(part, together(seen, layer, expert, partner) / own)
    value = pairs_at_random(seen, layer)[expert, partner] / own
    near(lambda: share(chance, value, "at random"), chance, value)


def near(exactly: Callable[[], None], said: str, value: float) -> None:
    """What is found by trial may lie on either side of where a number is rounded."""
    if said.endswith("%") and said[0].isdigit() and abs(100 * value - int(said[:-1])) <= 0.5 + 1e-3:
        return
    exactly()


@reads(
    "moeviz.metrics.co_activation.strongest_pairs_caption",
    rf"Experts (\d+) and (\d+) of layer (\d+) share {NUMBER} tokens; at random it would be about {NUMBER}\.",
)
def _(seen, one, other, layer, shared, chance):
    layer = seen.layer(layer)
    one, other = seen.expert(layer, one), seen.expert(layer, other)
    claim(one != other, "no such pair")
    whole(shared, together(seen, layer, one, other), "tokens that they share")
    about(chance, pairs_at_random(seen, layer).get((one, other), 0.0), "at random", 1e-4)


# ---- kinds of text and of tokens ------------------------------------------------------------------------------------


def _of_label(seen, layer: int, name: str) -> list[list[int]]:
    """Counts of experts of each label that reads like this."""
    claim(seen.label is not None, "there are no labels")
    found = []
    for label in dict.fromkeys(seen.label):
        if shown_label(label) == name:
            counts = [0] * seen.E[layer]
            for t in seen.recorded(layer):
                if seen.label[t] == label:
                    for e in seen.has(layer, t):
                        counts[e] += 1
            found.append(counts)
    claim(bool(found), f"no label reads {name!r}")
    return found


def shown_label(name: str) -> str:
    return shown(name)


@reads(
    "moeviz.metrics.specialization.label_load_caption",
    rf"At layer (\d+), {PCT} of the assignments of “(.*)” go to expert (\d+): {NUMBER}× a uniform share\.",
)
def _(seen, layer, part, name, expert, times):
    layer = seen.layer(layer)
    (counts,) = _of_label(seen, layer, name)
    expert = seen.expert(layer, expert)
    share(part, counts[expert] / max(sum(counts), 1))
    about(times, counts[expert] / max(sum(counts), 1) * seen.E[layer])


def divergence(rows: list[list[float]]) -> float:
    """Of histograms, each counting alike, in bits."""
    shares = [[n / sum(row) for n in row] for row in rows if sum(row)]
    mean = [sum(row[e] for row in shares) / len(shares) for e in range(len(shares[0]))]

    def entropy(row: list[float]) -> float:
        return -sum(p * log2(p) for p in row if p > 0)

    return entropy(mean) - sum(map(entropy, shares)) / len(shares)


def _texts(seen, layer: int, first: bool) -> dict[tuple[str, int], list[int]]:
    """Counts of experts of each text: the tokens of one sequence that have one label."""
    texts: dict = {}
    for t in range(seen.T):
        counts = texts.setdefault((seen.label[t], seen.sequence[t]), [0] * seen.E[layer])
        chosen = seen.has(layer, t)
        for e in chosen[:1] if first else chosen:
            counts[e] += 1
    return texts


def _dealt(texts: dict, times: int = 60) -> list[dict[str, list[int]]]:
    """Counts by label, with the texts dealt anew among the labels."""
    dice, labels, counts, found = random.Random(3), [label for label, _ in texts], list(texts.values()), []
    for _ in range(times):
        dice.shuffle(counts)
        table: dict = {}
        for label, row in zip(labels, counts, strict=True):
            table[label] = [a + b for a, b in zip(table.get(label, [0] * len(row)), row, strict=True)]
        found.append(table)
    return found


def _by_label(texts: dict) -> dict[str, list[int]]:
    table: dict = {}
    for (label, _), row in texts.items():
        table[label] = [a + b for a, b in zip(table.get(label, [0] * len(row)), row, strict=True)]
    return table


@reads(
    "moeviz.metrics.specialization.label_information_caption",
    rf"The expert tells most about the label at layer (\d+): {NUMBER} bits of {NUMBER}; with shuffled labels {NUMBER}\.",
)
def _(seen, layer, said, most, luck):
    layer = seen.layer(layer)
    told = {}
    for one in seen.some():
        table = _by_label(_texts(seen, one, first=False))
        if any(map(sum, table.values())):
            told[one] = divergence(list(table.values()))
    about(said, told[layer])
    claim(told[layer] >= max(told.values()) - 1e-9, "another layer tells more")
    texts = _texts(seen, layer, first=False)
    labels = sum(1 for row in _by_label(texts).values() if sum(row))
    slots = min(len(seen.has(layer, t)) for t in seen.recorded(layer) if seen.has(layer, t))
    about(most, log2(min(labels, seen.E[layer] / slots)))
    deals = [divergence(list(table.values())) for table in _dealt(texts) if any(map(sum, table.values()))]
    mean = sum(deals) / len(deals)
    deviation = sqrt(sum((x - mean) ** 2 for x in deals) / len(deals))
    about(luck, mean, "with shuffled labels", 5 * deviation * sqrt(1 / 100 + 1 / 60))


@reads(
    "moeviz.metrics.specialization.label_divergence_caption",
    rf"“(.*)” and “(.*)” are routed most differently: {NUMBER} of 1 bit; with shuffled labels {NUMBER}\.",
)
def _(seen, one, other, said, luck):
    (layer,) = seen.layers
    texts = _texts(seen, layer, first=True)
    table = {shown_label(label): row for label, row in _by_label(texts).items()}
    claim({one, other} <= set(table), "no such labels")
    own = divergence([table[one], table[other]])
    about(said, own)
    for a, b in combinations(table.values(), 2):
        if sum(a) and sum(b):
            claim(divergence([a, b]) <= own + 1e-9, "two others differ more")
    deals = [[row for label, row in deal.items() if shown_label(label) in (one, other)] for deal in _dealt(texts)]
    found = [divergence(rows) for rows in deals if all(map(sum, rows))]
    mean = sum(found) / len(found)
    deviation = sqrt(sum((x - mean) ** 2 for x in found) / len(found))
    about(luck, mean, "with shuffled labels", 5 * deviation * sqrt(1 / 100 + 1 / 60))


@reads(
    "moeviz.metrics.vocabulary.token_kinds_caption",
    rf"At layer (\d+), {PCT} of the assignments of “([a-z, ]+)” go to expert (\d+): {NUMBER}× as much as of all tokens\.",
)
def _(seen, layer, part, kind, expert, times):
    layer = seen.layer(layer)
    expert = seen.expert(layer, expert)
    counts = [0] * seen.E[layer]
    for t in seen.recorded(layer):
        if KIND_OF[seen.text[t]] == kind:
            for e in seen.has(layer, t):
                counts[e] += 1
    claim(sum(counts) > 0, "no token is of this kind")
    share(part, counts[expert] / sum(counts))
    every = seen.counts(layer)
    about(times, counts[expert] / sum(counts) / (every[expert] / sum(every)))


def _correlation(both: int, of: int, has: int, size: int) -> float:
    spread = of * has * (size - of) * (size - has)
    return (both * size - of * has) / sqrt(spread) if spread > 0 else 0.0


def _name_of(seen, layer: int, expert: int) -> tuple[list[str], str, list[int], list[int]] | None:
    """The kinds or the class that an expert is named by, which of the two, and the tokens set aside: all, the name's."""
    seen_texts: dict = {}
    for t in range(seen.T):
        label = seen.label[t] if seen.label else ""
        seen_texts.setdefault(label, {}).setdefault(seen.sequence[t], len(seen_texts[label]))
    aside = [seen_texts[seen.label[t] if seen.label else ""][seen.sequence[t]] % 2 == 1 for t in range(seen.T)]
    rows = seen.recorded(layer)
    chosen, tested = [t for t in rows if not aside[t]], [t for t in rows if aside[t]]
    has = {t for t in rows if expert in seen.has(layer, t)}
    if min(len(has & set(part)) for part in (chosen, tested)) < 10:
        return None

    def grown(of: list[str], most: int) -> tuple[list[str], float]:
        names, best = [], 0.0
        every = [name for name in dict.fromkeys(of) if all(any(of[t] == name for t in p) for p in (chosen, tested))]
        every = [name for name in every if name != "special"]
        for number in range(most):
            trials = []
            for name in (name for name in every if name not in names):
                inside = [t for t in chosen if of[t] in (*names, name)]
                both = sum(t in has for t in inside)
                trials.append((_correlation(both, len(inside), len(has & set(chosen)), len(chosen)), name))
            if not trials or max(trials)[0] <= best + (0.03 if number else 0):
                break
            best = max(score for score, _ in trials)
            names.append(next(name for score, name in trials if score == best))
        return names, best

    kinds, by_kinds = grown(seen.label, 4) if seen.label else ([], 0.0)
    usable = [KIND_OF[text] for text in seen.text]
    classes, by_class = grown(usable, 1)
    if classes and (not kinds or by_class > by_kinds + 0.03):
        return classes, "this class", tested, [t for t in tested if usable[t] in classes]
    if kinds:
        counts = {kind: sum(seen.label[t] == kind for t in has & set(chosen)) for kind in kinds}
        kinds.sort(key=lambda kind: -counts[kind])
        return kinds, "these kinds", tested, [t for t in tested if seen.label[t] in kinds]
    return None


def _holds(seen, layer: int, expert: int, what: str, tested: list[int], inside: list[int]) -> tuple[float, bool]:
    own = sum(expert in seen.has(layer, t) for t in tested)
    both = sum(expert in seen.has(layer, t) for t in inside)
    found = _correlation(both, len(inside), own, len(tested))
    return found, found >= max(0.32 if what == "these kinds" else 0.3, 4 / sqrt(len(tested)))


@reads(
    "moeviz.metrics.expert_names.expert_name_sentence",
    rf"(?:No clear pattern: what fits its tokens best on half of the texts does not hold on the other half "
    rf"\(correlation (-?[\d.]+)\)\.|(.*): {PCT} of its tokens are of (these kinds|this class), and {PCT} of all tokens "
    r"are, on texts that did not choose the name\.)",
)
def _(seen, low, name, precision, what, part, layer, expert):
    named = _name_of(seen, layer, expert)
    claim(named is not None, "no name fits any of its tokens")
    names, of_what, tested, inside = named
    found, holds = _holds(seen, layer, expert, of_what, tested, inside)
    claim(holds == (low is None), f"the correlation is {found:.3f}")
    if low is not None:
        about(low.lstrip("-"), abs(found))
        return
    claim(name == ", ".join(names) and what == of_what, f"the name is {names}, {of_what}")
    own = [t for t in tested if expert in seen.has(layer, t)]
    share(precision, len(set(own) & set(inside)) / len(own))
    share(part, len(inside) / len(tested))


@reads(
    "moeviz.metrics.expert_names.expert_names_caption",
    rf"{NUMBER} of {NUMBER} experts have a name that holds; the clearest is expert (\d+) of layer (\d+): “(.*)”\.",
)
def _(seen, number, of, expert, layer, name):
    held = {}
    for one in seen.some():
        for e in range(seen.E[one]):
            if (named := _name_of(seen, one, e)) is not None:
                found, holds = _holds(seen, one, e, *named[1:])
                if holds:
                    held[one, e] = (found, ", ".join(named[0]))
    whole(number, len(held))
    whole(of, sum(seen.E.values()))
    where = seen.layer(layer), int(expert)
    claim(where in held, "it has no name that holds")
    claim(held[where][0] >= max(found for found, _ in held.values()) - 1e-9, "another one holds better")
    claim(quoted(held[where][1]) == name or shown_label(held[where][1]) == name, f"its name is {held[where][1]!r}")


# ---- who takes a word, and what is lost without an expert ---------------------------------------------------------------

WHAT = r"(of “.*”(?: inside words)?(?: in any case)?|that are digits|that are punctuation)"


def _tokens_of(seen, word: str) -> tuple[set[int], str]:
    """The tokens of a word as it stands in the texts, and what they are called."""
    if word in ("digits", "punctuation"):
        return {t for t in range(seen.T) if KIND_OF[seen.text[t]] == word}, f"that are {word}"
    text, owner = "", []
    for t in range(seen.T):
        if t and seen.sequence[t] != seen.sequence[t - 1]:
            text, owner = text + "\0", [*owner, None]
        piece = "\0" if KIND_OF[seen.text[t]] == "special" else seen.text[t]
        text, owner = text + piece, owner + [t] * len(piece)

    def letter(at: int) -> bool:
        return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")

    is_word = all(c.isalnum() or c == "_" for c in (word[0], word[-1])) and not (len(word) == 1 and word.isdigit())
    for fold in (False, True):
        here, wanted = (text.lower(), word.lower()) if fold else (text, word)
        ends = [(at, at + len(word)) for at in range(len(text)) if here.startswith(wanted, at)]
        for inside in (False, True):
            hits = [e for e in ends if inside or not is_word or not (letter(e[0] - 1) or letter(e[1]))]
            if hits or (inside and fold):
                called = f"of “{word}”" + " inside words" * (inside and is_word) + " in any case" * fold
                return {owner[at] for a, b in hits for at in range(a, b)} - {None}, called
    raise AssertionError


def _weight_of(seen, layer: int, expert: int, rows: list[int]) -> float:
    """An expert's part of the weight of some tokens, each token's weights summing to 1; of the tokens without weights."""
    one, total = seen.layers.index(layer), 0.0
    for t in rows:
        row = seen.slots[layer][t]
        if seen.trace.weights is None:
            total += row.count(expert)
            continue
        weights = [abs(float(w)) if e >= 0 else 0.0 for e, w in zip(row, seen.trace.weights[one, t], strict=True)]
        total += sum(w for e, w in zip(row, weights, strict=True) if e == expert) / max(sum(weights), 1e-12)
    return total / max(len(rows), 1)


@reads(
    "moeviz.metrics.who_takes.who_takes_sentence",
    rf"(?:“(.*)” is not in these texts\.|Only (\d+) tokens? {WHAT} in these texts: too few to tell experts apart\.|"
    rf"{NUMBER} tokens {WHAT}; no expert takes clearly more of them than of others\.|"
    rf"Layer (\d+), expert (\d+) takes {NUMBER} of the {NUMBER} tokens {WHAT}(?:, with {PCT} of the weight)?; of all tokens "
    rf"it has {PCT}( of the weight)?\.)",
)
def _(seen, none, few, few_what, many, many_what, layer, expert, took, of, what, part, usual, weighed, word):
    hits, called = _tokens_of(seen, word)
    claim(none is None or (none == word and not hits), f"there are {len(hits)} tokens of {word!r}")
    if none is not None:
        return
    claim((few_what or many_what or what) == called, f"they are {called}")
    claim((few is None) == (len(hits) >= 8) and bool(hits), f"there are {len(hits)}")
    if few is not None:
        return whole(few, len(hits))

    def gain(one: int, e: int) -> float:
        rows = [t for t in seen.recorded(one) if t in hits]
        p, n, z = min(_weight_of(seen, one, e, rows), 1), len(rows), 1.64
        low = (p + z * z / (2 * n) - z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n) if n else 0
        return low - _weight_of(seen, one, e, seen.recorded(one))

    gains = {(one, e): gain(one, e) for one in seen.layers for e in range(seen.E[one])}
    if many is not None:
        claim(max(gains.values()) <= 0.05 + 1e-6, "some expert takes clearly more")
        return whole(many, len(hits))
    layer, expert = seen.layer(layer), seen.expert(int(layer), expert)
    rows = [t for t in seen.recorded(layer) if t in hits]
    claim(gains[layer, expert] >= max(gains.values()) - 1e-6, "another one takes more")
    whole(took, sum(expert in seen.has(layer, t) for t in rows), "tokens of it that it has")
    whole(of, len(rows), "tokens of it that are recorded")
    claim(bool(weighed) == bool(part) == (seen.trace.weights is not None), "are there weights?")
    if part:
        share(part, _weight_of(seen, layer, expert, rows), slack=1e-6)
    share(usual, _weight_of(seen, layer, expert, seen.recorded(layer)), slack=1e-6)
    return None


@reads(
    "moeviz.metrics.expert.need_sentence",
    r"(?:Without it the model loses, in nats a token, (.*?)(?:, and more than 0\.05 on (\d+) other kinds)?\.|"
    r"(Without it no kind of text loses more than 0\.05 nats a token)\.)"
    r"(?: Taking is not needing: it has (.*), where nothing is lost without it \(under 0\.005\)\.)?",
)
def _(seen, needed, more, none, taken, layer, expert, losses):
    rows = seen.recorded(layer)
    uniform = sum(len(seen.has(layer, t)) for t in rows) / max(len(rows), 1) / seen.E[layer]
    part = {}
    for kind in losses:
        own = [t for t in rows if seen.label[t] == kind]
        part[kind] = sum(expert in seen.has(layer, t) for t in own) / len(own) if own else float("nan")
    most = sorted((kind for kind in losses if losses[kind] > 0.05), key=lambda kind: -losses[kind])
    claim((none is None) == bool(most), f"{most} lose something")
    if needed:
        said = [f"{losses[kind]:.2f} on {shown(kind)}" for kind in most[:3]]
        claim(needed == _with_and(said), f"it loses {said}")
        claim(
            (more is None) == (len(most) <= 3) and int(more or 0) == max(len(most) - 3, 0),
            f"{len(most)} lose something",
        )
    idle = [kind for kind in losses if losses[kind] < 0.005 and part[kind] / uniform >= 2] if uniform else []
    idle.sort(key=lambda kind: (-part[kind], -losses[kind]))
    claim((taken is None) == (not idle), f"{idle} lose nothing")
    if taken:
        words = re.split(r", | and (?=(?:over |under )?\d+% of )", taken)
        claim(len(words) == len(idle[:3]), f"it takes {idle[:3]}")
        for word, kind in zip(words, idle, strict=False):
            found = re.fullmatch(PCT + " of (.*)", word)
            claim(found is not None and found[2] == shown(kind), f"it takes {kind!r}")
            share(found[1], part[kind])


def _with_and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# The words of random traces, and the kind of each.
KIND_OF = {
    " la": "word, space before", " the": "word, space before", " chat": "word, space before", "la": "word, no space before",
    "ing": "word, no space before", "42": "digits", " 7": "digits", ",": "punctuation", "=": "punctuation",
    "\n": "space or line break", " ": "space or line break", "и": "other script", "<s>": "special",
    **{f" w{row}": "word, space before" for row in range(40)},
}  # fmt: skip


def _keeping(seen, layer: int, codes: list) -> dict:
    """Of each token of the vocabulary that occurs often enough, its main expert and the share that goes there."""
    found = {}
    for code in set(codes):
        rows = [t for t in seen.recorded(layer) if codes[t] == code]
        if len(rows) >= 10:
            counts = [sum(e in seen.has(layer, t) for t in rows) for e in range(seen.E[layer])]
            found[code] = (counts.index(max(counts)), max(counts) / len(rows), max(counts) > 0)
    return found


def _kept_by_luck(seen, layer: int, codes: list, times: int = 40) -> tuple[float, float]:
    dice, rows, means = random.Random(5), seen.recorded(layer), []
    for _ in range(times):
        own = [codes[t] for t in rows]
        dice.shuffle(own)
        dealt = list(codes)
        for t, code in zip(rows, own, strict=True):
            dealt[t] = code
        shares = [part for _, part, _ in _keeping(seen, layer, dealt).values()]
        means.append(sum(shares) / len(shares))
    mean = sum(means) / times
    return mean, sqrt(sum((x - mean) ** 2 for x in means) / times)


def codes_of(seen) -> list:
    return [token if token >= 0 else text for token, text in zip(seen.ids, seen.text, strict=True)]


@reads(
    "moeviz.metrics.vocabulary.vocabulary_layers_caption",
    rf"At layer (\d+), a token keeps to one expert in {PCT} of its occurrences; shuffled, {PCT}\.",
)
def _(seen, layer, part, luck):
    layer, codes = seen.layer(layer), codes_of(seen)
    shares = [one for _, one, _ in _keeping(seen, layer, codes).values()]
    share(part, sum(shares) / len(shares))
    mean, deviation = _kept_by_luck(seen, layer, codes)
    _about_share(luck, mean, deviation)


def _about_share(said: str, mean: float, deviation: float) -> None:
    slack = 5 * deviation * sqrt(1 / 20 + 1 / 40)
    if said[0].isdigit():
        about(said[:-1], 100 * mean, "shuffled", 100 * slack)
    else:
        claim(mean > 0.995 - slack if "over" in said else mean < 0.005 + slack, f"shuffled, it is {mean}")


@reads(
    "moeviz.metrics.vocabulary.vocabulary_caption",
    rf"At layer (\d+), tokens that belong to expert (\d+) go there in {PCT} of their occurrences; shuffled, {PCT}\.",
)
def _(seen, layer, expert, part, luck):
    layer, codes = seen.layer(layer), codes_of(seen)
    own = [one for main, one, some in _keeping(seen, layer, codes).values() if some and main == int(expert)]
    claim(bool(own), "no token belongs to it")
    share(part, sum(own) / len(own))
    _about_share(luck, *_kept_by_luck(seen, layer, codes))


@reads(
    "moeviz.metrics.expert_tokens.expert_summary",
    r"(?:(?P<none>No token was recorded at this layer, so nothing is known of this expert here\.)"
    r"|This is too short a text to say what it does: it has (?P<few>\d+) of (?P<of_few>\d+) tokens?\."
    r"|Nothing here was routed to it: it has none of (?P<nothing>[\d,]+) tokens?\."
    r"|Everything here was routed to it: it has all of (?P<everything>[\d,]+) tokens?\."
    r"|(?P<luck>No (?:kind of text and no )?token stands out.*)"
    r"|(?:Takes (?P<kinds>.*?); a uniform share would be (?P<uniform>over 99%|under 1%|\d+%)\.)? ?"
    r"(?:All(?P<nearly>, or nearly all,)? of these go to it: (?P<tokens>.*)\.)?)",
)
def _(seen, none, few, of_few, nothing, everything, luck, kinds, uniform, nearly, tokens, layer, expert):
    rows = seen.recorded(layer)
    own = [t for t in rows if expert in seen.has(layer, t)]
    claim((none is not None) == (not rows), f"{len(rows)} tokens are recorded")
    if none is not None:
        return
    claim((few is not None) == (len(rows) < HANDFUL), f"{len(rows)} tokens are recorded")
    if few is not None:
        whole(few, len(own))
        whole(of_few, len(rows))
        return
    claim(
        (nothing is not None) == (not own) and (everything is not None) == (len(own) == len(rows)), f"it has {len(own)}"
    )
    if nothing or everything:
        whole(nothing or everything, len(rows))
    if luck:
        claim(("kind" in luck) <= (seen.label is not None), "there are no labels")
    if kinds:
        assigned = sum(len(seen.has(layer, t)) for t in rows)
        share(uniform, assigned / len(rows) / seen.E[layer], "uniform share")
        for part, name, n, texts in re.findall(
            rf"{PCT} of (.*?) \(([\d,]+) tokens? in ([\d,]+) texts?\)(?:, | and |$)", kinds, re.DOTALL
        ):
            like = [t for t in rows if shown_label(seen.label[t]) == name]
            whole(n, len(like), f"tokens of {name}")
            whole(texts, len({seen.sequence[t] for t in range(seen.T) if shown_label(seen.label[t]) == name}), "texts")
            share(part, sum(t in own for t in like) / len(like))
            claim(
                sum(t in own for t in like) / len(like) >= 1.5 * assigned / len(rows) / seen.E[layer] - 1e-9, "not much"
            )
        claim(len(re.findall(r" texts?\)", kinds)) >= 1, f"cannot be read: {kinds}")
    if tokens:
        found = re.findall(r"“(.*?)” \((\d+) of (\d+)\)", tokens, re.DOTALL)
        claim(bool(found), f"cannot be read: {tokens}")
        codes, every = codes_of(seen), True
        for word, n, of in found:
            like = {codes[t] for t in range(seen.T) if shown(seen.text[t]) == word}
            counts = [(sum(codes[t] == c for t in own), sum(codes[t] == c for t in rows)) for c in like]
            claim((int(n), int(of)) in counts, f"{word!r} has {counts}")
            claim(int(n) >= 0.9 * int(of) - 1e-9, "not nearly all")
            every &= n == of
        claim(every == (nearly is None), "all of them, or not all")


# ---- serving --------------------------------------------------------------------------------------------------------


def packed(loads: list[float], devices: int) -> list[int]:
    """The device of each object: the heaviest left to the lightest that has a place."""
    room, device = len(loads) // devices, [0] * len(loads)
    if room == 1:
        return list(range(len(loads)))
    weight, filled = [0.0] * devices, [0] * devices
    for i in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        best = min((d for d in range(devices) if filled[d] < room), key=lambda d: (weight[d], d))
        device[i], weight[best], filled[best] = best, weight[best] + loads[i], filled[best] + 1
    return device


def busiest_device(planned: list[int], judged: list[int], devices: int, plan: str) -> float:
    """Load of the busiest device, times the mean."""
    E = len(planned)
    if plan == "in order":
        held, device = list(range(E)), [e // (E // devices) for e in range(E)]
    else:
        held = list(range(E))
        for _ in range(devices if plan == "copies" else 0):
            held.append(max(range(E), key=lambda e: (planned[e] / held.count(e), -e)))
        device = packed([planned[e] / held.count(e) for e in held], devices)
    loads = [0.0] * devices
    for e, d in zip(held, device, strict=True):
        loads[d] += judged[e] / held.count(e)
    return max(loads) * devices / sum(loads) if sum(loads) else float("nan")


def halves(seen, layer: int, early: set[int] | None = None) -> tuple[list[int], list[int]]:
    """Counts of the experts that compute, in the first half of the recorded tokens and in the second."""
    rows, computing = seen.recorded(layer), seen.E[layer] - seen.model.zero_experts
    if early is None:
        early = set(rows[: len(rows) // 2])
    parts = [t for t in rows if t in early], [t for t in rows if t not in early]
    one, other = ([sum(e in seen.has(layer, t) for t in part) for e in range(computing)] for part in parts)
    return one, other


def usual_devices(experts: int) -> int:
    return next(n for n in (8, 4, 2) if experts % n == 0 and experts >= 2 * n)


@reads(
    "moeviz.metrics.placement.imbalance_caption",
    rf"On held-out tokens, balancing lowers the busiest device of layer (\d+) from {NUMBER}× to {NUMBER}× a uniform share\.",
)
def _(seen, layer, before, after):
    planned, judged = halves(seen, seen.layer(layer))
    devices = usual_devices(len(planned))
    about(before, busiest_device(planned, judged, devices, "in order"))
    about(after, busiest_device(planned, judged, devices, "balanced"))


def _mean_loads(seen) -> tuple[set[int], dict[str, float], dict[int, list[int]]]:
    means, plans, numbers = {}, {}, set()
    for plan in ("in order", "balanced", "copies"):
        found = []
        for layer in seen.some():
            planned, judged = halves(seen, layer)
            devices = usual_devices(len(planned))
            numbers.add(devices)
            found.append(busiest_device(planned, judged, devices, plan))
            plans[layer] = packed(planned, devices)
        found = [load for load in found if load == load]  # of layers to which something was assigned
        means[plan] = sum(found) / len(found)
    return numbers, means, plans


@reads(
    "moeviz.serving.placement.serving_placement_caption",
    rf"The busiest device has {NUMBER}× the mean load with experts in order, balanced {NUMBER}×, with copies {NUMBER}× \(held out\)\.",
)
def _(seen, plain, balanced, copies):
    _, means, _ = _mean_loads(seen)
    for said, plan in ((plain, "in order"), (balanced, "balanced"), (copies, "copies")):
        about(said, means[plan], plan)


@reads(
    "moeviz.serving.placement.placement_sentence",
    rf"On (\d+)(?: to (\d+))? devices, the busiest has {NUMBER} times the mean load if experts are balanced, {NUMBER} with copies and {NUMBER} in order; "
    rf"a token reaches {NUMBER} devices at a layer\.",
)
def _(seen, least, most, balanced, copies, plain, reached):
    numbers, means, plans = _mean_loads(seen)
    whole(least, min(numbers), "devices")
    whole(most or least, max(numbers), "devices")
    for said, plan in ((plain, "in order"), (balanced, "balanced"), (copies, "copies")):
        about(said, means[plan], plan)
    per_layer = []
    for layer in seen.some():
        rows = seen.recorded(layer)
        rows = rows[len(rows) // 2 :]
        computing = seen.E[layer] - seen.model.zero_experts
        hit = [len({plans[layer][e] for e in seen.has(layer, t) if e < computing}) for t in rows]
        per_layer.append(sum(hit) / len(hit))
    about(reached, sum(per_layer) / len(per_layer), "devices reached")


@reads(
    "moeviz.serving.batches.batch_coverage_caption",
    rf"(\d+) tokens in a row need {NUMBER} experts a layer; if they chose at random, it would be {NUMBER}\.",
)
def _(seen, batch, needed, chance):
    B, found, even = int(batch), [], []
    for layer in seen.some():
        follows, computing = dict(seen.neighbours(layer)), seen.E[layer] - seen.model.zero_experts
        windows = []
        rows = seen.recorded(layer)
        for at in range(len(rows)):
            window = rows[at : at + B]
            if len(window) == B and all(follows.get(a) == b for a, b in pairwise(window)):
                windows.append(len({e for w in window for e in seen.has(layer, w) if e < computing}))
        if windows:
            found.append(sum(windows) / len(windows))
            even.append(computing * (1 - (1 - min(seen.K / computing, 1)) ** B))
    about(needed, sum(found) / len(found), "experts needed")
    about(chance, sum(even) / len(even), "at random")


def _hits(seen, size: int) -> dict[str, float]:
    """Hit rates of a cache of so many experts a layer on the second half of the tokens; layers weigh by their requests."""
    rates = {"lru": [], "static": [], "chance": []}
    for layer in seen.some():
        computing = seen.E[layer] - seen.model.zero_experts
        steps = [sorted({e for e in seen.has(layer, t) if e < computing}) for t in seen.recorded(layer)]
        C, half, late, hits = min(size, computing), len(steps) // 2, 0, 0
        last: dict[int, int] = {}
        for number, asked in enumerate(steps):
            held = sorted(last, key=lambda e: (-last[e], e))[:C]
            if number >= half:
                late, hits = late + len(asked), hits + sum(e in held for e in asked)
            last |= dict.fromkeys(asked, number)
        counts = [sum(e in asked for asked in steps[:half]) for e in range(computing)]
        kept = sorted(range(computing), key=lambda e: (-counts[e], e))[:C]
        found = sum(e in kept for asked in steps[half:] for e in asked)
        requests = sum(map(len, steps))
        if requests:
            weight = requests / len(steps)
            rates["chance"].append((C / computing, weight))
            if late:
                rates["lru"].append((hits / late, weight))
                rates["static"].append((found / late, weight))
    return {name: sum(r * w for r, w in rows) / sum(w for _, w in rows) for name, rows in rates.items() if rows}


@reads(
    "moeviz.serving.budget.hit_rates_caption",
    rf"(Recency|Popularity) decides: with (\d+) experts a layer, LRU hits {PCT} and the most used experts {PCT}; chance is {PCT}\.",
)
def _(seen, what, size, lru, fixed, chance):
    rates = _hits(seen, int(size))
    share(lru, rates["lru"], "LRU")
    share(fixed, rates["static"], "the most used")
    share(chance, rates["chance"], "chance")
    claim((what == "Recency") == (rates["lru"] > rates["static"]), "the other decides")


@reads(
    "moeviz.serving.budget.budget_sentence",
    r"(.*) hold (?:(all) experts, which take (.*): nothing is fetched\."
    rf"|(\d+) of the (\d+)(?: to (\d+))? experts of each layer(?:\. That is less than one token needs: it takes (.*) or more\."
    r"|(\. What it finds is not known: no expert was chosen in the second half of the tokens\.)"
    rf"|: LRU finds {PCT} of what a token needs there \(a random set would have {PCT}, and no rule that fetches on demand over {PCT}\), and fetches (.*) a token\.))",
)
def _(seen, memory, every, all_of, size, low, high, less, unknown, lru, chance, bound, fetched, bytes_each):
    sizes = [seen.E[layer] - seen.model.zero_experts for layer in seen.layers]
    budget = said_bytes(memory)
    if every:
        about_bytes(all_of, sum(sizes) * bytes_each)
        claim(budget >= 0.99 * sum(sizes) * bytes_each, "they do not fit")
        return
    needed = [sum(min(n, one) for one in sizes) * bytes_each for n in range(max(sizes) + 1)]
    fits = max(n for n, whole_size in enumerate(needed) if whole_size <= 1.01 * budget)
    claim(int(size) in (fits, fits - 1) and needed[int(size)] <= 1.01 * budget, f"{fits} fit")
    claim((int(low), int(high or low)) == (min(sizes), max(sizes)), f"a layer has {min(sizes)} to {max(sizes)}")
    if less:
        about_bytes(less, sum(min(seen.K, one) for one in sizes) * bytes_each)
        return
    rates = _hits(seen, int(size))
    claim((unknown is not None) == ("lru" not in rates), "is it known?")
    if unknown:
        return
    share(lru, rates["lru"], "LRU")
    share(chance, rates["chance"], "chance")
    claim(bound in ("over 99%", "under 1%") or rates["lru"] - 0.005 <= int(bound[:-1]) / 100 <= 1, "no bound")
    asked = 0.0
    for layer in seen.some():
        computing = seen.E[layer] - seen.model.zero_experts
        rows = seen.recorded(layer)
        asked += sum(sum(e < computing for e in seen.has(layer, t)) for t in rows) / len(rows)
    about_bytes(fetched, (1 - rates["lru"]) * asked * bytes_each)


UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def said_bytes(said: str) -> float:
    number, unit = said.split(" ")
    return float(number.replace(",", "")) * UNITS[unit]


def about_bytes(said: str, value: float) -> None:
    claim(abs(said_bytes(said) - value) <= 0.006 * value + 1, f"{value} bytes, not {said}")


# ---- one token ------------------------------------------------------------------------------------------------------


POINTS = r"less than 0\.1|[\d.]+"
CARD = re.compile(
    r"(?:Where (?P<missing>.+) sent this [a-z ]+ is not recorded\."
    r"|(?P<dropped>.+) gave this [a-z ]+ no expert: it was dropped\."
    r"|(?P<name>.+?)(?: uses all its (?P<all>\d+) experts| has (?P<one>one) expert|'s router picks experts? (?P<ids>[\d, and]+) of (?P<of>\d+))\."
    r"(?: (?P<weights>Its weight is not recorded\.|Their weights are not recorded\.|Which of them has the most weight is not recorded\."
    r"|Its output is weighted .+?|Their outputs are added, weighted .+?)(?:(?<=%)\.|(?<=\d)\.(?!\d)|(?<=recorded\.)))"
    r"(?: (?P<empty>\d+) of its (?P<slots>\d+) slots (?:is|are) empty\.)?"
    r"(?: Experts? (?P<idle>[\d, and]+) computes? nothing\.)?"
    r"(?: (?P<others>By score alone it would have picked others: this router does not go by scores alone\.)"
    r"| (?P<same>By score alone it would have picked the same; but this router does not go by scores alone\.)"
    rf"| (?P<close>A close call: e|E)xpert (?P<next>\d+), the next best, was (?P<points>{POINTS}) points behind expert (?P<last>\d+)\.)?)"
)


def check_card(sentence: str, trace, layer: int, token: int) -> None:
    """What the card says of one token at one layer."""
    found = CARD.fullmatch(sentence)
    claim(found is not None, f"cannot be read: {sentence!r}")
    try:
        _card(Seen(trace), found.groupdict(), layer, token)
    except Refuted as refuted:
        raise Refuted(f"{sentence!r} (layer {layer}, token {token}): {refuted}") from None


def _ids(said: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", said)]


def _card(seen: Seen, said: dict, layer: int, token: int) -> None:
    at, own, E = seen.layers.index(layer), seen.has(layer, token), seen.E[layer]
    name = said["missing"] or said["dropped"] or said["name"]
    claim(name.lower().endswith(f" {layer}"), f"it is about {name}")
    claim((said["missing"] is not None) == (seen.first(layer, token) == -2), "recorded, or not")
    claim((said["dropped"] is not None) == (seen.first(layer, token) == -1), "dropped, or not")
    if said["missing"] or said["dropped"]:
        return
    claim((said["ids"] is None) == (len(own) == E), f"it has {own} of {E}")
    if said["ids"]:
        ids = _ids(said["ids"])
        claim(ids == own if seen.ordered else ids == sorted(own), f"it has {own}")
        whole(said["of"], E)
    elif said["all"]:
        whole(said["all"], E)
    weights = seen.trace.weights
    numbers = re.findall(r"(<1%|>99%|-?\d+%|× -?[\d.]+)", said["weights"])
    claim(bool(numbers) == (weights is not None), "weights are recorded, or not")
    if numbers:
        mine = [float(w) for e, w in zip(seen.slots[layer][token], weights[at, token], strict=True) if e >= 0]
        expected = mine if len(mine) <= 8 else [mine[0], mine[-1]]
        claim(len(numbers) == len(expected), f"the weights are {mine}")
        for number, weight in zip(numbers, expected, strict=True):
            claim(weight_agrees(number, weight), f"a weight is {weight}, not {number}")
    empty = min(seen.K, E) - len(own)
    claim((said["empty"] is not None) == (empty > 0), f"{empty} slots are empty")
    if said["empty"]:
        whole(said["empty"], empty)
        whole(said["slots"], min(seen.K, E))
    idle = [e for e in own if e >= E - seen.model.zero_experts]
    claim(sorted(_ids(said["idle"] or "")) == sorted(idle), f"{idle} compute nothing")
    _edge(seen, said, layer, token, own)


def weight_agrees(said: str, weight: float) -> bool:
    if said == ">99%":
        return 0.995 - 1e-6 <= weight < 1
    if said == "<1%":
        return 0 < weight < 0.005 + 1e-6
    if said.endswith("%"):
        number = int(said[:-1])
        return (
            abs(100 * weight - number) <= 0.5 + 1e-4
            and (number != 100 or weight > 1 - 2e-6)
            and (number != 0 or weight <= 0)
        )
    return abs(float(said[2:]) - weight) <= 0.005 + 1e-6


def _edge(seen: Seen, said: dict, layer: int, token: int, own: list[int]) -> None:
    told = said["others"] or said["same"] or said["next"]
    if seen.trace.logits is None or seen.model.score_function == "unknown" or len(own) >= seen.E[layer]:
        claim(told is None, "no scores are known, or there is no other expert")
        return

    def gap(at: int, t: int, scores: list[float]) -> float:
        chosen = seen.has(at, t)
        rest = [p for e, p in enumerate(scores) if e not in chosen]
        return min((scores[e] for e in chosen), default=1.0) - max(rest, default=0.0)

    tables = {at: seen.probabilities(at) for at in seen.layers}
    here = tables[layer][token]
    mine = gap(layer, token, here)
    fine = 2 / 65535
    claim(told is not None, "scores are known")
    if said["others"]:
        claim(mine < fine, "by score it would have picked the same")
    if said["same"] or said["next"]:
        claim(mine > -fine, "by score it would have picked others")
    gaps = [gap(at, t, tables[at][t]) for at in seen.layers for t in range(seen.T)]
    if said["same"]:
        claim(min(gaps) < fine, "this router goes by scores alone")
    if said["next"]:
        claim(min(gaps) > -fine, "this router does not go by scores alone")
        last, following = int(said["last"]), int(said["next"])
        claim(last in own and following not in own, "which was chosen?")
        claim(here[last] <= min(here[e] for e in own) + fine, "another of its experts has a lower score")
        claim(here[following] >= max(p for e, p in enumerate(here) if e not in own) - fine, "another was nearer")
        points = said["points"]
        if points.startswith("less"):
            claim(100 * mine < 0.1 + 100 * fine, f"it was {100 * mine} points")
        else:
            about(points, 100 * mine, "points", 100 * fine)
        weights = seen.trace.weights
        matters = False
        if weights is not None:
            row = {
                e: abs(float(w))
                for e, w in zip(seen.slots[layer][token], weights[seen.layers.index(layer), token], strict=True)
            }
            total = sum(row[e] for e in own)
            matters = row[last] * len(own) >= 0.5 * total
            if abs(row[last] * len(own) - 0.5 * total) < 1e-5 or abs(100 * mine - 2) < 100 * fine:
                return
        claim(
            (said["close"] != "E") == (100 * mine < 2 and matters),
            f"{100 * mine:.3f} points; weights {weights is not None}",
        )


# ---- several traces -------------------------------------------------------------------------------------------------


def check_engine_summary(sentence: str, one, other) -> None:
    """The expert ids of the first trace that the second does not have: for traces of the same tokens, row by row."""
    a, b = Seen(one), Seen(other)
    chosen = different = 0
    parted: dict[int, tuple[int, str, int]] = {}  # by sequence
    for t in range(a.T):
        for layer in a.layers:
            if a.first(layer, t) == -2 or b.first(layer, t) == -2:
                continue
            mine, theirs = a.has(layer, t), b.has(layer, t)
            chosen, different = chosen + len(mine), different + sum(e not in theirs for e in mine)
            if sorted(mine) != sorted(theirs):
                parted.setdefault(a.sequence[t], (a.position[t], quoted(a.text[t]), layer))
    if found := re.match(rf"All {NUMBER} expert ids of the first are the same in the second\.", sentence):
        whole(found[1], chosen)
        claim(not parted, f"they part at {parted}")
        return
    found = re.match(
        rf"Of {NUMBER} expert ids of the first, {NUMBER} (?:is|are) different in the second \({PCT}\)\. ", sentence
    )
    claim(found is not None, f"cannot be read: {sentence!r}")
    whole(found[1], chosen)
    whole(found[2], different)
    share(found[3], different / chosen)
    sequences = list(dict.fromkeys(a.sequence))
    if place := re.search(r"They first part at token (\d+) \(“(.*?)”\), layer (\d+)\.", sentence, re.DOTALL):
        claim(len(sequences) == 1, f"there are {len(sequences)} sequences")
        claim((int(place[1]), place[2], int(place[3])) == parted[sequences[0]], f"they part at {parted}")
        return
    several = r"(\d+) of (\d+) sequences part, sequence (\d+) at token (\d+) \(“(.*?)”\), layer (\d+)\."
    place = re.search(several, sentence, re.DOTALL)
    claim(place is not None, f"cannot be read: {sentence!r}")
    numbers = [int(said) if at != 4 else said for at, said in enumerate(place.groups())]
    first = next(one for one in sequences if one in parted)
    claim(numbers == [len(parted), len(sequences), first, *parted[first]], f"they part at {parted}")


@reads(
    "moeviz.metrics.multi_trace.first_choices_summary",
    rf"(?:{NUMBER} of {NUMBER} tokens (stays?) with the expert of the token before, where an order at random would give "
    rf"{NUMBER}; )?{NUMBER} of {NUMBER} experts come first here\.",
)
def _(seen, stay, pairs, verb, chance, used, experts):
    (layer,) = seen.layers
    firsts = {t: seen.first(layer, t) for t in seen.recorded(layer) if seen.has(layer, t)}
    whole(used, len(set(firsts.values())), "experts that come first")
    whole(experts, seen.E[layer])
    couples = [(a, b) for a, b in pairwise(range(seen.T)) if a in firsts and b in firsts]
    couples = [(a, b) for a, b in couples if seen.sequence[a] == seen.sequence[b]]
    couples = [(a, b) for a, b in couples if seen.position[b] == seen.position[a] + 1]
    claim((stay is None) == (not couples), f"{len(couples)} pairs")
    if couples:
        same = sum(firsts[a] == firsts[b] for a, b in couples)
        whole(stay, same, "tokens that stay")
        whole(pairs, len(couples), "pairs")
        claim((verb == "stays") == (same == 1), verb)
        two = list(combinations(firsts.values(), 2))
        about(chance, sum(a == b for a, b in two) / len(two) * len(couples), "at random", 1e-6)


def check_word_change(sentence: str, one, other, word: int) -> None:
    """Of two readings whose tokens are the same but for the one in row `word`."""
    mine, theirs = Seen(one), Seen(other)
    changed, compared = {}, {}
    before = 0
    for layer in mine.layers:
        rows = [t for t in set(mine.recorded(layer)) & set(theirs.recorded(layer)) if t != word]
        differ = [t for t in rows if mine.first(layer, t) != theirs.first(layer, t)]
        changed[layer], compared[layer] = len(differ), len(rows)
        before += sum(t < word for t in differ)
    total = sum(changed.values())
    if none := re.fullmatch(rf"None of {NUMBER} first choices changes\.", sentence):
        claim(total == 0, f"{total} change")
        return whole(none[1], sum(compared.values()))
    found = re.fullmatch(
        rf"{NUMBER} of {NUMBER} first choices changes?(?:, most at layer (\d+): {NUMBER} of {NUMBER})?"
        rf"(?:; {NUMBER} of them stands? before the changed word)?\.",
        sentence,
    )
    claim(found is not None, f"cannot be read: {sentence!r}")
    number, of, layer, most, of_layer, early = found.groups()
    whole(number, total)
    whole(of, sum(compared.values()))
    ranked = sorted(changed.values())
    claim((layer is None) == (len([n for n in compared.values() if n]) < 2 or ranked[-1] == ranked[-2]), f"{changed}")
    if layer is not None:
        whole(most, ranked[-1])
        whole(most, changed[int(layer)])
        whole(of_layer, compared[int(layer)])
    whole(early or "0", before, "before the word")


def check_multi_summary(says: list[str], traces: dict) -> None:
    """Figures of several traces: the means over layers."""
    seen = {name: Seen(trace) for name, trace in traces.items()}
    for sentence in says:
        if sentence.startswith("These traces"):
            texts = [(one.sequence, one.text) for one in seen.values()]
            claim(any(each != texts[0] for each in texts), "they are of the same tokens")
        elif sentence.startswith("Load of the busiest"):
            for name, value, luck in re.findall(r"([ABC]) ([\d.]+) \(([\d.]+)\)", sentence):
                layers = [at for at in seen[name].some() if sum(seen[name].counts(at))]
                about(value, sum(max(seen[name].times(at)) for at in layers) / len(layers), f"busiest of {name}")
                means, slack = zip(*(busiest_at_random(seen[name], at) for at in layers), strict=True)
                about(luck, sum(means) / len(means), f"busiest of {name} at random", max(slack))
        elif sentence.startswith("Different sets"):
            for name, sets, of, luck in re.findall(r"([ABC]) ([\d,]+) of ([\d,]+) \(([\d,]+)\)", sentence):
                counts, possible, chance = [], [], []
                for at in seen[name].some():
                    rows = [frozenset(seen[name].has(at, t)) for t in seen[name].recorded(at)]
                    full = [row for row in rows if len(row) == max(map(len, rows))]
                    counts.append(len(set(full)))
                    possible.append(comb(seen[name].E[at], len(full[0])))
                    chance.append(possible[-1] * (1 - (1 - 1 / possible[-1]) ** len(full)))
                for said, values in ((sets, counts), (of, possible), (luck, chance)):
                    mean = sum(values) / len(values)
                    claim(abs(int(said.replace(",", "")) - mean) <= 0.5 + 1e-6, f"sets of {name}: {mean}, not {said}")
        elif sentence.startswith("Bits that"):
            for name, value in re.findall(r"([ABC]) ([\d.]+) \(", sentence):
                told = []
                for at in seen[name].some():
                    table = _by_label(_texts(seen[name], at, first=False))
                    if any(map(sum, table.values())):
                        told.append(divergence(list(table.values())))
                about(value, sum(told) / len(told), f"bits of {name}")
        else:
            _repetition(sentence, seen)


def busiest_at_random(seen: Seen, layer: int) -> tuple[float, float]:
    """The busiest expert of a uniform load, times the mean; and how far 50 draws may be from it."""
    tokens, E, work = len(seen.recorded(layer)), seen.E[layer], sum(seen.counts(layer))
    mean = work / E
    highest = np.random.default_rng(9).binomial(tokens, mean / tokens, (400, E)).max(axis=1) / mean
    return float(highest.mean()), float(5 * highest.std() * sqrt(1 / 50 + 1 / 400))


def _repetition(sentence: str, seen: dict) -> None:
    beyond, by_load = {}, {}
    for name, one in seen.items():
        if one.ordered:
            layers, loads = [], []
            for at in one.some():
                pairs = [(a, b) for a, b in one.neighbours(at) if one.has(at, a) and one.has(at, b)]
                if pairs and one.E[at] > 1:
                    part = sum(one.first(at, a) == one.first(at, b) for a, b in pairs) / len(pairs)
                    layers.append((part - 1 / one.E[at]) / (1 - 1 / one.E[at]))
                    firsts = [one.first(at, t) for t in one.recorded(at) if one.has(at, t)]
                    twice = sum((firsts.count(e) / len(firsts)) ** 2 for e in set(firsts))
                    loads.append((twice - 1 / one.E[at]) / (1 - 1 / one.E[at]))
            if layers:
                beyond[name], by_load[name] = sum(layers) / len(layers), sum(loads) / len(loads)
    head, _, tail = sentence.partition(". By their loads")
    for part_of, values in ((head, beyond), (tail, by_load)):
        said = re.findall(rf"([ABC]) (?:(just below 0%)|(−?){PCT})", part_of)
        claim(not part_of or {name for name, *_ in said} == set(values), f"of each of {set(values)}")
        for name, below, sign, part in said:
            if below:
                claim(-0.005 < values[name] < 0, f"repetition of {name} is {values[name]}")
            else:
                share(part, -values[name] if sign else values[name], f"repetition of {name}")
    if found := re.match(r"Beyond chance, the first choice repeats most in ([ABC]) and least in ([ABC]):", sentence):
        claim(beyond[found[1]] == max(beyond.values()) and beyond[found[2]] == min(beyond.values()), f"{beyond}")
    else:
        claim("no more than luck explains" in sentence, f"cannot be read: {sentence!r}")


# ---- what pages and reports write themselves ------------------------------------------------------------------------


def check_name(said: list[str], trace) -> None:
    """The line above a trace's facts; and that it is too short, once and where it is."""
    seen = Seen(trace)
    found = re.match(rf"{NUMBER} ([a-z ]+?)(s?) through ", said[0])
    claim(found is not None, f"cannot be read: {said[0]!r}")
    whole(found[1], seen.T, "tokens")
    claim((found[3] == "s") == (seen.T != 1), "one, or several")
    short = [line for line in said if "too little" in line]
    claim(len(short) == (0 < seen.T < HANDFUL), f"{seen.T} tokens")


def check_headline(sentence: str, trace) -> None:
    """Whose experts are on screen."""
    seen = Seen(trace)
    found = re.search(
        r": (\d+) MoE ([a-z ]+?)(s?) of (\d+)(?: to (\d+))? experts, (\d+) for each ([a-z ]+)\*$", sentence
    )
    claim(found is not None, f"cannot be read: {sentence!r}")
    whole(found[1], len(seen.layers), "layers")
    claim((found[3] == "s") == (len(seen.layers) != 1), "one layer, or several")
    claim((int(found[4]), int(found[5] or found[4])) == (min(seen.E.values()), max(seen.E.values())), "experts")
    whole(found[6], seen.K, "top-k")


def check_figures(rows: dict, trace) -> None:
    """The numbers under a trace."""
    seen = Seen(trace)
    if "Prompt tokens" in rows:
        whole(rows["Prompt tokens"][0], seen.phase.count("prompt"))
        whole(rows["Generated"][0], seen.phase.count("generated"))
    else:
        whole(next(value for name, (value, _) in rows.items() if name == "Digits"), seen.T)
    missing = sum(any(seen.first(layer, t) == -2 for layer in seen.layers) for t in range(seen.T))
    claim(("Not recorded" in rows) == (missing > 0), f"{missing} are not recorded")
    if missing:
        whole(rows["Not recorded"][0], missing)
    most, least = max(seen.E.values()), min(seen.E.values())
    claim(rows["Experts"][0] == f"{seen.K} of " + (f"{most}" if most == least else f"{least}–{most}"), "experts")
    if seen.model.parameters is not None:
        total, active, _, _ = _all_and_active(seen)
        claim((rows["Parameters"][0], rows["Active"][0]) == (total, active), f"{total} parameters, {active} active")


def check_numbers(sentence: str, trace, layer: int, expert: int) -> None:
    """The line of numbers on the page of an expert."""
    seen = Seen(trace)
    rows, counts = seen.recorded(layer), seen.counts(layer)
    own = [t for t in rows if expert in seen.has(layer, t)]
    found = re.fullmatch(
        rf"(?:\*\*(nan|[\d.]+)×\*\* a uniform load, rank (\d+) of (\d+)  ·  )?has \*\*{NUMBER}\*\* of {NUMBER} tokens"
        rf"(?:  ·  first choice for \*\*{PCT}\*\* of them)?(?:  ·  mean weight (-?[\d.]+))?",
        sentence,
    )
    claim(found is not None, f"cannot be read: {sentence!r}")
    times, rank, of, has, recorded, first, weight = found.groups()
    whole(has, len(own))
    whole(recorded, len(rows))
    claim((times is not None) == (bool(rows) and sum(counts) > 0), f"{sum(counts)} assignments")
    if times:
        about(times, seen.times(layer)[expert])
        better = sum(n > counts[expert] for n in counts) + counts[:expert].count(counts[expert])
        whole(rank, better + 1, "rank")
        whole(of, len(counts))
    claim((first is not None) == (seen.ordered and bool(own)), "first choices")
    if first:
        share(first, sum(seen.first(layer, t) == expert for t in own) / len(own))
    known = seen.trace.weights
    claim((weight is not None) == (known is not None and bool(own)), "weights")
    if weight:
        at = seen.layers.index(layer)
        about(weight, sum(float(known[at, t, seen.slots[layer][t].index(expert)]) for t in own) / len(own), slack=1e-5)


COUNTED = re.compile(
    r"At (?P<layer>.+), expert (?P<expert>\d+) (?P<verb>has|is among those of) (?P<most>\d+) of the (?P<of>\d+)"
    r"(?P<how> recorded| shown)? (?P<item>.+?)s(?:, (?P<run>\d+) of them in a row, from “(?P<first>.*?)” to “(?P<last>.*)”)?\.",
    re.DOTALL,
)


def check_counted(sentence: str | None, trace, layer: int, texts: list[str], window: tuple[int, int]) -> None:
    """The sentence under the strip, on the expert that most of its tokens show at a layer; None where there is none."""
    seen, (start, end) = Seen(trace), window
    shows = {t: (seen.has(layer, t)[:1] if seen.ordered else seen.has(layer, t)) for t in range(start, end)}
    recorded = [t for t in shows if seen.first(layer, t) != -2]
    counts = [sum(e in own for own in shows.values()) for e in range(seen.E[layer])]
    alone = counts.count(max(counts)) == 1
    claim((sentence is None) == (len(recorded) < 8 or not alone), f"{len(recorded)} tokens, {counts}")
    if sentence is None:
        return
    said = COUNTED.fullmatch(sentence)
    claim(said is not None, f"cannot be read: {sentence!r}")
    expert = counts.index(max(counts))
    claim(said["layer"].endswith(f" {layer}"), f"it is about {said['layer']}")
    claim(
        int(said["expert"]) == expert and int(said["most"]) == counts[expert], f"it is {expert} with {counts[expert]}"
    )
    claim((said["verb"] == "has") == seen.ordered, "first choices, or any")
    whole(said["of"], len(recorded))
    runs, before = [[]], None
    for t in range(start, end):
        place = (seen.sequence[t], seen.position[t])
        if before != (place[0], place[1] - 1) or expert not in shows[t]:
            runs.append([])
        if expert in shows[t]:
            runs[-1].append(t)
        before = place
    length = max(map(len, runs))
    claim((said["run"] is not None) == (length > 2), f"the longest run is {length}")
    if said["run"]:
        whole(said["run"], length)
        longest = [(texts[run[0]], texts[run[-1]]) for run in runs if len(run) == length]
        claim((said["first"], said["last"]) == longest[0], f"the run is {longest[0]}")


GOES_ON = re.compile(
    r"(?:The text goes on with “(?P<no>.*)”, which is not among these five"
    r"|The text does go on with “(?P<first>.*)” \(bold\)"
    r"|The text goes on with “(?P<other>.*)” \(bold\), given (?P<p>[<>]?\d+%)"
    r"|(?P<end>Here the text ends))\. Click an expert above to mute it\.",
    re.DOTALL,
)
MUTED = re.compile(
    r"(?:“(?P<was>.*?)”: (?P<before>[<>]?\d+%) → (?P<fell>(?:under )?[<>]?\d+%)\.(?: Now “(?P<now>.*)” is likeliest\.)?"
    r"(?P<unused> This \w+ itself did not use (?P<them>it|them), but earlier ones may have\.)? ?)?"
    r"(?:(?P<moved>\d+) of (?P<of>\d+) first choices change(?P<dots> \(orange dots\))?\.)?(?P<dashed> ?Dashed: as it was\.)?",
    re.DOTALL,
)


def part_agrees(said: str, value: float) -> bool:
    """Whether a share is what a page writes of it: whole percent, and no 0 % or 100 % that is none."""
    if said == ">99%":
        return 0.995 - 1e-6 <= value < 1
    if said == "<1%":
        return 0 < value < 0.005 + 1e-6
    return abs(100 * value - int(said[:-1])) <= 0.5 + 1e-4


def _follows(seen: Seen, token: int) -> bool:
    after = token + 1
    return after < seen.T and (seen.sequence[after], seen.position[after]) == (
        seen.sequence[token],
        seen.position[token] + 1,
    )


def check_next(sentence: str, trace, texts: list[str], token: int) -> None:
    """The sentence on the likeliest next tokens: whether the token that does follow is one of them."""
    seen, said = Seen(trace), GOES_ON.fullmatch(sentence)
    claim(said is not None, f"cannot be read: {sentence!r}")
    likely = [(shown(text), p) for text, p in trace.next_tokens.after(token)]
    claim((said["end"] is not None) == (not _follows(seen, token)), "where the text ends")
    if said["end"]:
        return
    follows = texts[token + 1]
    claim(follows in (said["no"], said["first"], said["other"]), f"what follows is {follows!r}")
    place = next((at for at, (text, _) in enumerate(likely) if text == follows), None)
    claim((said["no"] is not None) == (place is None) and (said["first"] is not None) == (place == 0), f"it is {place}")
    if said["p"]:
        claim(part_agrees(said["p"], likely[place][1]), f"it has {likely[place][1]}")


def check_muted(sentence: str, trace, muted, mutes: list[tuple[int, int]], token: int) -> None:
    """The sentence on what changes without some experts (layer and expert)."""
    seen, now, said = Seen(trace), Seen(muted), MUTED.fullmatch(sentence)
    claim(said is not None and sentence != "", f"cannot be read: {sentence!r}")
    moved = [(row, t) for row in seen.layers for t in range(seen.T) if seen.first(row, t) != now.first(row, t)]
    claim((said["moved"] is not None) == seen.ordered, "first choices are known")
    if seen.ordered:
        claim((int(said["moved"]), int(said["of"])) == (len(moved), len(seen.layers) * seen.T), f"{len(moved)} change")
        claim((said["dots"] is not None) == bool(moved), "dots")
    before, after = trace.next_tokens.after(token), muted.next_tokens.after(token)
    claim(said["was"] == shown(before[0][0]) and part_agrees(said["before"], before[0][1]), f"it was {before[0]}")
    left = {}
    for text, p in after:
        left.setdefault(shown(text), p)
    if said["was"] in left:
        claim(part_agrees(said["fell"], left[said["was"]]), f"now {left[said['was']]}")
    else:
        percent = int(said["fell"].removeprefix("under ").removesuffix("%"))
        claim(said["fell"].startswith("under ") and percent - 1 <= 100 * after[-1][1] < percent, f"{after[-1][1]}")
    first = shown(after[0][0])
    claim(said["now"] == (None if first == said["was"] else first), f"the likeliest is {first!r}")
    used = any(expert in seen.has(layer, token) for layer, expert in mutes)
    claim(
        (said["unused"] is None) == used and (used or (said["them"] == "them") == (len(mutes) > 1)), "whether it had it"
    )


def changed(sentence: str) -> list[tuple[int, str]]:
    """The sentence with each of its numbers in turn made another one: a control, which a second count must refute."""
    made = []
    for at, found in enumerate(re.finditer(r"\d+(?:[.,]\d+)*", sentence)):
        text = found[0]
        digits = len(text.partition(".")[2])
        more = float(text.replace(",", "")) * 1.5 + 3
        number = f"{more:.{digits}f}" if digits else str(int(more))
        made.append((at, sentence[: found.start()] + number + sentence[found.end() :]))
    return made


def notices(again: Callable[[], None]) -> bool:
    """Whether a second count does not agree: also where a changed number leads to no place at all."""
    try:
        again()
    except (Refuted, LookupError, ValueError, ZeroDivisionError):
        return True
    return False


# ---- balance beside luck, and a verdict on placement -----------------------------------------------------------------


def luck(tokens: int, chance: float, rare: float) -> tuple[int, int]:
    """The fewest and the most of so many tokens, each side passed in half of `rare` cases."""
    if not 0 < chance < 1 or not tokens:
        return round(tokens * chance), round(tokens * chance)
    each = [comb(tokens, n) * chance**n * (1 - chance) ** (tokens - n) for n in range(tokens + 1)]
    low = next(n for n in range(tokens + 1) if sum(each[: n + 1]) > rare / 2)
    return low, next(n for n in range(tokens, -1, -1) if sum(each[n:]) > rare / 2)


def cells_beside_luck(seen: Seen, grouped: bool) -> list[dict]:
    """Each expert of each part: all tokens together, and each label."""
    names = list(dict.fromkeys(seen.label)) if grouped else []
    parts = [None, *(names if 2 <= len(names) <= 4 else ())]
    layers = seen.some() or seen.layers
    rare = 0.001 / (len(parts) * sum(seen.E[layer] for layer in layers))
    cells = []
    for part in parts:
        for layer in layers:
            rows = [t for t in seen.recorded(layer) if part is None or seen.label[t] == part]
            counts = [sum(e in seen.has(layer, t) for t in rows) for e in range(seen.E[layer])]
            even = sum(counts) / seen.E[layer]
            low, high = luck(len(rows), even / max(len(rows), 1), rare)
            if even:
                cells += [
                    {"part": part, "layer": layer, "expert": e, "n": n, "of": len(rows), "times": n / even}
                    | {"low": low / even, "high": high / even, "clear": not low <= n <= high}
                    for e, n in enumerate(counts)
                ]
    return cells


WHO = (
    rf"(?:in “(.*?)”, )?expert (\d+) of layer (\d+) has (?:{NUMBER} times its share|{NUMBER} of its share"
    r"|(no token)(?:, and (\d+) more ha(?:ve|s) none)?)"
)


def times_of(said: str, value: float) -> None:
    about(said, value, "times its share")
    claim(float(said) != 1 or abs(value - 1) < 1e-4, f"{value} is not 1")


@reads(
    "moeviz.metrics.balance.balance_sentence",
    rf"(?:(No|Not quite|Nearly): {WHO}(?:; {WHO})?\.(?: All together it is {NUMBER} times at most, so the sum hides it\.)?"
    rf"|As far as {NUMBER} tokens? can tell, yes: no expert has more or less than luck alone may bring\."
    r"|(No token was counted, so nothing can be said\.))",
)
def _(seen, begin, *found):
    *whos, hidden, tokens, nothing, grouped = found
    cells = cells_beside_luck(seen, grouped)
    claim(bool(nothing) == (not cells), "was any token counted?")
    if nothing:
        return
    own = [cell for cell in cells if cell["part"] is not None] or cells
    clear = [cell for cell in own if cell["clear"]]
    claim(bool(tokens) == (not clear), f"{len(clear)} are beyond luck")
    if tokens:
        return whole(tokens, max(cell["of"] for cell in own), "tokens")
    most, least = (end(cell["times"] for cell in clear) for end in (max, min))
    right = "No" if most >= 2 or not least else "Not quite" if most >= 1.5 or least <= 0.5 else "Nearly"
    claim(begin == right, f"it is {right}: {most} and {least}")
    claim((whos[1] is not None) + (whos[8] is not None) == (most > 1) + (least < 1), "who is told of?")
    for part, expert, layer, more, less, none, others in (whos[:7], whos[7:]):
        if expert is None:
            continue
        (cell,) = [
            cell
            for cell in clear
            if (cell["layer"], cell["expert"]) == (int(layer), int(expert))
            and (part is None if cell["part"] is None else shown(cell["part"]) == part)
        ] or [{}]
        claim(bool(cell), "it is not beyond luck")
        claim(cell["times"] == (most if more else least), "another has more, or less")
        if more or less:
            times_of(more or less, cell["times"])
            claim((cell["times"] > 1) == bool(more), "more or less?")
        else:
            empty = sum(cell["n"] == 0 for cell in clear)
            claim(none is not None and cell["n"] == 0, "it has tokens")
            whole(others or "0", empty - 1, "others without a token")
    together = max(cell["times"] for cell in cells if cell["part"] is None)
    claim((hidden is not None) == (most >= 1.5 and together - 1 < (most - 1) / 2), "does the sum hide it?")
    if hidden:
        times_of(hidden, together)


@reads(
    "moeviz.metrics.balance.luck_sentence",
    rf"Of {NUMBER}(?:–{NUMBER})? tokens sent at random, an expert gets {NUMBER} to {NUMBER} times its share by luck; "
    rf"{NUMBER} of {NUMBER} here are outside\.",
)
def _(seen, fewest, tokens, low, high, beyond, every, grouped):
    cells = cells_beside_luck(seen, grouped)
    whole(fewest, min(cell["of"] for cell in cells), "fewest tokens")
    whole(tokens or fewest, max(cell["of"] for cell in cells), "tokens")
    about(low, min(cell["low"] for cell in cells), "the least by luck")
    about(high, max(cell["high"] for cell in cells), "the most by luck")
    whole(beyond, sum(cell["clear"] for cell in cells), "beyond luck")
    whole(every, len(cells), "experts")


@reads(
    "moeviz.serving.decision.placement_verdict",
    rf"(?:(\d+) experts on (\d+) devices are one each, so there is nothing to place\."
    rf"|Too little evidence: a device has {NUMBER} choices in a part of them, where luck alone makes it uneven\. It takes {NUMBER}\."
    rf"|(Worth a trial|Not now|Too little evidence): on (\d+) devices a balanced plan changes the load of the busiest by "
    rf"([+−][\d.]+)%(?: to ([+−][\d.]+)%)?, judged on tokens it was not made from; placements at random change it by "
    rf"([+−][\d.]+)%\. Of the busiest quarter of experts, {PCT} or more are the busiest again \(chance: {PCT}\)\. "
    rf"In every judgement 5% less is asked for, less than 19 of 20 placements at random leave, and more experts again than by chance\.)",
)
def _(seen, experts, one_each, choices, takes, begin, devices, least, most, lot, kept, chance, asked, enough):
    if experts:
        whole(experts, max(seen.E.values()) - seen.model.zero_experts, "experts")
        return whole(one_each, asked, "devices")
    ways = [of for of in halves_of_windows(seen) if of]
    fewest = min(sum(side) / asked for of in ways for both in of.values() for side in both)
    claim((choices is not None) == (fewest < enough), f"a device has {fewest}")
    if choices:
        about(choices, fewest, "choices", slack=0.5)
        return whole(takes, enough, "enough")
    whole(devices, asked, "devices")
    changes, drawn, again, beaten = [], [], [], []
    for of, way in ((of, way) for of in ways for way in (1, -1)):
        pairs = {layer: both[::way] for layer, both in of.items()}
        loads = {
            plan: sum(busiest_device(*both, asked, plan) for both in pairs.values())
            for plan in ("in order", "balanced")
        }
        luck = sorted(
            sum(
                busiest_device(*[[both[1][e] for e in at_random(seen, layer, draw)]] * 2, asked, "in order")
                for layer, both in pairs.items()
            )
            for draw in range(20)
        )
        changes.append(100 * (loads["balanced"] / loads["in order"] - 1))
        drawn.append(100 * (sum(luck) / 20 / loads["in order"] - 1))
        again.append(sum(busy_again(*both) for both in pairs.values()) / len(pairs))
        beaten.append(loads["balanced"] < luck[1])
    lot_of = [max(len(both[0]) // 4, 1) / len(both[0]) for both in ways[0].values()]
    by_lot = sum(lot_of) / len(lot_of)
    good = all(beaten) and min(again) > by_lot
    right = (
        "Worth a trial" if max(changes) <= -5 and good else "Not now" if min(changes) > -5 else "Too little evidence"
    )
    on_the_edge = any(abs(change + 5) < 1e-9 for change in changes) or abs(min(again) - by_lot) < 1e-9
    claim(begin == right or on_the_edge, f"it is {right}: {changes} {again}")
    about(least.replace("−", "-").lstrip("+"), min(changes), "least")
    about((most or least).replace("−", "-").lstrip("+"), max(changes), "most")
    about(lot.replace("−", "-").lstrip("+"), sum(drawn) / len(drawn), "at random")
    share(kept, min(again), "again")
    share(chance, by_lot, "by lot")


def halves_of_windows(seen):
    """The counts of each layer in two sets of windows: halves of time, and half of each four windows."""
    texts = list(dict.fromkeys(seen.sequence))
    ways = [{} for _ in range(4)]
    for layer in seen.some():
        rows = seen.recorded(layer)
        if len(texts) >= 8:
            own = sorted({seen.sequence[t] for t in rows})
            window = {t: own.index(seen.sequence[t]) for t in rows}
        else:
            window = {t: at * min(16, len(rows)) // len(rows) for at, t in enumerate(rows)}
        number = max(window.values()) + 1
        sets = [{w for w in range(number) if w < number // 2}]
        sets += [{w for w in range(number) if w % 4 in (0, other)} for other in (1, 2, 3) if number >= 8]
        for of, some in zip(ways, sets, strict=False):
            both = halves(seen, layer, {t for t in rows if window[t] in some})
            if any(both[0]) and any(both[1]):
                of[layer] = both
    return ways


def at_random(seen, layer, draw):
    """Twenty placements are drawn with these seeds."""
    row = seen.model.layers.index(layer)
    return np.random.default_rng((draw, row)).permutation(seen.E[layer] - seen.model.zero_experts).tolist()


def busy_again(one: list[int], other: list[int]) -> float:
    """Of the busiest quarter of experts, lower ids first among equals, the share that is so again."""
    most = max(len(one) // 4, 1)
    first, second = (set(sorted(range(len(of)), key=lambda e: (-of[e], e))[:most]) for of in (one, other))
    return len(first & second) / most


@reads(
    "moeviz.metrics.balance.elsewhere_sentence",
    rf"Of {NUMBER} tokens of other texts, expert (\d+) of layer (\d+) has (?:{NUMBER} times its share|{NUMBER} of its share)\.",
)
def _(seen, tokens, expert, layer, more, less, other):
    clear = [cell for cell in cells_beside_luck(seen, False) if cell["clear"] and cell["times"] > 1]
    (cell,) = [cell for cell in clear if (cell["layer"], cell["expert"]) == (int(layer), int(expert))] or [None]
    claim(cell is not None and cell["times"] == max(each["times"] for each in clear), "another is the busiest")
    there = Seen(other)
    whole(tokens, len(there.recorded(int(layer))), "tokens of other texts")
    times = there.times(int(layer))[int(expert)]
    claim((times >= 1) == bool(more), "more or less?")
    times_of(more or less, times)
