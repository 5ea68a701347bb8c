"""What pages write of a trace, read back from their words and counted again from the arrays (see `recount.py`)."""

import re
from collections.abc import Callable

from recount import Refuted, Seen, all_and_active
from recount import check as claim

PCT = r"(over 99%|under 1%|\d+%)"
NUMBER = r"([\d.,]+)"
SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


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


def shown(text: str) -> str:
    """A token as the strip shows it."""
    inside = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inside else len(text)
    after = len(text) - len(text.rstrip(" ")) if inside else 0
    return "␣" * before + "".join(SHOWN.get(c, c) if c != " " else c for c in inside) + "␣" * after or "∅"


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


def check_name(said: list[str], trace) -> None:
    """The line above a trace's facts; and that it is too short, once and where it is."""
    seen = Seen(trace)
    found = re.match(rf"{NUMBER} ([a-z ]+?)(s?) through ", said[0])
    claim(found is not None, f"cannot be read: {said[0]!r}")
    whole(found[1], seen.T, "tokens")
    claim((found[3] == "s") == (seen.T != 1), "one, or several")
    short = [line for line in said if "too little" in line]
    claim(len(short) == (0 < seen.T < 8), f"{seen.T} tokens")


def check_shape(sentence: str, trace) -> None:
    """Check the layers and experts in the subject bar."""
    seen = Seen(trace)
    found = re.fullmatch(r"(\d+) ([a-z ]+?)(s?) × (\d+)(?:–(\d+))? experts, (\d+) per ([a-z ]+)", sentence)
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
        total, active, _, _ = all_and_active(seen)
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
