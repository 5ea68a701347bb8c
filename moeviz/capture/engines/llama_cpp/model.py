"""A GGUF model behind the interface that moeviz has for other engines."""

from collections.abc import Generator
from typing import Any

import torch

from moeviz.capture.engines.engine import BeforeOpening, EngineModel, SoFar
from moeviz.capture.engines.llama_cpp.context import ComputeOptions, Weights
from moeviz.capture.engines.llama_cpp.files import GgufFiles, open_files
from moeviz.capture.engines.llama_cpp.library import library
from moeviz.capture.engines.llama_cpp.metadata import describe, model_facts
from moeviz.capture.engines.llama_cpp.run import prompts_of, steps
from moeviz.capture.engines.llama_cpp.vocabulary import Vocabulary
from moeviz.capture.models.memory import OVERHEAD, check_bytes
from moeviz.capture.run.chat import added
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError
from moeviz.text import quoted

__all__ = ["LlamaCppModel", "before_opening", "model_facts", "open_model"]
MICRO_BATCH = 256  # tokens: the scores of all of them lie in memory at once, 157 MB with 150,000 in the vocabulary
MOST = 2**14
WAY_AROUND = " To load it all the same: `check_memory=False`, or `--ignore-memory` on the command line."


def open_model(
    name: str,
    *,
    exact: bool = True,
    micro_batch: int = MICRO_BATCH,
    threads: int | None = None,
    check_memory: bool = True,
    **transformers_only: Any,
) -> "LlamaCppModel":
    """Open the GGUF model whose file, or first part, has that name, in llama.cpp on the CPU.

    exact         keys and values in float32, without flash attention: nothing is rounded but what the file itself has
                  rounded. False: as llama.cpp does by default, in float16, with flash attention where it can.
    micro_batch   tokens that are computed at once; the record is the same.
    threads       default: as many as torch takes.
    check_memory  compare the size of the files with the memory that is free, before they are loaded.

    Raises
    ------
    ModelNotFound: there is no such file, a part is missing, or it is damaged. CaptureError: llama.cpp is missing, or
    not as moeviz knows it; a dense model, one whose routing cannot be told apart, or one that does not fit into memory.
    """
    if given := [option for option, value in transformers_only.items() if value is not None]:
        raise CaptureError(
            f"{quoted(name)} runs in llama.cpp on the CPU, in the precision that its file has: it takes no {given[0]}. "
            "Leave that out, or load the transformers checkpoint."
        )
    threads = torch.get_num_threads() if threads is None else threads
    for what, value in (("micro_batch", micro_batch), ("threads", threads)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
            raise CaptureError(f"{what} is {value!r}; it must be a whole number from 1 to {MOST:,}.")
    files = open_files(name)
    describe(files)  # refuses what cannot be traced, before anything is loaded
    library()
    if check_memory:
        check_bytes(quoted(name), _bytes(files), "as it is stored", "cpu", WAY_AROUND)
    return LlamaCppModel(files, Weights(files.paths), ComputeOptions(threads, micro_batch, exact))


def before_opening(name: str) -> BeforeOpening:
    """Read a GGUF model's facts and size without loading it. Raises what `model_facts` raises."""
    files = open_files(name)
    return BeforeOpening(describe(files), _bytes(files), files.number("context_length") or None, files.identity)


def _bytes(files: GgufFiles) -> int:
    return int(files.size * OVERHEAD)


class LlamaCppModel(EngineModel):
    """A GGUF model, opened. Its runs are independent of each other, and several may go on at once."""

    def __init__(self, files: GgufFiles, weights: Weights, how: ComputeOptions) -> None:
        self.info = describe(files)
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

    def added_by_template(self, text: str, system: str | None = None) -> tuple[bool, ...] | None:
        """Of each token of a turn of a chat, whether the template added it; None where that cannot be told."""
        vocabulary = self.opened()[1]
        return added(vocabulary, vocabulary.spans, text, system)

    def run(self, request: CaptureRequest) -> Generator[SoFar, None, None]:
        """Prompts are read one after the other, each as if it were alone; tokens are drawn as `moeviz.trace` does."""
        weights, vocabulary = self.opened()
        prompts = prompts_of(vocabulary, request, self.info.name, self.max_tokens)
        yield from steps(weights, vocabulary, self.how, self.info, request, prompts)

    def close(self) -> None:
        """Let the memory go, once the last run has ended."""
        self._opened = None

    def opened(self) -> tuple[Weights, Vocabulary]:
        """The model in memory, and its tokenizer. Raises `CaptureError` once it was closed."""
        if self._opened is None:
            raise CaptureError(f"{quoted(self.name)} was closed. Open it again with moeviz.load_model.")
        return self._opened
