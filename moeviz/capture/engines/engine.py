"""A model that another engine runs (llama.cpp, MLX, a server): what moeviz asks of it, and what none of them can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from moeviz.capture.run.decoding import Decoding
from moeviz.capture.run.generation import Progress, Throttle
from moeviz.capture.run.request import AUTO, CaptureRequest
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.parameters import ServedModel
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

SoFar = Callable[[], RoutingTrace]


@dataclass(frozen=True, slots=True)
class BeforeOpening:
    """Facts of an engine's model that is not open yet: enough to say whether to open it, and what runs it."""

    info: ModelInfo
    memory: int  # bytes on this machine; 0 where it runs elsewhere
    max_tokens: int | None  # as `EngineModel.max_tokens`
    identity: str | None  # a text that is another for other weights; None where nobody can know
    where: str = "cpu"  # what runs it: runs on one device, or on one server, take turns
    served: ServedModel | None = None  # what serving it takes; None where nobody can tell


class EngineModel(ABC):
    """A model in another engine's hands, used wherever a `LoadedModel` is. It is read; nothing in it can be changed.

    >>> import moeviz
    >>> isinstance(moeviz.load_model(), moeviz.EngineModel)  # transformers runs this one
    False
    """

    info: ModelInfo
    identity: str | None = None  # as `BeforeOpening.identity`, of the files that were opened
    shows_outputs = False  # whether a trace of it can have what experts put out

    @property
    def name(self) -> str:
        """Name under which the model was asked for."""
        return self.info.name

    @property
    @abstractmethod
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, prompt and generated ones together; None if it sets no limit."""

    @property
    @abstractmethod
    def chats(self) -> bool:
        """Return True if the model comes with a chat template."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` as a prompt, including special tokens."""

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Tell which characters of `text` each token stands for, without special tokens; None where nobody knows."""
        return None

    @abstractmethod
    def run(self, request: CaptureRequest) -> Generator[SoFar | None, None, None]:
        """Run the prompts: once they are read, and after each generated token, a function that makes the trace so far.

        The last one makes the whole trace. None: the engine is at work and has nothing new, so that a caller who
        waits may look up, and stop. Closing the iterator stops the engine before its next token. Raises what
        `moeviz.trace` raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory, or close its connection. Calling it twice is harmless."""


def whole_trace(model: EngineModel, request: CaptureRequest, progress: Progress | None = None) -> RoutingTrace:
    """Run to the end, and make the trace once."""
    latest: SoFar | None = None
    done = -1
    with closing(model.run(request)) as steps:
        for so_far in steps:
            if so_far is not None:
                latest, done = so_far, done + 1
            if progress is not None:
                progress(max(done, 0), request.max_new_tokens)
        if latest is None:
            raise CaptureError(f"{model.info.backend} ran {model.name} without a word. Try again.")
        return latest()


def growing_trace(model: EngineModel, request: CaptureRequest, seconds_between: float = 0.0) -> Iterator[RoutingTrace]:
    """Yield the trace after the prompts are read, and after each generated token. Leave the loop to stop the engine."""
    throttle = Throttle(seconds_between)
    with closing(model.run(request)) as steps:
        for so_far in steps:
            if so_far is not None:
                latest = so_far
                yield throttle.latest(so_far)
        if throttle.stale:
            yield latest()


def check_options(name: str, runs_in: str, transformers_only: dict[str, object]) -> None:
    """Raise `CaptureError` for the first option of `load_model` that is given and that another engine lacks."""
    if given := [option for option, value in transformers_only.items() if value is not None]:
        raise CaptureError(
            f"{quoted(name)} runs in {runs_in}: it takes no {given[0]}. Leave that out, or load the transformers "
            "checkpoint."
        )


# Arguments that only a transformers model supports: each with the value that means "not asked" and its description.
_TRANSFORMERS_ONLY: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("intervention", (None,), "interventions"),
    ("kernels", ("auto", False), "moeviz's kernels"),
    ("site", (None,), "a choice of routers"),
    ("decoding", (Decoding(),), "beams, drafts and caches"),
    ("next_tokens", (False, AUTO), "next tokens"),
    ("outputs", (False,), "experts' outputs"),
    ("token_ids", (None,), "prompts by their token ids"),
    ("images", ((),), "images"),
)


def check_only_read(model: EngineModel, request: CaptureRequest, tokenizer: object = None) -> None:
    """Raise `CaptureError` for what only a transformers model can do."""
    asked = [("tokenizer", "a tokenizer of your own")] if tokenizer is not None else []
    asked += [(name, words) for name, nothing, words in _TRANSFORMERS_ONLY if getattr(request, name) not in nothing]
    for argument, words in asked:
        if argument != "outputs" or not model.shows_outputs:
            raise CaptureError(
                f"{model.name} runs in {model.info.backend}, where moeviz reads what the routers decide and changes "
                f"nothing: {words} need a transformers model. Leave {argument} out, or load the transformers "
                "checkpoint."
            )
