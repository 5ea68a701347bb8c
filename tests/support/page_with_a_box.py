"""A page that has a prompt box, and says what it hears of it: for tests/browser/test_browser_ask.py."""

from typing import Any

import streamlit as st

from moeviz_app.widgets.components.ask import ask, fill_in

EXAMPLES = {"French": "Il fait froid.", "Python": "def f(x):\n    return x", "Mixed": "a, é, <b>&amp;</b> 🙂 שלום"}
MOST = 60


def page_with_a_box() -> None:
    """The box, what it said, a link and a switch."""
    state = st.session_state
    state.setdefault("prompt", "At first.")
    state.setdefault("heard", [])
    state["scripts"] = state.get("scripts", 0) + 1
    state.setdefault("ran", "At first.")
    chat = bool(state.get("chat"))
    asked = ask(state["prompt"], EXAMPLES, MOST, ran=state["ran"], can_stop=True, chat=chat, key="box")
    state["prompt"] = asked.text
    if asked.run is not None:
        state["heard"].append(asked.run)
        state["ran"] = asked.run["text"]
        st.rerun()
    st.text(f"holds: {asked.text!r}")
    st.text(f"heard: {state['heard']!r}")
    st.text(f"scripts: {state['scripts']}")
    st.button("Link", on_click=_follow)
    st.button("Link to a chat", on_click=_follow, args=(True, "Be brief."))
    st.toggle("Has a template", key="chat")


def _follow(*chat: Any) -> None:
    st.session_state["prompt"] = "From a link."
    fill_in("box", *chat)


if __name__ == "__main__":
    page_with_a_box()
