"""Metrics of the server: one table, for `/metrics` in the text format of Prometheus. No Streamlit here.

No label holds what a visitor wrote, and there is a bounded number of each label's values: they are our own words. A
counter only grows, and starts at zero with the process; a gauge goes up and down, or is read when somebody asks.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


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

_Labels = tuple[str, ...]
_guard = threading.Lock()
_values: dict[tuple[str, _Labels], float] = {}
_read: dict[str, Callable[[], float]] = {}


def count(name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter or a gauge of the table. `by` may be below zero for a gauge alone."""
    if by < 0 and COUNTED[name].kind == "counter":
        raise ValueError(f"{name} is a counter, which cannot fall by {-by}.")
    key = _key(name, labels)
    with _guard:
        _values[key] = _values.get(key, 0) + by


def gauge(name: str, value: float, **labels: str) -> None:
    """Let a gauge of the table stand at a value."""
    if COUNTED[name].kind != "gauge":
        raise ValueError(f"{name} is a counter: it is counted, and not set.")
    key = _key(name, labels)
    with _guard:
        _values[key] = value


def read_gauge(name: str, read: Callable[[], float]) -> None:
    """Let a gauge without labels be read whenever somebody asks, from any thread. A second reader takes its place."""
    _key(name, {})
    _read[name] = read


def value(name: str, **labels: str) -> float:
    """Return the value of a counter or a gauge; 0 before anything was counted."""
    if name in _read:
        return _read[name]()
    with _guard:
        return _values.get(_key(name, labels), 0)


def text() -> str:
    """All of it as Prometheus reads it: help and kind of each row, then a line for each of its parts."""
    with _guard:
        values = dict(_values)
    values |= {(name, ()): read() for name, read in _read.items()}
    lines = []
    for name, row in COUNTED.items():
        public = f"moeviz_{name}" + ("_total" if row.kind == "counter" else "")
        parts = sorted((labels, number) for (counted, labels), number in values.items() if counted == name)
        if not parts and not row.labels:
            parts = [((), 0)]
        lines += [f"# HELP {public} {row.help}", f"# TYPE {public} {row.kind}"]
        lines += [f"{public}{_braces(row.labels, labels)} {number:.17g}" for labels, number in parts]
    return "\n".join(lines) + "\n"


def _key(name: str, labels: dict[str, str]) -> tuple[str, _Labels]:
    row = COUNTED[name]
    if labels.keys() != set(row.labels):
        raise ValueError(f"{name} has the labels {row.labels}, not {tuple(labels)}.")
    return name, tuple(labels[label] for label in row.labels)


def _braces(names: _Labels, values: _Labels) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
