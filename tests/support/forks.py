"""Streams that decode together at random, and where such a trace parts from the one that was made alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz import Sampling
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.capture.run.decoding import sampling_processors
from moeviz.capture.together import share_decoding
from moeviz.capture.trace import stream, trace
from moeviz.routing_trace import RoutingTrace

FAMILIES = ("embedded", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss")
NEAR = 5e-6  # of the largest weight or logit, as docs/deployment.md says
WORDS = ("the", "river", "of light", "ran under", "a stone bridge", "while", "12 + 7 = 19", "für", "il fait froid")


def opened(family: str) -> LoadedModel:
    """A model whose streams decode together."""
    model = moeviz.load_model().model if family == "embedded" else tiny_model(CONFIGS[family])
    loaded = LoadedModel(model, tiny_tokenizer(), describe(model, family))
    assert share_decoding(loaded) == ""
    return loaded


@dataclass(frozen=True, slots=True)
class Asked:
    """A text, and how it is gone on with."""

    text: str
    how: dict[str, Any] = field(hash=False)


def asked_at_random(chance: random.Random) -> Asked:
    """Texts of 1 to 24 words and 1 to 12 tokens, drawn in every way, and with next tokens or not."""
    text = " ".join(chance.choices(WORDS, k=chance.randint(1, 24)))
    temperature, top_k, top_p = (chance.choice(of) for of in ([0.7, 1.3], [None, 20], [None, 0.9]))
    sampling = chance.choice([Sampling(), Sampling(temperature, top_k, top_p, chance.randrange(99))])
    how = {"sampling": sampling, "max_new_tokens": chance.randint(1, 12)}
    return Asked(
        text, how | {"keep_logits": chance.random() < 0.8, "next_tokens": chance.choice([False, True, "auto"])}
    )


def come_and_go(model: LoadedModel, asked: list[Asked], chance: random.Random) -> dict[int, RoutingTrace]:
    """The last trace of each stream by its number: they begin, go on and are left in an order of chance."""
    waiting, going, last = list(enumerate(asked)), {}, {}
    while waiting or going:
        if waiting and (not going or chance.random() < 0.3):
            number, one = waiting.pop()
            going[number] = stream(model, one.text, **one.how)
        number = chance.choice(list(going))
        if chance.random() < 0.02:
            going.pop(number).close()
            last.pop(number, None)
        elif (grown := next(going[number], None)) is None:
            del going[number]
        else:
            last[number] = grown
    return last


def found_alike(model: LoadedModel, asked: list[Asked], chance: random.Random) -> Iterator["Compared"]:
    """Let streams come and go, and compare each that was not left with the quiet trace of the same text."""
    last = come_and_go(model, asked, chance)
    for number, made in last.items():
        yield compared(model, asked[number].how, trace(model, asked[number].text, **asked[number].how), made)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two traces of one text up to where they part: differences are of the largest value in the trace alone."""

    token: int | None  # row of the last token with the same past; None: they never part
    layer: int | None  # of the trace, where another expert was chosen; None: another token was drawn
    gap: float  # between what was chosen and what was chosen otherwise, of the largest logit or score
    weights: float
    logits: float
    is_prompt_equal: bool  # bit for bit

    @property
    def holds(self) -> bool:
        """True where the documentation's sentence is true of them."""
        return self.is_prompt_equal and max(self.gap, self.weights, self.logits) <= NEAR


def compared(model: LoadedModel, how: dict[str, Any], alone: RoutingTrace, made: RoutingTrace) -> Compared:
    """Find the first other expert or token, how near it was, and the largest difference before it."""
    ids, others = (trace.tokens["token_id"].to_numpy() for trace in (alone, made))
    most, prompt = min(len(ids), len(others)), int((alone.tokens["phase"] == "prompt").sum())
    same = int((ids[:most] == others[:most]).cumprod().sum())
    differ = (alone.experts[:, :same] != made.experts[:, :same]).any(axis=2)
    token, layer, gap = None, None, 0.0
    upto = np.ones_like(differ)
    if differ.any():
        token = int(differ.any(axis=0).argmax())
        layer = int(differ[:, token].argmax())
        upto[:, token + 1 :] = upto[layer:, token] = False
        gap = gap_of_choice(alone, made, layer, token)
    elif same < max(len(ids), len(others)):
        token = same - 1
        gap = gap_of_draw(model.model, alone, how["sampling"], token)
    first = ((getattr(trace, part), slice(0, prompt)) for part in ("experts", "weights") for trace in (alone, made))
    parts = [part[:, rows] for part, rows in first]
    is_prompt_equal = np.array_equal(parts[0], parts[1]) and np.array_equal(parts[2], parts[3])
    weights, logits = (difference(getattr(alone, of), getattr(made, of), upto) for of in ("weights", "logits"))
    return Compared(token, layer, gap, weights, logits, is_prompt_equal)


def gap_of_choice(alone: RoutingTrace, made: RoutingTrace, layer: int, token: int) -> float:
    """How much the scores of that router differ: experts are chosen otherwise only where they are as near."""
    where = np.zeros(alone.experts.shape[:2], bool)
    where[layer, token] = True
    return difference(alone.logits, made.logits, where)


def difference(one: np.ndarray | None, other: np.ndarray | None, where: np.ndarray) -> float:
    """The largest difference there, of the largest value; 0 where nothing was recorded."""
    if one is None or other is None or not where.any():
        return 0.0
    one, other = (part[:, : where.shape[1]][where] for part in (one, other))
    finite = np.isfinite(one)
    assert np.array_equal(finite, np.isfinite(other))
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0) / np.abs(one[finite]).max(initial=1e-30))


@torch.no_grad()
def gap_of_draw(model: torch.nn.Module, alone: RoutingTrace, sampling: Sampling, token: int) -> float:
    """The distance between the two best scores, of the largest, when the token after this one was drawn."""
    ids = torch.tensor([alone.tokens["token_id"].tolist()[: token + 1]])
    prompt = int((alone.tokens["phase"] == "prompt").sum())
    draw = sampling_processors(sampling)
    for at, logits in enumerate(model(input_ids=ids).logits[0].float(), 1):
        if at >= prompt:
            scores = draw(ids[:, :at], logits[None].clone())
    best, second = scores[0].topk(2).values.tolist()
    return (best - second) / max(abs(best), 1e-30)
