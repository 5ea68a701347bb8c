"""Record a model's routers with hooks while it runs.

The answers of a router are kept as they come, in the smallest form that loses nothing; they are arranged once the model
has finished. One recording at a time per model: hooks are per model, and a model may be shared by all visitors of an
app.
Letters: B sequences in the batch, S positions of one forward, T routed tokens, K slots, E experts.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from moeviz.capture.models.patching import eager_mode, eval_mode
from moeviz.capture.record.expert_outputs import OutputRecord
from moeviz.capture.record.forwards import ENDED, ForwardLog, forward_hook, forwards_logged, method_hook
from moeviz.capture.record.next_tokens import NextTokenRecord
from moeviz.capture.routers.discovery import Router, find_routers, order_of
from moeviz.capture.routers.router_adapters import Answer
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

_guard = threading.Lock()
_locks: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()
_owners: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # the thread that holds a model's lock


@contextmanager
def exclusive(model: nn.Module) -> Iterator[None]:
    """A second thread waits, the same thread gets a `CaptureError`. Any thread may leave the block."""
    with _guard:
        if _owners.get(model) == threading.get_ident():
            raise CaptureError("This model is being recorded already; end that recording before starting another.")
        lock = _locks.setdefault(model, threading.Lock())
    with lock:
        _owners[model] = threading.get_ident()
        try:
            yield
        finally:
            _owners.pop(model, None)


@contextmanager
def exclusive_eval(model: nn.Module) -> Iterator[None]:
    """Run a model as `exclusive` does, in evaluation mode and with nothing of it compiled."""
    with exclusive(model), eval_mode(model), eager_mode(model):
        yield


BY_HOOKS = "hooks"
SAMPLE_ROWS = 32  # enough to recognise the score function


@dataclass(slots=True)
class RouterOutputs:
    """The answers of one router, one entry per call: one per forward of the model, unless its layer runs in a loop."""

    experts: list[torch.Tensor] = field(default_factory=list)  # (B·S, K) or (B, S, K), int16
    weights: list[torch.Tensor] = field(default_factory=list)  # of the same shape
    logits: list[torch.Tensor] = field(default_factory=list)  # (…, E), if requested
    num_experts: int = 0  # E of this router; 0 before it answered
    sample: tuple[torch.Tensor, ...] | None = None  # a few rows of logits, weights, experts; one router of a class


@dataclass(frozen=True, slots=True)
class ExpectedRouting:
    """The routing that an intervention asked for, with which the recording is compared."""

    own: list[RouterOutputs]  # what each router decided itself, one per router
    check_held: Callable[[RoutingTrace, np.ndarray, np.ndarray], None]  # trace, own ids and weights (L, T, K)


@dataclass(frozen=True, slots=True)
class Recording:
    """The answers of every router of a model while it was recorded."""

    routers: tuple[Router, ...]
    keep_logits: bool
    order: tuple[int, ...]  # in which order a forward of this model calls them: indices of `routers`
    forwards: ForwardLog
    outputs: list[RouterOutputs] = field(default_factory=list)  # one per router
    by: str = BY_HOOKS  # see `ModelInfo.recorded_by`
    expected: ExpectedRouting | None = None  # what an intervention makes routers decide
    following: NextTokenRecord | None = None  # the likeliest next tokens, if asked for
    added: OutputRecord | None = None  # the outputs of experts, if requested

    @property
    def read(self) -> list[torch.Tensor]:
        """The token ids (B, S) of each forward."""
        return self.forwards.read

    @property
    def site(self) -> str:
        """The site of these routers; "" in a model that has one."""
        return self.routers[0].site

    def blank(self) -> "Recording":
        """Return an empty recording of the same routers, by this thread."""
        return replace(self, forwards=ForwardLog(), outputs=[RouterOutputs() for _ in self.routers])

    def check(self) -> None:
        """Raise `CaptureError` unless every router answered when it should in every forward, for every token."""
        self.forwards.check(self.order, [f"{router.path} ({router.kind})" for router in self.routers])
        for index, (router, answers) in enumerate(zip(self.routers, self.outputs, strict=True)):
            rows = [ids.numel() // ids.shape[-1] for ids in answers.experts]
            if rows != [tokens.numel() for tokens in self.read for _ in range(self.order.count(index))]:
                raise CaptureError(
                    f"Router {router.path} answered for {sum(rows)} tokens, but the model read "
                    f"{sum(tokens.numel() for tokens in self.read)}; moeviz cannot tell which is which."
                )

    def rows(self, what: str) -> list[np.ndarray]:
        """Return `what` ("experts", "weights" or "logits") of each router, all forwards: (all B·S, K or E)."""
        parts = ([part.reshape(-1, part.shape[-1]) for part in getattr(answers, what)] for answers in self.outputs)
        return [_numpy(torch.cat(part)) for part in parts]

    def logit_samples(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return a few rows of (logits, weights, experts) of at least one router of each class, as it gave them."""
        samples = (answers.sample for answers in self.outputs if answers.sample is not None)
        return [tuple(_numpy(part) for part in sample) for sample in samples]


@contextmanager
def listen(model: nn.Module, keep_logits: bool = False, site: str | None = None) -> Iterator[Recording]:
    """Record the routers of `model`, of one site, in every forward that this thread runs inside the `with` block.

    The model computes exactly what it computes without; a compiled one runs uncompiled. Recording ends with the block,
    whatever happens in it. One recording at a time per model: a second thread waits, the same thread gets a
    `CaptureError`. Other threads may run the model meanwhile: they get its usual answers, and none of them is recorded.
    """
    with exclusive(model), recording_hooks(model, keep_logits, site) as recording:
        yield recording


@contextmanager
def recording_hooks(model: nn.Module, keep_logits: bool = False, site: str | None = None) -> Iterator[Recording]:
    """Record like `listen`, for a caller who makes sure that nobody else records the model."""
    routers = find_routers(model, site)
    recording = Recording(
        routers, keep_logits, order_of(model, routers), ForwardLog(), [RouterOutputs() for _ in routers]
    )
    with eager_mode(model), hooks_of(model, recording):
        yield recording


@contextmanager
def hooks_of(model: nn.Module, recording: Recording) -> Iterator[None]:
    """Inside the block the routers of a recording are recorded, in a model that runs uncompiled."""
    with ExitStack() as stack:
        stack.enter_context(forwards_logged(model, recording.site, recording.forwards))
        kinds = [router.kind for router in recording.routers]
        for index, router in enumerate(recording.routers):
            first_of_class = kinds.index(router.kind) == index
            note = _note_routing(recording, index, first_of_class)
            stack.enter_context(answer_hook(router, note))
        yield


Given = list[tuple[list, Any]]  # a list, and what belongs to its end


def shares_of_rows(batch: Recording, rows: Sequence[Recording]) -> Given:
    """Return the part of a forward for each row's recording, if each row of a batch read one token.

    Raises `CaptureError` if routers did not answer as expected.
    """
    batch.check()
    (tokens,) = batch.read
    given: Given = []
    for recording, token in zip(rows, tokens.split(1), strict=True):
        given += [(recording.forwards.calls, call) for call in batch.forwards.calls]
        given.append((recording.forwards.read, token))
    for index, answers in enumerate(batch.outputs):
        for what in ("experts", "weights", "logits"):
            for part in getattr(answers, what):
                parts = part.reshape(len(rows), 1, part.shape[-1])
                given += [(getattr(of.outputs[index], what), row) for of, row in zip(rows, parts, strict=True)]
    return given


@contextmanager
def answer_hook(router: Router, note: Callable[[Answer], None]) -> Iterator[None]:
    """Inside the block, `note` gets what the router answers to this thread."""

    def read(given: tuple, answer: tuple) -> None:
        note(answer if router.adapter is None else router.read(given, answer))

    if router.adapter is not None and router.adapter.method:
        with method_hook(router.block, router.adapter.method, read):
            yield
        return
    with forward_hook(router.module, read):
        yield


def _note_routing(recording: Recording, index: int, first_of_class: bool) -> Callable[[Answer], None]:
    router, answers, keep_logits = recording.routers[index], recording.outputs[index], recording.keep_logits

    calls = recording.forwards.calls

    # Runs once per layer and generated token, so it does the least it can: shapes are put right in `Recording.rows`.
    def note(answer: Answer) -> None:
        if not calls or calls[-1] == ENDED:  # no forward of the model runs
            return
        calls.append(index)
        if not answers.experts:
            check_layout(router, answer)
            answers.num_experts = router.num_experts if answer[0] is None else answer[0].shape[-1]
            answers.sample = sample_rows(answer) if first_of_class and answer[0] is not None else None
        logits, weights, experts = answer[:3]
        if keep_logits and logits is not None:
            answers.logits.append(logits.detach() if logits.requires_grad else logits)
        answers.weights.append(weights.detach() if weights.requires_grad else weights)
        answers.experts.append(experts.to(torch.int16))

    return note


def sample_rows(answer: Answer) -> tuple[torch.Tensor | None, ...]:
    """Return the first rows of a router's answer: logits (if it has any), weights, experts."""
    return tuple(
        None if part is None else part.detach().reshape(-1, part.shape[-1])[:SAMPLE_ROWS].clone() for part in answer[:3]
    )


def check_layout(router: Router, answer: object) -> None:
    """Raise `CaptureError` unless a router returns (logits, weights, expert ids, …): nothing else is guessed at."""
    parts = answer[:3] if isinstance(answer, tuple) else ()
    if len(parts) < 3 or not _fit_together(*parts, router.num_experts):
        raise CaptureError(
            f"{router.kind} at {router.path} does not answer with (logits, weights, expert ids), "
            "which is what moeviz can read. This family of models is not supported yet."
        )


def _fit_together(logits: object, weights: object, experts: object, num_experts: int) -> bool:
    return (
        isinstance(weights, torch.Tensor)
        and isinstance(experts, torch.Tensor)
        and not experts.is_floating_point()
        and experts.dtype != torch.bool
        and weights.shape == experts.shape
        and (logits is None or isinstance(logits, torch.Tensor))
        and (logits is None or (logits.shape[:-1] == experts.shape[:-1] and logits.shape[-1] == num_experts))
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor if tensor.dtype == torch.int16 else tensor.float()).cpu().numpy()
