"""What `moeviz compare` says: two traces or more of one text next to each other, each by its own chance."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from moeviz.cli.io import records
from moeviz.cli.terminal import frame_text, visible_line
from moeviz.errors import MissingField
from moeviz.metrics.locality import MIXTRAL
from moeviz.metrics.multi_trace import (
    Several,
    balance_of_several,
    figures_of_several,
    information_of_several,
    multi_trace_summary,
    of_one_text,
    repetition_of_several,
    sets_of_several,
)
from moeviz.metrics.words import percent
from moeviz.routing_trace import RoutingTrace

LETTERS = "ABCDEFGH"  # as many traces as the app begins with
BY_LAYER: dict[str, Callable[[Several], pd.DataFrame]] = {
    "repetition": repetition_of_several,
    "information": information_of_several,
    "balance": balance_of_several,
    "sets": sets_of_several,
}


def compared(traces: list[RoutingTrace]) -> dict[str, Any]:
    """What each trace comes to, the sentences, and the rows by layer, ready for JSON; null where no trace tells."""
    several = dict(zip(LETTERS, traces, strict=False))
    figures = figures_of_several(several)
    rows = {name: _rows(several, measure) for name, measure in BY_LAYER.items()}
    says = multi_trace_summary(figures, rows["repetition"], of_one_text(several))
    by_layer = {name: None if frame is None else records(frame) for name, frame in rows.items()}
    return {"traces": records(figures), "says": says} | by_layer


def _rows(several: Several, measure: Callable[[Several], pd.DataFrame]) -> pd.DataFrame | None:
    try:
        return measure(several)
    except MissingField:
        return None


def compare_text(found: dict[str, Any]) -> str:
    """The same for a terminal: a column a trace, the sentences, and beside repetition Mixtral's published figures."""
    figures = pd.DataFrame(found["traces"]).astype({"model": "str"})
    figures["model"] = figures["model"].map(visible_line)
    table = figures.set_index("trace").T.rename_axis("trace").reset_index()
    lines = [frame_text(table.map(_cell)), "", "Means over layers; --json has the layers.", *found["says"]]
    if found["repetition"] is not None:
        published = [row for row in found["repetition"] if row["trace"] == MIXTRAL]
        shares = ", ".join(f"layer {row['layer']} {percent(row['over_chance'])}" for row in published)
        lines += [f"Of {MIXTRAL}, the first choice repeats beyond chance: {shares}."]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or pd.isna(value):
        return "·"
    return value if isinstance(value, str) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"
