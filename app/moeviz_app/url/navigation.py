"""A link repeats a view: the page in its path, the subject in its query, and the page's own fields (`fields.py`).

The subject is a run, with a layer and a token (prompt=…), a dataset (dataset=…), or anything else that everybody has
(subject=…). A place's example, and what came in a file, have no query.

The address follows what a visitor does, so a bookmark, a link in a message and the browser's back button all work.
An address is a stranger's input: it is checked like typed text, and any web page can lead a browser here, so it runs
nothing by itself that is not in memory already.

With MOEVIZ_PROMPTS_IN_LINKS=0 a short key stands in an address, under which this server remembers the rest: what a
visitor asked a model then stands in no proxy's log and no browser's history. A key cannot be guessed, lasts a day, and
is forgotten with the process; whoever has it sees the prompt.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import streamlit as st

from moeviz.errors import MoevizError
from moeviz_app import settings
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.subject import DATASET as OF_DATASET
from moeviz_app.session.subject import OWN_COUNTS, TRACE, Look, view
from moeviz_app.session.visit import visit

KEY, SUBJECT, DATASET = "key", "subject", "dataset"
OF = "of"  # the model of an expert, if the subject that the address names does not say it
# Parts of an address that hold what was typed.
TEXTS = ("prompt", "system", "changed_prompt", "becomes", "first", "second")
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
        """Return a key instead of a query that holds what somebody typed; any other query as it is."""
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
        while self._queries:
            key, (when, query) = next(iter(self._queries.items()))
            if when > self._clock() - SECONDS and self._chars <= MOST_CHARS:
                return
            del self._queries[key], self._keys[frozenset(query.items())]
            self._chars -= _length(query)


def _length(query: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in query.items())


LINKS = ShortLinks()


def subject_query(look: Look) -> dict[str, str]:
    """Return what an address says of the chosen subject: nothing of a place's example, or of what came in a file."""
    chosen = look.chosen.id
    if chosen == TRACE:
        run = recent.run_of(visit().trace)
        return run.parameters() if run is not None and run.fits_an_address else {}
    if look.is_example or chosen.startswith(OWN_COUNTS):
        return {}
    return {DATASET: chosen.removeprefix(OF_DATASET)} if chosen.startswith(OF_DATASET) else {SUBJECT: chosen}


def expert_query(layer: int, expert: int, sample: int = 0) -> dict[str, str]:
    """Return the query of the page of an expert of the subject on screen; `sample` says which contexts are drawn."""
    look = view()
    query = subject_query(look)
    if look.is_instead or not (query or look.is_example):
        query[OF] = look.drawn.model
    where = {"layer": str(layer), "expert": str(expert)}
    return query | where | ({"sample": str(sample)} if sample else {})


def asked_query() -> dict[str, str]:
    """The query of the page of an expert: that of the address or, right after `open_expert`, the one given there."""
    try:
        asked = LINKS.shown(st.query_params.to_dict())
    except MoevizError:  # which was reported when the link was followed
        asked = {}
    return asked or visit().expert_asked


def for_the_address(query: dict[str, str]) -> dict[str, str]:
    """Return a query as the browser's address may hold it: with what was typed, or with a key in its place."""
    return query if settings.SETTINGS.prompts_in_links else LINKS.hidden(query)


MOST_ON_THEIR_WAY = 20  # addresses that we wrote and the browser did not repeat yet
FIRST_PATH = ""  # of the first page


def write(page: str, run: RunRequest | None = None) -> None:
    """Let the address of this page say what is on screen: the subject, or this run, and what the page adds."""
    look = view()
    wanted = subject_query(look) if run is None else run.parameters()
    if "prompt" in wanted and not look.is_instead:
        wanted["layer"] = str(session.chosen_layers("one")[0])
        if (token := session.selected_token()) is not None:
            wanted["token"] = str(token)
    elif DATASET in wanted and (layer := session.value(session.CORPUS_LAYER)) is not None:
        wanted["layer"] = str(layer)
    if (address := visit().page_address) is not None:
        wanted |= address.written()
    wanted = for_the_address(wanted)
    set_address(page, wanted)
    write_address(wanted)


def stay(page: str) -> None:
    """Keep the address of an expert's page as the page or a link wrote it, or write it if neither has."""
    wanted = for_the_address(asked_query())
    set_address(page, wanted)
    if wanted != st.query_params.to_dict():
        write_address(wanted)


def set_address(page: str, query: dict[str, str]) -> None:
    """Remember what the address of the page says from now on."""
    now = visit()
    now.address = query
    written = [place for place in now.written if place != (page, query)]
    now.written = [*written, (page, query)][-MOST_ON_THEIR_WAY:]


def asks(page: str, query: dict[str, str]) -> bool:
    """Return whether the browser comes to an address of its own accord: by a link, by a bookmark, or by going back.

    It does not if it sends the address that it sent before, since a browser gets a new one only after the page is
    drawn; nor where it says one that we wrote meanwhile, be that one or several ago.
    """
    now, place = visit(), (page, query)
    before, now.heard = now.heard, place
    if place in now.written:
        now.written = now.written[now.written.index(place) + 1 :]
        return False
    if place == before:
        return False
    now.written = []
    return True


_SCRIPT = Path(__file__).with_name("address.js").read_text("utf-8")
_component = st.components.v2.component("moeviz_address", html="<span hidden></span>", js=_SCRIPT)


def write_address(query: Mapping[str, str]) -> None:
    """Let the browser's address end in this query, instead of what it ends in now."""
    _component(key="address", data={"query": urlencode(query, quote_via=quote)}, height=1)
