"""Unwrap a model, and change it for a block: it is as before at the end, and while the thread of the block waits.

Hooks that are set after torch.compile are silently ignored by the compiled code, so the trace would be empty: compiled
models run eagerly while they are recorded. Of a model that is to stay compiled,
`moeviz.capture.record.kernel_recording` writes the record from inside the graph. PEFT puts LoRA's layers into the
model, and around it a wrapper that changes nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from torch import nn
from torch._dynamo import OptimizedModule

from moeviz.errors import CaptureError

Undo = Callable[[], object]


class Patch:
    """A change of a model that can be undone and done again."""

    def __init__(self, do: Callable[[], Undo]) -> None:
        self._do = do
        self._undo: Undo | None = None

    def apply(self) -> None:
        """Make the change, and remember how to undo it."""
        self._undo = self._do()

    def revert(self) -> None:
        """Undo the change; do nothing if it is not made."""
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo()


class _ThreadPatches(threading.local):
    def __init__(self) -> None:
        self.patches: list[Patch] = []  # of this thread, the oldest first


_thread = _ThreadPatches()


@contextmanager
def patched(do: Callable[[], Undo]) -> Iterator[None]:
    """Change a model for the time of a block. `do` returns the function that undoes it, and may be called again."""
    patches, patch = _thread.patches, Patch(do)
    patch.apply()
    patches.append(patch)
    try:
        yield
    finally:
        patches.remove(patch)
        patch.revert()


@contextmanager
def unpatched() -> Iterator[None]:
    """Undo all changes of this thread for the time of a block; then make them again.

    So other users of a model have it unchanged meanwhile, and the first change is undone last. If the block raises an
    error, the changes stay undone.
    """
    patches = list(_thread.patches)
    for patch in reversed(patches):
        patch.revert()
    yield
    for patch in patches:
        patch.apply()


@contextmanager
def patched_attribute(holder: object, attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of an instance for a block; then delete it, or put the old one back."""
    missing = object()

    def put() -> Undo:
        before = vars(holder).get(attribute, missing)
        setattr(holder, attribute, value)
        if before is missing:
            return lambda: delattr(holder, attribute)
        return lambda: setattr(holder, attribute, before)

    with patched(put):
        yield


def in_this_thread(note: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that calls `note` in this thread only: other threads may run the model meanwhile."""
    thread = threading.get_ident()

    def hook(*given: object) -> None:
        if threading.get_ident() == thread:
            note(*given)

    return hook


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a block: no dropout, no jitter. Then each part has its own mode again."""
    trained = [part for part in model.modules() if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True


log = logging.getLogger("moeviz.capture")
ORIGINAL = "_torchdynamo_orig_callable"  # a compiled function's own


def eager_model(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile(model)` wraps; any other model as it is."""
    return model._orig_mod if isinstance(model, OptimizedModule) else model


@contextmanager
def eager_mode(model: nn.Module) -> Iterator[None]:
    """Run nothing of `model` compiled in a block: not `model.compile()`, not a part that torch.compile wraps."""
    with ExitStack() as stack:
        changed = [
            stack.enter_context(patched_attribute(*change)) for part in model.modules() for change in _undone(part)
        ]
        if changed:
            log.info("%s is compiled; while it is being recorded, it runs uncompiled.", type(model).__name__)
        yield


def is_compiled(model: nn.Module) -> bool:
    """Return whether `eager_mode` has something to undo."""
    return any(True for part in model.modules() for _ in _undone(part))


def _undone(part: nn.Module) -> Iterator[tuple[nn.Module, str, object]]:
    """Yield the changes to a module that make it run uncompiled."""
    if isinstance(part, OptimizedModule):
        yield part, "forward", part._orig_mod.__call__
    elif (forward := vars(part).get("forward")) is not None and hasattr(forward, ORIGINAL):
        yield part, "forward", getattr(forward, ORIGINAL)
    if vars(part).get("_compiled_call_impl") is not None:
        yield part, "_compiled_call_impl", None


def unwrap_peft(model: nn.Module) -> nn.Module:
    """Return the transformers model inside a PeftModel, with its adapters; any other model as it is.

    Raises `CaptureError` for prompt learning, whose wrapper gives the model more to read than the prompt.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    wrapper: Any = model
    config = wrapper.active_peft_config
    if config.is_prompt_learning:
        raise CaptureError(
            f"This {type(model).__name__} learns its prompt ({type(config).__name__}): it reads vectors that are not "
            "tokens, and moeviz cannot separate their routing from that of the tokens. Trace the model without the "
            "adapter."
        )
    return cast(nn.Module, wrapper.get_base_model())
