"""The places where two recordings of the same text part: by two engines, in two precisions, or in training and serving.

This matters if routing is replayed between training and inference. A convention in which they differ is found first,
and undone (`moeviz.metrics.conventions`): a misalignment is not a disagreement. A different token is not one either: it
is left out and counted. The tables here take the two as they are: give them `explain(pair).undone`.
"""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.convention_search import Pair, rows_at, shared_at_random
from moeviz.metrics.conventions import Comparison, Convention, in_place, same_tokens
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.words import percent, short
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace
from moeviz.text import spans, with_and


@needs_tokens
def engine_difference(pair: Pair) -> pd.DataFrame:
    """Measure how far two recordings of the same text agree, layer by layer.

    One row per layer that both have. Columns: layer int32 · tokens int64 (the same in both, and recorded in both) ·
    chosen int64 (experts of these tokens in the first trace) · different int64 (those of them that the second does not
    have) · equal_ids float64 (share of tokens with the same experts in the same order; NaN where an order is not known)
    · equal_sets float64 (share with the same experts) · shared float64 (mean share of the first trace's experts that
    the second has) · at_random float64 (the same if its rows were shuffled) · weights float64 (of tokens with the same
    experts, the sum of differences of mixing weights over the sum of the first's; NaN if either has none) · ties
    float64 (share of tokens with other experts where the first trace's last choice was a tie) · margin_equal,
    margin_different float64 (median margin of tokens with the same and with other experts) · by_margin float64 (how
    often a token with other experts has a smaller margin than one with the same: 0.5 if margins explain nothing, 1 if
    all).

    A margin is the lowest logit of a token's experts less the highest of all others, in the first trace; NaN without
    logits, and where a bias rather than the logits decides. Raises `InvalidTrace` if the traces have no layer in common
    or are of different texts, and `MissingField` if no token is recorded in both.

    Source: the problem is that of Rollout Routing Replay (arXiv 2510.11370); by_margin is the statistic of Mann and
    Whitney (1947) divided by the number of pairs.
    """
    one, other, mine, theirs = aligned(pair)
    rows = []
    for layer in common_layers(pair):
        at, there = one.model.layers.index(layer), other.model.layers.index(layer)
        both = (one.experts[at, mine, 0] != NOT_RECORDED) & (other.experts[there, theirs, 0] != NOT_RECORDED)
        if both.any():
            ours, others = one.experts[at, mine[both]], other.experts[there, theirs[both]]
            margin = None if one.logits is None else margins_of(one.logits[at, mine[both]], ours)
            weights = [
                None if trace.weights is None else trace.weights[row, part[both]]
                for trace, row, part in ((one, at, mine), (other, there, theirs))
            ]
            facts = _of_layer(ours, others, margin) | {"weights": _weights_apart(ours, others, *weights)}
            rows.append({"layer": layer, "tokens": len(ours)} | facts)
    if not rows:
        raise MissingField("No token is recorded in both traces, so there is nothing to compare. Choose another trace.")
    frame = pd.DataFrame(rows).astype(
        {"layer": np.int32, "tokens": np.int64, "chosen": np.int64, "different": np.int64}
    )
    return frame if one.ordered and other.ordered else frame.assign(equal_ids=np.nan)


@needs_tokens
def first_partings(pair: Pair) -> pd.DataFrame:
    """Find the place where each sequence first goes to other experts: the first such token, and its first layer.

    One row per sequence that both traces have. Columns: sequence int32 · tokens int64 (compared) · position int64,
    layer int32 (-1 if it never parts) · text str (of the token) · before int64 (tokens before it, which agree).

    Source: simple counting.
    """
    one, other, mine, theirs = aligned(pair)
    layers = common_layers(pair)
    differ = np.stack([differing(one, other, layer, mine, theirs) for layer in layers])
    rows = []
    for sequence in one.tokens["sequence"].iloc[mine].unique():
        of = np.flatnonzero((one.tokens["sequence"].iloc[mine] == sequence).to_numpy())
        parted = np.flatnonzero(differ[:, of].any(axis=0))
        at = int(parted[0]) if len(parted) else -1
        token = one.tokens.iloc[mine[of[at]]]
        layer = layers[int(differ[:, of[at]].argmax())] if at >= 0 else -1
        position, text = (int(token["position"]), str(token["text"])) if at >= 0 else (-1, "")
        rows.append((sequence, len(of), position, layer, text, at if at >= 0 else len(of)))
    frame = pd.DataFrame(rows, columns=["sequence", "tokens", "position", "layer", "text", "before"])
    return frame.astype({"sequence": np.int32, "layer": np.int32, "text": "str"})


@needs_tokens
def tokens_checked(pair: Pair) -> pd.DataFrame:
    """Compute the extent to which two traces are of the same tokens: by token ids, or by texts if ids are not known.

    One row. Columns: tokens int64 (of sequences and positions that both have) · unknown int64 (of which neither ids nor
    texts are known in both) · different int64 (other tokens in the two: no figure counts them) · after int64 (tokens
    that are compared, though another one came before them in their sequence). Raises `InvalidTrace` as
    `engine_difference` does.

    Source: simple comparison.
    """
    pair, _ = in_place(pair)
    mine, theirs = rows_at(*pair, 0)
    same, known = same_tokens(pair, mine, theirs)
    apart = pd.Series(~same).groupby(pair[0].tokens["sequence"].to_numpy()[mine]).cumsum().to_numpy() > 0
    counts = {"tokens": len(mine), "unknown": (~known).sum(), "different": (~same).sum(), "after": (apart & same).sum()}
    return pd.DataFrame([counts]).astype(np.int64)


def aligned(pair: Pair) -> tuple[RoutingTrace, RoutingTrace, np.ndarray, np.ndarray]:
    """Return both traces, and which rows of the two are of the same token. Raises `InvalidTrace` for other texts."""
    if not common_layers(pair):
        layers = (spans(trace.model.layers) for trace in pair)
        raise InvalidTrace(f"The traces have no layer in common: {'; and '.join(layers)}. Choose another trace.")
    pair, _ = in_place(pair)
    mine, theirs = rows_at(*pair, 0)
    same, _ = same_tokens(pair, mine, theirs)
    return *pair, mine[same], theirs[same]


def common_layers(pair: Pair) -> list[int]:
    """Return the layers that both traces have."""
    one, other = (set(trace.model.layers) for trace in pair)
    return sorted(one & other)


def differing(one: RoutingTrace, other: RoutingTrace, layer: int, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Mark the rows, of those recorded in both, that have other experts at a layer."""
    ours, others = (
        trace.experts[trace.model.layers.index(layer), rows] for trace, rows in ((one, mine), (other, theirs))
    )
    both = (ours[:, 0] != NOT_RECORDED) & (others[:, 0] != NOT_RECORDED)
    differ: np.ndarray = both & ~equal_rows(ours, others)
    return differ


def equal_rows(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mark the rows whose sets of experts are equal; rows of another top-k never are."""
    if ours.shape[1] != others.shape[1]:
        return np.zeros(len(ours), bool)
    same: np.ndarray = (np.sort(ours, axis=1) == np.sort(others, axis=1)).all(axis=1)
    return same


def _of_layer(ours: np.ndarray, others: np.ndarray, margin: np.ndarray | None) -> dict[str, float | int]:
    equal, filled = equal_rows(ours, others), ours >= 0
    shared = (ours[:, :, None] == others[:, None, :]).any(axis=2) & filled
    same_order = (ours == others).all(axis=1).mean() if ours.shape == others.shape else 0.0
    facts: dict[str, float | int] = {"chosen": int(filled.sum()), "different": int(filled.sum() - shared.sum())}
    facts |= {"equal_ids": same_order, "equal_sets": equal.mean(), "shared": shared.sum() / max(filled.sum(), 1)}
    facts |= {"at_random": shared_at_random(ours, others)}
    if margin is None:
        return facts | dict.fromkeys(("ties", "margin_equal", "margin_different", "by_margin"), np.nan)
    return facts | {
        "ties": (~equal & (margin == 0)).mean(),
        "margin_equal": float(np.median(margin[equal])) if equal.any() else np.nan,
        "margin_different": float(np.median(margin[~equal])) if not equal.all() else np.nan,
        "by_margin": _smaller(margin[~equal], margin[equal]),
    }


def _weights_apart(ours: np.ndarray, others: np.ndarray, mine: np.ndarray | None, theirs: np.ndarray | None) -> float:
    """Return the sum of differences of the weights of tokens with the same experts, over the sum of the first's."""
    same = equal_rows(ours, others)
    if mine is None or theirs is None or not same.any():
        return np.nan
    by_expert = [
        np.take_along_axis(weights[same], np.argsort(ids[same], axis=1, kind="stable"), 1)
        for ids, weights in ((ours, mine), (others, theirs))
    ]
    return float(np.abs(by_expert[0] - by_expert[1]).sum() / max(np.abs(by_expert[0]).sum(), 1e-12))


def margins_of(logits: np.ndarray, experts: np.ndarray) -> np.ndarray | None:
    """Compute the last choice's lead over the best expert that was not chosen; None where logits do not decide."""
    chosen = np.zeros(logits.shape, bool)
    row, slot = np.nonzero(experts >= 0)
    chosen[row, experts[row, slot]] = True
    if chosen.all(axis=1).any() or not chosen.any(axis=1).all():
        return None
    margin: np.ndarray = np.where(chosen, logits, np.inf).min(axis=1) - np.where(chosen, -np.inf, logits).max(axis=1)
    return margin if (margin >= 0).all() else None


def _smaller(different: np.ndarray, equal: np.ndarray) -> float:
    if not len(different) or not len(equal):
        return np.nan
    ordered = np.sort(equal)
    above = len(ordered) - np.searchsorted(ordered, different, side="right")
    tied = np.searchsorted(ordered, different, side="right") - np.searchsorted(ordered, different, side="left")
    return float((above + tied / 2).mean() / len(ordered))


def convention_sentence(found: Convention) -> str:
    """Say what differs between two recordings, where, and how much of the disagreement is left without it."""
    return f"{_difference(found)} {_explains(found)}"


def _difference(found: Convention) -> str:
    plural, detail = "s" if len(found.layers) > 1 else "", found.detail
    layers = f"layer{plural} {spans(found.layers)}" if found.layers else "all layers"
    match found.kind:
        case "positions":
            return f"The second counts positions differently: token t of the first is its token t{detail:+d}."
        case "rows":
            by, starts = detail
            cause = "lost a row, or the second has one twice" if by > 0 else "has a row twice, or the second lost one"
            where = ""
            if starts:
                more = f", and {len(starts) - 1:,} sequences more from some position" if len(starts) > 1 else ""
                where = f" from position {starts[0][1]:,} of sequence {starts[0][0]}{more} on"
            return f"Row t of the first is row t{by:+d} of the second{where}: the first {cause}."
        case "layers" if detail[0] == "offset":
            return f"Layer n of the first is layer n{detail[1]:+d} of the second."
        case "layers":
            some = with_and([f"layer {mine} is layer {there}" for mine, there in detail[1][:3]])
            more = f", and {len(detail[1]) - 3} more are moved" if len(detail[1]) > 3 else ""
            return f"Layers are numbered differently: {some} of the second{more}."
        case "experts":
            most, alike = detail
            how = ", in the same way at each" if alike and len(found.layers) > 1 else ""
            return f"Experts are numbered differently at {layers}: up to {most} per layer{how}."
        case "slots":
            return f"One of the two records more experts per token: the first {detail} are in both."
        case "rows of layers":
            return f"Row t of the first is row t{detail:+d} of the second at {layers} only."
        case "token alone":
            return f"In one of the two, {layers} goes by the token alone, as a hash layer does."
        case "other model":
            return (
                f"At {layers} the two agree no more than chance, and elsewhere they do: another model wrote it, as a "
                "draft model does in vLLM before pull request 48622."
            )
        case "bias":
            return f"At {layers}, one of the two chooses with a bias, or in groups, and the other without."
        case "score function":
            mine, theirs = (name.replace("sqrt_", "square root of ") for name in detail)
            return f"The first weighs experts by a {mine}, the second by a {theirs}."
        case "normalisation":
            other = "second" if detail == "first" else "first"
            return f"The {detail}’s weights of each token have the same sum, the {other}’s have not: one normalises."
        case "equal weights":
            return f"The {detail} gives all experts of a token the same weight."
        case "weights of other slots":
            return "The same weights belong to other slots: one of the two sorted ids or weights without the other."
        case "scale":
            return f"The first’s weights are {detail:.4g} times the second’s."
        case "scale by layer":
            low, high = min(of for _, of in detail), max(of for _, of in detail)
            return f"The first’s weights are {low:.3g} to {high:.3g} times the second’s, by layer."
        case _:
            rule = {"reversed": "in reverse"}.get(detail, f"in {detail} order of their numbers")
            return f"The second’s slots stand {rule}, and not by weight as in the first."


MEASURED = {"positions": "tokens", "slot order": "orders of slots"}
OF_WEIGHTS = ("score function", "normalisation", "equal weights", "weights of other slots", "scale", "scale by layer")


def _explains(found: Convention) -> str:
    if found.kind in ("other model", "token alone"):
        return f"There {percent(found.before)} of the expert ids differ, and {percent(found.after)} elsewhere."
    if found.kind in OF_WEIGHTS:
        return f"Weights differ by {percent(found.before)} with that, and by {percent(found.after)} without."
    what = MEASURED.get(found.kind, "expert ids")
    return f"Without that, {percent(found.after)} of {what} differ instead of {percent(found.before)}."


def agreement_sentence(found: Comparison) -> str | None:
    """Say what is left if no convention explains it, compared with chance; None if nothing is."""
    left = found.left
    says = []
    if left.ids > 0:
        more = "Apart from that, " if found.conventions else "No convention explains it: "
        says += [f"{more}{percent(left.ids)} of the expert ids differ; at chance {percent(left.chance)} would."]
    if left.weights > SAME_WEIGHTS:
        says += [f"Mixing weights of tokens with the same experts differ by {percent(left.weights)}."]
    return " ".join(says) or None


SAME_WEIGHTS = 1e-3  # relative: less is rounding


def tokens_caption(checked: pd.DataFrame) -> str | None:
    """Say which tokens are left out, and which cannot be checked; None if all are equal. Columns: `tokens_checked`."""
    tokens, unknown, different, after = checked.iloc[0].tolist()
    says = []
    if unknown == tokens:
        says += ["Whether both are of the same text cannot be checked: no token has an id, or a text, in both."]
    elif unknown:
        says += [f"{unknown:,} of {tokens:,} tokens have neither an id nor a text in both, and cannot be checked."]
    if different:
        are, them = ("is another one", "it") if different == 1 else ("are other ones", "them")
        says += [
            f"{different:,} of {tokens:,} tokens {are} in the second than in the first, and no figure counts {them}."
        ]
    if after:
        some = "1 token comes" if after == 1 else f"{after:,} tokens come"
        says += [f"{some} after such a token, and may be routed differently for that reason alone."]
    return " ".join(says) or None


def engine_difference_summary(layers: pd.DataFrame, partings: pd.DataFrame) -> str:
    """Return the number of experts that differ, where that begins, and the share that ties explain.

    Columns: those of `engine_difference` and of `first_partings`.
    """
    chosen, different = int(layers["chosen"].sum()), int(layers["different"].sum())
    parted = partings[partings["layer"] >= 0]
    if parted.empty:
        return f"All {chosen:,} expert ids of the first are the same in the second.{_of_order(layers)}"
    share = percent(different / max(chosen, 1))
    are = "1 is" if different == 1 else f"{different:,} are"
    says = f"Of {chosen:,} expert ids of the first, {are} different in the second ({share})."
    return f"{says} {_of_place(parted, partings)} {_of_ties(layers)}"


def _of_order(layers: pd.DataFrame) -> str:
    if layers["equal_ids"].isna().any():
        return " Their order is not compared: it is not known in both."
    turned = round(float((layers["tokens"] * (layers["equal_sets"] - layers["equal_ids"])).sum()))
    return f" {_times(turned)} they stand in another order." if turned else " They stand in the same order too."


def _times(number: int) -> str:
    return "Once" if number == 1 else f"{number:,} times"


def _of_place(parted: pd.DataFrame, partings: pd.DataFrame) -> str:
    first = parted.iloc[0]
    where = f"token {first['position']:,} (“{short(str(first['text']).strip(' ') or ' ')}”), layer {first['layer']}"
    if len(partings) == 1:
        return f"They first part at {where}."
    return f"{len(parted):,} of {len(partings):,} sequences part, sequence {first['sequence']} at {where}."


def _of_ties(layers: pd.DataFrame) -> str:
    known = layers[layers["ties"].notna()]
    others = float((known["tokens"] * (1 - known["equal_sets"])).sum())
    if not others:
        return "What ties explain is not known: that takes the router logits of the first."
    share = float((known["tokens"] * known["ties"]).sum()) / others
    if not share:
        return "No tie explains any of it."
    return f"Ties in the first explain {percent(share)} of the tokens with other experts."
