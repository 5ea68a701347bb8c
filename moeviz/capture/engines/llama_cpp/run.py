"""Run prompts in llama.cpp: read them, draw tokens, and put together the trace of what was read so far."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from moeviz.capture.engines.decoding_loop import draw_and_read, prompt_ids, token_rows
from moeviz.capture.engines.engine import SoFar
from moeviz.capture.engines.llama_cpp.context import MOST_SEATS, ComputeOptions, Context, Weights
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording, decisions
from moeviz.capture.engines.llama_cpp.vocabulary import Vocabulary
from moeviz.capture.run.decoding import Decoding
from moeviz.capture.run.generation_plan import decoding_words
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, sort_slots
from moeviz.text import listed, quoted


@dataclass(slots=True, eq=False)
class _Read:
    """The tokens read so far, in the order of time: of each row its sequence, its token, and if it is of a prompt."""

    sequence: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    prompt: list[bool] = field(default_factory=list)

    def add(self, sequence: int, tokens: list[int], prompt: bool) -> None:
        self.sequence += [sequence] * len(tokens)
        self.token += tokens
        self.prompt += [prompt] * len(tokens)


def prompts_of(vocabulary: Vocabulary, request: CaptureRequest, name: str, limit: int | None) -> list[list[int]]:
    """The tokens of each prompt. Raises `InvalidPrompt` for what cannot be read, `CaptureError` for no template."""
    if request.max_new_tokens and len(request.prompts) > MOST_SEATS:
        raise InvalidPrompt(
            f"There are {len(request.prompts):,} prompts, and llama.cpp goes on with at most {MOST_SEATS} at once. "
            "Give fewer, or generate no tokens."
        )
    ids_of = partial(vocabulary.ids, special=not request.chat)
    return prompt_ids(vocabulary, request, name, limit, ids_of)


def steps(
    weights: Weights,
    vocabulary: Vocabulary,
    how: ComputeOptions,
    info: ModelInfo,
    request: CaptureRequest,
    prompts: list[list[int]],
) -> Generator[SoFar, None, None]:
    """Read the prompts, then draw and read token by token: see `EngineModel.run`."""
    recording, read = CallbackRecording(weights.library, request.keep_logits), _Read()
    tokens = max(map(len, prompts)) + request.max_new_tokens
    seats = len(prompts) if request.max_new_tokens else 1
    info = replace(
        info,
        decoding=decoding_words(request.sampling, Decoding()) if request.max_new_tokens else "",
        recorded_by=how.words,
    )

    def so_far() -> SoFar:
        rows = len(read.token)
        return lambda: _trace(recording, vocabulary, info, read, rows)

    with closing(Context(weights, recording, how, seats, tokens)) as context:
        scores = []
        for sequence, prompt in enumerate(prompts):
            scores.append(torch.from_numpy(context.read(sequence % seats, 0, prompt)))
            read.add(sequence, prompt, prompt=True)
            if not request.max_new_tokens:
                context.forget()

        def read_one(sequence: int, token: int) -> Tensor:
            found = context.read(sequence, read.sequence.count(sequence), [token])
            read.add(sequence, [token], prompt=False)
            return torch.from_numpy(found)

        yield from draw_and_read(request, scores, vocabulary.ends, read_one, so_far)


def _trace(
    recording: CallbackRecording, vocabulary: Vocabulary, info: ModelInfo, read: _Read, rows: int
) -> RoutingTrace:
    """The first so many rows, one sequence after the other."""
    recording.check(len(read.token))
    sequence, token, prompt = (np.array(part[:rows]) for part in (read.sequence, read.token, read.prompt))
    order = np.argsort(sequence, kind="stable")
    ids, weights, logits = decisions(recording, order)
    ends = np.bincount(sequence).cumsum()[:-1]
    sequences, prompts = (np.split(part[order], ends) for part in (token, prompt))
    tokens = token_rows(vocabulary, [part.tolist() for part in sequences], [int(part.sum()) for part in prompts])
    experts, sorted_weights = sort_slots(ids, weights)
    return RoutingTrace(_as_heard(recording, info, experts), tokens, experts, sorted_weights, logits)


def _as_heard(recording: CallbackRecording, info: ModelInfo, experts: np.ndarray) -> ModelInfo:
    """The facts, held against what was heard: a file that says other things than its model does is not believed."""
    layers = tuple(recording.layers())
    wide = [int(chosen.max(initial=0)) + 1 for chosen in experts]
    if layers != info.layers or any(most > count for most, count in zip(wide, info.num_experts, strict=True)):
        raise CaptureError(
            f"{quoted(info.name)} says that its layers {listed(info.layers)} have experts, and llama.cpp routed tokens "
            f"in {listed(layers)}, to experts up to {max(wide) - 1}. The file and its model do not agree."
        )
    return replace(info, top_k=experts.shape[-1], score_function=recording.score_function())
