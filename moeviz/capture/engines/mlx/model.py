"""A model in MLX's hands, behind the interface that moeviz has for other engines."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moeviz.capture.engines.engine import BeforeOpening, EngineModel, SoFar
from moeviz.capture.engines.mlx.folder import MlxFolder, caution_of, read_folder
from moeviz.capture.engines.mlx.hooks import BlockHooks, BlockRouting, host
from moeviz.capture.engines.mlx.installed import caches, mx, need_mlx
from moeviz.capture.engines.mlx.loading import (
    check_runs,
    describe,
    facts_of,
    hooked,
    load,
    stops_of,
    weights_bytes,
    with_weights,
)
from moeviz.capture.engines.mlx.run import ForwardRouting, prompts_of, steps, trace_of
from moeviz.capture.models.folder import weights_identity
from moeviz.capture.models.load import open_tokenizer
from moeviz.capture.models.memory import OVERHEAD, check_bytes
from moeviz.capture.run.prompts import added_by_template
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.text import quoted


@dataclass(frozen=True, slots=True)
class _Opened:
    """An MLX model in memory, with its hooks and its tokenizer."""

    model: Any
    ears: BlockHooks
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]


class MlxModel(EngineModel):
    """An MLX model, opened. Its runs are independent of each other: they take turns, forward by forward."""

    shows_outputs = True

    def __init__(self, folder: MlxFolder, model: Any) -> None:
        ears, top_k = hooked(folder, model)
        self.info = describe(folder.name, model, ears.blocks, top_k, caution_of(folder))
        self._limit = folder.max_tokens
        self._turn = Lock()
        ears.heard.clear()
        check_runs(folder, model, ears)
        tokenizer = open_tokenizer(folder.name, str(folder.path))
        stops = stops_of(folder, tokenizer.eos_token_id)
        self._opened: _Opened | None = _Opened(model, ears, tokenizer, stops)

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, as its config says."""
        return self._limit

    @property
    def chats(self) -> bool:
        """True if the tokenizer has a chat template."""
        return bool(self.opened().tokenizer.chat_template)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` as a prompt, including special tokens."""
        return len(self.opened().tokenizer(text, verbose=False)["input_ids"])

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Which characters of `text` each of its tokens stands for; None for a tokenizer that does not say."""
        tokenizer = self.opened().tokenizer
        if not tokenizer.is_fast:
            return None
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(start), int(end)) for start, end in read["offset_mapping"]]

    def added_by_template(self, text: str, system: str | None = None) -> tuple[bool, ...] | None:
        """Return, for each token of a chat turn, whether the template added it; None if that is unknown."""
        return added_by_template(self.opened().tokenizer, text, system)

    def run(self, request: CaptureRequest) -> Generator[SoFar, None, None]:
        """Prompts are read one after another, each by itself; tokens are drawn as `moeviz.trace` does."""
        opened = self.opened()
        prompts = prompts_of(opened.tokenizer, request, self.info.name, self.max_tokens)

        def forward(tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool) -> tuple[Any, ForwardRouting]:
            with self._turn:
                opened.ears.wants_figures = request.outputs
                return _forward(opened, tokens, cache, keep_logits, output)

        yield from steps(
            forward,
            lambda: caches.make_prompt_cache(opened.model),
            request,
            prompts,
            opened.stops,
            lambda sequences, decoding: trace_of(sequences, replace(self.info, decoding=decoding), opened.tokenizer),
        )

    def close(self) -> None:
        """Let the memory go, once the last run has ended."""
        self._opened = None
        mx.clear_cache()

    def opened(self) -> _Opened:
        """The model in memory. Raises `CaptureError` once it was closed."""
        if self._opened is None:
            raise CaptureError(f"{quoted(self.name)} was closed. Open it again with moeviz.load_model.")
        return self._opened


def _forward(
    opened: _Opened, tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool
) -> tuple[torch.Tensor | None, ForwardRouting]:
    """Read tokens: return the scores (V,) of the next one, if asked for, and what the routers decided."""
    ears = opened.ears
    ears.heard.clear()
    try:
        out = opened.model(mx.array([tokens]), cache=cache)
        heard = [ears.heard.get(block.layer) for block in ears.blocks]
    finally:
        ears.heard.clear()
        ears.streams.clear()
    wanted = [
        part
        for each in heard
        if each
        for part in (each.experts, each.weights, each.logits if keep_logits else None, each.figures)
    ]
    scores = out[0, -1].astype(mx.float32) if output else None
    mx.eval([part for part in wanted if part is not None], [c.state for c in cache], [] if scores is None else scores)
    rows = _rows(heard, len(tokens), keep_logits)
    return None if scores is None else torch.from_numpy(np.array(scores)), rows


def _rows(heard: list[BlockRouting | None], tokens: int, keep_logits: bool) -> ForwardRouting:
    """Copy what the hooks recorded to numpy. Raises `CaptureError` unless every block met every token once."""
    if any(each is None or each.weights.shape[0] != tokens for each in heard):
        raise CaptureError(
            "A layer of this MLX model did not route every token that the model read once, and moeviz cannot tell "
            "which routing belongs to which token. Record it from the transformers checkpoint."
        )
    parts = [each for each in heard if each is not None]
    experts = [host(each.experts).reshape(tokens, -1) for each in parts]
    weights = [host(each.weights) for each in parts]
    logits = None
    if keep_logits and all(each.logits is not None for each in parts):
        logits = [host(each.logits).reshape(tokens, -1).astype(np.float32) for each in parts]
    figures = [host(each.figures) for each in parts if each.figures is not None]
    return ForwardRouting(experts, weights, logits, figures or None, all(each.stream for each in parts))


DTYPES = ("float32", "bfloat16", "float16")
WAY_AROUND = " To load it all the same: `check_memory=False`, or `--ignore-memory` on the command line."


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
    if given := [option for option, value in transformers_only.items() if value is not None]:
        raise CaptureError(
            f"{quoted(name)} runs in MLX, on the device that MLX takes by default: it takes no {given[0]}. Leave that "
            "out, or load the transformers checkpoint."
        )
    if dtype not in (None, "auto", *DTYPES):
        raise CaptureError(f"dtype is {dtype!r}; for MLX it must be one of {', '.join(DTYPES)}, or None.")
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    if check_memory:
        check_bytes(quoted(name), int(weights_bytes(lazy) * OVERHEAD), "as it is", None, WAY_AROUND)
    return MlxModel(folder, with_weights(folder, lazy, None if dtype == "auto" else dtype))


def model_facts(name: str) -> ModelInfo:
    """Read an MLX folder's facts: layers, experts, parameters. No weights are read.

    Raises what `open_model` raises before it reads them.
    """
    folder = read_folder(name)
    need_mlx()
    return facts_of(folder, load(folder))


def before_opening(name: str) -> BeforeOpening:
    """Read an MLX folder's facts, the bytes that a run of it takes, its context, and which weights it holds."""
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    size = int(weights_bytes(lazy) * OVERHEAD)
    return BeforeOpening(facts_of(folder, lazy), size, folder.max_tokens, weights_identity(str(folder.path)))
