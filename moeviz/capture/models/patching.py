"""Change a model for the time of a block; and give it back unchanged while the thread that did so waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

Undo = Callable[[], object]


class Patch:
    """Something done to a model, that can be undone and done again."""

    def __init__(self, do: Callable[[], Undo]) -> None:
        self._do = do
        self._undo: Undo | None = None

    def apply(self) -> None:
        """Do it, and keep what undoes it."""
        self._undo = self._do()

    def revert(self) -> None:
        """Undo it; nothing where it is not done."""
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo()


class _ThreadPatches(threading.local):
    def __init__(self) -> None:
        self.patches: list[Patch] = []  # of this thread, the oldest first


_thread = _ThreadPatches()


@contextmanager
def patched(do: Callable[[], Undo]) -> Iterator[None]:
    """Do something to a model for the time of a block. `do` returns what undoes it, and may be called again."""
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
    """Inside the block, all that this thread has changed is as it was before; then it is changed again.

    So whoever uses a model meanwhile has it to themselves, and what was put on it first is taken off last. Left by an
    error, everything stays as it was before.
    """
    patches = list(_thread.patches)
    for patch in reversed(patches):
        patch.revert()
    yield
    for patch in patches:
        patch.apply()


@contextmanager
def patched_attribute(holder: object, attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of an instance, and take it away or put the old one back."""
    missing = object()

    def put() -> Undo:
        before = vars(holder).get(attribute, missing)
        setattr(holder, attribute, value)
        if before is missing:
            return lambda: delattr(holder, attribute)
        return lambda: setattr(holder, attribute, before)

    with patched(put):
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing is drawn: no dropout, no jitter. Every part is then in the mode that it was in."""
    trained = [part for part in model.modules() if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True
