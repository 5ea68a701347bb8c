"""With whom an expert has its tokens: partners in its own layer, and experts of other layers."""

import numpy as np
import pandas as pd

from moeviz.metrics.co_activation import co_activation
from moeviz.metrics.expert import all_experts, has_token, marked, row_of
from moeviz.routing_trace import RoutingTrace

FEW = 20  # tokens below which ratios of shares say little
STRONGEST = 8  # experts drawn on each side of a flow


def shared_tokens(trace: RoutingTrace, layer: int, expert: int) -> pd.DataFrame:
    """How many of an expert's tokens every other expert has, and how many more than usual.

    In other layers, usual is that expert's share of all tokens. In the own layer it is what chance gives a partner:
    see `co_activation`; a slot that is the expert's is not free for another, so loads would overstate it.

    One row per layer and expert. Columns: layer int32 (the model's own index) · expert int16 · tokens int64 (shared) ·
    share float64 (of the expert's tokens that were recorded in that layer; NaN if none) · usual float64 · times float64
    (share / usual; NaN for the expert itself, and where either is missing) · here bool (the expert itself). Raises as
    `row_of`.

    Source: lift as in Brin et al. (1997), 'interest'; in the own layer OLMoE (arXiv 2409.02060), section 5.2.
    """
    own_row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    columns: dict[str, list[np.ndarray]] = {"tokens": [], "share": [], "usual": []}
    for row, count in enumerate(trace.model.num_experts):
        chosen, recorded = trace.experts[row], trace.recorded[row]
        all_tokens, tokens = (np.bincount(ids[ids >= 0], minlength=count) for ids in (chosen, chosen[has]))
        usual = _divided(all_tokens, int(recorded.sum())) if row != own_row else _partners(trace, layer, expert)
        columns["tokens"].append(tokens)
        columns["share"].append(_divided(tokens, int((recorded & has).sum())))
        columns["usual"].append(usual)
    frame = all_experts(trace).assign(**{name: np.concatenate(parts) for name, parts in columns.items()})
    times = frame["share"] / frame["usual"].where(frame["usual"] > 0)
    frame = marked(frame, layer, expert)
    return frame.assign(times=times.where(~frame["here"]))[
        ["layer", "expert", "tokens", "share", "usual", "times", "here"]
    ]


def _divided(counts: np.ndarray, total: int) -> np.ndarray:
    shares: np.ndarray = counts / total if total else np.full(len(counts), np.nan)
    return shares


def _partners(trace: RoutingTrace, layer: int, expert: int) -> np.ndarray:
    """What chance gives each partner of the expert; NaN for itself, and for all where a token has one expert."""
    row = trace.model.layers.index(layer)
    chance = np.full(trace.model.num_experts[row], np.nan)
    if trace.model.top_k > 1 and trace.recorded[row].any():
        pairs = co_activation(trace.select(layers=[layer], tokens=trace.recorded[row]))
        pairs = pairs[pairs["expert"] == expert]
        chance[pairs["partner"].to_numpy()] = pairs["chance"]
    return chance


def expert_flow(trace: RoutingTrace, layer: int, expert: int, shared: pd.DataFrame | None = None) -> pd.DataFrame:
    """Where an expert's tokens were a layer before, and where they are a layer after.

    shared   of `shared_tokens`, where it is known already.

    One row per side and expert, the eight with the most of its tokens on each side. Columns: side str (before, after) ·
    layer int32 · expert int16 · place int16 (from 0, in the order of ids) · tokens int64 · share float64 (of the
    expert's tokens; sums to k over all experts of a layer) · times float64 (share / that expert's share of all tokens)
    · shown int16 · num_experts int16 (of how many so many are shown). Empty where there is one layer. Raises as
    `row_of`.

    Source: moeviz's own; the shares are counts.
    """
    row = row_of(trace, layer, expert)
    frame = shared_tokens(trace, layer, expert) if shared is None else shared
    layers, sides = trace.model.layers, []
    for side, at in (("before", row - 1), ("after", row + 1)):
        if 0 <= at < len(layers):
            sides.append((side, frame[frame["layer"] == layers[at]], trace.model.num_experts[at]))
    return strongest(sides)


def strongest(sides: list[tuple[str, pd.DataFrame, int]]) -> pd.DataFrame:
    """The rows of `expert_flow`, from how many tokens the experts of each side have, and how many experts it has."""
    columns = ["side", "layer", "expert", "place", "tokens", "share", "times", "shown", "num_experts"]
    parts = [pd.DataFrame(columns=columns)]
    for side, there, count in sides:
        top = there[there["tokens"] > 0].sort_values("tokens", ascending=False, kind="stable")
        top = top.head(STRONGEST).sort_values("expert")
        parts.append(top.assign(side=side, place=np.arange(len(top)), shown=len(top), num_experts=count)[columns])
    kinds = dict.fromkeys(("expert", "place", "shown", "num_experts"), "int16")
    kinds |= {"side": "str", "layer": "int32", "tokens": "int64", "share": "float64", "times": "float64"}
    whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return whole.astype(kinds)
