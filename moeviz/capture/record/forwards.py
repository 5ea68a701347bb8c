"""The order of events while a model is recorded: its forwards, and which router answered when.

Only what happens inside a forward, in the thread that records, is noted. Other threads may run the model meanwhile, or
a part of it; so may a backward pass that computes a forward again (gradient checkpointing): none of that belongs to the
forwards that are recorded. What is noted must be exactly what a forward of this model does, in that order.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident

import torch
from torch import nn

from moeviz.capture.models.patching import Undo, in_this_thread, patched, patched_attribute
from moeviz.errors import CaptureError

BEGAN, ENDED = -1, -2  # of a forward of the model, among the indices of routers
OUTPUT_CAPTURING = "transformers.utils.output_capturing"  # its hooks keep what a module returns, and change nothing
NESTED = (
    "something ran it inside one of its own forwards, or a forward was interrupted. moeviz cannot tell which answers "
    "count. Remove forward hooks that run the model, and record again."
)
AGAIN = (
    "something ran a part of the model again inside a forward, or left a part out. moeviz cannot tell which answers "
    "count. Remove forward hooks that do so, and record again."
)


@dataclass(slots=True)
class ForwardLog:
    """The forwards of a model in the thread that made this."""

    read: list[torch.Tensor] = field(default_factory=list)  # the token ids (B, S) of each
    calls: list[int] = field(default_factory=list)  # BEGAN, the index of each router that answered, ENDED, …
    thread: int = field(default_factory=get_ident)

    def running(self) -> bool:
        """True while a forward of the model runs in this thread."""
        return get_ident() == self.thread and bool(self.calls) and self.calls[-1] != ENDED

    def check(self, order: Sequence[int], names: Sequence[str]) -> None:
        """Raise `CaptureError` unless each forward called the routers in `order`; `names` are those of the routers."""
        if not self.read:
            raise CaptureError(
                "The model did not run in the thread that records it, so there is nothing to show. Run it inside the "
                "block, in the thread that entered it."
            )
        if self.calls != [BEGAN, *order, ENDED] * len(self.read):
            raise CaptureError(self._disorder(order, names))

    def _disorder(self, order: Sequence[int], names: Sequence[str]) -> str:
        times, ran = len(self.read), f"The model ran {_times(len(self.read))}"
        for index, name in enumerate(names):
            if index not in self.calls:
                return (
                    f"{ran}, but its router {name} answered 0 times. A fused kernel may bypass it; load the model "
                    "without replaced kernels (use_kernels=False)."
                )
        if [call for call in self.calls if call < 0] != [BEGAN, ENDED] * times:
            return f"{ran}, but not one time after the other: {NESTED}"
        for index, name in enumerate(names):
            answered, expected = self.calls.count(index), times * order.count(index)
            if answered != expected:
                return (
                    f"{ran}, and its router {name} answered {_times(answered)} instead of {_times(expected)}: {AGAIN}"
                )
        return f"{ran}, and its routers did not answer in the order of its layers: {AGAIN}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


@contextmanager
def forwards_logged(model: nn.Module, site: str, forwards: ForwardLog, one_graph: bool = False) -> Iterator[None]:
    """Note in `forwards`, inside the block, each forward of the part that contains a site's routers.

    one_graph   True for a model that torch.compile may make one graph of: what runs in the graph is not noted.
    """
    stacks = {"encoder": "get_encoder", "decoder": "get_decoder"}
    reader = getattr(model, stacks[site])() if site in stacks else model

    def began(*_given: object) -> None:
        if get_ident() == forwards.thread:
            forwards.calls.append(BEGAN)

    # A hook that is removed while another thread runs the model is called there without `kwargs`.
    def ended(_reader: nn.Module, args: tuple, *given: object) -> None:
        if get_ident() == forwards.thread:
            forwards.read.append(_token_ids(reader, args, *given))
            forwards.calls.append(ENDED)

    # First and last of all hooks, so that what others' hooks run lies between.
    first, last = _hook(began, one_graph), _hook(ended, one_graph)
    before = patched(lambda: reader.register_forward_pre_hook(first, prepend=True).remove)
    after = patched(lambda: reader.register_forward_hook(last, with_kwargs=True).remove)
    with before, after:
        yield


def _token_ids(reader: nn.Module, args: tuple, kwargs: dict, _output: object) -> torch.Tensor:
    ids = args[0] if args else kwargs.get("input_ids")
    if not isinstance(ids, torch.Tensor):
        raise CaptureError(
            f"{type(reader).__name__} was given no input_ids, and moeviz identifies tokens by their ids. Run it on "
            "token ids, not on embeddings."
        )
    return ids.detach().clone()


def _hook(note: Callable[..., None], one_graph: bool = False) -> Callable[..., None]:
    """Return a hook that notes; while torch.compile makes a graph, it breaks the graph to note, or notes nothing."""
    while_compiling = (lambda *_given: None) if one_graph else torch.compiler.disable(note)

    def hook(*given: object) -> None:
        (while_compiling if torch.compiler.is_compiling() else note)(*given)

    return hook


@contextmanager
def forward_hook(module: nn.Module, note: Callable[[tuple, tuple], None]) -> Iterator[None]:
    """Inside the block `note` gets what `module` is given and what it returns, whenever this thread calls it.

    Raises `CaptureError` in the call if a hook that was registered later could still change what it returns.
    """
    thread, hooks = get_ident(), module._forward_hooks
    place = -1  # of our hook among the module's: another one whenever it is put on

    def noted(_module: nn.Module, given: tuple, answer: tuple) -> None:
        if get_ident() == thread:
            if [*hooks][-1] != place:
                check_nobody_is_later(module, place)
            note(given, answer)

    hook = _hook(noted)

    def put() -> Undo:
        nonlocal place
        handle = module.register_forward_hook(hook)
        place = handle.id
        return handle.remove

    with patched(put):
        yield


@contextmanager
def method_hook(block: nn.Module, method: str, note: Callable[[tuple, tuple], None]) -> Iterator[None]:
    """Note what a method of a module is given and what it returns, whenever this thread calls it in the block."""
    own, hook = getattr(block, method), _hook(in_this_thread(note))

    def wrapped(*given: torch.Tensor) -> tuple:
        answer = own(*given)
        hook(given, answer)
        return answer

    with patched_attribute(block, method, wrapped):
        yield


def check_nobody_is_later(module: nn.Module, ours: int | None = None) -> None:
    """Raise `CaptureError` if forward hooks of others run after hook `ours` of a module, or at all."""
    hooks = module._forward_hooks
    places = list(hooks)
    later = places[places.index(ours) + 1 :] if ours is not None else places
    if any(getattr(hooks[place], "__module__", "") != OUTPUT_CAPTURING for place in later):
        raise CaptureError(
            f"A forward hook on the router {type(module).__name__} runs after moeviz has recorded its answer, and may "
            "change it. Register hooks before the recording starts."
        )
