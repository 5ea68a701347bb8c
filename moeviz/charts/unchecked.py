"""Charts on their way to a page, without Altair's check of each against its schema, which tests have made already.

Checking a chart takes longer than drawing it, and every page has several.
"""

from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.utils.schemapi import disable_debug_mode


@dataclass(frozen=True, slots=True)
class Unchecked:
    """All that Streamlit asks of a chart."""

    chart: alt.TopLevelMixin

    def to_dict(self) -> dict[str, Any]:
        """The chart as Vega-Lite."""
        return self.chart.to_dict(validate=False)


def without_checks() -> None:
    """From now on no part of a chart is checked when it is made, in all of this process."""
    disable_debug_mode()
