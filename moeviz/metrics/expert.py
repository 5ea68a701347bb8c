"""What one expert of one layer does. It has a token where any slot of the token at that layer names the expert.

Tokens that were not recorded at the layer are left out of every count and every share here.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from moeviz.errors import InvalidTrace
from moeviz.metrics.significance import STANDS_OUT
from moeviz.routing_trace import Counted, RoutingTrace

SHUFFLES = 199
LUCK = 0.05  # what could be luck more often than this does not stand out
BINS = 20


def row_of(trace: Counted, layer: int, expert: int) -> int:
    """Which of the L layers this is. Raises `InvalidTrace` for a layer or an expert that the model does not have."""
    model = trace.model
    if layer not in model.layers:
        raise InvalidTrace(
            f"{model.name} has no MoE layer {layer}. Choose one of {model.layers[0]} to {model.layers[-1]}."
        )
    row = model.layers.index(layer)
    if not 0 <= expert < model.num_experts[row]:
        raise InvalidTrace(
            f"Layer {layer} of {model.name} has no expert {expert}. Choose one of 0 to {model.num_experts[row] - 1}."
        )
    return row


def has_token(trace: RoutingTrace, layer: int, expert: int) -> Bool[np.ndarray, " T"]:
    """Which tokens the expert has. Raises as `row_of`."""
    has: np.ndarray = (trace.experts[row_of(trace, layer, expert)] == expert).any(axis=-1)
    return has


def expert_numbers(trace: RoutingTrace, layer: int, expert: int) -> pd.DataFrame:
    """The load of an expert, and its say where it is chosen.

    One row. Columns: tokens int64 (that it has) · recorded int64 (tokens recorded at the layer) · times_uniform float64
    (its share of the layer's assignments, times E: 1 is a uniform share; NaN if there are none) · rank int16 (1 =
    busiest of its layer; ties go to the lower id) · num_experts int16 · first_choice float64 (of the tokens that it
    has, the share whose first choice it is; NaN where the order of slots is not known) · mean_weight float64 (over the
    tokens that it has; NaN without weights). Raises as `row_of`.

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5, for the load.
    """
    row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    chosen = trace.experts[row]
    counts = np.bincount(chosen[chosen >= 0], minlength=trace.model.num_experts[row])
    ordered = trace.model.slot_order == "weight" or trace.model.top_k == 1
    own = chosen[has] == expert
    weights = None if trace.weights is None else trace.weights[row][has][own]
    numbers = {
        "tokens": int(has.sum()),
        "recorded": int(trace.recorded[row].sum()),
        "times_uniform": counts[expert] / counts.sum() * len(counts) if counts.any() else np.nan,
        "rank": int((counts > counts[expert]).sum() + (counts[:expert] == counts[expert]).sum() + 1),
        "num_experts": len(counts),
        "first_choice": own[:, 0].mean() if ordered and has.any() else np.nan,
        "mean_weight": np.nan if weights is None or not len(weights) else weights.mean(dtype=np.float64),
    }
    return pd.DataFrame([numbers]).astype({"rank": np.int16, "num_experts": np.int16})


def expert_loads(trace: Counted, layer: int, expert: int) -> pd.DataFrame:
    """The load of every expert of every layer, times a uniform share, with one expert among them marked.

    One row per layer and expert. Columns: layer int32 (the model's own index) · expert int16 · tokens int64 (that it
    has) · times float64 (share of the layer's assignments, times E; NaN where the layer has none) · here bool. Raises
    as `row_of`.

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5, with the k slots of a token instead of one.
    """
    row_of(trace, layer, expert)
    counts = trace.counts().assignments[0]
    sums = counts.sum(axis=1, keepdims=True)
    sizes = np.array(trace.model.num_experts)[:, None]
    times = np.divide(counts * sizes, sums, out=np.full(counts.shape, np.nan), where=sums > 0)
    there = np.arange(counts.shape[1]) < sizes
    return marked(all_experts(trace).assign(tokens=counts[there], times=times[there]), layer, expert)


def all_experts(trace: Counted) -> pd.DataFrame:
    """Every expert of every layer. Columns: layer int32 (the model's own index) · expert int16."""
    sizes = trace.model.num_experts
    ids = np.concatenate([np.arange(size, dtype=np.int16) for size in sizes])
    return pd.DataFrame({"layer": np.repeat(np.asarray(trace.model.layers, np.int32), sizes), "expert": ids})


def marked(frame: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """With a column `here`, true in the rows of that expert."""
    return frame.assign(here=(frame["layer"] == layer) & (frame["expert"] == expert))


def expert_kinds(trace: RoutingTrace, layer: int, expert: int) -> pd.DataFrame:
    """How much of each kind of text an expert takes, and whether that could be luck.

    A kind is a label. `share` is of the kind's tokens, so it sums to k over the experts of the layer, and `uniform` is
    k / E. Words of one text belong together, so luck is judged by texts: the labels are shuffled among them 199 times
    (seed 0), each text kept whole, and `luck` is how often some kind gets at least this share, the true order counted
    too. Kinds are judged from the highest share down, each among those not yet judged, until one could be luck in more
    than 5% of the shuffles; the rest is NaN. With one text per kind a shuffle only renames them: all NaN.

    One row per label, highest share first. Columns: label str · texts int64 · tokens int64 (of the kind) · has int64
    (of them, the expert's) · share float64 (NaN if no token of the kind was recorded) · uniform float64 · times float64
    (share / uniform) · luck float64 · stands_out bool (luck of at most 5% and at least 1.5 times uniform). Raises
    `MissingField` if the tokens have no labels, and as `row_of`.

    Source: OLMoE (arXiv 2409.02060), section 5, 'Domain specialization'; the step-down permutation test of Westfall &
    Young (1993).
    """
    row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    names, codes = trace.labels("What an expert takes of each kind of text")
    recorded, slots = trace.recorded[row], int(trace.filled[row].sum())
    frame = pd.DataFrame({"code": codes, "text": trace.tokens["sequence"], "tokens": recorded, "has": has})
    texts = frame.groupby(["code", "text"], sort=True)[["tokens", "has"]].sum().reset_index()
    kinds = texts.groupby("code")[["tokens", "has"]].sum().assign(texts=texts.groupby("code").size())
    share = kinds["has"] / kinds["tokens"].where(kinds["tokens"] > 0)
    uniform = slots / max(int(recorded.sum()), 1) / trace.model.num_experts[row]
    kinds = kinds.assign(label=pd.array(names, "str"), share=share, uniform=uniform)
    kinds["times"] = kinds["share"] / kinds["uniform"].where(kinds["uniform"] > 0)
    kinds["luck"] = _luck(texts, share.to_numpy(np.float64))
    kinds["stands_out"] = (kinds["luck"] <= LUCK) & (kinds["times"] >= STANDS_OUT)
    columns = ["label", "texts", "tokens", "has", "share", "uniform", "times", "luck", "stands_out"]
    ordered = kinds.sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return ordered[columns].astype({"texts": np.int64, "tokens": np.int64, "has": np.int64})


def _luck(texts: pd.DataFrame, share: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, " D"]:
    """See `expert_kinds`. `texts` has one row per text, those of one kind after each other: code, tokens, has."""
    luck, rng = np.full(len(share), np.nan), np.random.default_rng(0)
    if len(texts) <= len(share):
        return luck
    texts = texts[texts["tokens"] > 0]
    for kind in np.argsort(-share, kind="stable"):
        if texts["code"].nunique() < 2 or not (texts["code"] == kind).any():
            break
        shuffled = _highest_of_shuffles(texts, rng)
        luck[kind] = (1 + (shuffled >= share[kind] - 1e-12).sum()) / (SHUFFLES + 1)
        if luck[kind] > LUCK:
            break
        texts = texts[texts["code"] != kind]
    return luck


def _highest_of_shuffles(texts: pd.DataFrame, rng: np.random.Generator) -> Float64[np.ndarray, " S"]:
    """The highest share of any kind, in each of so many orders of the texts."""
    codes = texts["code"].to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    orders = rng.permuted(np.tile(np.arange(len(codes)), (SHUFFLES, 1)), axis=1)
    sums = (np.add.reduceat(texts[name].to_numpy(np.int64)[orders], starts, axis=1) for name in ("has", "tokens"))
    has, tokens = sums
    highest: np.ndarray = (has / tokens).max(axis=1)
    return highest


def with_losses(kinds: pd.DataFrame, muted: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """The kinds of text with what each of them loses where the expert is muted.

    kinds    of `expert_kinds`.
    muted    of `moeviz.capture.muting.muted_by_label`, of the same texts.

    Columns: those of `kinds`, and loss_change float64 (nats a token; NaN for a kind that `muted` does not have).
    """
    own = muted[(muted["layer"] == layer) & (muted["expert"] == expert)]
    return kinds.assign(loss_change=kinds["label"].map(own.set_index("label")["loss_change"]).astype(np.float64))


def loss_of_all(muted: pd.DataFrame, layer: int, expert: int) -> float:
    """What all the texts together lose where the expert is muted: nats a token, every token counting the same."""
    own = muted[(muted["layer"] == layer) & (muted["expert"] == expert)].dropna(subset=["loss_change"])
    return float((own["loss_change"] * own["tokens"]).sum() / own["tokens"].sum()) if len(own) else np.nan


def expert_atlas(trace: Counted, layer: int, expert: int) -> pd.DataFrame:
    """The load of every expert for each kind of text, times a uniform share, with one expert among them marked.

    One row per label, layer and expert; the label that the marked expert has most of comes first. Columns: label str ·
    layer int32 · expert int16 · times float64 (share of the label's assignments in the layer, times E; NaN where it has
    none) · here bool. Raises as `expert_kinds`.

    Source: OLMoE (arXiv 2409.02060), section 5, 'Domain specialization'.
    """
    counts, per_layer = trace.counts_by_label("An atlas of experts"), []
    for at, (of_layer, num_experts) in enumerate(zip(trace.model.layers, trace.model.num_experts, strict=True)):
        assignments = counts.assignments[:, at, :num_experts]
        sums = assignments.sum(axis=1, keepdims=True)
        times = np.divide(assignments * num_experts, sums, out=np.full(assignments.shape, np.nan), where=sums > 0)
        columns = {
            "label": pd.Series(np.repeat(np.array(counts.groups, object), num_experts), dtype="str"),
            "layer": np.int32(of_layer),
            "expert": np.tile(np.arange(num_experts, dtype=np.int16), len(counts.groups)),
            "times": times.ravel(),
        }
        per_layer.append(pd.DataFrame(columns))
    frame = marked(pd.concat(per_layer, ignore_index=True), layer, expert)
    most = frame[frame["here"]].sort_values("times", ascending=False, kind="stable")["label"]
    places = frame["label"].map({label: place for place, label in enumerate(most)})
    return frame.iloc[np.argsort(places.to_numpy(), kind="stable")].reset_index(drop=True)


def expert_weights(trace: RoutingTrace, layer: int, expert: int) -> pd.DataFrame:
    """How an expert's weights are spread, apart for its first choices, second choices, and so on.

    Twenty bins of the same width from 0 (or the lowest weight, where some are negative) to the highest weight of any
    expert of the layer, or to 1 if that is higher. One row per choice and bin that holds a token. Columns: choice int16
    (1 = first) · low, high float64 (ends of the bin) · tokens int64. Raises `MissingField` without weights, and as
    `row_of`.

    Source: moeviz's own; the weights are those that scale an expert's output, Shazeer et al. (arXiv 1701.06538), eq. 1.
    """
    row = row_of(trace, layer, expert)
    weights = trace.need("weights", "How much weight an expert has")[row]
    token, slot = np.nonzero(trace.experts[row] == expert)
    ends = np.linspace(min(0.0, float(weights.min(initial=0))), max(1.0, float(weights.max(initial=0))), BINS + 1)
    places = np.clip(np.searchsorted(ends, weights[token, slot], side="right") - 1, 0, BINS - 1)
    table = pd.DataFrame({"choice": (slot + 1).astype(np.int16), "bin": places})
    found = table.value_counts(sort=False).reset_index(name="tokens").sort_values(["choice", "bin"], ignore_index=True)
    return found.assign(low=ends[found["bin"]], high=ends[found["bin"] + 1])[["choice", "low", "high", "tokens"]]
