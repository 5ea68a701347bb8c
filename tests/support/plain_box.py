"""The prompt box in plain widgets, in place of `moeviz_app.widgets.components.ask.draw`: AppTest runs no JavaScript.

    pytestmark = pytest.mark.usefixtures("box_of_widgets")

    app.text_area(key=TEXT).set_value("Il fait froid.")
    app.button(key=RUN).click().run()
    app.button(key=example("French")).click().run()  # fills the box, and runs

Everything that Python does with what the box says stays as it is. What the browser refuses (an empty text, one that is
too long) is handed on here, as a browser of a stranger's might. What holds the two together is
`tests/browser/test_browser_ask.py`.
"""

from itertools import count
from typing import Any

import streamlit as st

from moeviz_app.widgets.components.ask import hand_on

TEXT, RUN, TURN, SYSTEM = "text in the box", "run the box", "turn of a chat", "system prompt"
_FILLINGS = "fillings of the box"
_presses = count()


def example(name: str) -> str:
    """Widget key of an example."""
    return f"example {name}"


def plain_box(key: str, data: dict[str, Any]) -> dict[str, Any]:
    """What `draw` does, and the same result."""
    if st.session_state.get(_FILLINGS) != data["fillings"] or TEXT not in st.session_state:
        st.session_state.update({_FILLINGS: data["fillings"], TEXT: data["text"]})
        if data["turn"]:
            st.session_state.update({TURN: True, SYSTEM: data["system"]})
    chips = [st.button(name, key=example(name), on_click=_fill, args=(text,)) for name, text in data["examples"]]
    held = {"text": st.text_area("Prompt", key=TEXT), "fillings": data["fillings"], "chat": False, "system": ""}
    if data["chat"]:
        held["chat"] = st.checkbox("Send as a chat turn", key=TURN)
        held["system"] = st.text_area("System prompt", key=SYSTEM)
    if st.button("Run", key=RUN) or any(chips):
        hand_on(key, held | {"press": next(_presses)})
    return held


def _fill(text: str) -> None:
    st.session_state[TEXT] = text
