"""How the router rows of a layer lie to that of one expert: which experts a router can hardly tell apart."""

import pandas as pd

SHOWN = 8  # nearest rows, and furthest ones


def router_neighbours(geometry: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """The eight experts of the layer whose router rows are nearest to an expert's, and the eight furthest.

    geometry   of `moeviz.capture.routers.geometry.router_geometry`.

    One row per other expert, highest cosine first. Columns: other int16 · cosine, norm float64, as there.

    Source: rows as centroids of what experts take, Chi et al. (arXiv 2204.09179), section 3.
    """
    own = geometry[(geometry["layer"] == layer) & (geometry["expert"] == expert) & (geometry["other"] != expert)]
    own = own.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)[["other", "cosine", "norm"]]
    return own if len(own) <= 2 * SHOWN else pd.concat([own.head(SHOWN), own.tail(SHOWN)], ignore_index=True)


def row_norms(geometry: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """The norm of an expert's router row, beside those of its layer. With no bias a longer row scores further from 0.

    geometry   of `moeviz.capture.routers.geometry.router_geometry`.

    One row. Columns: norm float64 · lowest, median, highest float64 (of all rows of the layer).

    Source: moeviz's own; the norms are Euclidean.
    """
    own = geometry[(geometry["layer"] == layer) & (geometry["expert"] == expert)]
    norms = own["norm"]
    mine = float(norms[own["other"] == expert].iloc[0])
    return pd.DataFrame([{"norm": mine, "lowest": norms.min(), "median": norms.median(), "highest": norms.max()}])
