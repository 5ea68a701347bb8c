"""A link repeats a view: the page in its path; prompt, model, generation, layer and token in its query.

What a page adds to that is in the table of `fields.py`.

The address follows what a visitor does, so a bookmark, a link in a message and the browser's back button all work. A
trace that came in a file has no link. What is in an address is a stranger's: it is checked like what is typed, and any
web page can lead a browser here, so it runs nothing by itself but what is in memory already.
"""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import streamlit as st
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import datasets, recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.expert import asked_query, for_the_address
from moeviz_app.url.fields import DATASET_PAGES, PAGE_ADDRESSES

# Before Streamlit turns to another page it clears the query of this one, as a step of its own in the browser's history:
# the page that is left would stand there twice. We step nowhere within a page, so such a step is left out.
#
# What Streamlit itself reads from an address (`embed`, `embed_options`) stays in it.
JS = """
const step = history.pushState;

function stepUnlessWithin(state, unused, address) {
  if (new URL(address ?? "", location).pathname !== location.pathname) step.call(history, state, unused, address);
}

export default function ({ data }) {
  history.pushState = stepUnlessWithin;
  const own = new URLSearchParams(location.search);
  const kept = ["embed", "embed_options"].flatMap((name) => own.getAll(name).map((value) => `${name}=${value}`));
  const query = [data.query, ...kept].filter(Boolean).join("&");
  const wanted = query && `?${query}`;
  if (location.search !== wanted) history.replaceState(history.state, "", location.pathname + wanted + location.hash);
}
"""
MOST_ON_THEIR_WAY = 20  # addresses that we wrote and the browser did not repeat yet
FIRST_PATH = ""  # of the first page


def write(page: str, run: RunRequest | None = None) -> None:
    """Let the address of this page say what is on screen, by the run that made it: that of the trace, or this one."""
    run = run or recent.run_of(session.current_trace())
    wanted = {}
    of_dataset = page in DATASET_PAGES and datasets.chosen() is not None
    if run is not None and run.fits_an_address and not of_dataset:
        wanted = run.parameters() | {"layer": str(session.chosen_layers("one")[0])}
        if (token := session.selected_token()) is not None:
            wanted["token"] = str(token)
    if page in PAGE_ADDRESSES:
        wanted |= PAGE_ADDRESSES[page].written()
    wanted = for_the_address(wanted)
    set_address(page, wanted)
    write_address(wanted)


def stay(page: str) -> None:
    """Leave the address of an expert's page as the page or a link wrote it, or write it where none has."""
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

    It does not where it says the address that it said before, since a browser hears of a new one only after the page is
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


_component = st.components.v2.component("moeviz_address", html="<span hidden></span>", js=JS)


def write_address(query: Mapping[str, str]) -> None:
    """Let the browser's address end in this query, instead of what it ends in now."""
    _component(key="address", data={"query": urlencode(query, quote_via=quote)}, height=1)
