"""What is worked out once of the traces that all visitors are shown, and that never change."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from moeviz_app.traces import recorded

T = TypeVar("T")
MOST = 256  # pictures and numbers
_known: dict[Hashable, Any] = {}


def once(trace: object, what: Hashable, make: Callable[[], T]) -> T:
    """What `make` makes: of the example's trace once for everybody, of any other trace each time."""
    if trace is not recorded.example():
        return make()
    key = (id(trace), what)
    if key not in _known:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = make()
    return _known[key]
