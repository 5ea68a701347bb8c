"""A GGUF model behind the interface that moeviz has for other engines, opened in llama.cpp and run prompt by prompt."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.capture.engines.decoding_loop import draw_and_read, prompt_ids, token_rows
from moeviz.capture.engines.engine import BeforeOpening, EngineModel, SoFar, check_options
from moeviz.capture.engines.llama_cpp.context import MOST_SEATS, ComputeOptions, Context, Vocabulary, Weights
from moeviz.capture.engines.llama_cpp.files import GgufFiles, describe, open_files, served_model
from moeviz.capture.engines.llama_cpp.library import library
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording, ShownOutputs, decisions
from moeviz.capture.models.memory import OVERHEAD, check_bytes
from moeviz.capture.run.chat import PromptSegments, prompt_segments, with_segments
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


def _prompts_of(vocabulary: Vocabulary, request: CaptureRequest, name: str, limit: int | None) -> list[list[int]]:
    """The tokens of each prompt. Raises `InvalidPrompt` for what cannot be read, `CaptureError` for no template."""
    if request.max_new_tokens and len(request.prompts) > MOST_SEATS:
        raise InvalidPrompt(
            f"There are {len(request.prompts):,} prompts, and llama.cpp goes on with at most {MOST_SEATS} at once. "
            "Give fewer, or generate no tokens."
        )
    ids_of = partial(vocabulary.ids, special=not request.chat)
    return prompt_ids(vocabulary, request, name, limit, ids_of)


def _steps(
    weights: Weights,
    vocabulary: Vocabulary,
    how: ComputeOptions,
    info: ModelInfo,
    request: CaptureRequest,
    prompts: list[list[int]],
) -> Generator[SoFar, None, None]:
    """Read the prompts, then draw and read token by token: see `EngineModel.run`."""
    shown, read = ShownOutputs() if request.outputs else None, _Read()
    recording = CallbackRecording(weights.library, request.keep_logits, shown)
    tokens = max(map(len, prompts)) + request.max_new_tokens
    seats = len(prompts) if request.max_new_tokens else 1
    info = replace(info, recorded_by=how.words)
    segments = [prompt_segments(vocabulary, vocabulary.spans, chat) for chat in request.conversations]

    def so_far(decoding: str) -> SoFar:
        rows = len(read.token)
        return lambda: _trace(recording, vocabulary, replace(info, decoding=decoding), read, rows, segments)

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
    recording: CallbackRecording,
    vocabulary: Vocabulary,
    info: ModelInfo,
    read: _Read,
    rows: int,
    segments: list[PromptSegments | None],
) -> RoutingTrace:
    """Return the first `rows` rows, one sequence after another."""
    recording.check(len(read.token))
    sequence, token, prompt = (np.array(part[:rows]) for part in (read.sequence, read.token, read.prompt))
    order = np.argsort(sequence, kind="stable")
    ids, weights, logits = decisions(recording, order)
    ends = np.bincount(sequence).cumsum()[:-1]
    sequences, prompts = (np.split(part[order], ends) for part in (token, prompt))
    tokens = token_rows(vocabulary, [part.tolist() for part in sequences], [int(part.sum()) for part in prompts])
    experts, sorted_weights = sort_slots(ids, weights)
    outputs = recording.outputs(order, experts, sorted_weights)
    facts, tokens = _checked_facts(recording, info, experts), with_segments(tokens, segments)
    return RoutingTrace(facts, tokens, experts, sorted_weights, logits, outputs=outputs)


def _checked_facts(recording: CallbackRecording, info: ModelInfo, experts: np.ndarray) -> ModelInfo:
    """Return the facts, checked against the recording: a file that contradicts its model is not trusted."""
    layers = tuple(recording.layers())
    wide = [int(chosen.max(initial=0)) + 1 for chosen in experts]
    if layers != info.layers or any(most > count for most, count in zip(wide, info.num_experts, strict=True)):
        raise CaptureError(
            f"{quoted(info.name)} says that its layers {listed(info.layers)} have experts, and llama.cpp routed tokens "
            f"in {listed(layers)}, to experts up to {max(wide) - 1}. The file and its model do not agree."
        )
    return replace(info, top_k=experts.shape[-1], score_function=recording.score_function())


MICRO_BATCH = 256  # tokens: the scores of all of them lie in memory at once, 157 MB with 150,000 in the vocabulary
MOST = 2**14


def open_model(
    name: str,
    *,
    exact: bool = True,
    micro_batch: int = MICRO_BATCH,
    threads: int | None = None,
    check_memory: bool = True,
    **transformers_only: Any,
) -> "LlamaCppModel":
    """Open the GGUF model whose file, or first part, has this name, in llama.cpp on the CPU.

    exact         keys and values in float32, without flash attention: nothing is rounded except by the file itself.
                  False: as llama.cpp does by default, in float16, with flash attention if it can.
    micro_batch   tokens that are computed at once; the record is the same.
    threads       default: as many as torch takes.
    check_memory  compare the size of the files with the memory that is free, before they are loaded.

    Raises
    ------
    ModelNotFound: there is no such file, a part is missing, or it is damaged. CaptureError: llama.cpp is missing, or
    not as moeviz knows it; a dense model, one whose layers' routing has one name, or one that does not fit into memory.
    """
    check_options(name, "llama.cpp on the CPU, in the precision that its file has", transformers_only)
    threads = torch.get_num_threads() if threads is None else threads
    for what, value in (("micro_batch", micro_batch), ("threads", threads)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
            raise CaptureError(f"{what} is {value!r}; it must be a whole number from 1 to {MOST:,}.")
    files = open_files(name)
    describe(files)  # refuses what cannot be traced, before anything is loaded
    library()
    if check_memory:
        check_bytes(quoted(name), _bytes(files), "as it is stored", "cpu")
    return LlamaCppModel(files, Weights(files.paths), ComputeOptions(threads, micro_batch, exact))


def before_opening(name: str) -> BeforeOpening:
    """Read a GGUF model's facts and size without loading it, for which llama.cpp is not needed.

    Raises `ModelNotFound` for a file that is not there, not whole or not a model, and `CaptureError` for a dense model.
    """
    files = open_files(name)
    info, context = describe(files), files.number("context_length") or None
    return BeforeOpening(info, _bytes(files), context, files.identity, served=served_model(files, info))


def _bytes(files: GgufFiles) -> int:
    return int(files.size * OVERHEAD)


class LlamaCppModel(EngineModel):
    """A GGUF model, opened. Its runs are independent of each other, and several may go on at once."""

    shows_outputs = True

    def __init__(self, files: GgufFiles, weights: Weights, how: ComputeOptions) -> None:
        self.info, self.identity = describe(files), files.identity
        self.how, self._limit = how, files.number("context_length")
        self._opened: tuple[Weights, Vocabulary] | None = (weights, Vocabulary(weights, files.facts))

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, as its file says."""
        return self._limit or None

    @property
    def chats(self) -> bool:
        """True if the file has a chat template."""
        return self.opened()[1].chat_template is not None

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` as a prompt, with those that the tokenizer adds."""
        return len(self.opened()[1].ids(text))

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Which characters of `text` each of its tokens stands for, without special tokens."""
        return self.opened()[1].spans(text)

    def run(self, request: CaptureRequest) -> Generator[SoFar, None, None]:
        """Prompts are read one after another, each by itself; tokens are drawn as `moeviz.trace` does."""
        weights, vocabulary = self.opened()
        prompts = _prompts_of(vocabulary, request, self.info.name, self.max_tokens)
        yield from _steps(weights, vocabulary, self.how, self.info, request, prompts)

    def close(self) -> None:
        """Let the memory go, once the last run has ended."""
        self._opened = None

    def opened(self) -> tuple[Weights, Vocabulary]:
        """Return the model in memory, and its tokenizer. Raises `CaptureError` once it was closed."""
        if self._opened is None:
            raise CaptureError(f"{quoted(self.name)} was closed. Open it again with moeviz.load_model.")
        return self._opened
