"""Metrics of the server: one table, for `/metrics` in the text format of Prometheus. No Streamlit here.

No label holds what a visitor wrote, and there is a bounded number of each label's values: they are our own words. A
counter only grows, and starts at zero with the process; a gauge goes up and down, or is read when somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric: its kind, its meaning (with the unit), and the labels that tell its parts apart."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


COUNTED = {
    "runs": MetricRow("counter", "Pieces of work that a model's queue finished, by how they ended.", ("end",)),
    "tokens": MetricRow("counter", "Tokens that went through a model for a recorded run.", ("phase",)),
    "model_seconds": MetricRow("counter", "Seconds that the models' threads were at work."),
    "waited_seconds": MetricRow("counter", "Seconds that work waited in line before it began."),
    "refusals": MetricRow("counter", "What was refused, by why.", ("why",)),
    "loads": MetricRow("counter", "Models that were loaded, by how that ended.", ("end",)),
    "evictions": MetricRow("counter", "What was put out of memory to make room, by what it was.", ("what",)),
    "files": MetricRow("counter", "Files that visitors opened, by how that ended.", ("end",)),
    "script_errors": MetricRow("counter", "Errors in pages that nothing caught: bugs."),
    "waiting": MetricRow("gauge", "Pieces of work that wait for a model."),
    "running": MetricRow("gauge", "Pieces of work that a model is at."),
    "sessions": MetricRow("gauge", "Browser tabs that are connected."),
    "models": MetricRow("gauge", "Models in memory."),
    "model_bytes": MetricRow("gauge", "Bytes that the weights of those models take."),
    "trace_bytes": MetricRow("gauge", "Bytes of the traces that sessions keep."),
    "resident_bytes": MetricRow("gauge", "Bytes of memory that the process holds."),
    "threads": MetricRow("gauge", "Threads of the process."),
}

PREFIX = "moeviz_"
disable_created_metrics()  # a second line for each counter, which nothing here asks for


class Metrics(CollectorRegistry):
    """Every row of the table, each at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Counter | Gauge] = {
            name: (Counter if row.kind == "counter" else Gauge)(PREFIX + name, row.help, row.labels, registry=self)
            for name, row in COUNTED.items()
        }


METRICS = Metrics()


def count(name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter or a gauge of the table. `by` may be below zero only for a gauge."""
    _part(name, labels).inc(by)


def gauge(name: str, value: float, **labels: str) -> None:
    """Let a gauge of the table stand at a value."""
    part = _part(name, labels)
    if not isinstance(part, Gauge):
        raise ValueError(f"{name} is a counter: it is counted, and not set.")
    part.set(value)


def read_gauge(name: str, read: Callable[[], float]) -> None:
    """Let a gauge without labels be read whenever somebody asks, from any thread. A second reader takes its place."""
    part = _part(name, {})
    if not isinstance(part, Gauge):
        raise ValueError(f"{name} is a counter: it is counted, and not read.")
    part.set_function(read)


def value(name: str, **labels: str) -> float:
    """Return the value of a counter or a gauge; 0 before anything was counted."""
    public = PREFIX + name + ("_total" if COUNTED[name].kind == "counter" else "")
    return METRICS.get_sample_value(public, labels) or 0


def text() -> str:
    """All of it as Prometheus reads it: help and kind of each row, then a line for each of its parts."""
    return generate_latest(METRICS).decode()


def _part(name: str, labels: dict[str, str]) -> Counter | Gauge:
    metric = METRICS.rows[name]
    return metric.labels(**labels) if labels or COUNTED[name].labels else metric
