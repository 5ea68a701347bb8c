"""The history as one story: about ten steps, each from what the one before it left over.

The words are in `story.toml`, with places for figures; a function for each step reads these from what ships: who is
computed for one input, and for whom. An input is found by what is to be seen of it, not by its number, so that systems
can be trained again.

Beside it the article that moeviz grew from, *The History of Mixture of Experts*, 26 April 2024: its sentences, each
with the page that shows it at work, and what it got wrong. Quotations and the words on them are in `article.toml`.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from moeviz.embedded.recorded_routing import example_trace
from moeviz.history.systems import EXHIBITS, FOLDERS, part, shipped_result, shipped_trace, trace_beside
from moeviz.history.timeline.chart import timeline
from moeviz.metrics.one_input import experts_of_one
from moeviz.metrics.specialization import load_by_label
from moeviz.metrics.words import item_word, percent
from moeviz.published import published_counts
from moeviz.routing_trace import RoutingTrace

UNDECIDED, LEANING = 0.6, 0.9  # weights of a first choice that leave something to the others
SURE = 0.99
WORD = r"[a-z]{5,}"  # that can be read in a sentence
HEARD = (1, 3)  # frames after which a gate is looked at, before the last
NUMBERS = ("None", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")
FINE = "OLMoE-1B-7B"
FINE_KINDS = {"github": "code", "book": "books"}


class Meters(NamedTuple):
    """Figures that are read at every step."""

    experts: int  # in a layer
    computed: float  # share of them, for an input that is not dropped

    @property
    def parameters(self) -> float:
        """Times as many parameters in experts as are computed with, all experts of a layer being alike."""
        return 1 / self.computed


class StepData(NamedTuple):
    """Data that a step shows."""

    frame: pd.DataFrame  # to draw: columns of `experts_of_one`, unless the step says otherwise
    meters: Meters
    quoted: dict[str, object]  # what its words say of it


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the story. Its four parts quote what is shown: "{share}" is a place for a figure."""

    year: str
    title: str
    page: str  # of the app, as its menu has it
    problem: str
    idea: str
    observation: str
    remaining: str  # what it leaves over
    key: str  # to what is drawn here for the first time
    show: Callable[[], StepData]

    def texts(self, data: StepData) -> tuple[str, ...]:
        """The four parts in the order of PARTS, with the figures in their places."""
        parts = (self.problem, self.idea, self.observation, self.remaining)
        return tuple(part.format_map(data.quoted) for part in parts)


def compete() -> StepData:
    """1991: four experts answer for a vowel; two of them lead for none."""
    trace = _last(shipped_trace("local-experts"))
    token = _nearest(trace.weights[-1, :, 0], LEANING)
    frame = _drawn(trace, token, ["the experts"])
    leading = len(np.unique(trace.experts[-1, :, 0]))
    quoted = _of_input(trace, token) | {
        "best": int(trace.experts[-1, token, 0]),
        "share": percent(float(trace.weights[-1, token, 0])),
        "idle": spelled(len(frame) - leading),
        "epochs": trace.model.layers[-1],
    }
    return StepData(frame, meters_of(trace), quoted)


def tree() -> StepData:
    """1994: a root divides an input between two branches, and gates below it among four experts."""
    trace = shipped_trace("hierarchical")
    token = _nearest(trace.weights[-1, :, 0], UNDECIDED)
    frame = _drawn(trace, token, ["the root and its branches", "the gates below and their experts"])
    return StepData(frame, meters_of(_last(trace)), _of_input(trace, token))


def sequences() -> StepData:
    """1996: a gate makes up its mind while an utterance goes on."""
    trace = shipped_trace("hmm-experts")
    length = (trace.experts[:, :, 0] >= 0).sum(axis=0)
    everyone = np.arange(len(length))
    first, last = trace.weights[0, :, 0], trace.weights[length - 1, everyone, 0]
    token = int(np.where(_with_its_speaker(trace, length) & (last > SURE), first, 2).argmin())
    heard = [*HEARD, int(length[token])]
    names = [f"after {frames} frame{'s' * (frames > 1)}" for frames in heard]
    quoted = _of_input(trace, token) | {
        "first": percent(float(first[token])),
        "last": percent(float(last[token])),
        "frames": heard[-1],
    }
    return StepData(_drawn(trace.select(layers=heard), token, names), meters_of(trace.select(layers=[1])), quoted)


def capacity() -> StepData:
    """2002: all experts answer, and each learns from so many digits alone; a full one sends digits on."""
    trace = _last(shipped_trace("svm-experts"))
    result = shipped_result("svm-experts")
    room = part("svm-experts", "exhibit").expert_room(result)
    taken = room[room["part"] != part("svm-experts", "exhibit").TURNED_AWAY].groupby("expert")["examples"].sum()
    weights = trace.logits[-1]
    token = int((trace.experts[-1, :, 1] >= 0).argmax())
    first, given = trace.experts[-1, token].tolist()
    frame = _drawn(trace, token, ["all of them answer"]).assign(
        computed=True,
        weight=weights[token] / np.abs(weights[token]).max(),
        refused=np.arange(len(weights[token])) == first,
        load=taken.to_numpy(np.float64),
        capacity=float(result.capacity),
    )
    quoted = _of_input(trace, token) | {"first": first, "given": given, "capacity": result.capacity}
    return StepData(frame, Meters(len(frame), 1.0), quoted | {"experts": len(frame)})


def layers() -> StepData:
    """2013: two layers, with the constraint that keeps them balanced, and without it."""
    with_it, without = shipped_trace("deep-mixture"), trace_beside("deep-mixture")
    token = _nearest(with_it.weights[:, :, 0].max(axis=0), UNDECIDED)
    frames = [
        _drawn(trace, token, [f"layer {layer}, {how}" for layer in trace.model.layers]).assign(load=_work(trace))
        for trace, how in ((with_it, "with the constraint"), (without, "without it"))
    ]
    share = frames[1]["load"] / len(without.tokens)
    most = frames[1].loc[share.idxmax()]
    quoted = _of_input(with_it, token) | {
        "paths": int(np.prod(with_it.model.num_experts)),
        "greedy": int(most["expert"]),
        "share": percent(float(share.max())),
        "at": re.sub(r",.*", "", str(most["row"])),
    }
    return StepData(pd.concat(frames, ignore_index=True), meters_of(with_it), quoted)


def switches() -> StepData:
    """2013 and 2015: blocks are on or off, each by itself."""
    trace = shipped_trace("conditional")
    on = (trace.experts[-1] >= 0).sum(axis=1)
    token = int((on == np.median(on)).argmax())
    quoted = _of_input(trace, token) | {"on": int(on[token]), "mean": f"{on.mean():.1f}"}
    return StepData(_drawn(trace, token, ["blocks of the hidden layer"]), meters_of(trace), quoted)


def top_two() -> StepData:
    """2017: two of sixteen, with the losses that keep all busy, and without them."""
    with_them, without = shipped_trace("sparsely-gated"), trace_beside("sparsely-gated")
    words = with_them.tokens["text"].str.fullmatch(WORD)
    token = _nearest(np.where(words, with_them.weights[-1, :, 0], 2), UNDECIDED)
    frames = [
        _drawn(trace, token, [how]).assign(load=_visits(trace))
        for trace, how in ((with_them, "with the two losses"), (without, "without them"))
    ]
    least, least_without = (int(frame["load"].min()) for frame in frames)
    quoted = _of_input(with_them, token) | {"least": least, "least_without": least_without}
    quoted |= {"words": f"{len(with_them.tokens):,}", "k": with_them.model.top_k}
    return StepData(pd.concat(frames, ignore_index=True), meters_of(with_them), quoted)


def dropped() -> StepData:
    """2021: an expert takes a word early; later it is full, and drops the same word."""
    trace = shipped_trace("switch")
    lost = trace.experts[0, :, 0] < 0
    wanted = trace.logits[0].argmax(axis=-1)
    texts = trace.tokens["text"].to_numpy()
    early, late = next(
        (served, int(token))
        for token in np.flatnonzero(lost & trace.tokens["text"].str.fullmatch(WORD).to_numpy())
        for served in np.flatnonzero(~lost & (texts == texts[token]) & (wanted == wanted[token]))[:1].tolist()
    )
    full = int(_visits(trace).max())  # whoever drops a word is full
    frames = [
        _drawn(trace, token, [f"word {token + 1:,} of {len(texts):,}"]).assign(
            load=_visits(trace.select(tokens=slice(0, token))),
            capacity=float(full),
            refused=(np.arange(trace.model.num_experts[0]) == wanted[token]) & lost[token],
        )
        for token in (early, late)
    ]
    quoted = _of_input(trace, late) | {"expert": int(wanted[late]), "capacity": full}
    quoted |= {"dropped": int(lost.sum()), "words": f"{len(texts):,}"}
    return StepData(pd.concat(frames, ignore_index=True), meters_of(trace.select(tokens=~lost)), quoted)


def every_layer() -> StepData:
    """2023: two of eight in every layer of a small model of ours; the counts are those of the real Mixtral."""
    trace, published = example_trace(), _published("Mixtral 8x7B")
    words = trace.tokens["text"].str.strip()
    token = int(words.str.len().where(words.str.isalpha(), 0).idxmax())
    experts, top_k = int(published["experts"]), int(published["top_k"])
    quoted = _of_input(trace, token) | {"layers": len(trace.model.layers), "pairs": comb(experts, top_k)}
    quoted |= {"experts": experts, "k": top_k, "total": _billions(float(published["total"]))}
    quoted |= {"active": _billions(float(published["active"]))}
    return StepData(_drawn(trace, token, [f"layer {layer}" for layer in trace.model.layers]), meters_of(trace), quoted)


def fine() -> StepData:
    """Since 2024: how often each of many small experts was chosen, as was published; no input of these is here."""
    counts = published_counts(FINE)
    layer = counts.model.layers[len(counts.model.layers) // 2]
    load = load_by_label(counts.select(layers=[layer]))
    experts = counts.model.num_experts[0]
    frames = [
        _nobody(f"{name}, layer {layer}", experts).assign(
            load=load[load["label"] == kind].sort_values("expert")["share"].to_numpy() * counts.model.top_k
        )
        for kind, name in FINE_KINDS.items()
    ]
    v3 = _published("DeepSeek-V3")
    quoted = {"experts": experts, "k": counts.model.top_k, "layer": layer}
    quoted |= {"v3_experts": int(v3["experts"]), "v3_k": int(v3["top_k"])}
    return StepData(pd.concat(frames, ignore_index=True), Meters(experts, counts.model.top_k / experts), quoted)


def payoff() -> StepData:
    """Today: the loss of small models that compute the same for a token, by how many parameters they hold.

    The frame has the columns of `loss_by_parameters`, of the page on dense networks.
    """
    exhibit = part("dense", "exhibit")
    frame = exhibit.loss_by_parameters(exhibit.payoff_runs())
    means = frame.groupby("experts")["mean"].first()
    costs = exhibit.memory_against_compute(shipped_result("dense"))
    real = costs[costs["network"] == exhibit.REAL].set_index("kind").loc["sparse"]
    quoted = {
        "experts": int(means.index[-1]),
        "sparse": f"{means.iloc[-1]:.2f}",
        "dense": f"{means.loc[1]:.2f}",
        "two": f"{means.loc[2]:.2f}",
        "seeds": f"{frame['spread'].max():.2f}",
        "compute": percent(float(real["compute"])),
        "total": _billions(float(real["total"])),
    }
    return StepData(frame, Meters(int(means.index[-1]), 2 / int(means.index[-1])), quoted)


def meters_of(trace: RoutingTrace) -> Meters:
    """Experts in a layer, and how many of them are computed for an input on average, by the slots that it fills."""
    filled = (trace.experts >= 0).sum(axis=-1) / np.array(trace.model.num_experts)[:, None]
    return Meters(trace.model.num_experts[-1], float(filled.mean()))


def named(trace: RoutingTrace, token: int) -> str:
    """An input in words: "the vowel [i] of speaker 12", "the digit 7, image 12", "the word “let”".

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
    """A small number as a sentence begins with it.

    >>> spelled(2), spelled(24)
    ('Two', '24')
    """
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _of_input(trace: RoutingTrace, token: int) -> dict[str, object]:
    name = named(trace, token)
    return {"token": token, "input": name, "Input": name[0].upper() + name[1:], "experts": trace.model.num_experts[-1]}


def _drawn(trace: RoutingTrace, token: int, names: Sequence[str]) -> pd.DataFrame:
    """The input's frame, with our names of the rows."""
    frame = experts_of_one(trace, token)
    return frame.assign(row=frame["row"].map(dict(zip(frame["row"].unique(), names, strict=True))).astype("str"))


def _nobody(name: str, experts: int) -> pd.DataFrame:
    """A row of experts, of which none is computed: there is no input."""
    columns = {"row": pd.Series([name] * experts, dtype="str"), "expert": np.arange(experts, dtype=np.int16)}
    return pd.DataFrame(columns).assign(
        experts=np.int16(experts), computed=False, weight=0.0, refused=False, load=np.nan, capacity=np.nan
    )


def _last(trace: RoutingTrace) -> RoutingTrace:
    return trace.select(layers=trace.model.layers[-1:])


def _nearest(weights: np.ndarray, wanted: float) -> int:
    return int(np.abs(weights - wanted).argmin())


def _visits(trace: RoutingTrace) -> np.ndarray:
    """Inputs of the last layer that each expert is computed for."""
    chosen = trace.experts[-1]
    return np.bincount(chosen[chosen >= 0], minlength=trace.model.num_experts[-1]).astype(np.float64)


def _work(trace: RoutingTrace) -> np.ndarray:
    """How many inputs each expert is worth: the sum of its weights, layer by layer in one row."""
    of_layers = zip(trace.experts, trace.weights, trace.model.num_experts, strict=True)
    return np.concatenate([np.bincount(e.ravel(), w.ravel(), experts) for e, w, experts in of_layers])


def _with_its_speaker(trace: RoutingTrace, length: np.ndarray) -> np.ndarray:
    """True for an utterance that ends with the expert that most utterances of its speaker end with."""
    ends = pd.Series(trace.experts[length - 1, np.arange(len(length)), 0])
    usual = ends.groupby(trace.tokens["label"].to_numpy()).transform(lambda of_one: of_one.mode().iat[0])
    return (ends == usual).to_numpy()


def _published(name: str) -> pd.Series:
    """A row of the timeline."""
    return timeline().set_index("name").loc[name]


def _billions(parameters: float) -> str:
    return f"{parameters / 1e9:.1f}"


def _step(show: Callable[[], StepData]) -> Step:
    """A step with its words of `story.toml`; a system's page goes by the title of its exhibit."""
    words = {name: " ".join(text.split()) for name, text in WORDS[show.__name__].items()}
    if (system := words.pop("system", None)) is not None:
        words["page"] = EXHIBITS[FOLDERS[system]].title
    return Step(**words, show=show)


WORDS = tomllib.loads(Path(__file__).with_name("story.toml").read_text(encoding="utf-8"))
PARTS = ("What went wrong", "What was tried", "See it happen", "What was left over")
STEPS = tuple(map(_step, (compete, tree, sequences, capacity, layers, switches, top_two, dropped, every_layer, fine)))
PAYOFF = _step(payoff)


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
CORRECTIONS = tuple(Correction(**row) for row in _TEXTS["corrections"])


def corrections() -> pd.DataFrame:
    """The errors of the article, corrected. Columns: the article says, in fact, source, all str."""
    return pd.DataFrame(CORRECTIONS).rename(columns={"quotation": "the article says", "in_fact": "in fact"})
