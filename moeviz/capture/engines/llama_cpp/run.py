"""Run prompts in llama.cpp: read them, draw tokens, and put together the trace of what was read so far."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import FloatTensor, LongTensor
from transformers import LogitsProcessorList

from moeviz.capture.engines.engine import SoFar
from moeviz.capture.engines.llama_cpp.context import MOST_SEATS, ComputeOptions, Context, Weights
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording, decisions
from moeviz.capture.engines.llama_cpp.vocabulary import Vocabulary
from moeviz.capture.run.chat import turns
from moeviz.capture.run.decoding import Decoding
from moeviz.capture.run.generation_plan import decoding_words
from moeviz.capture.run.prompts import check_context
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.run.sampling import sampling_processors
from moeviz.capture.run.token_texts import token_texts
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.model_info import ModelInfo
from moeviz.names import listed, quoted
from moeviz.routing_trace import RoutingTrace, sort_slots, token_frame


@dataclass(slots=True, eq=False)
class _Read:
    """What the model has read, in the order of time: the sequence of each row, its token, whether it is of a prompt."""

    sequence: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    prompt: list[bool] = field(default_factory=list)

    def add(self, sequence: int, tokens: list[int], prompt: bool) -> None:
        self.sequence += [sequence] * len(tokens)
        self.token += tokens
        self.prompt += [prompt] * len(tokens)


def prompts_of(vocabulary: Vocabulary, request: CaptureRequest, name: str, limit: int | None) -> list[list[int]]:
    """The tokens of each prompt. Raises `InvalidPrompt` for what cannot be read, `CaptureError` for no template."""
    texts = list(request.prompts)
    if request.chat and vocabulary.chat_template is None:
        raise CaptureError(
            f"{quoted(name)} has no chat template, so this text cannot be sent as a turn of a chat. Leave chat out: "
            "the model then reads the text as it is."
        )
    if request.max_new_tokens and len(texts) > MOST_SEATS:
        raise InvalidPrompt(
            f"There are {len(texts):,} prompts, and llama.cpp goes on with at most {MOST_SEATS} at once. Give fewer, "
            "or generate no tokens."
        )
    texts = turns(vocabulary, texts, request.system) if request.chat else texts
    ids = [vocabulary.ids(text, special=not request.chat) for text in texts]
    if not all(ids):
        raise InvalidPrompt("The tokenizer makes no tokens of this prompt. Type some text for the model to read.")
    check_context(max(map(len, ids)), request.max_new_tokens, limit)
    return ids


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
            scores.append(context.read(sequence % seats, 0, prompt))
            read.add(sequence, prompt, prompt=True)
            if not request.max_new_tokens:
                context.forget()
        yield so_far()
        draw, going = sampling_processors(request.sampling), set(range(len(prompts)))
        for done in range(1, request.max_new_tokens + 1):
            drawn = _drawn(draw, scores)
            going -= {sequence for sequence in going if vocabulary.ends(drawn[sequence])}
            yield so_far()
            if not going or done == request.max_new_tokens:  # the last one drawn meets no router
                return
            for sequence in sorted(going):
                place = read.sequence.count(sequence)
                scores[sequence] = context.read(sequence, place, [drawn[sequence]])
                read.add(sequence, [drawn[sequence]], prompt=False)


def _drawn(draw: LogitsProcessorList, scores: list[np.ndarray]) -> list[int]:
    """The next token of each sequence, drawn from one stream of noise for all, as in a batch of transformers."""
    batch = torch.from_numpy(np.stack(scores))
    drawn = draw(cast(LongTensor, torch.zeros(len(scores), 0).long()), cast(FloatTensor, batch))
    return cast(list[int], drawn.argmax(dim=-1).tolist())


def _trace(
    recording: CallbackRecording, vocabulary: Vocabulary, info: ModelInfo, read: _Read, rows: int
) -> RoutingTrace:
    """The first so many rows, one sequence after the other."""
    recording.check(len(read.token))
    sequence, token, prompt = (np.array(part[:rows]) for part in (read.sequence, read.token, read.prompt))
    order = np.argsort(sequence, kind="stable")
    ids, weights, logits = decisions(recording, order)
    lengths = np.bincount(sequence)
    texts = [token_texts(vocabulary, part.tolist()) for part in np.split(token[order], lengths.cumsum()[:-1])]
    tokens = token_frame(
        sequence=sequence[order],
        position=np.concatenate([np.arange(length) for length in lengths]),
        text=[text for part in texts for text in part],
        token_id=token[order],
        phase=np.where(prompt[order], "prompt", "generated"),
    )
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
