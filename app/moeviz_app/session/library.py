"""The traces, counts and training runs that a session keeps: by name, and within a budget of bytes.

There is one budget for a tab, and one for all. Over either, the oldest go first; what a tab keeps last, which is what
it shows, stays. Traces that several tabs keep, because they ship, count once. A tab that is closed takes its traces
along: nothing here holds them.
"""

import threading
from collections.abc import Container, Iterator
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

from moeviz.errors import MoevizError
from moeviz.routing_trace import Counted
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.server import metrics

MB = 10**6
_guard = threading.RLock()
_order = count()
_sizes: WeakKeyDictionary[Counted, int] = WeakKeyDictionary()
_libraries: "list[ref[SessionLibrary]]" = []


class SessionLibrary(dict[str, Counted]):
    """The traces of one tab by name, or its counts, or its training runs, the oldest first.

    Any thread may take one away: `listed` is safe to go through.
    """

    def __init__(self, named: dict[str, Counted] | None = None) -> None:
        super().__init__(named or {})
        self.since = {name: next(_order) for name in self}
        self.runs: list[tuple[Counted, Any]] = []  # which run made which
        self.dropped: list[str] = []
        with _guard:
            _libraries[:] = [other for other in _libraries if other() is not None] + [ref(self)]

    def newest_first(self) -> dict[str, Counted]:
        """Return all of it by name, the newest first."""
        return dict(reversed(self.listed()))

    def take_dropped(self) -> list[str]:
        """Return the names of what was let go since this was asked last, because memory was needed."""
        names = [*self.dropped]
        self.dropped.clear()
        return names

    def listed(self) -> list[tuple[str, Counted]]:
        """Names and traces, the oldest first."""
        with _guard:
            return list(self.items())

    def put(self, name: str, trace: Counted, most: int) -> None:
        """Keep a trace as the newest, within the number and the memory that are set."""
        with _guard:
            self.pop(name, None)
            self[name] = trace
            self.since[name] = next(_order)
            for old in [*self][:-most]:
                self._drop(old)
            _drop_oldest(self)

    def put_last(self, name: str, trace: Counted, most: int) -> bool:
        """Keep a trace as the oldest, if there is a place and enough memory for it; whether there was."""
        with _guard:
            fits = size_of(trace) + _bytes_of(self) <= _of_a_tab() and size_of(trace) + bytes_kept() <= _of_all()
            if fits and len(self) < most:
                others = list(self.items())
                self.clear()
                self.update([(name, trace), *others])
                self.since[name] = -1
            return fits and name in self

    def rename(self, old: str, new: str) -> None:
        """Give a trace another name, in its place."""
        with _guard:
            others = [(new if name == old else name, trace) for name, trace in self.items()]
            self.since[new] = self.since.pop(old)
            self.clear()
            self.update(others)

    def _drop(self, name: str) -> None:
        trace = self.pop(name)
        self.since.pop(name, None)
        self.runs[:] = [(made, run) for made, run in self.runs if made is not trace]


def free_name(title: str, taken: Container[str]) -> str:
    """Return a title, with a number behind it if that name is taken.

    >>> free_name("a", ["a", "a (2)"])
    'a (3)'
    """
    name, number = title, 1
    while name in taken:
        number += 1
        name = f"{title} ({number})"
    return name


def check_memory(trace: Counted, name: str) -> None:
    """Raise `MoevizError` if a trace that came in a file is more than a tab, or the server, may keep."""
    size = size_of(trace)
    if size > _of_a_tab():
        raise MoevizError(
            f"{quoted(name)} takes {size / MB:,.0f} MB of memory once it is open, and one tab may keep "
            f"{_of_a_tab() / MB:,.0f} MB here. Save fewer tokens or layers, or leave the logits out."
        )
    with _guard:
        _drop_oldest(None, size)
        if bytes_kept() + size > _of_all():
            raise MoevizError(
                f"This server keeps {_of_all() / MB:,.0f} MB of traces, as many as it may. Try again later."
            )


def bytes_kept() -> int:
    """Return the bytes that all kept traces take together; one that several tabs keep counts once."""
    with _guard:
        return sum({id(trace): size_of(trace) for library in _living() for trace in library.values()}.values())


def size_of(trace: Counted) -> int:
    """Return the bytes that a trace takes."""
    if trace not in _sizes:
        _sizes[trace] = trace.nbytes
    return _sizes[trace]


def _drop_oldest(library: SessionLibrary | None, more: int = 0) -> None:
    """Drop the oldest traces, of this tab and then of all, while memory is short."""
    while library is not None and len(library) > 1 and _bytes_of(library) > _of_a_tab():
        _take(library, next(iter(library)))
    while bytes_kept() + more > _of_all():
        oldest = min(((own.since[name], name, own) for own in _living() for name in [*own][:-1]), default=None)
        if oldest is None:
            return
        _take(oldest[2], oldest[1])


def _take(library: SessionLibrary, name: str) -> None:
    library._drop(name)
    library.dropped.append(name)
    metrics.count("evictions", what="trace")


def _living() -> Iterator[SessionLibrary]:
    return (library for weak in _libraries if (library := weak()) is not None)


def _bytes_of(library: SessionLibrary) -> int:
    return sum({id(trace): size_of(trace) for trace in library.values()}.values())


def _of_a_tab() -> int:
    return settings.SETTINGS.session_mb * MB


def _of_all() -> int:
    return settings.SETTINGS.process_mb * MB


metrics.read_gauge("trace_bytes", bytes_kept)
