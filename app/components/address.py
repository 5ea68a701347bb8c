"""The browser's address, written without a step in its history: so that Back leaves the page."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import streamlit as st

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

_component = st.components.v2.component("moeviz_address", html="<span hidden></span>", js=JS)


def write_address(query: Mapping[str, str]) -> None:
    """Let the browser's address end in this query, instead of what it ends in now."""
    _component(key="address", data={"query": urlencode(query, quote_via=quote)}, height=1)
