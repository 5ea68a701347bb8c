"""Metrics of the server: one table, for `/metrics` in the text format of Prometheus. No Streamlit here.

No label holds what a visitor wrote, and there is a bounded number of each label's values: they are our own words. A
counter only grows, and starts at zero with the process; a gauge goes up and down, or is read when somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest


@dataclass(frozen=True, slots=True)
class Row:
    """A metric: its kind, its meaning (with the unit), and the labels that tell its parts apart."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


COUNTED = {
    "runs": Row("counter", "Pieces of work that a model's queue finished, by how they ended.", ("end",)),
    "tokens": Row("counter", "Tokens that went through a model for a recorded run.", ("phase",)),
    "model_seconds": Row("counter", "Seconds that the models' threads were at work."),
    "waited_seconds": Row("counter", "Seconds that work waited in line before it began."),
    "refusals": Row("counter", "What was refused, by why.", ("why",)),
    "loads": Row("counter", "Models that were loaded, by how that ended.", ("end",)),
    "evictions": Row("counter", "What was put out of memory to make room, by what it was.", ("what",)),
    "files": Row("counter", "Files that visitors opened, by how that ended.", ("end",)),
    "script_errors": Row("counter", "Errors in pages that nothing caught: bugs."),
    "waiting": Row("gauge", "Pieces of work that wait for a model."),
    "running": Row("gauge", "Pieces of work that a model is at."),
    "sessions": Row("gauge", "Browser tabs that are connected."),
    "models": Row("gauge", "Models in memory."),
    "model_bytes": Row("gauge", "Bytes that the weights of those models take."),
    "trace_bytes": Row("gauge", "Bytes of the traces that sessions keep."),
    "resident_bytes": Row("gauge", "Bytes of memory that the process holds."),
    "threads": Row("gauge", "Threads of the process."),
}

PREFIX = "moeviz_"
disable_created_metrics()  # a second line for each counter, which nothing here asks for


class Registry(CollectorRegistry):
    """Every row of the table, each at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Counter | Gauge] = {
            name: (Counter if row.kind == "counter" else Gauge)(PREFIX + name, row.help, row.labels, registry=self)
            for name, row in COUNTED.items()
        }


REGISTRY = Registry()


def count(name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter or a gauge of the table. `by` may be below zero for a gauge alone."""
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
    return REGISTRY.get_sample_value(public, labels) or 0


def text() -> str:
    """All of it as Prometheus reads it: help and kind of each row, then a line for each of its parts."""
    return generate_latest(REGISTRY).decode()


def _part(name: str, labels: dict[str, str]) -> Counter | Gauge:
    metric = REGISTRY.rows[name]
    return metric.labels(**labels) if labels or COUNTED[name].labels else metric
