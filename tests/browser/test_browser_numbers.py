"""Numbers in the explorer's sentences, counted again from the arrays, whatever the words and their order."""

import math
import random
import re
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from random_traces import of_the_same_tokens, random_trace
from recount import HANDFUL, Refuted, Seen
from recount import check as claim

import moeviz_app
from moeviz.metrics.tokens import visible
from moeviz.next_tokens import NEXT, NextTokens
from moeviz_app.widgets.components import base64
from moeviz_app.widgets.components.explorer import _scores, packed_next, packed_strip

pytestmark = pytest.mark.browser
WIDGETS = Path(moeviz_app.__file__).parent / "widgets" / "components"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
QUOTED = re.compile(r"“.*?”", re.DOTALL)
SCORE = 2 / 65535  # a score as it is sent to a browser
CARDS = """(given) => given.map(({ data, places }) => {
  const trace = new Trace(data);
  const card = Object.create(Card.prototype);
  return places.map(([layer, token]) => Object.assign(card, { explorer: { trace, layer, token } }).told());
})"""
COUNTED = """(given) => given.map(({ data, places }) => {
  const trace = new Trace(data);
  return places.map(([layer, window]) => {
    const said = trace.layerSentence(layer, window);
    return said && said.before + said.said + said.after;
  });
})"""
OF_NEXT = """(given) => given.map(({ data, places }) => {
  const trace = new Trace(data);
  const say = (mutes) => (token) => {
    const explorer = { trace, token, mutes, canMute: true, isWaiting: () => false };
    return Object.assign(Object.create(Next.prototype), { explorer }).told();
  };
  const plain = places.map(say([]));
  trace.mute(data.muted);
  return [plain, places.map(say(trace.mutes))];
})"""


@pytest.fixture(scope="module")
def told(browser):
    """Run a function of the page's own scripts on traces and places in them."""
    page = browser.new_page()
    scripts = [(WIDGETS / f"explorer_{name}.js").read_text("utf-8") for name in ("parts", "trace", "card", "next")]
    page.add_script_tag(content="\n".join(scripts))
    yield lambda how, data, places: page.evaluate(how, [{"data": data, "places": places}])[0]
    page.close()


def agrees(words: str, expected: list) -> bool:
    """Whether a sentence has these numbers, besides those in quoted tokens: exact ones, and pairs with a slack."""
    left = [float(n.replace(",", "")) for n in NUMBER.findall(QUOTED.sub("", words))]
    if len(left) != len(expected):
        return False
    for value, slack in sorted((one if isinstance(one, tuple) else (one, 0.0) for one in expected), key=itemgetter(1)):
        nearest = min(left, key=lambda n: abs(n - value))
        if abs(nearest - value) > slack + 1e-4:
            return False
        left.remove(nearest)
    return True


def agree(words: str, expected: list) -> None:
    claim(agrees(words, expected), f"{words!r}: {expected}")


def percent(p: float) -> tuple[float, float]:
    """A share in percent, as pages round it: under 1 and over 99 are said so."""
    return (1.0, 0.0) if 0 < p < 0.005 else (99.0, 0.0) if 0.995 <= p < 1 - 1e-6 else (100 * p, 0.5)


def check_card(words: str, trace, layer: int, token: int) -> None:
    seen = Seen(trace)
    own, E = seen.has(layer, token), seen.E[layer]
    if not own:
        return agree(words, [layer])
    expected = [layer, *(own if len(own) < E else ()), *[E] * (E > 1)]
    if trace.weights is not None:
        row = zip(seen.slots[layer][token], trace.weights[seen.layers.index(layer), token].tolist(), strict=True)
        mine = [w for e, w in row if e >= 0]
        mine = mine if len(mine) <= 8 else [mine[0], mine[-1]]
        expected += [(w, 0.005) if "×" in words else percent(w) for w in mine]
    if empty := min(seen.K, E) - len(own):
        expected += [empty, min(seen.K, E)]
    expected += [e for e in own if e >= E - seen.model.zero_experts]
    if trace.logits is None or seen.model.score_function == "unknown" or len(own) == E:
        return agree(words, expected)
    least = min(gap(seen.has(at, t), scores) for at in seen.layers for t, scores in enumerate(seen.probabilities(at)))
    scores = seen.probabilities(layer)[token]
    points, rest = 100 * gap(own, scores), [e for e in range(E) if e not in own]
    last = [e for e in own if scores[e] < min(scores[one] for one in own) + SCORE]
    best = [e for e in rest if scores[e] > max(scores[one] for one in rest) - SCORE]
    edge = (0.1, 0.0) if points < 0.1 else (points, (0.05 if points < 2 else 0.5) + 200 * SCORE)
    among = [[*expected, one, other, edge] for one in best for other in last] if least > -SCORE else []
    among += [expected] if least < SCORE else []  # something besides scores decides; where rounding does, either
    if not any(agrees(words, one) for one in among):
        raise Refuted(f"{words!r}: {among}")
    return None


def gap(chosen: list[int], scores: list[float]) -> float:
    """Distance of the lowest score of the chosen from the highest of the others."""
    rest = [p for e, p in enumerate(scores) if e not in chosen]
    return min((scores[e] for e in chosen), default=1.0) - max(rest, default=0.0)


def said_by_cards(told, seeds):
    for seed in seeds:
        trace, dice = random_trace(seed), random.Random(seed)
        L, T, _ = trace.experts.shape
        places = [[dice.randrange(L), dice.randrange(T)] for _ in range(10)]
        said = told(CARDS, packed_strip(trace) | {"scores": _scores(trace)}, places)
        for (row, token), words in zip(places, said, strict=True):
            yield words, partial(check_card, trace=trace, layer=trace.model.layers[row], token=token)


def check_counted(words: str | None, trace, layer: int, texts: list[str], window: list[int]) -> None:
    """What most tokens of the strip show at a layer, and the longest run of it."""
    seen, (start, end) = Seen(trace), window
    shows = {t: (seen.has(layer, t)[:1] if seen.ordered else seen.has(layer, t)) for t in range(start, end)}
    recorded = sum(seen.first(layer, t) != -2 for t in shows)
    counts = [sum(e in own for own in shows.values()) for e in range(seen.E[layer])]
    claim((words is None) == (recorded < HANDFUL or counts.count(max(counts)) > 1), f"{recorded} tokens, {counts}")
    if words is None:
        return
    expert, runs, before = counts.index(max(counts)), [[]], None
    if counts[expert] == recorded:
        return agree(words, [layer, expert, recorded])
    for t in shows:
        place = seen.sequence[t], seen.position[t]
        if before != (place[0], place[1] - 1) or expert not in shows[t]:
            runs.append([])
        if expert in shows[t]:
            runs[-1].append(t)
        before = place
    longest = max(runs, key=len)
    agree(words, [layer, expert, counts[expert], recorded, *[len(longest)] * (len(longest) > 2)])
    if len(longest) > 2:
        claim(all(f"“{texts[t]}”" in words for t in (longest[0], longest[-1])), f"the ends of {longest}")


def said_under_strips(told, seeds):
    for seed in seeds:
        trace, dice = random_trace(seed), random.Random(seed)
        (L, T, _), places = trace.experts.shape, []
        for _ in range(3):
            start = dice.choice([0, dice.randrange(T)])
            places.append([dice.randrange(L), [start, dice.randrange(start + 1, T + 1) if start else T]])
        data = packed_strip(trace)
        for (row, window), words in zip(places, told(COUNTED, data, places), strict=True):
            layer = trace.model.layers[row]
            yield words, partial(check_counted, trace=trace, layer=layer, texts=data["texts"], window=window)


def likely(trace, dice: np.random.Generator) -> NextTokens:
    """Next tokens after each token, among them some that do come; now and then sure, or nearly none likely."""
    T, texts = len(trace.tokens), [*list(dict.fromkeys(trace.tokens["text"]))[:8], "a", " b", "ä", "\n", "0", "x y"]
    ids = np.stack([dice.permutation(len(texts))[:NEXT] for _ in range(T)]).astype(np.int32)
    p = -np.sort(-dice.dirichlet(np.full(NEXT + 1, dice.choice([0.02, 0.3, 3.0])), T)[:, :NEXT], axis=1)
    return NextTokens(tuple(texts), ids, p.astype(np.float32))


def check_next(words: str, trace, texts: list[str], token: int) -> None:
    """The token that does follow, and its share where it is one of the likeliest but not the first."""
    seen, after = Seen(trace), token + 1
    ends = after == seen.T or (seen.sequence[after], seen.position[after]) != (
        seen.sequence[token],
        seen.position[token] + 1,
    )
    known = [(visible(text), p) for text, p in trace.next_tokens.after(token)]
    place = None if ends else next((at for at, (text, _) in enumerate(known) if text == texts[after]), None)
    claim(ends == ("“" not in words) and (ends or f"“{texts[after]}”" in words), f"{words!r}: it goes on otherwise")
    agree(words, [percent(known[place][1])] if place else [])


def check_muted(words: str, trace, muted, token: int) -> None:
    """What became of the likeliest token, and how many first choices are others."""
    seen, now = Seen(trace), Seen(muted)
    before, after = ([(visible(text), p) for text, p in one.next_tokens.after(token)] for one in (trace, muted))
    left = dict(reversed(after)).get(before[0][0])
    fell = (math.floor(100 * after[-1][1]) + 1, 0) if left is None else percent(left)
    moved = sum(seen.first(at, t) != now.first(at, t) for at in seen.layers for t in range(seen.T))
    agree(words, [percent(before[0][1]), fell, *((moved, len(seen.layers) * seen.T) if seen.ordered else ())])
    claim(f"“{before[0][0]}”" in words and (f"“{after[0][0]}”" in words), f"{words!r}: {after[0]} is the likeliest")


def said_of_next(told, seeds):
    for seed in seeds:
        dice = np.random.default_rng(seed)
        trace = random_trace(seed)
        trace = replace(trace, next_tokens=likely(trace, dice))
        changed = of_the_same_tokens(trace, seed + 1).experts.copy()
        T, layers = len(trace.tokens), trace.model.layers
        some = np.flatnonzero((dice.random(T) < 0.3) & (changed[..., -1] >= 0).all(axis=0))
        changed[:, some] = np.roll(changed[:, some], 1, axis=2)  # another first choice
        muted = replace(trace, experts=changed, next_tokens=likely(trace, dice), logits=None)
        mutes = [(int(dice.choice(layers)), int(dice.integers(min(trace.model.num_experts))))]
        tokens = dice.integers(T, size=6).tolist()
        data = packed_strip(trace) | {"next": packed_next(trace.next_tokens)}
        data["muted"] = {"experts": base64(changed, np.int16), "mutes": mutes, "next": packed_next(muted.next_tokens)}
        plain, without_them = told(OF_NEXT, data, tokens)
        for token, words, others in zip(tokens, plain, without_them, strict=True):
            yield words, partial(check_next, trace=trace, texts=data["texts"], token=token)
            yield others, partial(check_muted, trace=trace, muted=muted, token=token)


def refuted(words: str, check) -> str:
    try:
        check(words)
    except Refuted as why:
        return str(why)
    return ""


def changed(words: str):
    """The sentence with each of its numbers, but for those in quoted tokens, in turn another one."""
    quoted = [found.span() for found in QUOTED.finditer(words)]
    for found in NUMBER.finditer(words):
        if not any(start <= found.start() < end for start, end in quoted):
            yield f"{words[: found.start()]}{float(found[0].replace(',', '')) * 1.5 + 3:g}{words[found.end() :]}"


@pytest.mark.parametrize("sentences", [said_by_cards, said_under_strips, said_of_next])
def test_no_sentence_is_refuted_and_each_of_its_numbers_is_counted_again(told, sentences):
    wrong, noticed = [], []
    for words, check in sentences(told, range(0, 1000, 8)):
        wrong += [why] if (why := refuted(words, check)) else []
        noticed += [bool(refuted(other, check)) for other in changed(words or "")]
    assert not wrong, "\n".join(wrong)
    assert len(noticed) > 500 and sum(noticed) > 0.97 * len(noticed), "a number that is another one is seen"
