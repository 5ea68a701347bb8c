"""Two recordings of the same text, by two engines, in two precisions, or in training and serving: where do they part?

Who replays routing between training and inference needs to know. Rows that are off by one are found first, and put
right: a misalignment is no disagreement. Nor is another token, which is left out and counted.
"""

from math import sqrt

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.doctor_rows import FURTHEST, equal_sets, rows_at
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.words import percent, short
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, RoutingTrace
from moeviz.text import spans

Pair = tuple[RoutingTrace, RoutingTrace]
CLEARLY = 0.1  # of rows: so many more must agree before anything is moved
SAME_TEXT = 0.95  # of tokens


@needs_tokens
def shifts(pair: Pair) -> pd.DataFrame:
    """How well two traces agree when the rows of the second are moved, and which move is right.

    One row per shift. Columns: shift int64 (row t of the first is row t + shift of the second) · equal_sets float64
    (share of rows with equal sets of experts, over the layers that both have) · chosen bool (0, unless another shift
    agrees in a tenth more of the rows, and in 2 / sqrt(tokens) more).

    Source: simple counting.
    """
    shares = {shift: equal_sets(*pair, shift) for shift in range(-FURTHEST, FURTHEST + 1)}
    best = max(shares, key=lambda shift: (shares[shift], -abs(shift)))
    luck = 2 / sqrt(max(len(rows_at(*pair, best)[0]), 1))  # of few rows, another shift agrees in more by luck
    chosen = best if shares[best] > shares[0] + max(CLEARLY, luck) else 0
    return pd.DataFrame(
        {"shift": list(shares), "equal_sets": list(shares.values()), "chosen": [shift == chosen for shift in shares]}
    )


@needs_tokens
def engine_difference(pair: Pair) -> pd.DataFrame:
    """How far two recordings of the same text agree, layer by layer, after rows that are off by one are put right.

    One row per layer that both have. Columns: layer int32 · tokens int64 (the same in both, and recorded in both) ·
    chosen int64 (experts of these tokens in the first trace) · different int64 (those of them that the second does not
    have) · equal_ids float64 (share of tokens with the same experts in the same order; NaN where an order is not known)
    · equal_sets float64 (share with the same experts) · shared float64 (mean share of the first trace's experts that
    the second has) · ties float64 (share of tokens with other experts where the first trace's last choice was a tie) ·
    margin_equal, margin_different float64 (median margin of tokens with the same and with other experts) · by_margin
    float64 (how often a token with other experts has a smaller margin than one with the same: 0.5 if margins explain
    nothing, 1 if all).

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
            rows.append({"layer": layer, "tokens": len(ours)} | _of_layer(ours, others, margin))
    if not rows:
        raise MissingField("No token is recorded in both traces, so there is nothing to compare. Choose another trace.")
    frame = pd.DataFrame(rows).astype(
        {"layer": np.int32, "tokens": np.int64, "chosen": np.int64, "different": np.int64}
    )
    return frame if one.ordered and other.ordered else frame.assign(equal_ids=np.nan)


@needs_tokens
def first_partings(pair: Pair) -> pd.DataFrame:
    """Where each sequence first goes to other experts: the first such token, and the first layer for it.

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
    """How far two traces are known to be of the same tokens: by token ids, or by texts where ids are not known.

    One row. Columns: tokens int64 (of sequences and positions that both have) · unknown int64 (of which neither ids nor
    texts are known in both) · different int64 (other tokens in the two: no figure counts them) · after int64 (tokens
    that are compared, though another one came before them in their sequence). Raises `InvalidTrace` as
    `engine_difference` does.

    Source: simple comparison.
    """
    mine, _, same, known = _matched(pair)
    apart = pd.Series(~same).groupby(pair[0].tokens["sequence"].to_numpy()[mine]).cumsum().to_numpy() > 0
    counts = {"tokens": len(mine), "unknown": (~known).sum(), "different": (~same).sum(), "after": (apart & same).sum()}
    return pd.DataFrame([counts]).astype(np.int64)


def aligned(pair: Pair) -> tuple[RoutingTrace, RoutingTrace, np.ndarray, np.ndarray]:
    """Both traces, and which rows of the two are of the same token. Raises `InvalidTrace` for different texts."""
    mine, theirs, same, _ = _matched(pair)
    return *pair, mine[same], theirs[same]


def _matched(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both that belong together, whether they may be of the same token, and whether that can be known."""
    one, other = pair
    if not common_layers(pair):
        raise InvalidTrace(
            f"The traces have no layer in common: {spans(one.model.layers)}; and {spans(other.model.layers)}. If one "
            "numbers its MoE layers from 0, import it with the model's own indices."
        )
    mine, theirs = rows_at(one, other, _shift(pair))
    if not len(mine):
        raise InvalidTrace("The traces have no sequence and position in common. Give two traces of the same text.")
    same, known = _same_tokens(pair, mine, theirs)
    direct = rows_at(one, other, 0)
    in_place, known_in_place = _same_tokens(pair, *direct)
    here, moved = _share(in_place, known_in_place), _share(same, known)
    if (known.any() or known_in_place.any()) and max(here, moved) < SAME_TEXT:
        raise InvalidTrace(
            f"The traces are of different texts: {1 - max(here, moved):.0%} of their tokens differ. Give two of the "
            "same text."
        )
    if here > moved:  # the tokens are where they belong, the routing is not
        same, known = np.ones(len(mine), bool), np.zeros(len(mine), bool)
        for rows, at in zip((mine, theirs), direct, strict=True):
            place = np.full(1 + max(rows.max(), at.max()), -1)
            place[at] = np.arange(len(at))
            found = place[rows]
            same &= (found < 0) | in_place[found]
            known |= (found >= 0) & known_in_place[found]
    return mine, theirs, same, known


def _same_tokens(pair: Pair, mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are of equal tokens, those of which nothing is known among them; and which are known."""
    tokens = [trace.tokens.iloc[rows] for trace, rows in zip(pair, (mine, theirs), strict=True)]
    ids, texts = ([part["token_id"].to_numpy() for part in tokens], [part["text"].to_numpy(object) for part in tokens])
    by_id = (ids[0] != NO_TOKEN_ID) & (ids[1] != NO_TOKEN_ID)
    known = by_id | ((texts[0] != "") & (texts[1] != ""))
    same = np.where(by_id, ids[0] == ids[1], texts[0] == texts[1])
    return (same | ~known).astype(bool), known.astype(bool)


def _share(same: np.ndarray, known: np.ndarray) -> float:
    return float(same[known].mean()) if known.any() else 0.0


def _shift(pair: Pair) -> int:
    """Choose a shift, as `shifts` does. Where nearly all rows agree unshifted, no other can agree in a tenth more."""
    if equal_sets(*pair, 0) >= 1 - CLEARLY:
        return 0
    found = shifts(pair)
    return int(found["shift"][found["chosen"]].iloc[0])


def common_layers(pair: Pair) -> list[int]:
    """The layers that both traces have."""
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
    if margin is None:
        return facts | dict.fromkeys(("ties", "margin_equal", "margin_different", "by_margin"), np.nan)
    return facts | {
        "ties": (~equal & (margin == 0)).mean(),
        "margin_equal": float(np.median(margin[equal])) if equal.any() else np.nan,
        "margin_different": float(np.median(margin[~equal])) if not equal.all() else np.nan,
        "by_margin": _smaller(margin[~equal], margin[equal]),
    }


def margins_of(logits: np.ndarray, experts: np.ndarray) -> np.ndarray | None:
    """The last choice's lead over the best expert that was not chosen; None where logits do not decide."""
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


def shift_caption(moved: pd.DataFrame) -> str | None:
    """Say by how many rows the traces are misaligned; None if they are not. Columns: those of `shifts`."""
    shift = int(moved["shift"][moved["chosen"]].iloc[0])
    if not shift:
        return None
    return (
        f"Rows are misaligned: token t of the first is token t{shift:+d} of the second. One of the two lost a row, "
        "or has one twice. What follows compares the rows that belong together."
    )


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
    """How many experts differ, where that begins, and what share ties explain.

    Columns: those of `engine_difference` and of `first_partings`.
    """
    chosen, different = int(layers["chosen"].sum()), int(layers["different"].sum())
    parted = partings[partings["layer"] >= 0]
    if parted.empty:
        return f"All {chosen:,} expert ids of the first are the same in the second.{_of_order(layers)}"
    share = percent(different / max(chosen, 1))
    says = f"Of {chosen:,} expert ids of the first, {_others(different)} in the second ({share})."
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


def _others(number: int) -> str:
    return "1 is different" if number == 1 else f"{number:,} are different"


def _of_ties(layers: pd.DataFrame) -> str:
    known = layers[layers["ties"].notna()]
    others = float((known["tokens"] * (1 - known["equal_sets"])).sum())
    if not others:
        return "What ties explain is not known: that takes the router logits of the first."
    share = float((known["tokens"] * known["ties"]).sum()) / others
    if not share:
        return "No tie explains any of it."
    return f"Ties in the first explain {percent(share)} of the tokens with other experts."
