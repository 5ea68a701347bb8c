"""Addresses without prompts: a short key stands in them, under which this server remembers the rest. No Streamlit here.

With MOEVIZ_PROMPTS_IN_LINKS=0. What a visitor asked a model then stands in no proxy's log and no browser's history. A
key cannot be guessed, lasts a day, and is forgotten with the process; whoever has it sees the prompt.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from moeviz.errors import MoevizError

KEY = "key"
TEXTS = (
    "prompt",
    "system",
    "changed_prompt",
    "becomes",
    "first",
    "second",
)  # parts of an address that hold what was typed
SECONDS = 24 * 60 * 60
MOST_CHARS = 20_000_000  # of all that is remembered
KEY_BYTES = 16


class ShortLinks:
    """Keys and the queries that they stand for. The oldest go where there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._guard = clock, threading.Lock()
        self._keys: dict[frozenset[tuple[str, str]], str] = {}
        self._queries: OrderedDict[str, tuple[float, dict[str, str]]] = OrderedDict()  # the oldest first
        self._chars = 0

    def hidden(self, query: Mapping[str, str]) -> dict[str, str]:
        """Return a key in place of a query that holds what somebody typed; any other query as it is."""
        if not any(name in query for name in TEXTS):
            return dict(query)
        with self._guard:
            self._forget()
            same = frozenset(query.items())
            key = self._keys.setdefault(same, secrets.token_urlsafe(KEY_BYTES))
            if key not in self._queries:
                self._chars += _length(query)
            self._queries[key] = (self._clock(), dict(query))
            self._queries.move_to_end(key)
        return {KEY: key}

    def shown(self, query: Mapping[str, str]) -> dict[str, str]:
        """Return the query that a key stands for; any other as it is. Raises `MoevizError` for an unknown key."""
        if KEY not in query:
            return dict(query)
        with self._guard:
            self._forget()
            if (found := self._queries.get(query[KEY])) is None:
                raise MoevizError(
                    "This address holds a key that this server does not know, or no longer: keys last a day, and a "
                    "restart forgets them. Run the prompt again."
                )
            return dict(found[1])

    def _forget(self) -> None:
        """Forget what is too old, and what is too much."""
        while self._queries:
            key, (when, query) = next(iter(self._queries.items()))
            if when > self._clock() - SECONDS and self._chars <= MOST_CHARS:
                return
            del self._queries[key], self._keys[frozenset(query.items())]
            self._chars -= _length(query)


def _length(query: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in query.items())


LINKS = ShortLinks()
