"""One expert of one layer. It has a token where any slot of the token at that layer names the expert.

Tokens that were not recorded at the layer are left out of every count and every share here.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.co_activation import co_activation
from moeviz.metrics.inputs import Statistics
from moeviz.metrics.significance import STANDS_OUT
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.text import no_layer

SHUFFLES = 199
LUCK = 0.05  # what chance explains more often than this does not stand out
BINS = 20


def row_of(trace: Counted | Statistics, layer: int, expert: int) -> int:
    """Find which of the L layers this is. Raises `InvalidTrace` for a layer or expert that the model does not have."""
    model = trace.model
    if layer not in model.layers:
        raise InvalidTrace(no_layer(model.name, layer, model.layers))
    row = model.layers.index(layer)
    if not 0 <= expert < model.num_experts[row]:
        raise InvalidTrace(
            f"Layer {layer} of {model.name} has no expert {expert}. Choose one of 0 to {model.num_experts[row] - 1}."
        )
    return row


def has_token(trace: RoutingTrace, layer: int, expert: int) -> Bool[np.ndarray, " T"]:
    """Mark the tokens that the expert has. Raises as `row_of`."""
    has: np.ndarray = (trace.experts[row_of(trace, layer, expert)] == expert).any(axis=-1)
    return has


def expert_numbers(trace: RoutingTrace | Statistics, layer: int, expert: int) -> pd.DataFrame:
    """Compute the load of an expert, and its weight when it is chosen.

    One row. Columns: tokens int64 (that it has) · recorded int64 (tokens recorded at the layer) · times_uniform float64
    (its share of the layer's assignments, times E: 1 is a uniform share; NaN if there are none) · rank int16 (1 =
    busiest of its layer; ties go to the lower id) · num_experts int16 · first_choice float64 (of the tokens that it
    has, the share whose first choice it is; NaN where the order of slots is not known) · mean_weight float64 (over the
    tokens that it has; NaN without weights). Raises as `row_of`.

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5, for the load.
    """
    row, counted = row_of(trace, layer, expert), trace.counts()
    counts = counted.assignments[0, row, : trace.model.num_experts[row]]
    tokens, first, weight = _sums_of(trace, row, expert, int(counts[expert]))
    ordered = trace.model.slot_order == "weight" or trace.model.top_k == 1
    numbers = {
        "tokens": tokens,
        "recorded": int(counted.tokens[0, row]),
        "times_uniform": counts[expert] / counts.sum() * len(counts) if counts.any() else np.nan,
        "rank": int((counts > counts[expert]).sum() + (counts[:expert] == counts[expert]).sum() + 1),
        "num_experts": len(counts),
        "first_choice": first / tokens if ordered and tokens else np.nan,
        "mean_weight": weight,
    }
    return pd.DataFrame([numbers]).astype({"rank": np.int16, "num_experts": np.int16})


def _sums_of(source: RoutingTrace | Statistics, row: int, expert: int, chosen: int) -> tuple[int, int, float]:
    """Return the expert's tokens, the number with it as first choice, and its mean weight; NaN without any."""
    if isinstance(source, Statistics):
        return chosen, int(source.first_choices()[row, expert]), np.nan
    own = source.experts[row] == expert
    weights = None if source.weights is None else source.weights[row][own]
    mean = np.nan if weights is None or not len(weights) else float(weights.mean(dtype=np.float64))
    return int(own.any(axis=1).sum()), int(own[:, 0].sum()), mean


def expert_loads(trace: Counted | Statistics, layer: int, expert: int) -> pd.DataFrame:
    """Compute the load of every expert of every layer, times a uniform share, with one expert among them marked.

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


def all_experts(trace: Counted | Statistics) -> pd.DataFrame:
    """List every expert of every layer. Columns: layer int32 (the model's own index) · expert int16."""
    sizes = trace.model.num_experts
    ids = np.concatenate([np.arange(size, dtype=np.int16) for size in sizes])
    return pd.DataFrame({"layer": np.repeat(np.asarray(trace.model.layers, np.int32), sizes), "expert": ids})


def marked(frame: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """With a column `here`, true in the rows of that expert."""
    return frame.assign(here=(frame["layer"] == layer) & (frame["expert"] == expert))


def expert_kinds(trace: RoutingTrace | Statistics, layer: int, expert: int) -> pd.DataFrame:
    """Compute the share of each kind of text that an expert takes, and whether chance explains it.

    A kind is a label. `share` is of the kind's tokens, so it sums to k over the experts of the layer, and `uniform` is
    k / E. Words of one text belong together, so chance is judged by texts: the labels are shuffled among them 199 times
    (seed 0), each text kept whole, and `luck` is how often some kind gets at least this share, the true order counted
    too. Kinds are judged from the highest share down, each among those not yet judged, until chance explains one in
    more than 5% of the shuffles; the rest is NaN. With one text per kind a shuffle only renames them: all NaN.

    One row per label, highest share first. Columns: label str · texts int64 · tokens int64 (of the kind) · has int64
    (of them, the expert's) · share float64 (NaN if no token of the kind was recorded) · uniform float64 · times float64
    (share / uniform) · luck float64 · stands_out bool (luck of at most 5% and at least 1.5 times uniform). Raises
    `MissingField` if the tokens have no labels, and as `row_of`.

    Source: OLMoE (arXiv 2409.02060), section 5, 'Domain specialization'; the step-down permutation test of Westfall &
    Young (1993).
    """
    row, why = row_of(trace, layer, expert), "What an expert takes of each kind of text"
    counted = trace.counts_by_label(why)
    names, tokens = [str(name) for name in counted.groups], counted.tokens[:, row]
    slots = int(counted.assignments[:, row].sum())
    uniform = slots / max(int(tokens.sum()), 1) / trace.model.num_experts[row]
    if isinstance(trace, Statistics):
        texts, has = trace.texts_by_label(names), counted.assignments[:, row, expert]
        luck = np.full(len(names), np.nan)
    else:
        of_texts = _texts_of(trace, row, has_token(trace, layer, expert), why)
        kinds = of_texts.groupby("code")
        texts, has = kinds.size().to_numpy(np.int64), kinds["has"].sum().to_numpy(np.int64)
        luck = _chance_of_share(of_texts, np.divide(has, tokens, out=np.full(len(names), np.nan), where=tokens > 0))
    share = np.divide(has, tokens, out=np.full(len(names), np.nan), where=tokens > 0)
    times = share / uniform if uniform else np.full(len(names), np.nan)
    columns = {
        "label": pd.array(np.array(names, object), "str"),
        "texts": texts,
        "tokens": tokens,
        "has": has,
        "share": share,
        "uniform": uniform,
        "times": times,
        "luck": luck,
        "stands_out": (luck <= LUCK) & (times >= STANDS_OUT),
    }
    return pd.DataFrame(columns).sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _texts_of(trace: RoutingTrace, row: int, has: Bool[np.ndarray, " T"], why: str) -> pd.DataFrame:
    """Return a row per text, texts of a kind together: code, text, tokens (recorded), has (the expert's)."""
    _, codes = trace.labels(why)
    rows = pd.DataFrame({"code": codes, "text": trace.tokens["sequence"], "tokens": trace.recorded[row], "has": has})
    return rows.groupby(["code", "text"], sort=True)[["tokens", "has"]].sum().reset_index()


def _chance_of_share(texts: pd.DataFrame, share: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, " D"]:
    """See `expert_kinds`. `texts` has one row per text, texts of a kind together: code, tokens, has."""
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
    """Return the highest share of any kind in each of several random orders of the texts."""
    codes = texts["code"].to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    orders = rng.permuted(np.tile(np.arange(len(codes)), (SHUFFLES, 1)), axis=1)
    sums = (np.add.reduceat(texts[name].to_numpy(np.int64)[orders], starts, axis=1) for name in ("has", "tokens"))
    has, tokens = sums
    highest: np.ndarray = (has / tokens).max(axis=1)
    return highest


def with_losses(kinds: pd.DataFrame, muted: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """Add to the kinds of text what each of them loses if the expert is muted.

    kinds    of `expert_kinds`.
    muted    of `moeviz.analyses.muting.muted_by_label`, of the same texts.

    Columns: those of `kinds`, and loss_change float64 (nats per token; NaN for a kind that `muted` does not have).
    """
    own = muted[(muted["layer"] == layer) & (muted["expert"] == expert)]
    return kinds.assign(loss_change=kinds["label"].map(own.set_index("label")["loss_change"]).astype(np.float64))


def loss_of_all(muted: pd.DataFrame, layer: int, expert: int) -> float:
    """Compute the loss of all texts together if the expert is muted: nats per token, every token counting the same."""
    own = muted[(muted["layer"] == layer) & (muted["expert"] == expert)].dropna(subset=["loss_change"])
    return float((own["loss_change"] * own["tokens"]).sum() / own["tokens"].sum()) if len(own) else np.nan


NEEDED, IDLE = 0.05, 0.005  # nats per token from which on, and below which, a kind of text loses something, or nothing
TAKES = 2.0  # times a uniform share, from which on an expert takes a kind of text
MOST_NAMED = 3  # kinds in a sentence


def need_sentence(kinds: pd.DataFrame) -> Claim | None:
    """Claim which kinds of text lose most without an expert, and which it takes and loses nothing.

    kinds   of `with_losses`.

    Losses of over 0.05 nats per token are named. A kind is taken from twice a uniform share on, and loses nothing below
    0.005 nats per token. None if no loss is known.
    """
    known = kinds.dropna(subset="loss_change").sort_values("loss_change", ascending=False, kind="stable")
    if known.empty:
        return None
    need = known[known["loss_change"] > NEEDED]
    idle = known[(known["loss_change"] < IDLE) & (known["times"] >= TAKES)]
    idle = idle.sort_values("share", ascending=False, kind="stable")
    losses, shares = (
        tuple((str(label), value) for label, value in zip(rows["label"], rows[name], strict=True))[:MOST_NAMED]
        for rows, name in ((need, "loss_change"), (idle, "share"))
    )
    return captions.needed_by(losses, max(len(need) - MOST_NAMED, 0), NEEDED, shares, IDLE)


def expert_atlas(trace: Counted | Statistics, layer: int, expert: int) -> pd.DataFrame:
    """Compute the load of every expert for each kind of text, times a uniform share, with one expert among them marked.

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
    """Compute the distribution of an expert's weights, separately for its first choices, second choices, and so on.

    Twenty bins of the same width from 0 (or the lowest weight, if some are negative) to the highest weight of any
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


FEW = 20  # tokens below which ratios of shares say little
STRONGEST = 8  # experts drawn on each side of a flow


def shared_tokens(trace: RoutingTrace, layer: int, expert: int) -> pd.DataFrame:
    """Compute the number of an expert's tokens that each other expert has, compared with its usual number.

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
        usual = _divide(all_tokens, int(recorded.sum())) if row != own_row else _partners(trace, layer, expert)
        columns["tokens"].append(tokens)
        columns["share"].append(_divide(tokens, int((recorded & has).sum())))
        columns["usual"].append(usual)
    frame = all_experts(trace).assign(**{name: np.concatenate(parts) for name, parts in columns.items()})
    times = frame["share"] / frame["usual"].where(frame["usual"] > 0)
    frame = marked(frame, layer, expert)
    return frame.assign(times=times.where(~frame["here"]))[
        ["layer", "expert", "tokens", "share", "usual", "times", "here"]
    ]


def _divide(counts: np.ndarray, total: int) -> np.ndarray:
    shares: np.ndarray = counts / total if total else np.full(len(counts), np.nan)
    return shares


def _partners(trace: RoutingTrace, layer: int, expert: int) -> np.ndarray:
    """Compute what chance gives each partner of the expert; NaN for itself, and for all if a token has one expert."""
    row = trace.model.layers.index(layer)
    chance = np.full(trace.model.num_experts[row], np.nan)
    if trace.model.top_k > 1 and trace.recorded[row].any():
        pairs = co_activation(trace.select(layers=[layer], tokens=trace.recorded[row]))
        pairs = pairs[pairs["expert"] == expert]
        chance[pairs["partner"].to_numpy()] = pairs["chance"]
    return chance


def expert_flow(trace: RoutingTrace, layer: int, expert: int, shared: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute the experts that an expert's tokens had one layer before, and have one layer after.

    shared of `shared_tokens`, if it is known already.

    One row per side and expert, the eight with the most of its tokens on each side. Columns: side str (before, after) ·
    layer int32 · expert int16 · place int16 (from 0, in the order of ids) · tokens int64 · share float64 (of the
    expert's tokens; sums to k over all experts of a layer) · times float64 (share / that expert's share of all tokens)
    · shown int16 · num_experts int16 (`shown` of `num_experts` are in the table). Empty if there is only one layer.
    Raises as `row_of`.

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


NEIGHBOURS = 8  # nearest rows, and furthest ones


def router_neighbours(geometry: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """Find the eight experts of the layer whose router rows are nearest to an expert's, and the eight furthest.

    geometry   of `moeviz.capture.routers.geometry.router_geometry`.

    One row per other expert, highest cosine first. Columns: other int16 · cosine, norm float64, as there.

    Source: rows as centroids of what experts take, Chi et al. (arXiv 2204.09179), section 3.
    """
    own = geometry[(geometry["layer"] == layer) & (geometry["expert"] == expert) & (geometry["other"] != expert)]
    own = own.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)[["other", "cosine", "norm"]]
    return (
        own
        if len(own) <= 2 * NEIGHBOURS
        else pd.concat([own.head(NEIGHBOURS), own.tail(NEIGHBOURS)], ignore_index=True)
    )


def row_norms(geometry: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """The norm of an expert's router row, and those of its layer. With no bias a longer row scores further from 0.

    geometry   of `moeviz.capture.routers.geometry.router_geometry`.

    One row. Columns: norm float64 · lowest, median, highest float64 (of all rows of the layer).

    Source: moeviz's own; the norms are Euclidean.
    """
    own = geometry[(geometry["layer"] == layer) & (geometry["expert"] == expert)]
    norms = own["norm"]
    mine = float(norms[own["other"] == expert].iloc[0])
    return pd.DataFrame([{"norm": mine, "lowest": norms.min(), "median": norms.median(), "highest": norms.max()}])
