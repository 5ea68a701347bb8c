"""An MLX model behind the interface that moeviz has for other engines: opened, and run prompt by prompt.

T tokens of a sequence, L MoE layers, K slots, E experts, V tokens of the vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moeviz.capture.engines.decoding_loop import draw_and_read, outputs_of, prompt_ids, token_rows
from moeviz.capture.engines.engine import BeforeOpening, EngineModel, SoFar, check_options
from moeviz.capture.engines.mlx.folder import MlxFolder, caution_of, read_folder
from moeviz.capture.engines.mlx.hooks import BlockHooks, BlockRouting, host
from moeviz.capture.engines.mlx.installed import caches, mx, need_mlx
from moeviz.capture.engines.mlx.loading import (
    check_runs,
    describe,
    facts_of,
    hook_model,
    load,
    stops_of,
    weights_bytes,
    with_weights,
)
from moeviz.capture.models.folder import weights_identity
from moeviz.capture.models.load import open_tokenizer
from moeviz.capture.models.memory import OVERHEAD, check_bytes
from moeviz.capture.routers.score_function import score_function
from moeviz.capture.run.chat import PromptSegments, prompt_segments, with_segments
from moeviz.capture.run.prompts import token_spans
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


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, request: CaptureRequest, name: str, limit: int | None
) -> list[list[int]]:
    """The tokens of each prompt. Raises `InvalidPrompt` for what cannot be read, `CaptureError` for no template."""
    how = {"add_special_tokens": False} if request.chat else {}

    def ids_of(text: str) -> list[int]:
        return [int(token) for token in tokenizer(text, verbose=False, **how)["input_ids"]]

    return prompt_ids(tokenizer, request, name, limit, ids_of)


def _run_prompts(
    forward: Forward,
    new_cache: Callable[[], Any],
    request: CaptureRequest,
    prompts: list[list[int]],
    stops: frozenset[int],
    _make_trace: Callable[[list["_Sequence"], str], RoutingTrace],
) -> Generator[SoFar, None, None]:
    """Read the prompts one after the other, then draw a token for each, and so on: see `EngineModel.run`."""
    sequences = [_Sequence(prompt, new_cache()) for prompt in prompts]
    scores = [each.feed(forward, each.prompt, request.keep_logits) for each in sequences]

    def read_one(sequence: int, token: int) -> torch.Tensor:
        return sequences[sequence].feed(forward, [token], request.keep_logits)

    def so_far(decoding: str) -> SoFar:
        """Freeze what was read up to now, so that a trace can be made of it later."""
        now = [replace(each, read=[*each.read], rows=[*each.rows], cache=None) for each in sequences]
        return lambda: _make_trace(now, decoding)

    yield from draw_and_read(request, scores, stops.__contains__, read_one, so_far)


def _make_trace(
    sequences: list[_Sequence],
    info: ModelInfo,
    tokenizer: PreTrainedTokenizerBase,
    segments: list[PromptSegments | None],
) -> RoutingTrace:
    """Return the trace of what was read. Raises `CaptureError` where a token was sent to one expert twice."""
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
    return RoutingTrace(facts, with_segments(tokens, segments), ids, factors, scores, outputs=outputs)


def _check_different(experts: list[np.ndarray], info: ModelInfo) -> None:
    for layer, ids in zip(info.layers, experts, strict=True):
        ordered = np.sort(ids, axis=-1)
        if (twice := (ordered[:, 1:] == ordered[:, :-1]).any(axis=-1)).any():
            raise CaptureError(
                f"Layer {layer} of {quoted(info.name)} sent token {int(twice.argmax())} to one expert twice, which is "
                "not what a router decides. Record it from the transformers checkpoint."
            )


@dataclass(frozen=True, slots=True)
class _Opened:
    """An MLX model in memory, with its hooks and its tokenizer."""

    model: Any
    hooks: BlockHooks
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]


class MlxModel(EngineModel):
    """An MLX model, opened. Its runs are independent of each other: they take turns, forward by forward."""

    shows_outputs = True

    def __init__(self, folder: MlxFolder, model: Any) -> None:
        hooks, top_k = hook_model(folder, model)
        self.info = describe(folder.name, model, hooks.blocks, top_k, caution_of(folder))
        self._limit = folder.max_tokens
        self._turn = Lock()
        hooks.recorded.clear()
        check_runs(folder, model, hooks)
        tokenizer = open_tokenizer(folder.name, str(folder.path))
        stops = stops_of(folder, tokenizer.eos_token_id)
        self._opened: _Opened | None = _Opened(model, hooks, tokenizer, stops)

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, as its config says."""
        return self._limit

    @property
    def chats(self) -> bool:
        """True if the tokenizer has a chat template."""
        return bool(self.opened().tokenizer.chat_template)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` as a prompt, including special tokens."""
        return len(self.opened().tokenizer(text, verbose=False)["input_ids"])

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Which characters of `text` each of its tokens stands for; None for a tokenizer that does not say."""
        return token_spans(self.opened().tokenizer, text)

    def run(self, request: CaptureRequest) -> Generator[SoFar, None, None]:
        """Prompts are read one after another, each by itself; tokens are drawn as `moeviz.trace` does."""
        opened = self.opened()
        prompts = _prompt_ids(opened.tokenizer, request, self.info.name, self.max_tokens)

        def forward(tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool) -> tuple[Any, ForwardRouting]:
            with self._turn:
                opened.hooks.wants_figures = request.outputs
                return _forward(opened, tokens, cache, keep_logits, output)

        spans = partial(token_spans, opened.tokenizer)
        segments = [prompt_segments(opened.tokenizer, spans, chat) for chat in request.conversations]

        def made(sequences: list[_Sequence], decoding: str) -> RoutingTrace:
            return _make_trace(sequences, replace(self.info, decoding=decoding), opened.tokenizer, segments)

        yield from _run_prompts(
            forward,
            lambda: caches.make_prompt_cache(opened.model),
            request,
            prompts,
            opened.stops,
            made,
        )

    def close(self) -> None:
        """Free the memory, once the last run has ended."""
        self._opened = None
        mx.clear_cache()

    def opened(self) -> _Opened:
        """Return the model in memory. Raises `CaptureError` once it was closed."""
        if self._opened is None:
            raise CaptureError(f"{quoted(self.name)} was closed. Open it again with moeviz.load_model.")
        return self._opened


def _forward(
    opened: _Opened, tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool
) -> tuple[torch.Tensor | None, ForwardRouting]:
    """Read tokens: return the scores (V,) of the next one, if asked for, and what the routers decided."""
    hooks = opened.hooks
    hooks.recorded.clear()
    try:
        out = opened.model(mx.array([tokens]), cache=cache)
        recorded = [hooks.recorded.get(block.layer) for block in hooks.blocks]
    finally:
        hooks.recorded.clear()
        hooks.streams.clear()
    wanted = [
        part
        for each in recorded
        if each
        for part in (each.experts, each.weights, each.logits if keep_logits else None, each.figures)
    ]
    scores = out[0, -1].astype(mx.float32) if output else None
    mx.eval([part for part in wanted if part is not None], [c.state for c in cache], [] if scores is None else scores)
    rows = _rows(recorded, len(tokens), keep_logits)
    return None if scores is None else torch.from_numpy(np.array(scores)), rows


def _rows(recorded: list[BlockRouting | None], tokens: int, keep_logits: bool) -> ForwardRouting:
    """Copy what the hooks recorded to numpy. Raises `CaptureError` unless every block met every token once."""
    if any(each is None or each.weights.shape[0] != tokens for each in recorded):
        raise CaptureError(
            "A layer of this MLX model did not route every token that the model read once, and moeviz cannot tell "
            "which routing belongs to which token. Record it from the transformers checkpoint."
        )
    parts = [each for each in recorded if each is not None]
    experts = [host(each.experts).reshape(tokens, -1) for each in parts]
    weights = [host(each.weights) for each in parts]
    logits = None
    if keep_logits and all(each.logits is not None for each in parts):
        logits = [host(each.logits).reshape(tokens, -1).astype(np.float32) for each in parts]
    figures = [host(each.figures) for each in parts if each.figures is not None]
    return ForwardRouting(experts, weights, logits, figures or None, all(each.stream for each in parts))


DTYPES = ("float32", "bfloat16", "float16")


def open_model(name: str, *, dtype: str | None = None, check_memory: bool = True, **transformers_only: Any) -> MlxModel:
    """Open a folder of mlx-lm, on the device that MLX takes by default.

    dtype         in which what is not quantised is computed; default ("auto"): as the folder has it.
    check_memory  compare the size of the weights with the memory that is free, before any of them is read.

    Raises
    ------
    ModelNotFound: there is no such folder, its files are damaged, or code came with it. CaptureError: MLX is missing; a
    dense model, or one whose routing moeviz cannot tell; a config that mlx-lm would take for another model; or weights
    that do not fit into memory.

    Before the model is returned, eight tokens are run through it, and every MoE block must add up its experts' answers
    as moeviz says that it does.
    """
    check_options(name, "MLX, on the device that MLX takes by default", transformers_only)
    if dtype not in (None, "auto", *DTYPES):
        raise CaptureError(f"dtype is {dtype!r}; for MLX it must be one of {', '.join(DTYPES)}, or None.")
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    if check_memory:
        check_bytes(quoted(name), int(weights_bytes(lazy) * OVERHEAD), "as it is", None)
    return MlxModel(folder, with_weights(folder, lazy, None if dtype == "auto" else dtype))


def before_opening(name: str) -> BeforeOpening:
    """Read an MLX folder's facts, the bytes that a run of it takes, its context, and which weights it holds.

    No weights are read. Raises what `open_model` raises before it reads them.
    """
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    size = int(weights_bytes(lazy) * OVERHEAD)
    return BeforeOpening(facts_of(folder, lazy), size, folder.max_tokens, weights_identity(str(folder.path)))
