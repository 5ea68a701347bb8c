"""What a tracker gets: few numbers by default, never one for each expert."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy as np

from moeviz.training.recorded.run import FIGURES

Detail = Literal["brief", "layers"]
PREFIX = "moe/"
OF_LAYERS = ("router_grad_norm", "experts_without_grad")


def figures_of(
    rows: Sequence[Mapping[str, Any]], detail: Detail | str, **others: float | int | None
) -> dict[str, float]:
    """`moe/{figure}/mean` and `/worst` over layers, `/layer_3` too with "layers", and others by their names.

    What is not known has no key: trackers keep no NaN.
    """
    found: dict[str, float | int | None] = {}
    for name, bad in FIGURES.items():
        found |= _of_layers(name, rows, detail, bad)
    for name in OF_LAYERS:
        found |= _of_layers(name, [row for row in rows if name in row], detail, "low" if "norm" in name else "high")
    found |= {PREFIX + name: value for name, value in others.items()}
    return {name: float(value) for name, value in found.items() if value is not None and isfinite(value)}


def _of_layers(
    name: str, rows: Sequence[Mapping[str, Any]], detail: Detail | str, bad: str
) -> dict[str, float | int | None]:
    values = np.array([row[name] for row in rows], np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    found = {
        f"{PREFIX}{name}/mean": known.mean(),
        f"{PREFIX}{name}/worst": known.min() if bad == "low" else known.max(),
    }
    if detail == "layers":
        found |= {f"{PREFIX}{name}/layer_{row['layer']}": row[name] for row in rows}
    return found
