"""Tokens in their text, one a line, the token in the middle: keyword in context."""

from pathlib import Path

import pandas as pd
import streamlit as st

HERE = Path(__file__).parent

_component = st.components.v2.component(
    "moeviz_kwic",
    html='<div class="kwic" role="list"></div>',
    css=(HERE / "kwic.css").read_text("utf-8"),
    js=(HERE / "kwic.js").read_text("utf-8"),
)


def keyword_in_context(lines: pd.DataFrame, colour: str, key: str) -> None:
    """Draw the rows of `moeviz.metrics.expert_tokens.contexts`, each token on the expert's colour."""
    weights = [None if pd.isna(weight) else f"{weight:.2f}" for weight in lines["weight"]]
    columns = lines[["before", "text", "after", "label"]].assign(weight=pd.Series(weights, lines.index, object))
    _component(key=key, data={"lines": columns.to_dict("records"), "colour": colour})
