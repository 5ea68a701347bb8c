"""The cells of a token by layer map as pixels, where they are too many to be marks: a column for each token."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from moeviz.charts import theme
from moeviz.charts.overview import png
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

LEAST = 1e-6  # weight of a choice with none: only where all have none, their parts are equal


def cell_images(frame: pd.DataFrame, colours: Sequence[Sequence[str]], row: int) -> list[str]:
    """All cells of a frame of `token_choices`, in PNGs with `row` pixels a layer: by first choice, and split by weight.

    One image where these are the same, or where no order of the choices is known.
    """
    experts, shares = _dense(frame)
    ends = np.cumsum(shares, axis=-1) / np.maximum(shares.sum(axis=-1, keepdims=True), LEAST)
    inside = row - (row > 8)
    levels = (np.arange(inside) + 0.5) / inside
    slot = np.stack([(ends < level).sum(axis=-1) for level in levels])  # rows of a cell x L x T
    first_alone = [np.zeros_like(slot)] if frame["ordered"].all() and experts.shape[-1] > 1 else []
    return [_png(_chosen(experts, which), colours, row) for which in (*first_alone, slot)]


def _dense(frame: pd.DataFrame) -> tuple[Int[np.ndarray, "L T K"], Float[np.ndarray, "L T K"]]:
    """Experts and their parts of a cell, in the order from top to bottom. Nothing is 0 high."""
    if not frame["ordered"].all():
        frame = frame.sort_values(["token", "layer", "expert"])
        frame = frame.assign(slot=frame.groupby(["token", "layer"]).cumcount())
    at = pd.factorize(frame["layer"], sort=True)[0], pd.factorize(frame["token"])[0], frame["slot"].to_numpy()
    shape = tuple(int(places.max()) + 1 for places in at)
    experts, shares = np.full(shape, NO_EXPERT), np.zeros(shape)
    weight = frame["weight"].to_numpy(np.float64)
    experts[at], shares[at] = frame["expert"], np.where(np.isnan(weight), 1, np.maximum(weight, LEAST))
    return experts, shares


def _chosen(experts: Int[np.ndarray, "L T K"], slot: Int[np.ndarray, "R L T"]) -> Int[np.ndarray, "R L T"]:
    slots = slot.clip(max=experts.shape[-1] - 1)[..., None]
    chosen: np.ndarray = np.take_along_axis(experts[None], slots, axis=-1)[..., 0]
    return chosen


def _png(chosen: Int[np.ndarray, "R L T"], colours: Sequence[Sequence[str]], row: int) -> str:
    palette = [*theme.EXPERT_COLOURS, theme.OTHER, theme.PALE]
    place = np.zeros((len(colours), max(map(len, colours)) + 2), np.uint8)  # 0 is transparent: no expert, the last
    place[:, NOT_RECORDED] = palette.index(theme.PALE) + 1
    for layer, own in enumerate(colours):
        place[layer, : len(own)] = [palette.index(colour) + 1 for colour in own]
    pixels: UInt8[np.ndarray, "R L T"] = place[np.arange(len(colours))[:, None], chosen]
    whole = np.pad(pixels, ((0, row - len(pixels)), (0, 0), (0, 0))).swapaxes(0, 1)  # a gap under each cell
    return png(whole.reshape(-1, whole.shape[-1]), palette)
