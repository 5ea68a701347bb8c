"""The prompt box: examples, the text and Run in one block. Typing stays in the browser, and waits for nothing. The
text is sent 400 ms after the last key, to a fragment of its own, so nothing else of the page is drawn anew.
Three events on `window` tie it to the rest of the page: `moeviz:stale` (detail: whether the text differs from the one
that was run), which the box sends; `moeviz:running` and `moeviz:ran`, which it receives from
`moeviz_app.widgets.components.texts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from moeviz_app.widgets.components import component, nothing

TOO_LONG = (  # the browser fills in how many there are
    "This text has {{count}} characters; at most {most:,} can be run here. Shorten it, or use “moeviz trace”."
)
HTML = """<div class="ask">
<div class="row">
<div class="place">
<textarea aria-label="Prompt" aria-describedby="keys refused" spellcheck="false" rows="1"></textarea>
<p class="keys" id="keys"></p></div>
<div class="side"><button class="run" type="button">Run</button><p class="changed" aria-live="polite"></p></div>
<div class="chips" role="group" aria-label="Examples: each fills the box and runs"></div>
</div>
<p class="refused" id="refused" role="alert"></p>
<div class="chat" hidden>
<label><input class="turn" type="checkbox" role="switch"> Send as a chat turn</label>
<details><summary>System prompt</summary>
<textarea class="system" aria-label="System prompt" rows="2"></textarea></details>
</div></div>"""

_component = component("ask", HTML, "ask", "leaving ask")


@dataclass(frozen=True, slots=True)
class PromptInput:
    """The content of the prompt box, as far as the browser has sent it, and whether it was just asked to run."""

    text: str
    run: dict[str, Any] | None  # in one script run only: its text, and of a chat also `chat` and `system`
    runs: int  # the number of runs asked for, this one included
    system: str = ""
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """The state of a box between two scripts."""

    text: str | None = None  # the text that the page received last
    fillings: int = 0  # so often the page has wanted another text in it
    chat: bool = False  # whether what was filled in last is a turn of a chat
    system: str = ""  # and its system prompt
    runs: int = 0
    asked: dict[str, Any] | None = None  # a run that the page has not received yet
    press: Any = None  # of the run that was asked for last
    in_page: bool = False  # whether the script of the whole page draws it just now


def ask(
    text: str,
    examples: Mapping[str, str],
    most_chars: int,
    *,
    ran: str | None,
    can_stop: bool = False,
    chat: bool = False,
    key: str,
) -> PromptInput:
    """Draw the box, and say what is in it.

    `text`: what the box is to hold. Pass what the last `Asked.text` was, or another text to fill it in; what was typed
    meanwhile wins over a text that is only repeated, unless `fill_in` came before.
    `ran`: the text of the run on screen. While the box holds another one it says so.
    `can_stop`: whether Run becomes Stop while a run goes on.
    `chat`: whether the text can be sent as a turn of a chat; it can too where one was filled in.
    """
    before = _recall(key)
    chat = chat or before.chat
    filled = text != before.text
    box = replace(before, text=text, fillings=before.fillings + filled)
    _remember(key, box)
    data = {
        "key": key,
        "text": text,
        "fillings": box.fillings,
        "examples": [list(pair) for pair in examples.items()],
        "most": most_chars,
        "too_long": TOO_LONG.format(most=most_chars),
        "ran": ran,
        "runs": box.runs + (box.asked is not None),
        "running": box.asked is not None,
        "can_stop": can_stop,
        "chat": chat,
        "turn": box.chat,
        "system": box.system,
    }
    _remember(key, replace(box, in_page=True))
    try:
        held = draw(key, data) or {}
    finally:
        drawn = replace(_recall(key), in_page=False)
        _remember(key, drawn)
    run = _checked(drawn.asked, most_chars, chat)
    runs = box.runs + (drawn.asked is not None)
    now = _text(held, text) if held.get("fillings") == box.fillings else text
    now = now if run is None else run["text"]
    _remember(key, replace(drawn, text=now, asked=None, runs=runs))  # a run is reported once
    return PromptInput(now, run, runs, _text(held, box.system, "system"), chat and held.get("chat") is True)


def fill_in(key: str, chat: bool = False, system: str = "") -> None:
    """The text that the page passes next is wanted in the box, even if it is the one that was passed last.

    `chat`: as a turn of a chat, with this system prompt.
    """
    _remember(key, replace(_recall(key), text=None, chat=chat, system=system))


@st.fragment
def draw(key: str, data: dict[str, Any]) -> dict[str, Any] | None:
    """Draw the box itself, and return what it holds. Tests without a browser put plain widgets here: `plain_box.py`."""
    told = _component(key=key, data=data, on_held_change=nothing, on_run_change=nothing)
    if isinstance(told.run, Mapping) and told.run.get("press") != _recall(key).press:
        hand_on(key, told.run)
    return told.held


def hand_on(key: str, run: Mapping[str, Any]) -> None:
    """Pass a run on to the whole page: if only this fragment knows of it, the page is drawn anew.

    After `st.rerun` in a fragment Streamlit gives the same trigger once more: each press has a number of its own.
    """
    box = replace(_recall(key), asked=dict(run), press=run.get("press"))
    _remember(key, box)
    if not box.in_page:
        st.rerun()


def _recall(key: str) -> Box:
    return st.session_state.get(f"{key} box", Box())


def _remember(key: str, box: Box) -> None:
    st.session_state[f"{key} box"] = box


def _text(of: Mapping[str, Any], otherwise: str, name: str = "text") -> str:
    return found if isinstance(found := of.get(name), str) else otherwise


def _checked(run: Mapping[str, Any] | None, most_chars: int, chat: bool) -> dict[str, Any] | None:
    """Return the run that a browser asks for, if it may: it can be any browser, with any message."""
    if run is None or not (text := _text(run, "")).strip():
        return None
    if len(text) > most_chars:
        st.error(TOO_LONG.format(most=most_chars).format(count=f"{len(text):,}"))
        return None
    if not chat:
        return {"text": text}
    return {"text": text, "chat": run.get("chat") is True, "system": _text(run, "", "system")[:most_chars]}
