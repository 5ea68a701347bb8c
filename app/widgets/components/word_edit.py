"""A text whose words can be typed over, one of them at a time: a click on a word, another word, and Enter."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from moeviz.errors import InvalidPrompt

HERE = Path(__file__).parent
HTML = """<p class="words" role="group" aria-label="The text. Choose a word, and type another over it."></p>
<p class="hint">Click a word and type another over it; Enter runs the text with it, Esc leaves it as it is.</p>"""

_component = st.components.v2.component(
    "moeviz_word_edit",
    html=HTML,
    css=(HERE / "word_edit.css").read_text("utf-8"),
    js=(HERE / "word_edit.js").read_text("utf-8"),
)


class Edit(NamedTuple):
    """A word of a text, from its first character to its last, and what stands in its place."""

    start: int
    end: int
    text: str

    def of(self, text: str) -> str:
        """The text with the edit made in it."""
        return f"{text[: self.start]}{self.text}{text[self.end :]}"


def word_edit(text: str, edit: Edit | None, on_edit: Callable[[], None], key: str) -> None:
    """Draw the text with the edit made in it, if there is one. A new one is left in the widget, for `told`."""
    _component(key=key, data={"text": text, "edit": edit}, on_edit_change=on_edit)


def told(said: Any, text: str, most: int) -> Edit | None:
    """Return the edit of this text that a browser asks for; None where it is none. It can be any browser and message.

    `most` is how many characters the edited text may have. Raises `InvalidPrompt` where it has more.
    """
    if not isinstance(said, Mapping):
        return None
    start, end, new = (said.get(name) for name in ("start", "end", "text"))
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text) or not isinstance(new, str):
        return None
    edited = (edit := Edit(start, end, new)).of(text)
    if len(edited) > most:
        raise InvalidPrompt(
            f"With that word the text has {len(edited):,} characters, and {most:,} are allowed here. Type a shorter "
            "one."
        )
    return edit if edited.strip() and edited != text else None
