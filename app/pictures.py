"""Altair's charts on their way to a browser, without the check of each against the schema that tests have made of it.

Checking a chart takes longer than drawing it does, and every page has several.
"""

from dataclasses import dataclass
from typing import Any

import altair as alt
import streamlit as st


@dataclass(frozen=True, slots=True)
class _Unchecked:
    """All that Streamlit asks of a chart."""

    chart: alt.TopLevelMixin

    def to_dict(self) -> dict[str, Any]:
        return self.chart.to_dict(validate=False)


def altair_chart(chart: alt.TopLevelMixin, **options: Any) -> Any:
    """`st.altair_chart` of a chart that is known to be one."""
    return st.altair_chart(_Unchecked(chart), **options)
