"""One recording at a time per model: hooks are per model, and a model may be shared by every visitor of an app."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from moeviz.errors import CaptureError

_guard = threading.Lock()
_locks: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()
_owners: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # the thread that holds a model's lock


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
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
