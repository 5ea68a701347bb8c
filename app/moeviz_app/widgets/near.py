"""Parts of a page that are drawn when they come near the screen: a visitor who never scrolls there costs nothing.

Its place is kept until then, so that nothing jumps when it comes. Whoever prints the page gets all of it.
"""

from collections.abc import Callable
from functools import partial

import streamlit as st

from moeviz_app.session import session
from moeviz_app.session.visit import PartsSeen, visit
from moeviz_app.widgets.components import component
from moeviz_app.widgets.messages import explained

ABOVE = 42  # pixels of a line above a picture, as in near.js
WHOLE_PAGE = "asks for the whole page"  # a click in a part that would otherwise redraw only itself

_component = component(
    "near",
    "<p class='near'><span>This part comes when you scroll to it.</span>"
    "<span class='paper'>This part was not drawn yet. Close this, and print once more.</span></p>",
    "near",
    "leaving near",
)


def begin_page(page: str) -> None:
    """Begin a page: of another one than before, nothing has been near the screen yet."""
    if (seen := visit().seen).page != page:
        seen = visit().seen = PartsSeen(page)
    seen.first = None


def fill_first_screen() -> None:
    """Let all parts of this page wait: something else takes its first screen."""
    visit().seen.first = ""


def when_near(name: str, draw: Callable[[], None], height: int, words: int = 0, said: int = 0) -> None:
    """Draw a part of the page when it comes near the screen, and the first one at once.

    name only for this part of its page; a part within it of the same name is drawn with it
    height  about how many pixels it takes
    words   the characters of the text next to it, and on a phone below it
    said    and of what is said above it
    """
    seen = visit().seen
    if seen.within == name:
        draw()
        return
    if seen.first is None:
        seen.first = name
    with st.container(key=f"place of {name}"):
        _part(name, draw, {"height": height, "words": words, "said": said})


def draw_whole_page() -> None:
    """Callback of a click in a part: let the whole page be drawn anew, since the click is about more than the part."""
    session.set_value(WHOLE_PAGE, True)


@st.fragment
def _part(name: str, draw: Callable[[], None], size: dict[str, int]) -> None:
    if st.session_state.pop(WHOLE_PAGE, None):
        st.rerun()
    if not is_near(name):
        tall = size["height"] + (ABOVE if size["said"] else 0)  # until the script that knows the screen is there
        _component(key=f"near {name}", data=size, height=tall, on_near_change=partial(_come_near, name))
        return
    visit().seen.within = name
    try:
        with explained():
            draw()
    finally:
        visit().seen.within = None


def is_near(name: str) -> bool:
    """Return whether a part has been near the screen. AppTest has no screen: there, all parts are near it."""
    seen = visit().seen
    return name == seen.first or name in seen.names


def _come_near(name: str) -> None:
    visit().seen.names.add(name)
