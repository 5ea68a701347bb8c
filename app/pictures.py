"""Charts on their way to a browser."""

from typing import Any

import streamlit as st

from moeviz.charts.unchecked import Unchecked


def altair_chart(chart: Any, **options: Any) -> Any:
    """`st.altair_chart` of a chart of ours, which is known to be one: Altair does not check it again."""
    return st.altair_chart(Unchecked(chart), **options)
