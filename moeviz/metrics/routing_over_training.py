"""The point in training at which the routing settles: the same text at an earlier checkpoint and at the final one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool

from moeviz.errors import InvalidTrace
from moeviz.metrics.inputs import chosen_experts, needs_tokens
from moeviz.routing_trace import RoutingTrace

SAME = ("layers", "num_experts", "top_k")  # facts of the model
IDENTITY = ["sequence", "position", "token_id", "text"]  # of a token


@needs_tokens
def router_saturation(trace: RoutingTrace, final: RoutingTrace) -> pd.DataFrame:
    """Compute the share of the final routing that an earlier checkpoint had already decided, layer by layer.

    Two traces of the same tokens, from an earlier and from the final checkpoint of one model. Saturation is the share
    of a token's experts at the earlier checkpoint that it also has at the final one, mean over tokens: for all k
    choices, and for the first choice only (slot 0 of both).

    `chance` is what routers that choose at random would share: k / E, and 1 / E for the first choice. `load_chance` is
    what these routers would share if the tokens of the two traces were matched at random: it is above chance if both
    favour the same experts.

    One row per layer and choice; with one slot, only the first choice, and without it if a trace does not say which
    expert that is. Columns: layer int32 · choice str ("first
    choice", "all choices") · saturation, chance, load_chance float64 · tokens int64 (that have an expert in both; the
    others are left out, and without any all three are NaN). Raises `InvalidTrace` if the two traces differ in tokens,
    layers, number of experts or top-k.

    Source: OLMoE (arXiv 2409.02060), section 5.1, router saturation.
    """
    _check_same(trace, final)
    model, rows = trace.model, []
    choices = {"all choices": model.top_k} if model.top_k > 1 else {}
    choices |= {"first choice": 1} if trace.ordered and final.ordered else {}
    for earlier, later, layer, num_experts in zip(
        trace.experts, final.experts, model.layers, model.num_experts, strict=True
    ):
        for choice, slots in choices.items():
            chosen = (chosen_experts(experts[:, :slots], num_experts) for experts in (earlier, later))
            rows.append({"layer": layer, "choice": choice} | _saturation(*chosen))
    return pd.DataFrame(rows).astype({"layer": np.int32, "choice": "str", "tokens": np.int64})


def saturation_over_training(checkpoints: Mapping[int, RoutingTrace]) -> pd.DataFrame:
    """Compute how much of the final routing every recorded checkpoint already had: when each layer settled.

    `checkpoints` are traces of the same tokens by how many tokens the model had been trained on; the last of them is
    the final routing, and saturation is 1 there.

    One row per checkpoint, layer and choice. Columns: training_tokens int64 · those of `router_saturation`.

    Source: OLMoE (arXiv 2409.02060), section 5.1, router saturation over training.
    """
    final = checkpoints[max(checkpoints)]
    frames = [
        router_saturation(trace, final).assign(training_tokens=np.int64(tokens))
        for tokens, trace in sorted(checkpoints.items())
    ]
    whole = pd.concat(frames, ignore_index=True)
    return whole[["training_tokens", *whole.columns.drop("training_tokens")]]


def _saturation(earlier: Bool[np.ndarray, "T E"], later: Bool[np.ndarray, "T E"]) -> dict[str, float]:
    both = earlier.any(axis=1) & later.any(axis=1)
    earlier, later = earlier[both], later[both]
    if not len(earlier):
        return {"saturation": np.nan, "chance": np.nan, "load_chance": np.nan, "tokens": 0}
    parts = earlier / earlier.sum(axis=1, keepdims=True)
    return {
        "saturation": (parts * later).sum(axis=1).mean(),
        "chance": later.sum(axis=1).mean() / later.shape[1],
        "load_chance": parts.mean(axis=0) @ later.mean(axis=0),
        "tokens": len(earlier),
    }


def _check_same(trace: RoutingTrace, final: RoutingTrace) -> None:
    for fact in SAME:
        here, there = getattr(trace.model, fact), getattr(final.model, fact)
        if here != there:
            raise InvalidTrace(
                f"Router saturation compares two checkpoints of one model, and {fact} is {here} in the earlier trace "
                f"and {there} in the final one. Trace the same texts with two checkpoints of one model."
            )
    if len(trace.tokens) != len(final.tokens):
        raise InvalidTrace(
            f"Router saturation compares the same tokens, and the earlier trace has {len(trace.tokens):,} and the "
            f"final one {len(final.tokens):,}. Trace the same texts with both checkpoints, without generating."
        )
    differ = (trace.tokens[IDENTITY] != final.tokens[IDENTITY]).any(axis=1).to_numpy()
    if differ.any():
        raise InvalidTrace(
            f"Router saturation compares the same tokens, and token {differ.argmax()} of the two traces differs. "
            "Trace the same texts with both checkpoints, without generating."
        )
