"""A model in MLX's hands, behind the interface that moeviz has for other engines."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moeviz.capture.engines.engine import Asked, EngineModel, SoFar
from moeviz.capture.engines.mlx.config import caution_of
from moeviz.capture.engines.mlx.facts import describe
from moeviz.capture.engines.mlx.folder import Folder
from moeviz.capture.engines.mlx.installed import caches, mx
from moeviz.capture.engines.mlx.listen import Ears, Heard, host
from moeviz.capture.engines.mlx.loading import check_runs, listened_to, stops_of
from moeviz.capture.engines.mlx.run import Rows, prompts_of, steps, trace_of
from moeviz.capture.models.load import open_tokenizer
from moeviz.capture.run.chat import added_by_template
from moeviz.capture.run.decoding import Decoding
from moeviz.capture.run.plan import words_of
from moeviz.errors import CaptureError
from moeviz.text import quoted


@dataclass(frozen=True, slots=True)
class _Opened:
    """What lies in memory."""

    model: Any
    ears: Ears
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]


class MlxModel(EngineModel):
    """An MLX model, opened. Its runs are independent of each other: they take turns, forward by forward."""

    def __init__(self, folder: Folder, model: Any) -> None:
        ears, top_k = listened_to(folder, model)
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
        """Whether the tokenizer has a chat template."""
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
        """Of each token of a turn of a chat, whether the template added it; None where that cannot be told."""
        return added_by_template(self.opened().tokenizer, text, system)

    def run(self, asked: Asked) -> Generator[SoFar, None, None]:
        """Prompts are read one after the other, each as if it were alone; tokens are drawn as `moeviz.trace` does."""
        opened = self.opened()
        prompts = prompts_of(opened.tokenizer, asked, self.info.name, self.max_tokens)
        info = replace(self.info, decoding=words_of(asked.sampling, Decoding()) if asked.max_new_tokens else "")

        def forward(tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool) -> tuple[Any, Rows]:
            with self._turn:
                return _forward(opened, tokens, cache, keep_logits, output)

        yield from steps(
            forward,
            lambda: caches.make_prompt_cache(opened.model),
            asked,
            prompts,
            opened.stops,
            lambda sequences: trace_of(sequences, info, opened.tokenizer),
        )

    def close(self) -> None:
        """Let the memory go, once the last run has ended."""
        self._opened = None
        mx.clear_cache()

    def opened(self) -> _Opened:
        """What lies in memory. Raises `CaptureError` once the model was closed."""
        if self._opened is None:
            raise CaptureError(f"{quoted(self.name)} was closed. Open it again with moeviz.load_model.")
        return self._opened


def _forward(
    opened: _Opened, tokens: Sequence[int], cache: Any, keep_logits: bool, output: bool
) -> tuple[torch.Tensor | None, Rows]:
    """Read tokens: the scores (V,) of the next one, where they are asked for, and what the routers decided."""
    ears = opened.ears
    ears.heard.clear()
    try:
        out = opened.model(mx.array([tokens]), cache=cache)
        heard = [ears.heard.get(block.layer) for block in ears.blocks]
    finally:
        ears.heard.clear()
    wanted = [
        part for each in heard if each for part in (each.experts, each.weights, each.logits if keep_logits else None)
    ]
    scores = out[0, -1].astype(mx.float32) if output else None
    mx.eval([part for part in wanted if part is not None], [c.state for c in cache], [] if scores is None else scores)
    rows = _rows(heard, len(tokens), keep_logits)
    return None if scores is None else torch.from_numpy(np.array(scores)), rows


def _rows(heard: list[Heard | None], tokens: int, keep_logits: bool) -> Rows:
    """What was heard, as numpy's arrays. Raises `CaptureError` unless every block met every token once."""
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
    return Rows(experts, weights, logits)
