"""The charts of the history, each with the numbers that it is drawn from: `charts` of each system's exhibit."""

from collections.abc import Iterator
from typing import Any

from moeviz.charts.chart import Chart
from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.history.mixtral.exhibit import MIXTRAL_LOAD, MIXTRAL_REPETITION
from moeviz.history.systems import SYSTEMS, part, shipped_trace
from moeviz.history.timeline.chart import EXPERTS_AT_WORK, TIMELINE


def by_system() -> Iterator[tuple[str, list[tuple[Chart, Any]]]]:
    """A heading for each system, and its charts with their numbers."""
    traces = {row.title: shipped_trace(name) for name, row in SYSTEMS.items()}
    over_time = [(chart, chart.measure()) for chart in (TIMELINE, EXPERTS_AT_WORK)]
    yield "All systems", [*over_time, (SIDE_BY_SIDE, SIDE_BY_SIDE.measure(traces))]
    for name, row in SYSTEMS.items():
        charts = [(chart, chart.measure(*given())) for chart, given in part(name, "exhibit").EXHIBIT.charts]
        yield f"{row.year}: {row.title}", charts
    published = [(MIXTRAL_LOAD, MIXTRAL_LOAD.measure(15)), (MIXTRAL_REPETITION, MIXTRAL_REPETITION.measure())]
    yield "2023: Mixtral, as it was published", published
