"""A second count of what moeviz claims of a trace: each value of a claim is worked out again from the arrays, plainly.

It shares nothing with the metrics, on purpose: a mistake that both make would be seen by neither. A function here has
the name of the claim that it counts again, takes the values that say what the claim is about, and returns all others.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from inspect import signature
from itertools import combinations, pairwise
from math import comb, exp, isnan, log, log1p, log2, nan, sqrt
from operator import mul
from typing import NamedTuple

import numpy as np
from words_of_traces import class_of

HANDFUL = 8
COUNTS: dict[str, Callable] = {}


class Refuted(AssertionError):
    """A claim is not so."""


class Near(NamedTuple):
    """A value that is known but for the noise of shuffles."""

    value: float
    slack: float


class OneOf(list):
    """Values that are as good as each other."""


def check(holds: bool, what: object) -> None:
    if not holds:
        raise Refuted(str(what))


def counts(function: Callable) -> Callable:
    COUNTS[function.__name__] = function
    return function


def recount(claim, *context) -> None:
    """Count a claim again; raise `Refuted` if a value is another one."""
    counted = COUNTS[claim.name]
    taken = {name for name, of in signature(counted).parameters.items() if of.kind is of.KEYWORD_ONLY}
    try:
        found = counted(*context, **{name: claim.values[name] for name in taken})
        check({*found} | taken == {*claim.values}, f"not counted again: {({*claim.values} - {*found}) - taken}")
        for name, value in found.items():
            check(agree(claim.values[name], value), f"{name} is {value}, not {claim.values[name]}")
    except Refuted as why:
        raise Refuted(f"{claim.name} {dict(claim.values)}: {why}") from None


def agree(claimed: object, found: object) -> bool:
    if isinstance(found, Near):
        return not isnan(claimed) and abs(claimed - found.value) <= found.slack + 1e-6
    if isinstance(found, OneOf):
        return claimed is not None and any(agree(claimed, one) for one in found)
    if isinstance(found, tuple | list):
        return len(claimed) == len(found) and all(map(agree, claimed, found))
    if isinstance(found, float | np.floating) and isinstance(claimed, float | int):
        both = isnan(claimed) and isnan(found)
        return both or abs(claimed - found) <= 1e-5 * max(1, abs(found))
    return type(claimed) in (type(found), int, float) and claimed == found


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

    def recorded(self, layer: int) -> list[int]:
        check(layer in self.slots, f"there is no layer {layer}")
        return [t for t, row in enumerate(self.slots[layer]) if row[0] != -2]

    def has(self, layer: int, t: int) -> list[int]:
        return [e for e in self.slots[layer][t] if e >= 0]

    def first(self, layer: int, t: int) -> int:
        return self.slots[layer][t][0]

    def counts(self, layer: int) -> list[int]:
        check(layer in self.slots, f"there is no layer {layer}")
        found = [0] * self.E[layer]
        for row in self.slots[layer]:
            for e in row:
                if e >= 0:
                    found[e] += 1
        return found

    def some(self) -> list[int]:
        """Layers at which something is recorded."""
        return [layer for layer in self.layers if self.recorded(layer)]

    def times(self, layer: int) -> list[float]:
        found = self.counts(layer)
        return [n * len(found) / max(sum(found), 1) for n in found]

    def all_times(self) -> dict[tuple[int, int], float]:
        """Of each expert of a layer to which something is assigned."""
        layers = [layer for layer in self.some() if sum(self.counts(layer))]
        return {(layer, e): times for layer in layers for e, times in enumerate(self.times(layer))}

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


def highest(of: dict, at: object, what: str = "another has more") -> None:
    check(at in of and of[at] >= max(of.values()) - 1e-6 * max(1, abs(of[at])), what)


# ---- findings -------------------------------------------------------------------------------------------------------


def _role(seen: Seen, place, finding, at_least: int = HANDFUL):
    """Rows that are recorded, those of the expert, and what every finding claims."""
    layer, expert = place.layer, place.expert
    words = seen.model.layer_kind, seen.model.item_kind
    check((place.first, place.top_k, place.step, place.item) == (seen.ordered, seen.K, *words), "how is it counted?")
    rows = seen.recorded(layer)
    own = {t for t in rows if expert in (seen.has(layer, t)[:1] if seen.ordered else seen.has(layer, t))}
    check(len(rows) >= at_least, f"only {len(rows)} tokens are recorded")
    check((finding.layer, finding.expert) == (layer, expert) and finding.token in own, "it leads to another place")
    return rows, own, {"share": len(own) / len(rows), "all_recorded": len(rows) == seen.T}


@counts
def busiest_of_text(seen, finding, usual, *, place):
    rows, _, common = _role(seen, place, finding)
    assigned = sum(len(seen.has(place.layer, t)[: 1 if seen.ordered else None]) for t in rows)
    before = None
    if usual is not None and (usual.ordered or not seen.ordered) and (there := usual.recorded(place.layer)):
        has = [usual.has(place.layer, t)[: 1 if seen.ordered else None] for t in there]
        before = sum(place.expert in own for own in has) / len(there)
    times = common["share"] * len(rows) * seen.E[place.layer] / assigned
    return common | {"times": times, "usual": before, "one_text": len(set(seen.sequence)) == 1}


@counts
def passage(seen, finding, usual, *, place, length):
    _, own, common = _role(seen, place, finding)
    t = finding.token
    check(all(i in own for i in range(t, t + length)), "not all of these tokens have it")
    check(all((seen.sequence[i], seen.position[i] - i) == (seen.sequence[t], seen.position[t] - t)
              for i in range(t, t + length)), "it is not in one piece")  # fmt: skip
    return common | {"begin": seen.text[t], "end": seen.text[t + length - 1]}


@counts
def habit(seen, finding, usual, *, place, text):
    rows, own, common = _role(seen, place, finding)
    like = [t for t in range(seen.T) if seen.text[t] == text]
    check(all(t in own for t in like if t in rows), "not each of them has it")
    return common | {"times": sum(t in rows for t in like), "every": all(t in rows for t in like)}


# ---- too little -----------------------------------------------------------------------------------------------------


@counts
def few_counted(seen, *_, what):
    number = {
        "token": lambda layer: len(seen.recorded(layer)),
        "first choice": lambda layer: sum(bool(seen.has(layer, t)) for t in seen.recorded(layer)),
    }[what]
    most = max(map(number, seen.layers))
    check(most < HANDFUL, f"there are {most}")
    return {"number": most, "needed": HANDFUL}


@counts
def few_at_busiest(seen):
    most = max(max(seen.counts(layer)) for layer in seen.layers)
    check(most < HANDFUL, f"the busiest has {most}")
    return {"number": most, "needed": HANDFUL}


@counts
def one_choice(seen, *_):
    check({seen.E[layer] for layer in seen.some()} == {1}, "there are several experts")
    return {}


# ---- load and balance -----------------------------------------------------------------------------------------------


@counts
def loads_of_layers(seen, *, layer, expert):
    every = seen.all_times()
    highest(every, (layer, expert))
    layers, beyond = {one for one, _ in every}, 0
    for one in layers:
        found = seen.counts(one)
        low, high = luck(sum(found), 1 / len(found), 0.001 / len(every))
        beyond += sum(not low <= n <= high for n in found)
    ends = [[end(seen.times(one)) for one in layers] for end in (max, min)]
    most, least = ((min(of), max(of)) for of in ends)
    return {"layers": len(layers), "most": most, "least": least, "beyond": beyond, "experts": len(every)}


@counts
def load_and_probability(seen, *, layer, expert):
    apart, clear, loads = {}, 0, {}
    for one in seen.layers:
        found, rows = seen.counts(one), seen.probabilities(one)
        for e, n in enumerate(found):
            load, p = n / max(sum(found), 1), sum(row[e] for row in rows) / len(rows)
            loads[one, e] = load, p
            if sum(found) and abs(load - p) >= 0.1 - 1e-7 and max(load, p) >= 1.5 * min(load, p) - 1e-7:
                clear, apart[one, e] = clear + 1, abs(load - p)
    highest(apart, (layer, expert))
    load, p = loads[layer, expert]
    return {"load": load, "importance": p, "clear": clear, "experts": len(loads)}


def spread(seen: Seen, layer: int) -> tuple[float, float]:
    """std / mean of the load of a layer, and the same of choices at random."""
    found = seen.counts(layer)
    mean = sum(found) / len(found)
    if not mean:
        return nan, nan
    of_tokens = [len(seen.has(layer, t)) / len(found) for t in seen.recorded(layer)]
    variance = sum(p * (1 - p) for p in of_tokens)
    return sqrt(sum((n - mean) ** 2 for n in found) / len(found)) / mean, sqrt(variance) / mean


@counts
def widest_load(seen, *, layer):
    ratios = {one: cv / chance for one in seen.some() for cv, chance in [spread(seen, one)] if chance > 0}
    twice = sum(ratio >= 2 - 1e-9 for ratio in ratios.values())
    check(layer in ratios, "nothing is spread there")
    return {"times": ratios[layer], "twice": twice, "layers": len(seen.some())}


@counts
def busiest_layer(seen, *, layer):
    most = {one: max(seen.times(one)) for one in seen.some()}
    highest(most, layer)
    return {"times": most[layer], "layers": len(most)}


@counts
def no_assignment(seen):
    check(not seen.all_times(), "something was counted")
    return {}


@counts
def load_of_all(seen, *, layer, expert, least, most_unused):
    times = seen.all_times()
    highest(times, (layer, expert))
    zeros = {one: sum(not n for (at, _), n in times.items() if at == one) for one, _ in times}
    unused = sum(zeros.values())
    check((least is None) == (unused > 0) == (most_unused is not None), "has each a token?")
    if least is None:
        highest(zeros, most_unused[0])
        check(most_unused[1] == zeros[most_unused[0]], zeros)
    else:
        highest({at: -n for at, n in times.items()}, least[:2], "another has less")
        found = seen.counts(least[0])
        check(agree(least[2], found[least[1]] / sum(found)), "the least share")
    found = seen.counts(layer)
    numbers = {"experts": len(times), "unused": unused, "unused_layers": sum(n > 0 for n in zeros.values())}
    return numbers | {"share": found[expert] / sum(found), "times": times[layer, expert]}


# ---- coverage -------------------------------------------------------------------------------------------------------


def half_of(seen, layer: int) -> tuple[int, float]:
    """Experts that do half of the work, and at random, before it is rounded up."""
    found = sorted(seen.counts(layer), reverse=True)
    work, E = sum(found), seen.E[layer]
    needed = next(n for n in range(1, E + 1) if 2 * sum(found[:n]) >= work)
    N = sum(1 for t in seen.recorded(layer) if seen.has(layer, t))
    p, carried, used = work / (N * E), 0.0, 0.0
    for n in range(N, 0, -1):
        experts = E * comb(N, n) * p**n * (1 - p) ** (N - n)
        if carried + experts * n >= work / 2 - 1e-9:
            return needed, used + (work / 2 - carried) / n
        carried, used = carried + experts * n, used + experts
    return needed, used


@counts
def half_of_work(seen, *, layer, chance, clear):
    some = [one for one in seen.some() if sum(seen.counts(one))]
    halves = {one: half_of(seen, one) for one in some}
    lots = {one: lot for one, (_, lot) in halves.items()}
    check(abs(chance - lots[layer]) < 1 + 1e-3 and chance >= lots[layer] - 1e-3, f"at random it is {lots[layer]}")

    def fewer(room: float) -> set[int]:
        return {one for one, (n, lot) in halves.items() if lot + room >= 1.5 * n and lot + room >= n + 2}

    check(len(fewer(-0.01)) <= clear <= len(fewer(1.01)), "at how many layers?")
    share = {one: halves[one][0] / -(-seen.E[one] // 2) for one in fewer(-0.01) | {layer}}
    check(share[layer] <= min(share.values()) + 1e-9, "another needs fewer")
    return {"needed": halves[layer][0], "layers": len(some)}


@counts
def used_experts(seen, *, layer):
    shares, used, chances = {}, {}, {}
    for one in seen.some():
        missed = 1.0
        for t in seen.recorded(one):
            missed *= 1 - len(seen.has(one, t)) / seen.E[one]
        used[one], chances[one] = sum(n > 0 for n in seen.counts(one)), seen.E[one] * (1 - missed)
        deviation = sqrt(max(chances[one] * missed, 0))
        if chances[one] - used[one] - 4 * deviation >= 1 - 1e-3:
            shares[one] = -used[one] / seen.E[one]
    highest(shares, layer)
    numbers = {"used": used[layer], "experts": seen.E[layer], "chance": chances[layer]}
    return numbers | {"clear": len(shares), "layers": len(seen.some())}


# ---- two layers, and flow -------------------------------------------------------------------------------------------


@counts
def busier_of_two(seen, *, layer, other_layer):
    check(layer != other_layer, "a layer is compared with itself")
    times, other = (max(seen.times(one)) for one in (layer, other_layer))
    check(times > other, "it is the other way round")
    return {"times": times, "other_times": other}


@counts
def wider_of_two(seen, *, layer, other_layer):
    wide, narrow = (spread(seen, one)[0] for one in (layer, other_layer))
    check(wide > narrow, "it is the other way round")
    return {"spread": wide, "other_spread": narrow}


def bits(values) -> float:
    table: dict = {}
    for value in values:
        table[value] = table.get(value, 0) + 1
    return -sum(n / len(values) * log2(n / len(values)) for n in table.values())


def information(pairs) -> float:
    return max(bits([a for a, _ in pairs]) + bits([b for _, b in pairs]) - bits(pairs), 0.0) if pairs else 0.0


def near(found: list[float], shuffles: int) -> Near:
    """The mean of our own shuffles, as near as this many of theirs come to it."""
    mean = sum(found) / len(found)
    deviation = sqrt(sum((x - mean) ** 2 for x in found) / len(found))
    return Near(mean, 5 * deviation * sqrt(1 / shuffles + 1 / len(found)))


def shuffled(pairs) -> Near:
    dice, found = random.Random(7), []
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    while len(found) < 60 or (len({*found}) < 4 and len(found) < 1500):  # where a rare pair decides, more
        dice.shuffle(right)
        found.append(information(list(zip(left, right, strict=True))))
    return near(found, 100)


def first_pairs(seen: Seen, one: int, other: int) -> list[tuple[int, int]]:
    both = set(seen.recorded(one)) & set(seen.recorded(other))
    return [(a, b) for t in sorted(both) for a, b in [(seen.first(one, t), seen.first(other, t))] if a >= 0 and b >= 0]


@counts
def information_of_two(seen):
    pairs = first_pairs(seen, *seen.layers)
    return {"information": information(pairs), "shuffled": shuffled(pairs)}


def _most_informed(seen, layer, other, couples):
    gains = {}
    for one, two in couples:
        if pairs := first_pairs(seen, one, two):
            gains[one, two] = information(pairs), shuffled(pairs)
    check((layer, other) in gains, "these layers have no tokens in common")
    mine, chance = gains[layer, other]
    for couple, (more, less) in gains.items():
        check(more - less.value <= mine - chance.value + chance.slack + less.slack + 1e-9, f"layers {couple} tell more")
    return {"information": mine, "shuffled": chance}


@counts
def information_about_next(seen, *, layer, next_layer):
    return _most_informed(seen, layer, next_layer, list(pairwise(seen.layers)))


@counts
def information_about_later(seen, *, layer, later_layer):
    return _most_informed(seen, layer, later_layer, list(combinations(seen.layers, 2)))


@counts
def next_choice(seen, *, layer, expert, to_layer, to_expert):
    rows = []
    for one, two in pairwise(seen.layers):
        pairs = first_pairs(seen, one, two)
        for a, b in sorted(set(pairs)):
            tries = [y for x, y in pairs if x == a]
            rows.append(
                ((one, a, two, b), tries.count(b) / len(tries), len(tries), sum(y == b for _, y in pairs) / len(pairs))
            )
    return _beyond(rows, (layer, expert, to_layer, to_expert), len(rows)) | {"pairs": len(rows)}


def surprise(share: float, tries: float, chance: float) -> float:
    """tries x KL, in nats: how little chance explains a share."""
    tiny = 2.3e-308
    return tries * (
        share * log(max(share, tiny) / max(chance, tiny))
        + (1 - share) * log(max(1 - share, tiny) / max(1 - chance, tiny))
    )


def _beyond(rows: list, at: object, cells: int, least: float = 1.5, rank: Callable | None = None) -> dict:
    """Of (place, share, tries, chance): how many are beyond chance among this many cells; `at` has most of them."""
    limit = log(max(cells, 1) / 0.001)
    clear = {
        place: (share, tries, chance)
        for place, share, tries, chance in rows
        if share > 0
        and tries >= HANDFUL
        and share >= least * chance - 1e-12
        and surprise(share, tries, chance) >= limit
    }
    check(at in clear, "chance explains it")
    order = {place: (rank or (lambda place, share, tries, chance: share))(place, *of) for place, of in clear.items()}
    highest(order, at)
    return {"share": clear[at][0], "chance": clear[at][2], "beyond": len(clear)}


# ---- confidence and losses ------------------------------------------------------------------------------------------


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _ends(seen, most_layer, least_layer, of_row):
    medians = {}
    for layer in seen.layers:
        if values := [v for row in seen.probabilities(layer) if (v := of_row(row, seen.E[layer])) is not None]:
            medians[layer] = middle(values)
    highest(medians, most_layer)
    highest({at: -median for at, median in medians.items()}, least_layer)
    return {"most": medians[most_layer], "least": medians[least_layer]}


@counts
def undecided(seen, *, most_layer, least_layer):
    def entropy(row, E):
        return -sum(p * log(p) for p in row if p > 0) / log(E) if E > 1 else None

    return _ends(seen, most_layer, least_layer, entropy)


@counts
def ahead(seen, *, most_layer, least_layer):
    return _ends(seen, most_layer, least_layer, lambda row, E: max(row) - (sorted(row)[-2] if E > 1 else 0))


@counts
def highest_aux_loss(seen, *, layer):
    losses = {}
    for one in seen.layers:
        rows, found = seen.probabilities(one), seen.counts(one)
        losses[one] = seen.E[one] * sum(n / seen.T * sum(row[e] for row in rows) / seen.T for e, n in enumerate(found))
    highest(losses, layer)
    return {"loss": losses[layer], "least": min(losses.values()), "uniform": float(seen.K)}


@counts
def highest_z_loss(seen, *, layer):
    losses = {}
    for at, one in enumerate(seen.layers):
        rows = [row[: seen.E[one]] for row in seen.trace.logits[at].astype(float).tolist()]
        sums = [max(row) + log(sum(exp(x - max(row)) for x in row)) for row in rows]
        losses[one] = sum(x * x for x in sums) / len(sums)
    highest(losses, layer)
    return {"loss": losses[layer], "median": middle(list(losses.values()))}


# ---- parameters -----------------------------------------------------------------------------------------------------


def all_and_active(seen) -> tuple[int, int, int, int]:
    p = seen.model.parameters
    rest = (
        p.input_embedding + p.output_embedding + p.attention + p.routers + p.shared_experts + p.dense_layers + p.other
    )
    running = sum(seen.K * size for size in p.per_expert)
    return rest + p.routed_experts, rest + running, p.routed_experts, running


@counts
def routed_parameters(seen):
    total, _, routed, running = all_and_active(seen)
    return {"share": routed / total, "used": running / routed}


@counts
def active_parameters(seen):
    total, running, _, _ = all_and_active(seen)
    return {"active": running, "total": total}


@counts
def touched_parameters(seen):
    together = set(range(seen.T)).intersection(*(seen.recorded(layer) for layer in seen.layers))
    total, active, routed, _ = all_and_active(seen)
    ran = total - routed
    for layer, size in zip(seen.layers, seen.model.parameters.per_expert, strict=True):
        first_zero = seen.E[layer] - seen.model.zero_experts
        ran += size * len({e for t in together for e in seen.has(layer, t) if e < first_zero})
    return {"tokens": len(together), "touched": ran / total, "active": active / total}


# ---- locality and co-activation -------------------------------------------------------------------------------------


@counts
def repeated_choice(seen, *, layer, first):
    def alike(at, a, b):
        if first:
            return seen.first(at, a) == seen.first(at, b)
        return bool(set(seen.has(at, a)) & set(seen.has(at, b)))

    rows = []
    for one in seen.some():
        some = [t for t in seen.recorded(one) if seen.has(one, t)]
        pairs = [(a, b) for a, b in seen.neighbours(one) if seen.has(one, a) and seen.has(one, b)]
        if pairs:
            share = sum(alike(one, a, b) for a, b in pairs) / len(pairs)
            rows.append((one, share, len(pairs), sum(alike(one, a, b) for a in some for b in some) / len(some) ** 2))
    return _beyond(rows, layer, len(seen.some()), 1.2) | {"layers": len(seen.some())}


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


def _company(seen, layer):
    """Rows of all ordered pairs, tokens that two share, and at random."""
    load, chance = seen.counts(layer), pairs_at_random(seen, layer)
    experts = [e for e, n in enumerate(load) if n]
    sets = [seen.has(layer, t) for t in seen.recorded(layer)]
    shared = {(a, b): sum(a in one and b in one for one in sets) for a in experts for b in experts if a != b}
    rows = [((a, b), n / load[a], load[a], chance[a, b] / load[a]) for (a, b), n in shared.items()]
    return rows, shared, chance


@counts
def company(seen, *, layer, expert, partner):
    rows, _, _ = _company(seen, layer)
    found = _beyond(rows, (expert, partner), len(rows))
    return found | {"chance": Near(found["chance"], 1e-4), "pairs": len(rows)}


@counts
def pair(seen, *, layer, expert, partner):
    rows, shared, chance = _company(seen, layer)
    above = {}
    for place, *of in rows:
        try:
            _beyond([(place, *of)], place, len(rows))
            above[tuple(sorted(place))] = shared[place] - chance[place]
        except Refuted:
            pass
    highest({at: n - 1e-4 * (at != (expert, partner)) for at, n in above.items()}, (expert, partner))
    numbers = {"tokens": shared[expert, partner], "chance": Near(chance[expert, partner], 1e-4)}
    return numbers | {"beyond": len(above), "pairs": len(rows) // 2}


# ---- kinds of text and of tokens ------------------------------------------------------------------------------------


@counts
def expert_of_kind(seen, *, layer, label, expert):
    table = {}
    for name in dict.fromkeys(seen.label):
        own = [e for t in seen.recorded(layer) if seen.label[t] == name for e in seen.has(layer, t)]
        table[name] = [own.count(e) for e in range(seen.E[layer])]
    check(label in table, f"no label is {label!r}")
    uniform, rows, known = 1 / seen.E[layer], [], [row for row in table.values() if sum(row)]
    for name, row in table.items():
        for e, n in enumerate(row):
            mean = sum(other[e] / sum(other) for other in known) / max(len(known), 1)
            rows.append(((name, e), n / max(sum(row), 1), sum(row), max(uniform, mean)))
    found = _beyond(rows, (label, expert), len(rows), 2.0)
    times = found["share"] / uniform
    return {"share": found["share"], "times": times, "beyond": found["beyond"], "cells": len(rows)}


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
        found = texts.setdefault((seen.label[t], seen.sequence[t]), [0] * seen.E[layer])
        chosen = seen.has(layer, t)
        for e in chosen[:1] if first else chosen:
            found[e] += 1
    return texts


def _by_label(texts: dict) -> dict[str, list[int]]:
    table: dict = {}
    for (label, _), row in texts.items():
        table[label] = [a + b for a, b in zip(table.get(label, [0] * len(row)), row, strict=True)]
    return table


def _dealt(texts: dict, times: int = 60) -> list[dict[str, list[int]]]:
    """Counts by label, with the texts dealt anew among the labels."""
    dice, keys, rows, found = random.Random(3), list(texts), list(texts.values()), []
    for _ in range(times):
        dice.shuffle(rows)
        found.append(_by_label({(label, at): row for at, ((label, _), row) in enumerate(zip(keys, rows, strict=True))}))
    return found


def informed(seen) -> dict[int, float]:
    """Bits that the expert tells about the label, by layer."""
    tables = {one: list(_by_label(_texts(seen, one, first=False)).values()) for one in seen.some()}
    return {one: divergence(table) for one, table in tables.items() if any(map(sum, table))}


@counts
def information_about_kinds(seen, *, layer):
    told = informed(seen)
    highest(told, layer)
    texts = _texts(seen, layer, first=False)
    labels = sum(1 for row in _by_label(texts).values() if sum(row))
    slots = min(len(seen.has(layer, t)) for t in seen.recorded(layer) if seen.has(layer, t))
    deals = [divergence(list(table.values())) for table in _dealt(texts) if any(map(sum, table.values()))]
    most = log2(min(labels, seen.E[layer] / slots))
    return {"information": told[layer], "maximum": most, "shuffled": near(deals, 100)}


@counts
def most_different_kinds(seen, *, label, other):
    (layer,) = seen.layers
    texts = _texts(seen, layer, first=True)
    table = {name: row for name, row in _by_label(texts).items() if sum(row)}
    pairs = {(a, b): divergence([table[a], table[b]]) for a, b in combinations(table, 2)}
    pairs |= {(b, a): bits for (a, b), bits in pairs.items()}
    highest(pairs, (label, other), "two others differ more")
    deals = [[row for name, row in deal.items() if name in (label, other)] for deal in _dealt(texts)]
    found = [divergence(rows) for rows in deals if all(map(sum, rows))]
    return {"divergence": pairs[label, other], "shuffled": near(found, 100)}


@counts
def expert_of_class(seen, *, layer, kind, expert):
    every, E = seen.counts(layer), seen.E[layer]
    table: dict = {}
    for t in seen.recorded(layer):
        row = table.setdefault(class_of(seen.text[t]), [0] * E)
        for e in seen.has(layer, t):
            row[e] += 1
    rows = [
        ((name, e), n / sum(row), sum(row), every[e] / sum(every))
        for name, row in table.items()
        if sum(row)
        for e, n in enumerate(row)
    ]
    found = _beyond(rows, (kind, expert), len(rows), rank=lambda place, share, tries, chance: share / chance)
    lift = found["share"] / found["chance"]
    return {"share": found["share"], "lift": lift, "beyond": found["beyond"], "cells": len(rows)}


def codes_of(seen) -> list:
    return [token if token >= 0 else text for token, text in zip(seen.ids, seen.text, strict=True)]


def _keeping(seen, layer: int, codes: list) -> dict:
    """Of each token that occurs often enough, its main expert and the share that goes there."""
    found, rows = {}, seen.recorded(layer)
    for code in set(codes):
        own = [t for t in rows if codes[t] == code]
        if len(own) >= 10:
            n = [sum(e in seen.has(layer, t) for t in own) for e in range(seen.E[layer])]
            found[code] = (n.index(max(n)), max(n) / len(own), max(n) > 0)
    return found


def _kept_by_chance(seen, layer: int, codes: list, times: int = 40) -> Near:
    dice, rows, means = random.Random(5), seen.recorded(layer), []
    for _ in range(times):
        own = [codes[t] for t in rows]
        dice.shuffle(own)
        dealt = list(codes)
        for t, code in zip(rows, own, strict=True):
            dealt[t] = code
        shares = [part for _, part, _ in _keeping(seen, layer, dealt).values()]
        means.append(sum(shares) / len(shares))
    return near(means, 20)


def _clearly(shares: dict, chance: dict, clear: int) -> None:
    """How many shares are a fifth above chance, as far as that is known."""
    sure, may = (
        sum(shares[at] >= 1.2 * (chance[at].value + sign * chance[at].slack) for at in shares) for sign in (1, -1)
    )
    check(sure <= clear <= may, f"clear are {sure} to {may}")


@counts
def keeping_of_layer(seen, *, layer, clear):
    codes = codes_of(seen)
    kept = {one: [p for _, p, _ in _keeping(seen, one, codes).values()] for one in seen.some()}
    shares = {one: sum(of) / len(of) for one, of in kept.items() if len(of) >= 5}
    chance = {one: _kept_by_chance(seen, one, codes) for one in shares}
    _clearly(shares, chance, clear)
    check(layer in shares, "it has too few such tokens")
    above = {at: p for at, p in shares.items() if p >= 1.2 * (chance[at].value + chance[at].slack) or at == layer}
    highest(above, layer)
    return {"share": shares[layer], "shuffled": chance[layer], "layers": len(seen.some())}


@counts
def keeping_of_expert(seen, *, layer, expert, clear):
    codes, own = codes_of(seen), {}
    for main, part, some in _keeping(seen, layer, codes).values():
        if some:
            own.setdefault(main, []).append(part)
    shares = {e: sum(of) / len(of) for e, of in own.items() if len(of) >= 5}
    chance = _kept_by_chance(seen, layer, codes)
    _clearly(shares, dict.fromkeys(shares, chance), clear)
    highest(shares, expert)
    return {"share": shares[expert], "shuffled": chance, "experts": seen.E[layer]}


# ---- who takes a word -----------------------------------------------------------------------------------------------


def _tokens_of(seen, word: str) -> tuple[set[int], str]:
    """The tokens of a word as it stands in the texts, and what they are called."""
    if word in ("digits", "punctuation"):
        return {t for t in range(seen.T) if class_of(seen.text[t]) == word}, f"that are {word}"
    text, owner = "", []
    for t in range(seen.T):
        if t and seen.sequence[t] != seen.sequence[t - 1]:
            text, owner = text + "\0", [*owner, None]
        piece = "\0" if class_of(seen.text[t]) == "special" else seen.text[t]
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
    """An expert's part of the weight of some tokens, each token's summing to 1; of the tokens without weights."""
    one, total = seen.layers.index(layer), 0.0
    for t in rows:
        row = seen.slots[layer][t]
        if seen.trace.weights is None:
            total += row.count(expert)
            continue
        weights = [abs(float(w)) if e >= 0 else 0.0 for e, w in zip(row, seen.trace.weights[one, t], strict=True)]
        total += sum(w for e, w in zip(row, weights, strict=True) if e == expert) / max(sum(weights), 1e-12)
    return total / max(len(rows), 1)


def _gains(seen, hits):
    def gain(one: int, e: int) -> float:
        rows = [t for t in seen.recorded(one) if t in hits]
        p, n, z = min(_weight_of(seen, one, e, rows), 1), len(rows), 1.64
        low = (p + z * z / (2 * n) - z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n) if n else 0
        return low - _weight_of(seen, one, e, seen.recorded(one))

    return {(one, e): gain(one, e) for one in seen.layers for e in range(seen.E[one])}


@counts
def word_not_found(seen, word):
    check(not _tokens_of(seen, word)[0], "it is there")
    return {"word": word}


@counts
def word_is_rare(seen, word):
    hits, what = _tokens_of(seen, word)
    check(0 < len(hits) < HANDFUL, len(hits))
    return {"what": what, "tokens": len(hits)}


@counts
def nobody_takes(seen, word):
    hits, what = _tokens_of(seen, word)
    check(max(_gains(seen, hits).values()) <= 0.05 + 1e-6, "some expert takes clearly more")
    return {"what": what, "tokens": len(hits)}


@counts
def taker(seen, word, *, layer, expert):
    hits, what = _tokens_of(seen, word)
    highest(_gains(seen, hits), (layer, expert))
    rows = [t for t in seen.recorded(layer) if t in hits]
    took = sum(expert in seen.has(layer, t) for t in rows)
    weight = None if seen.trace.weights is None else _weight_of(seen, layer, expert, rows)
    usual = _weight_of(seen, layer, expert, seen.recorded(layer))
    return {"tokens": took, "of": len(rows), "what": what, "weight": weight, "usual": usual}


# ---- one expert -----------------------------------------------------------------------------------------------------


@counts
def needed_by(seen, layer, expert, losses, *, least, idle):
    rows, part = seen.recorded(layer), {}
    uniform = sum(len(seen.has(layer, t)) for t in rows) / max(len(rows), 1) / seen.E[layer]
    check((least, idle) == (0.05, 0.005), "other limits")
    for kind in losses:
        own = [t for t in rows if seen.label[t] == kind]
        part[kind] = sum(expert in seen.has(layer, t) for t in own) / len(own) if own else nan
    most = sorted((kind for kind in losses if losses[kind] > least), key=lambda kind: -losses[kind])
    free = [kind for kind in losses if losses[kind] < idle and part[kind] / uniform >= 2] if uniform else []
    free.sort(key=lambda kind: (-part[kind], -losses[kind]))
    needed = [(kind, float(losses[kind])) for kind in most[:3]]
    return {
        "needed": needed,
        "others": max(len(most) - 3, 0),
        "taken": [(kind, part[kind]) for kind in free[:3]],
    }


def _own(seen, layer, expert):
    rows = seen.recorded(layer)
    return rows, [t for t in rows if expert in seen.has(layer, t)]


@counts
def not_recorded_here(seen, layer, expert):
    check(not seen.recorded(layer), "tokens are recorded")
    return {}


@counts
def too_short(seen, layer, expert):
    rows, own = _own(seen, layer, expert)
    check(0 < len(rows) < HANDFUL, len(rows))
    return {"has": len(own), "recorded": len(rows)}


@counts
def takes_nothing(seen, layer, expert):
    rows, own = _own(seen, layer, expert)
    check(not own and len(rows) >= HANDFUL, len(own))
    return {"recorded": len(rows)}


@counts
def takes_everything(seen, layer, expert):
    rows, own = _own(seen, layer, expert)
    check(own == rows and len(rows) >= HANDFUL, len(own))
    return {"recorded": len(rows)}


@counts
def nothing_stands_out(seen, layer, expert):
    if seen.label is None:
        return {"kinds": False, "judged": False}
    texts = {(seen.label[t], seen.sequence[t]) for t in range(seen.T)}
    kinds = {seen.label[t] for t in seen.recorded(layer)}
    return {"kinds": True, "judged": len(texts) > len({*seen.label}) and len(kinds) > 1}


@counts
def stands_out(seen, layer, expert, *, kinds, tokens):
    rows, own = _own(seen, layer, expert)
    uniform = sum(len(seen.has(layer, t)) for t in rows) / len(rows) / seen.E[layer]
    check(kinds or tokens, "nothing does")
    for kind in kinds:
        like = [t for t in rows if seen.label[t] == kind.kind]
        share = sum(t in own for t in like) / max(len(like), 1)
        texts = {seen.sequence[t] for t in range(seen.T) if seen.label[t] == kind.kind}
        check(agree(kind, (kind.kind, share, len(like), len(texts))), f"{kind}: {share}")
        check(share >= 1.5 * uniform - 1e-9, "not much")
    codes = codes_of(seen)
    for token in tokens:
        like = {codes[t] for t in range(seen.T) if seen.text[t] == token.text}
        found = [(sum(codes[t] == c for t in own), sum(codes[t] == c for t in rows)) for c in like]
        check((token.tokens, token.of) in found and token.tokens >= 0.9 * token.of - 1e-9, f"{token}: {found}")
    return {"uniform": uniform if seen.label is not None else nan}


# ---- placement and serving ------------------------------------------------------------------------------------------


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


def device_load(planned: list[int], judged: list[int], devices: int, plan: str) -> float:
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


def _held_out(seen, plan: str) -> dict[int, float]:
    """Load of the busiest device on tokens that the plan was not made from, by layer."""
    found = {}
    for layer in seen.some():
        planned, judged = halves(seen, layer)
        found[layer] = device_load(planned, judged, usual_devices(len(planned)), plan)
    return {layer: load for layer, load in found.items() if load == load}


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


@counts
def balanced_devices(seen):
    plain, balanced = (_held_out(seen, plan) for plan in ("in order", "balanced"))
    loads = {"before": mean(plain.values()), "after": mean(balanced.values()), "layers": len(plain)}
    lower, higher = (sum(sign * (plain[one] - balanced[one]) > 0 for one in plain) for sign in (1, -1))
    return loads | {"lower": lower, "higher": higher}


def _mean_loads(seen) -> dict[str, float]:
    plans = {"in_order": "in order", "balanced": "balanced", "copies": "copies"}
    return {name: mean(_held_out(seen, plan).values()) for name, plan in plans.items()}


@counts
def balanced_or_copied(seen):
    return _mean_loads(seen)


@counts
def busiest_device(seen):
    numbers, reached = [], []
    for layer in seen.some():
        planned, _ = halves(seen, layer)
        devices, rows = usual_devices(len(planned)), seen.recorded(layer)
        plan, rows = packed(planned, devices), rows[len(rows) // 2 :]
        hit = [len({plan[e] for e in seen.has(layer, t) if e < len(planned)}) for t in rows]
        numbers.append(devices)
        reached.append(mean(hit))
    return _mean_loads(seen) | {"devices": min(numbers), "most_devices": max(numbers), "reached": mean(reached)}


@counts
def batch_needs(seen, *, batch):
    found, even = [], []
    for layer in seen.some():
        follows, computing = dict(seen.neighbours(layer)), seen.E[layer] - seen.model.zero_experts
        windows, rows = [], seen.recorded(layer)
        for at in range(len(rows)):
            window = rows[at : at + batch]
            if len(window) == batch and all(follows.get(a) == b for a, b in pairwise(window)):
                windows.append(len({e for w in window for e in seen.has(layer, w) if e < computing}))
        if windows:
            found.append(mean(windows))
            even.append(computing * (1 - (1 - min(seen.K / computing, 1)) ** batch))
    check(bool(found), "no layer has so many tokens in a row")
    return {"needed": mean(found), "chance": mean(even)}


def _hits(seen, size: int) -> dict[str, float]:
    """Hit rates of a cache of this size per layer on the second half of the tokens; layers weigh by requests."""
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


@counts
def recency_or_popularity(seen, *, capacity):
    rates = _hits(seen, capacity)
    return {"recent": rates["lru"], "popular": rates["static"], "chance": rates["chance"]}


def _budget(seen, memory, bytes_each, capacity) -> dict:
    sizes = [seen.E[layer] - seen.model.zero_experts for layer in seen.layers]
    needed = [sum(min(n, one) for one in sizes) * bytes_each for n in range(max(sizes) + 1)]
    fits = max(n for n, of in enumerate(needed) if of <= memory * (1 + 1e-9))
    check(capacity == fits, f"{fits} fit")
    return {"memory": memory, "fewest": min(sizes), "most": max(sizes)}


@counts
def all_held(seen, memory, bytes_each):
    needed = sum(seen.E[layer] - seen.model.zero_experts for layer in seen.layers) * bytes_each
    check(memory >= needed * (1 - 1e-9), "they do not fit")
    return {"memory": memory, "needed": needed}


@counts
def less_than_a_token(seen, memory, bytes_each, *, capacity):
    least = sum(min(seen.K, seen.E[layer] - seen.model.zero_experts) for layer in seen.layers) * bytes_each
    return _budget(seen, memory, bytes_each, capacity) | {"needed": least}


@counts
def hits_unknown(seen, memory, bytes_each, *, capacity):
    check("lru" not in _hits(seen, capacity), "it is known")
    return _budget(seen, memory, bytes_each, capacity)


@counts
def lru_hits(seen, memory, bytes_each, *, capacity, bound):
    rates, asked = _hits(seen, capacity), 0.0
    for layer in seen.some():
        computing, rows = seen.E[layer] - seen.model.zero_experts, seen.recorded(layer)
        asked += mean(sum(e < computing for e in seen.has(layer, t)) for t in rows)
    check(rates["lru"] - 1e-9 <= bound <= 1 + 1e-9, "no bound")
    numbers = {"hits": rates["lru"], "chance": rates["chance"], "fetched": (1 - rates["lru"]) * asked * bytes_each}
    return _budget(seen, memory, bytes_each, capacity) | numbers


# ---- several traces -------------------------------------------------------------------------------------------------


def _stay(seen) -> dict:
    (layer,) = seen.layers
    firsts = {t: seen.first(layer, t) for t in seen.recorded(layer) if seen.has(layer, t)}
    follows = {
        b
        for a, b in pairwise(range(seen.T))
        if (seen.sequence[a], seen.position[a] + 1) == (seen.sequence[b], seen.position[b])
    }
    couples = [(a, b) for a, b in pairwise(range(seen.T)) if a in firsts and b in firsts and b in follows]
    two = list(combinations(firsts.values(), 2))
    chance = sum(a == b for a, b in two) / len(two) * len(couples) if couples else 0.0
    numbers = {"stay": sum(firsts[a] == firsts[b] for a, b in couples), "pairs": len(couples), "chance": chance}
    return numbers | {"used": len(set(firsts.values())), "experts": seen.E[layer]}


@counts
def used_first(seen):
    found = _stay(seen)
    check(abs(found["stay"] - found["chance"]) <= 0.5 + 1e-9, "more or fewer than in random order")
    return {"used": found["used"], "experts": found["experts"]}


@counts
def staying(seen):
    found = _stay(seen)
    check(abs(found["stay"] - found["chance"]) >= 0.5 - 1e-9, "as many as in random order")
    return found


@counts
def changed_choices(mine, theirs, word):
    """Of two readings whose tokens are the same but for the one in row `word`."""
    changed, compared, before = {}, {}, 0
    for layer in mine.layers:
        rows = [t for t in set(mine.recorded(layer)) & set(theirs.recorded(layer)) if t != word]
        differ = [t for t in rows if mine.first(layer, t) != theirs.first(layer, t)]
        changed[layer], compared[layer] = len(differ), len(rows)
        before += sum(t < word for t in differ)
    most = [one for one, n in changed.items() if n and n == max(changed.values())]
    layer = most[0] if len(most) == 1 and sum(n > 0 for n in compared.values()) > 1 else None
    numbers = {"changed": sum(changed.values()), "of": sum(compared.values()), "before": before}
    return numbers | {"layer": layer, "most": changed.get(layer, 0), "of_layer": compared.get(layer, 0)}


@counts
def choices_moved(mine, theirs, asked):
    """Of two readings of one text; `asked` are experts that a change is about, and what it adds to their scores."""
    rows = {at: [t for t in mine.recorded(at) if t in set(theirs.recorded(at))] for at in mine.layers}
    moved = {at: sum({*mine.has(at, t)} != {*theirs.has(at, t)} for t in rows[at]) for at in mine.layers}
    of = sum(map(len, rows.values()))
    numbers = {"moved": sum(moved.values()), "of": of, "layers": [(at, n) for at, n in moved.items() if n]}
    return numbers | {"nearest": None if numbers["moved"] else _nearest(mine, rows, asked)}


def _nearest(seen, rows, asked):
    found = []
    for layer in seen.layers:
        about = dict.fromkeys(range(seen.E[layer]), 0.0) if asked is None else asked.get(layer, {})
        for t in rows[layer] if about else ():
            if seen.trace.logits is None or (any(about.values()) and seen.model.score_function != "softmax"):
                return None
            logits = seen.trace.logits[seen.layers.index(layer), t].astype(float).tolist()[: seen.E[layer]]
            own = {*seen.has(layer, t)}
            others = {*range(seen.E[layer])} - own
            if own and others and min(logits[e] for e in own) < max(logits[e] for e in others):
                return None
            now = [score + about.get(e, 0.0) for e, score in enumerate(logits)]
            for e, amount in about.items():
                if e in own and amount <= 0 and others:
                    found.append((now[e] - max(now[o] for o in others), layer, e, seen.text[t], True))
                elif e in others and amount >= 0 and own:
                    found.append((min(now[o] for o in own) - now[e], layer, e, seen.text[t], False))
    if not found or min(found)[0] == float("inf"):
        return None
    gap = min(found)[0]
    return OneOf([(layer, e, text, chosen, apart) for apart, layer, e, text, chosen in found if apart <= gap + 1e-9])


@counts
def other_texts(traces):
    texts = [(one.sequence, one.text) for one in traces.values()]
    check(any(each != texts[0] for each in texts), "they are of the same tokens")
    return {}


def _of_each(figures, counted: dict) -> dict:
    check([one.trace for one in figures] == [*counted], f"of each of {[*counted]}")
    for one in figures:
        check(agree((one.value, one.chance, one.most), counted[one.trace]), f"{one}: {counted[one.trace]}")
    return {}


@counts
def bits_of_labels(traces, *, figures):
    # What shuffled labels give is counted with each layer's own claim.
    chance = {one.trace: one.chance for one in figures}
    told = {name: list(informed(one).values()) for name, one in traces.items() if len({*(one.label or ())}) > 1}
    return _of_each(figures, {name: (mean(of), chance.get(name), nan) for name, of in told.items() if of})


@counts
def busiest_of_several(traces, *, figures):
    found = {}
    for name, one in traces.items():
        if layers := [at for at in one.some() if sum(one.counts(at))]:
            means, slack = zip(*(busiest_at_random(one, at) for at in layers), strict=True)
            found[name] = mean(max(one.times(at)) for at in layers), Near(mean(means), max(slack)), nan
    return _of_each(figures, found)


@counts
def sets_of_several(traces, *, figures):
    found = {}
    for name, one in traces.items():
        number, possible, chance = [], [], []
        for at in one.some():
            rows = [frozenset(one.has(at, t)) for t in one.recorded(at)]
            full = [row for row in rows if len(row) == max(map(len, rows))]
            number.append(len(set(full)))
            possible.append(comb(one.E[at], len(full[0])))
            chance.append(float(possible[-1] * (1 - (1 - Fraction(1, possible[-1])) ** len(full))))
        found[name] = mean(number), mean(chance), mean(possible)
    return _of_each(figures, found)


def busiest_at_random(seen: Seen, layer: int) -> tuple[float, float]:
    """The busiest expert of a uniform load, times the mean; and how far 50 draws may be from it."""
    tokens, E, work = len(seen.recorded(layer)), seen.E[layer], sum(seen.counts(layer))
    mean = work / E
    highest = np.random.default_rng(9).binomial(tokens, mean / tokens, (400, E)).max(axis=1) / mean
    return float(highest.mean()), float(5 * highest.std() * sqrt(1 / 50 + 1 / 400))


def _repetition(traces, figures) -> dict[str, float]:
    found = {}
    for name, one in traces.items():
        layers, loads = [], []
        for at in one.some() if one.ordered else ():
            pairs = [(a, b) for a, b in one.neighbours(at) if one.has(at, a) and one.has(at, b)]
            if pairs and one.E[at] > 1:
                part = sum(one.first(at, a) == one.first(at, b) for a, b in pairs) / len(pairs)
                layers.append((part - 1 / one.E[at]) / (1 - 1 / one.E[at]))
                firsts = [one.first(at, t) for t in one.recorded(at) if one.has(at, t)]
                twice = sum((firsts.count(e) / len(firsts)) ** 2 for e in set(firsts))
                loads.append((twice - 1 / one.E[at]) / (1 - 1 / one.E[at]))
        if layers:
            found[name] = mean(layers), mean(loads), nan
    _of_each(figures, found)
    return {name: of[0] for name, of in found.items()}


@counts
def repetition_alike(traces, *, figures):
    _repetition(traces, figures)
    return {}


@counts
def repetition(traces, *, figures, most, least):
    beyond = _repetition(traces, figures)
    highest(beyond, most)
    highest({name: -value for name, value in beyond.items()}, least)
    return {}


# ---- balance compared with chance, and a verdict on placement -------------------------------------------------------


def luck(tokens: int, chance: float, rare: float) -> tuple[int, int]:
    """The fewest and the most of so many tokens, each side passed in half of `rare` cases."""
    if not 0 < chance < 1 or not tokens:
        return round(tokens * chance), round(tokens * chance)
    each = [comb(tokens, n) * chance**n * (1 - chance) ** (tokens - n) for n in range(tokens + 1)]
    low = next(n for n in range(tokens + 1) if sum(each[: n + 1]) > rare / 2)
    return low, next(n for n in range(tokens, -1, -1) if sum(each[n:]) > rare / 2)


def cells_by_chance(seen: Seen, grouped: bool) -> list[dict]:
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


@counts
def nothing_counted(seen, grouped):
    check(not cells_by_chance(seen, grouped), "tokens were counted")
    return {}


def _clear(seen, grouped):
    cells = cells_by_chance(seen, grouped)
    own = [cell for cell in cells if cell["part"] is not None] or cells
    return cells, own, [cell for cell in own if cell["clear"]]


@counts
def even_load(seen, grouped):
    _, own, clear = _clear(seen, grouped)
    check(not clear, f"{len(clear)} are beyond chance")
    return {"tokens": max(cell["of"] for cell in own)}


@counts
def uneven_load(seen, grouped, *, most, least):
    cells, _, clear = _clear(seen, grouped)
    top, bottom = (end(cell["times"] for cell in clear) for end in (max, min))
    degree = "No" if top >= 2 or not bottom else "Not quite" if top >= 1.5 or bottom <= 0.5 else "Nearly"
    for holder, times, there in ((most, top, top > 1), (least, bottom, bottom < 1)):
        check((holder is not None) == there, "who is named?")
        places = [(c["part"] or "", c["layer"], c["expert"]) for c in clear if agree(times, c["times"])]
        check(holder is None or (tuple(holder[:3]) in places and agree(holder.times, times)), f"{times} at {places}")
    together = max(cell["times"] for cell in cells if cell["part"] is None)
    hidden = top >= 1.5 and together - 1 < (top - 1) / 2
    return {"degree": degree, "empty": sum(not c["n"] for c in clear), "together": together if hidden else None}


@counts
def random_load(seen, grouped):
    cells = cells_by_chance(seen, grouped)
    tokens, ends = [cell["of"] for cell in cells], [(cell["low"], cell["high"]) for cell in cells]
    numbers = {"fewest": min(tokens), "tokens": max(tokens), "beyond": sum(cell["clear"] for cell in cells)}
    return numbers | {"low": min(ends)[0], "high": max(high for _, high in ends), "experts": len(cells)}


@counts
def load_at_layer(seen, grouped, *, layer):
    every = cells_by_chance(seen, grouped)
    cells = [cell for cell in every if cell["part"] is None and cell["layer"] == layer]
    together = any(cell["part"] is not None for cell in every)
    clear = [(cell["times"], cell["expert"]) for cell in cells if cell["clear"]]
    much = [(expert, times) for times, expert in sorted(clear, key=lambda pair: (-pair[0], pair[1])) if times >= 1.5]
    little = [(expert, times) for times, expert in sorted(clear) if 0 < times <= 0.5]
    found = {"experts": len(cells), "together": together, "much": much, "little": little}
    return found | {"empty": sum(not times for times, _ in clear)}


@counts
def load_elsewhere(seen, other, *, layer, expert):
    clear = [cell for cell in cells_by_chance(seen, False) if cell["clear"] and cell["times"] > 1]
    highest({(cell["layer"], cell["expert"]): cell["times"] for cell in clear}, (layer, expert))
    return {"tokens": len(other.recorded(layer)), "times": other.times(layer)[expert]}


@counts
def one_expert_per_device(seen, devices, enough):
    experts = max(seen.E.values()) - seen.model.zero_experts
    check(experts == devices, "there are more")
    return {"experts": experts, "devices": devices}


def _choices(seen, devices) -> float:
    ways = halves_of_windows(seen)
    return min(sum(side) / devices for of in ways for both in of.values() for side in both)


@counts
def few_choices_per_device(seen, devices, enough):
    check(_choices(seen, devices) < enough, "there are enough")
    return {"choices": Near(_choices(seen, devices), 0.5), "needed": enough}


@counts
def placement_trial(seen, asked, enough, *, verdict, worth, needed):
    check(_choices(seen, asked) >= enough and (worth, needed) == (0.05, 30), "there is too little evidence")
    ways = [of for of in halves_of_windows(seen) if of]
    changes, drawn, again, beaten = [], [], [], []
    for of, way in ((of, way) for of in ways for way in (1, -1)):
        pairs = {layer: both[::way] for layer, both in of.items()}
        loads = [sum(device_load(*both, asked, plan) for both in pairs.values()) for plan in ("in order", "balanced")]
        lots = sorted(
            sum(
                device_load(*[[both[1][e] for e in at_random(seen, layer, draw)]] * 2, asked, "in order")
                for layer, both in pairs.items()
            )
            for draw in range(20)
        )
        changes.append(loads[1] / loads[0] - 1)
        drawn.append(mean(lots) / loads[0] - 1)
        again.append(mean(busy_again(*both) for both in pairs.values()))
        beaten.append(loads[1] < lots[1])
    chance = mean(max(len(both[0]) // 4, 1) / len(both[0]) for both in ways[0].values())
    stretches = independent_windows(seen)
    good = all(beaten) and min(again) > chance and (stretches is None or stretches >= needed)
    right = (
        "Worth a trial"
        if max(changes) <= -0.05 and good
        else "Not now"
        if min(changes) > -0.05
        else "Too little evidence"
    )
    on_the_edge = any(abs(change + 0.05) < 1e-9 for change in changes) or abs(min(again) - chance) < 1e-9
    check(verdict == right or on_the_edge, f"it is {right}: {changes} {again}")
    ends = {"least": min(changes), "most": max(changes), "stretches": stretches, "at_random": mean(drawn)}
    return ends | {"devices": asked, "kept": min(again), "chance": chance}


def windows_of(seen, layer) -> dict[int, int]:
    """The window of each recorded token."""
    rows = seen.recorded(layer)
    if len(set(seen.sequence)) < 8:
        return {t: at * min(16, len(rows)) // len(rows) for at, t in enumerate(rows)}
    own = sorted({seen.sequence[t] for t in rows})
    return {t: own.index(seen.sequence[t]) for t in rows}


def halves_of_windows(seen):
    """The counts of each layer in two sets of windows: halves of time, half of each four."""
    ways = [{} for _ in range(4)]
    for layer in seen.some():
        window = windows_of(seen, layer)
        number = max(window.values()) + 1
        sets = [{w for w in range(number) if w < number // 2}]
        sets += [{w for w in range(number) if w % 4 in (0, other)} for other in (1, 2, 3) if number >= 8]
        for of, some in zip(ways, sets, strict=False):
            both = halves(seen, layer, {t for t in window if window[t] in some})
            if any(both[0]) and any(both[1]):
                of[layer] = both
    return ways


def independent_windows(seen) -> float | None:
    """All windows over the time for which they are alike; None if no more than in a hundred random orders."""
    of_layers = []
    for layer in seen.some():
        window, experts = windows_of(seen, layer), range(seen.E[layer] - seen.model.zero_experts)
        counted = [[0] * len(experts) for _ in range(max(window.values()) + 1)]
        for t, w in window.items():
            for e in seen.has(layer, t):
                if e in experts:
                    counted[w][e] += 1
        share = [sum(of[e] for of in counted) / max(sum(map(sum, counted)), 1) for e in experts]
        scale = [sqrt(max(sum(of), 1)) for of in counted]
        apart = [[(of[e] - sum(of) * share[e]) / by for e in experts] for of, by in zip(counted, scale, strict=True)]
        of_layers.append([[sum(map(mul, one, other)) for other in apart] for one in apart])
    number = min(map(len, of_layers), default=0)
    length, first = 1.0, None
    for lag in range(1, number // 2 if number >= 8 else 0):
        found = [0.0] * 101
        for alike in of_layers:
            orders = [range(len(alike)), *(np.random.default_rng(n).permutation(len(alike)) for n in range(100))]
            for n, order in enumerate(orders):
                found[n] += mean(alike[one][other] for one, other in zip(order, order[lag:], strict=False))
        if found[0] <= max(*found[1:], 0) * (1 + 1e-9):
            break
        first = first or found[0]
        length += 2 * found[0] / first
    return number / length if first else None


def at_random(seen, layer, draw):
    """Twenty placements are drawn with these seeds."""
    row = seen.model.layers.index(layer)
    return np.random.default_rng((draw, row)).permutation(seen.E[layer] - seen.model.zero_experts).tolist()


def busy_again(one: list[int], other: list[int]) -> float:
    """Of the busiest quarter of experts, lower ids first among equals, the share that is so again."""
    most = max(len(one) // 4, 1)
    first, second = (set(sorted(range(len(of)), key=lambda e: (-of[e], e))[:most]) for of in (one, other))
    return len(first & second) / most
