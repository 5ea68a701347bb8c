"""What `moeviz diff` says: whether the rows of two traces belong together, and how far they agree."""

from typing import Any

import pandas as pd

from moeviz.cli.io import records
from moeviz.cli.terminal import frame_text
from moeviz.metrics.engine_difference import (
    engine_difference,
    engine_difference_summary,
    first_partings,
    shift_caption,
    shifts,
)
from moeviz.routing_trace import RoutingTrace

PARTINGS = 10  # sequences that are listed


def difference(one: RoutingTrace, other: RoutingTrace) -> dict[str, Any]:
    """The shift, the layers and the first partings, ready for JSON."""
    moved = shifts((one, other))
    return {
        "a": one.model.name,
        "b": other.model.name,
        "shift": int(moved["shift"][moved["chosen"]].iloc[0]),
        "shifts": records(moved),
        "layers": records(engine_difference((one, other))),
        "partings": records(first_partings((one, other))),
    }


def difference_text(found: dict[str, Any]) -> str:
    """The same for a terminal."""
    layers, partings = pd.DataFrame(found["layers"]), pd.DataFrame(found["partings"])
    lines = [f"A {found['a']}", f"B {found['b']}", ""]
    if says := shift_caption(pd.DataFrame(found["shifts"])):
        lines += [says, ""]
    lines += [engine_difference_summary(layers, partings), ""]
    lines += [frame_text(layers.round(4).astype(object).where(layers.notna(), "·")), ""]
    parted = partings[partings["layer"] >= 0]
    lines += [f"{len(parted):,} of {len(partings):,} sequences part."]
    for row in parted.head(PARTINGS).to_dict("records"):
        lines += [
            f"  sequence {row['sequence']}: at token {row['position']} {row['text']!r}, layer {row['layer']}, after "
            f"{row['before']:,} tokens that agree"
        ]
    return "\n".join(lines)
