"""The history as one story: one network, and seven systems, each with an answer to what the one before left open.

The words are in `story.toml`, with places for figures. A function for each picture takes what ships: the trace of its
inputs, whose boxes are drawn, and the figures that its words quote. Two systems are branches of it. It ends with
what experts mean, in two small models of ours.

Beside it the article that moeviz grew from, *The History of Mixture of Experts*, 26 April 2024: its sentences, each
with the page that shows it at work, and what it got wrong. Quotations and the words on them are in `article.toml`.
"""

import re
import tomllib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moeviz.embedded.one_sentence import SENTENCE, SHOWN, SentenceExperts, one_sentence
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import fine_bias, reference_routing
from moeviz.history.shared.datasets import digits, encode, stand_in
from moeviz.history.systems import EXHIBITS, FOLDERS, part, shipped_result, shipped_trace, trace_beside
from moeviz.history.timeline.chart import timeline
from moeviz.metrics.expert_names import expert_names
from moeviz.metrics.locality import FIRST_CHOICE, MIXTRAL_TABLE_5, locality
from moeviz.metrics.words import item_word, percent
from moeviz.routing_trace import RoutingTrace, token_frame

UNDECIDED, LEANING = 0.6, 0.9  # weights of a first choice that leave something to the others
WORD = r"[a-z]{5,}"  # that can be read in a sentence
STARTS = 5  # of the mixture of 1991 and of its rival, seeds from 0 on
EVERY_EPOCH = 10  # epochs from one point of a curve to the next
PLACES = {"↖": 0, "↗": 8, "·": 40, "↙": 72, "↘": 80}  # to which digits are moved, of 81
WINDOW = 16  # words of 2017: those of the sentence, and what comes after it
MINE = "The sentence"
READ = ("French", "German", "Python", "SQL", "English prose")  # kinds of text, of each the third of four
TOKENS = 34  # of each of these
FINE_LAYER = 2  # of six
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")


class Meters(NamedTuple):
    """Figures that stay from step to step."""

    experts: int  # in a layer, but for those that all inputs share
    computed: float  # share of them and of the shared ones, for an input that is not dropped
    shared: int = 0

    @property
    def parameters(self) -> float:
        """The ratio of all parameters in experts to those computed with, all experts of a layer being alike."""
        return 1 / self.computed


class Inputs(NamedTuple):
    """Inputs that can be chosen from."""

    kind: str  # how they are drawn: as marks in a plane, pixels, words, a queue of words, or texts
    names: list[str]  # in the middle of a sentence
    first: int  # that is shown before one is chosen
    drawn: dict[str, Any]  # what else that takes, for JSON


class Scene(NamedTuple):
    """A system and what each of its inputs meets in it."""

    inputs: str  # a key of INPUTS
    trace: RoutingTrace  # a token an input, and the layers that are drawn
    meters: Meters
    quoted: dict[str, object]  # what its words say of it
    drawn: Mapping[str, Any] = MappingProxyType({})  # with the trace, for JSON: what experts answer, load, bias …


@dataclass(frozen=True, slots=True)
class Half:
    """A picture of a step with its words, in which "{share}" is a place for a figure."""

    show: Callable[[], Scene]
    new: str
    left: str  # over
    caption: str  # of the inputs
    page: str  # of the app, as its menu has it
    name: str = ""  # on its button, if a step has several
    added: tuple[str, ...] = ()  # what was not there before: router, routers, experts, layers, words in the router …
    router: str = "router"  # as it stands in the picture
    answer: str = ""  # what comes out, where that was not recorded


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the story."""

    year: str
    title: str
    before: str  # what went wrong
    halves: tuple[Half, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A system that does not lead to Mixtral."""

    year: str
    short: str
    title: str
    says: str
    page: str


class Idea(NamedTuple):
    """Something that came after 2024."""

    title: str
    who: str  # models that have it
    says: str  # [3] is the third source


class CitedSource(NamedTuple):
    """The origin of a number in the story's words."""

    number: int
    name: str
    year: int
    where: str  # in it
    address: str
    checked: str  # text, abstract, earlier, memory


class TwinModel(NamedTuple):
    """One of two models that differ in how their load was balanced."""

    title: str
    trace: RoutingTrace  # of the texts that are shown
    names: pd.DataFrame  # of `expert_names`
    shares: np.ndarray  # (L, E, kinds): of the tokens of a kind, those that the expert takes
    repeats: tuple[float, float]  # lowest and highest share of neighbours with one first choice, of the layers


class Rivals(NamedTuple):
    """The mixture of 1991 and the network of its size, trained from the same seeds until both have the same error."""

    mixtures: list[Any]  # AdaptiveMixture
    networks: list[Any]  # BackpropagationNetwork

    def mean(self, name: str) -> tuple[float, float]:
        """Mean of `epochs`, `train_accuracy` or `test_accuracy`: of the mixtures, and of the networks."""
        return tuple(float(np.mean([getattr(run, name) for run in runs])) for runs in self)

    def curves(self) -> dict[str, Any]:
        """Return the error of each start, every tenth epoch and at the end, for JSON."""
        each = [[run.error_by_epoch[::EVERY_EPOCH].round(4).tolist() for run in runs] for runs in self]
        goal = part("local-experts", "model").STOP_AT
        return {"every": EVERY_EPOCH, "goal": goal, "mixture": each[0], "network": each[1]}


@cache
def rivals() -> Rivals:
    """Train both from each of STARTS seeds; it takes two seconds."""
    model, vowels = part("local-experts", "model"), stand_in()
    hidden = model.HIDDEN[shipped_result("local-experts").settings["experts"]]
    mixtures = [model.train(vowels, seed=seed) for seed in range(STARTS)]
    return Rivals(mixtures, [model.train_network(vowels, hidden, seed) for seed in range(STARTS)])


def one_network() -> Scene:
    """Return one network, as large as the mixture of 1991, that all vowels share."""
    model, vowels = part("local-experts", "model"), stand_in()
    trace = _last(part("local-experts", "model").trace_of(model.train(vowels, experts=1, max_epochs=1))).select(
        tokens=vowels.training
    )
    shown, network = rivals(), rivals().networks[0]
    quoted = {"right": percent(shown.mean("train_accuracy")[1]), "epochs": round(shown.mean("epochs")[1])}
    quoted |= {"hidden": spelled(network.below.shape[1]), "weights": network.below.size + network.above.size}
    quoted |= {"seeds": spelled(STARTS)}
    said = network.answer(encode(vowels)[0])[vowels.training].round(4)[:, None].tolist()
    curves = shown.curves() | {"mixture": []}
    return Scene("vowels", trace, meters_of(trace), quoted, {"says": said, "curves": curves})


def compete() -> Scene:
    """1991: four experts answer for a vowel; two of them lead for none."""
    result, trace = shipped_result("local-experts"), _last(shipped_trace("local-experts"))
    leading, shown = np.unique(trace.experts[-1, :, 0]), rivals()
    epochs, right = shown.mean("epochs"), shown.mean("train_accuracy")
    quoted = {"leading": spelled(len(leading)), "epochs": round(epochs[0]), "network_epochs": round(epochs[1])}
    quoted |= {"ratio": f"{epochs[0] / epochs[1]:.2f}", "seeds": spelled(STARTS)}
    quoted |= {"right": percent(right[0]), "network_right": percent(right[1])}
    lines = result.expert_lines[-1].T[leading].tolist()
    drawn = {"says": _answers_for_vowels(result.state()), "lines": lines, "curves": shown.curves()}
    return Scene("vowels", trace.select(tokens=stand_in().training), meters_of(trace), quoted, drawn)


def tree() -> Scene:
    """1994: a root divides an input between two branches, and routers below it among four experts."""
    result, trace = shipped_result("hierarchical"), shipped_trace("hierarchical")
    passes = int((result.squared_error <= part("local-experts", "model").STOP_AT).argmax())
    quoted = {"passes": passes, "epochs": round(rivals().mean("epochs")[0])}
    quoted |= {"right": percent(result.train_accuracy)}
    shown = trace.select(tokens=stand_in().training)
    drawn = {"says": _answers_for_vowels(result.tree(), "answers"), "tree": True}
    return Scene("vowels", shown, meters_of(_last(trace)), quoted, drawn)


def layers() -> Scene:
    """2013: two layers, with the constraint that keeps them balanced."""
    trace = shipped_trace("deep-mixture")
    quoted = {"experts": trace.model.num_experts[-1], "paths": int(np.prod(trace.model.num_experts))}
    return Scene("moved digits", _moved_inputs(trace), meters_of(trace), quoted, {"load": _work(trace)})


def unbalanced_layers() -> Scene:
    """2013: the same without the constraint."""
    trace = trace_beside("deep-mixture")
    load = _work(trace)
    layer = int(np.argmax([max(of) for of in load]))
    quoted = {"greedy": int(np.argmax(load[layer])), "share": percent(max(load[layer]) / sum(load[layer]))}
    quoted |= {"layer": trace.model.layers[layer]}
    return Scene("moved digits", _moved_inputs(trace), meters_of(trace), quoted, {"load": load})


def switches() -> Scene:
    """2013 and 2015: blocks are on or off, each by itself."""
    trace, result = shipped_trace("conditional"), shipped_result("conditional")
    rows = _digits_in_order()
    quoted = {"experts": trace.model.num_experts[-1], "mean": f"{result.on.sum(axis=1).mean():.1f}"}
    quoted |= {"error": percent(result.error), "test": f"{len(result.digit):,}"}
    drawn = {"answers": list(map(str, result.answer[rows])), "right": list(map(str, range(10)))}
    return Scene("digits", trace.select(tokens=rows), meters_of(trace), quoted, drawn)


def top_two() -> Scene:
    """2017: two of sixteen, with the losses that keep all busy."""
    return _sparse(shipped_trace("sparsely-gated"))


def unbalanced_two() -> Scene:
    """2017: the same without the losses."""
    return _sparse(trace_beside("sparsely-gated"))


def dropped() -> Scene:
    """2021: a word goes to one expert; where that is full, the word is dropped."""
    trace = shipped_trace("switch")
    lost = trace.experts[0, :, 0] < 0
    quoted = {"dropped": int(lost.sum()), "words": f"{len(lost):,}"}
    room = max(_visits(trace))  # whoever drops a word is full
    drawn = {"wanted": trace.logits[0].argmax(axis=-1).tolist(), "capacity": room}
    return Scene("queue", trace, meters_of(trace.select(tokens=~lost)), quoted, drawn)


def every_layer() -> Scene:
    """2023: two of eight in every layer of a small model of ours; the counts are those of the real Mixtral."""
    published = _published("Mixtral 8x7B")
    shown = _with_sentence(reference_routing(), one_sentence().chosen)
    experts, top_k = int(published["experts"]), int(published["top_k"])
    quoted = {"layers": len(shown.model.layers), "k": top_k, "experts": experts, "pairs": comb(experts, top_k)}
    quoted |= {name: f"{published[name] / 1e9:.1f}" for name in ("total", "active")}
    return Scene("texts", shown, meters_of(shown), quoted)


def fine() -> Scene:
    """Since 2024: many small experts and a shared one, chosen with a bias, in a small model of ours."""
    routed = _with_sentence(reference_routing(FINE), one_sentence().fine)
    trace = routed.select(layers=[FINE_LAYER])
    v3, experts, top_k = _published("DeepSeek-V3"), trace.model.num_experts[0], trace.model.top_k
    quoted = {"experts": experts, "k": top_k, "layer": FINE_LAYER, "layers": len(routed.model.layers)}
    quoted |= {"v3_experts": int(v3["experts"]), "v3_k": int(v3["top_k"])}
    quoted |= {"v3_total": f"{v3['total'] / 1e9:.0f}", "v3_active": f"{v3['active'] / 1e9:.0f}"}
    bias = fine_bias()
    bias = bias[bias["layer"] == FINE_LAYER]["bias"]
    meters = Meters(experts, (top_k + 1) / (experts + 1), shared=1)
    return Scene("texts", trace, meters, quoted, {"shared": True, "bias": bias.tolist()})


def twins() -> tuple[TwinModel, TwinModel]:
    """Return the model that was pushed to tell kinds of text apart, and the one that was not."""
    pushed = _twin("Balanced over batches, and pushed", reference_routing())
    return pushed, _twin("Balanced within each text", reference_routing(NATURAL))


def kinds_of_text() -> list[str]:
    """Return the kinds of text that the twins read, in the order of `TwinModel.shares`."""
    return list(dict.fromkeys(reference_routing().tokens["label"]))


def repeats_of_mixtral() -> tuple[float, float]:
    """Lowest and highest share of neighbours with one first choice in Mixtral 8x7B, as its authors printed it."""
    printed = [share / 100 for row in MIXTRAL_TABLE_5.values() for share in row[:3]]
    return min(printed), max(printed)


def meters_of(trace: RoutingTrace) -> Meters:
    """The number of experts in a layer, and the mean number computed for an input, by the slots that it fills."""
    filled = (trace.experts >= 0).sum(axis=-1) / np.array(trace.model.num_experts)[:, None]
    return Meters(trace.model.num_experts[-1], float(filled.mean()))


def named(trace: RoutingTrace, token: int) -> str:
    """Return an input in words: "the vowel [i] of speaker 12", "the digit 7, image 12", "the word “let”".

    >>> named(shipped_trace("local-experts"), 0)
    'the vowel [i] of speaker 1'
    """
    text, word = str(trace.tokens["text"].iat[token]), item_word(trace.model)
    if vowel := re.fullmatch(r"(\[.+\]) (speaker \d+)", text):
        return f"the vowel {vowel[1]} of {vowel[2]}"
    if word == "digit":
        return f"the digit {re.sub(r'(?<=[0-9]) (?=moved)', ', ', text)}"
    return text if text.startswith(word) else f"the {word} “{text.strip()}”"


def spelled(number: int) -> str:
    """Return a small number as it stands in a sentence.

    >>> spelled(2), spelled(24)
    ('two', '24')
    """
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _vowels() -> Inputs:
    data, trace = stand_in(), _last(shipped_trace("local-experts")).select(tokens=stand_in().training)
    mine, groups = data.training, trace.tokens["label"].tolist()
    at, wanted = (of[mine].astype(int).tolist() for of in (data.formants, encode(data)[1]))
    drawn = {"at": at, "wanted": wanted, "groups": groups}
    return Inputs("plane", _names(trace), _nearest(trace.weights[-1, :, 0], LEANING), drawn)


def _moved_digits() -> Inputs:
    """Return a digit of each kind at each of five places, every one from another image."""
    rows, trace = _moved_rows(), shipped_trace("deep-mixture")
    places, kind = np.divmod(rows, 10)
    right, down = part("deep-mixture", "model").moves(places)
    images = digits()[1].images[moved_images()[kind, places]]
    first = _nearest(_moved_inputs(trace).weights[:, :, 0].max(axis=0), UNDECIDED)
    moves = np.column_stack([right, down]).tolist()
    return Inputs(
        "pixels", _names(_moved_inputs(trace)), first, _of_digits(images) | {"rows": list(PLACES), "moves": moves}
    )


def moved_images() -> np.ndarray:
    """Which test image stands for each kind of digit at each place, (10, 81): as the deep mixture was measured."""
    test, chance = digits()[1], np.random.default_rng(0)
    return np.stack([chance.choice(np.flatnonzero(test.digit == kind), 81) for kind in range(10)])


def _digits() -> Inputs:
    rows = _digits_in_order()
    on = (shipped_trace("conditional").experts[-1, rows] >= 0).sum(axis=1)
    drawn = _of_digits(digits()[1].images[rows])
    return Inputs("pixels", [f"the digit {kind}" for kind in drawn["columns"]], int((on == 2).argmax()), drawn)


def _words() -> Inputs:
    trace = shipped_trace("sparsely-gated")
    shown, first = _window(trace)
    return Inputs("words", _names(trace.select(tokens=shown)), first, {"words": trace.tokens["text"][shown].tolist()})


def _queue() -> Inputs:
    """Return all words in order, and first the first dropped one that can be read in a sentence."""
    trace = shipped_trace("switch")
    lost = (trace.experts[0, :, 0] < 0) & trace.tokens["text"].str.fullmatch(WORD).to_numpy()
    return Inputs("queue", _names(trace), int(lost.argmax()), {"words": trace.tokens["text"].tolist()})


def _texts() -> Inputs:
    """Return the sentence and the beginnings of five texts; each of those opens at its longest word."""
    tokens = _with_sentence(reference_routing(), one_sentence().chosen).tokens
    words = tokens["text"].str.strip()
    length = words.str.len().where(words.str.isalpha(), 0)
    starts = [SHOWN[1], *length.groupby(tokens["label"]).idxmax()[list(READ)].tolist()]
    drawn = {"words": tokens["text"].tolist(), "groups": tokens["label"].tolist(), "starts": starts}
    return Inputs("texts", _names(_with_sentence(reference_routing(), one_sentence().chosen)), starts[0], drawn)


def _answers_for_vowels(state: Any, answers: str = "outputs") -> list[list[float]]:
    """Return each expert's answer for each vowel."""
    data = stand_in()
    said: np.ndarray = getattr(state, answers)(encode(data)[0])[data.training]
    return said.round(4).tolist()


def _moved_rows() -> np.ndarray:
    return np.concatenate([10 * place + np.arange(10) for place in PLACES.values()])


def _moved_inputs(trace: RoutingTrace) -> RoutingTrace:
    return trace.select(tokens=_moved_rows())


def _digits_in_order() -> np.ndarray:
    test = digits()[1].digit
    return np.array([(test == kind).argmax() for kind in range(10)])


def _sparse(trace: RoutingTrace) -> Scene:
    load = [_visits(shipped_trace("sparsely-gated")), _visits(trace_beside("sparsely-gated"))]
    quoted = {"k": trace.model.top_k, "experts": trace.model.num_experts[-1], "words": f"{len(trace.tokens):,}"}
    quoted |= {"least": int(min(load[0])), "least_without": int(min(load[1]))}
    home = np.arange(len(trace.tokens)) % trace.model.num_experts[-1]  # words are dealt out to the machines in turn
    quoted |= {"choices": trace.experts[-1].size, "messages": int((trace.experts[-1] != home[:, None]).sum())}
    return Scene("words", trace.select(tokens=_window(trace)[0]), meters_of(trace), quoted, {"load": [_visits(trace)]})


def _window(trace: RoutingTrace) -> tuple[slice, int]:
    """Return the words of the sentence that the page begins with and some after it, and the place of "list" in them."""
    words, text = SENTENCE.split(), trace.tokens["text"].tolist()
    start = next(at for at in range(len(text)) if text[at : at + len(words)] == words)
    return slice(start, start + WINDOW), words.index("list")


def _read(trace: RoutingTrace) -> RoutingTrace:
    """Return the beginning of one text of each kind of READ."""
    tokens = trace.tokens
    number = tokens.groupby("label")["sequence"].rank("dense")
    place = tokens.groupby("sequence").cumcount()
    kept = tokens[(number == 3) & (place < TOKENS)]
    return trace.select(tokens=np.concatenate([kept.index[kept["label"] == kind] for kind in READ]))


def _with_sentence(trace: RoutingTrace, chosen: SentenceExperts) -> RoutingTrace:
    """Return `_read` with the sentence that the page begins with before it, as the model of the trace routes it."""
    read, texts = _read(trace), one_sentence().tokens
    mine = token_frame(np.zeros(len(texts), int), np.arange(len(texts)), texts).assign(label=MINE)
    theirs = read.tokens.assign(sequence=read.tokens["sequence"] + 1)
    slots = ((chosen.experts, read.experts), (chosen.weights, read.weights))
    both = [np.concatenate([each, of], axis=1).astype(of.dtype) for each, of in slots]
    tokens = pd.concat([mine, theirs], ignore_index=True)[list(mine.columns)]
    return RoutingTrace(read.model, tokens.astype({"sequence": mine["sequence"].dtype}), *both)


def _twin(title: str, trace: RoutingTrace) -> TwinModel:
    kinds = pd.Categorical(trace.tokens["label"], kinds_of_text())
    takes = (trace.experts[..., None] == np.arange(trace.model.num_experts[0])).any(axis=2)  # (L, T, E)
    shares = np.stack([takes[:, kinds == kind].mean(axis=1) for kind in kinds.categories], axis=-1)
    rows = locality(trace)
    repeats = rows.loc[rows["choice"] == FIRST_CHOICE, "share"]
    return TwinModel(title, _read(trace), expert_names(trace), shares, (float(repeats.min()), float(repeats.max())))


def _names(trace: RoutingTrace) -> list[str]:
    return [named(trace, token) for token in range(len(trace.tokens))]


def _of_digits(images: np.ndarray) -> dict[str, Any]:
    """Encode ten kinds of digit, 28 × 28 pixels each, in base64."""
    pixels = [b64encode(np.ascontiguousarray(image, np.uint8).tobytes()).decode() for image in images]
    return {"pixels": pixels, "columns": list(map(str, range(10))), "rows": [], "moves": []}


def _last(trace: RoutingTrace) -> RoutingTrace:
    return trace.select(layers=trace.model.layers[-1:])


def _nearest(weights: np.ndarray, wanted: float) -> int:
    return int(np.abs(weights - wanted).argmin())


def _visits(trace: RoutingTrace) -> list[int]:
    """Count the inputs that each expert of the last layer is computed for."""
    chosen = trace.experts[-1]
    return np.bincount(chosen[chosen >= 0], minlength=trace.model.num_experts[-1]).tolist()


def _work(trace: RoutingTrace) -> list[list[float]]:
    """Sum the weights of each expert of each layer: its equivalent number of inputs."""
    of_layers = zip(trace.experts, trace.weights, trace.model.num_experts, strict=True)
    return [np.bincount(e.ravel(), w.ravel(), experts).round(1).tolist() for e, w, experts in of_layers]


def _published(name: str) -> pd.Series:
    return timeline().set_index("name").loc[name]


def _words_of(row: dict[str, Any]) -> dict[str, Any]:
    """Read a table of the TOML without its line breaks; a system's page has its exhibit's title."""
    words = {name: " ".join(told.split()) if isinstance(told, str) else told for name, told in row.items()}
    if (system := words.pop("system", None)) is not None:
        words["page"] = EXHIBITS[FOLDERS[system]].title
    return words


def _step(row: dict[str, Any]) -> Step:
    words = _words_of(row)
    halves = [_words_of(half) for half in words.pop("halves")]
    halves = [half | {"show": SCENES[half["show"]], "added": tuple(half.get("added", ()))} for half in halves]
    return Step(**words, halves=tuple(Half(**half) for half in halves))


_BEFORE_WORDS = (one_network, compete, tree, layers, unbalanced_layers, switches)
_OF_WORDS = (top_two, unbalanced_two, dropped, every_layer, fine)
SCENES: dict[str, Callable[[], Scene]] = {scene.__name__: scene for scene in (*_BEFORE_WORDS, *_OF_WORDS)}
INPUTS = {"vowels": _vowels, "moved digits": _moved_digits, "digits": _digits}
INPUTS |= {"words": _words, "queue": _queue, "texts": _texts}
_STORY = tomllib.loads(Path(__file__).with_name("story.toml").read_text(encoding="utf-8"))
STEPS = tuple(map(_step, _STORY["steps"]))
BRANCHES = tuple(Branch(**_words_of(row)) for row in _STORY["branches"])
MEANING = _words_of(_STORY["meaning"])
SOURCES = tuple(CitedSource(number, **row) for number, row in enumerate(_STORY["sources"], 1))


def ideas() -> list[Idea]:
    """Return what came after 2024, with the figures of the timeline."""
    largest = _published("Kimi K3")
    figures = {"most": int(largest["experts"]), "most_k": int(largest["top_k"])}
    rows = (_words_of(row) for row in _STORY["ideas"])
    return [Idea(row["title"], row["who"], row["says"].format_map(figures)) for row in rows]


class Point(NamedTuple):
    """A sentence of the article, and what to look at."""

    quotation: str  # in the article's words
    page: str  # of the app, as its menu has it
    look: str  # at what makes it visible there


class Correction(NamedTuple):
    """A statement of the article, what is true, and the source of that."""

    quotation: str
    in_fact: str
    source: str


_TEXTS = {
    kind: [{name: " ".join(text.split()) for name, text in row.items()} for row in rows]
    for kind, rows in tomllib.loads(Path(__file__).with_name("article.toml").read_text(encoding="utf-8")).items()
}
POINTS = tuple(Point(**row) for row in _TEXTS["points"])
NOT_SHOWN = {row["quotation"]: row["why"] for row in _TEXTS["not_shown"]}
CORRECTIONS = tuple(Correction(**row) for row in _TEXTS["corrections"])


def corrections() -> pd.DataFrame:
    """Return the errors of the article, corrected. Columns: the article says, in fact, source, all str."""
    return pd.DataFrame(CORRECTIONS).rename(columns={"quotation": "the article says", "in_fact": "in fact"})
