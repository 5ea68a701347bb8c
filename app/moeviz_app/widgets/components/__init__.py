"""Components for what Streamlit has no widget for. They know no page: data in, messages out."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st


def read(names: str, ending: str) -> str:
    """Return the files of this folder that have these names (with spaces between) and this ending, as one."""
    return "\n".join((Path(__file__).parent / f"{name}.{ending}").read_text("utf-8") for name in names.split())


def component(name: str, html: str, styles: str = "", scripts: str = "") -> Any:
    """Register a component as `moeviz_` and its name; `styles` and `scripts` are files, named as `read` takes them."""
    css = read(styles, "css") if styles else None
    return st.components.v2.component(f"moeviz_{name}", html=html, css=css, js=read(scripts, "js"))


def base64(values: Any, kind: type) -> str:
    """Return numbers of this kind as the browser reads them: their bytes, in base64."""
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def nothing() -> None:
    """Do nothing, as a callback: by their callbacks Streamlit knows which values a component may tell."""
