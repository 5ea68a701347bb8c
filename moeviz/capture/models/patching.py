"""Change a model for the time of a block; and give it back unchanged while the thread that did so waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

Undo = Callable[[], object]


class _Change:
    """Something done to a model, that can be undone and done again."""

    def __init__(self, do: Callable[[], Undo]) -> None:
        self._do = do
        self._undo: Undo | None = None

    def put_on(self) -> None:
        self._undo = self._do()

    def take_off(self) -> None:
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo()


class _Mine(threading.local):
    def __init__(self) -> None:
        self.changes: list[_Change] = []  # of this thread, the oldest first


_mine = _Mine()


@contextmanager
def changed(do: Callable[[], Undo]) -> Iterator[None]:
    """Do something to a model for the time of a block. `do` returns what undoes it, and may be called again."""
    changes, change = _mine.changes, _Change(do)
    change.put_on()
    changes.append(change)
    try:
        yield
    finally:
        changes.remove(change)
        change.take_off()


@contextmanager
def unchanged() -> Iterator[None]:
    """Inside the block, all that this thread has changed is as it was before; then it is changed again.

    So whoever uses a model meanwhile has it to themselves, and what was put on it first is taken off last. Left by an
    error, everything stays as it was before.
    """
    changes = list(_mine.changes)
    for change in reversed(changes):
        change.take_off()
    yield
    for change in changes:
        change.put_on()


@contextmanager
def replaced(holder: object, attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of an instance, and take it away or put the old one back."""
    missing = object()

    def put() -> Undo:
        before = vars(holder).get(attribute, missing)
        setattr(holder, attribute, value)
        if before is missing:
            return lambda: delattr(holder, attribute)
        return lambda: setattr(holder, attribute, before)

    with changed(put):
        yield


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing is drawn: no dropout, no jitter. Every part is then in the mode that it was in."""
    trained = [part for part in model.modules() if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True
