"""Run prompts in MLX: read them, draw tokens, and put together the trace of what was read so far.

T tokens of a sequence, L MoE layers, K slots, E experts, V tokens of the vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moeviz.capture.engines.decoding_loop import draw_and_read, outputs_of, prompt_ids, token_rows
from moeviz.capture.engines.engine import SoFar
from moeviz.capture.routers.score_function import score_function
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, pad_layers, sort_slots
from moeviz.text import quoted

STEP = 2048  # tokens of a prompt that are read at once, as mlx-lm does
SAMPLE = 16  # rows of each layer by which the score function is recognised


@dataclass(frozen=True, slots=True)
class ForwardRouting:
    """The routers' decisions for the tokens of one forward, layer by layer."""

    experts: list[np.ndarray]  # L of (T, K)
    weights: list[np.ndarray]  # L of (T, K)
    logits: list[np.ndarray] | None  # L of (T, E)
    figures: list[np.ndarray] | None = None  # L of (T, K, FIGURES)
    stream: bool = False  # whether the residual stream of all layers is among them


Forward = Callable[[Sequence[int], Any, bool, bool], tuple[torch.Tensor | None, ForwardRouting]]


@dataclass(slots=True)
class _Sequence:
    """A prompt on its way through the model, and what is generated after it."""

    prompt: list[int]
    cache: Any
    read: list[int] = field(default_factory=list)
    rows: list[ForwardRouting] = field(default_factory=list)  # of each forward

    def feed(self, forward: Forward, tokens: list[int], keep_logits: bool) -> torch.Tensor:
        """Read tokens; the scores (V,) of the one that comes next. Only the last of them needs an output."""
        starts = range(0, len(tokens) - 1, STEP)
        pieces = [tokens[start : min(start + STEP, len(tokens) - 1)] for start in starts]
        for piece in pieces:
            self.rows.append(forward(piece, self.cache, keep_logits, False)[1])
        scores, rows = forward(tokens[-1:], self.cache, keep_logits, True)
        self.rows.append(rows)
        self.read += tokens
        assert scores is not None  # an output was asked for
        return scores


def prompts_of(
    tokenizer: PreTrainedTokenizerBase, request: CaptureRequest, name: str, limit: int | None
) -> list[list[int]]:
    """The tokens of each prompt. Raises `InvalidPrompt` for what cannot be read, `CaptureError` for no template."""
    how = {"add_special_tokens": False} if request.chat else {}

    def ids_of(text: str) -> list[int]:
        return [int(token) for token in tokenizer(text, verbose=False, **how)["input_ids"]]

    return prompt_ids(tokenizer, request, name, limit, ids_of)


def steps(
    forward: Forward,
    new_cache: Callable[[], Any],
    request: CaptureRequest,
    prompts: list[list[int]],
    stops: frozenset[int],
    trace_of: Callable[[list["_Sequence"], str], RoutingTrace],
) -> Generator[SoFar, None, None]:
    """Read the prompts one after the other, then draw a token for each, and so on: see `EngineModel.run`."""
    sequences = [_Sequence(prompt, new_cache()) for prompt in prompts]
    scores = [each.feed(forward, each.prompt, request.keep_logits) for each in sequences]

    def read_one(sequence: int, token: int) -> torch.Tensor:
        return sequences[sequence].feed(forward, [token], request.keep_logits)

    def so_far(decoding: str) -> SoFar:
        """Freeze what was read up to now, so that a trace can be made of it later."""
        now = [replace(each, read=[*each.read], rows=[*each.rows], cache=None) for each in sequences]
        return lambda: trace_of(now, decoding)

    yield from draw_and_read(request, scores, stops.__contains__, read_one, so_far)


def trace_of(sequences: list[_Sequence], info: ModelInfo, tokenizer: PreTrainedTokenizerBase) -> RoutingTrace:
    """The trace of what was read. Raises `CaptureError` where a token was sent to one expert twice."""
    every = [rows for each in sequences for rows in each.rows]
    layers = range(len(info.layers))
    experts = [np.concatenate([rows.experts[layer] for rows in every]).astype(np.int64) for layer in layers]
    weights = [np.concatenate([rows.weights[layer] for rows in every]).astype(np.float32) for layer in layers]
    logits = None
    if all(rows.logits is not None for rows in every):
        logits = [np.concatenate([rows.logits[layer] for rows in every if rows.logits]) for layer in layers]
    _check_different(experts, info)
    known = [] if logits is None else list(zip(logits, weights, experts, strict=True))
    facts = replace(
        info,
        top_k=max(part.shape[1] for part in experts),
        score_function=score_function([(s[:SAMPLE], w[:SAMPLE], i[:SAMPLE]) for s, w, i in known]),
    )
    ids, factors = sort_slots(pad_layers(experts, NO_EXPERT).astype(np.int16), pad_layers(weights, 0.0))
    scores = None if logits is None else pad_layers(logits, -np.inf).astype(np.float32)
    tokens = token_rows(tokenizer, [each.read for each in sequences], [len(each.prompt) for each in sequences])
    outputs = None
    if factors is not None and all(rows.figures is not None for rows in every):
        figures = [np.concatenate([rows.figures[layer] for rows in every if rows.figures]) for layer in layers]
        outputs = outputs_of(ids, factors, experts, figures, all(rows.stream for rows in every))
    return RoutingTrace(facts, tokens, ids, factors, scores, outputs=outputs)


def _check_different(experts: list[np.ndarray], info: ModelInfo) -> None:
    for layer, ids in zip(info.layers, experts, strict=True):
        ordered = np.sort(ids, axis=-1)
        if (twice := (ordered[:, 1:] == ordered[:, :-1]).any(axis=-1)).any():
            raise CaptureError(
                f"Layer {layer} of {quoted(info.name)} sent token {int(twice.argmax())} to one expert twice, which is "
                "not what a router decides. Record it from the transformers checkpoint."
            )
