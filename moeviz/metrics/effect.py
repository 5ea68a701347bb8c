"""Effects of a change: an intervention, in the figures that `moeviz.what_if` makes, or another word in a text."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.routing_trace import NO_EXPERT, NO_TOKEN_ID, NOT_RECORDED, RoutingTrace
from moeviz.text import spans


def effect_by_token(effect: pd.DataFrame) -> pd.DataFrame:
    """Compute what a change of routing does to the prediction of each token.

    `effect` is the table of `moeviz.what_if`. One row per token. Columns: those of the table, and token int32 (its row)
    · loss_change float64 (nats: how much worse this token is predicted; NaN for the first token of a text) · another
    bool (whether a different next token is the most likely).

    Source: loss is the negative logarithm of the probability of the token that actually follows; kl is Kullback and
    Leibler (1951), KL(plain || changed) of the whole next-token distribution.
    """
    return effect.assign(
        token=pd.RangeIndex(len(effect)).astype("int32"),
        loss_change=effect["loss_changed"] - effect["loss"],
        another=effect["next_token"] != effect["next_token_changed"],
    )


def effect_summary(effect: pd.DataFrame) -> dict[str, float]:
    """Sum up a change of routing over a text: mean losses without and with it, mean KL, share of other next tokens."""
    return {
        "loss": float(effect["loss"].mean()),
        "loss_changed": float(effect["loss_changed"].mean()),
        "kl": float(effect["kl"].mean()),
        "another": float((effect["next_token"] != effect["next_token_changed"]).mean()),
    }


Asked = Mapping[int, Mapping[int, float]]  # layer: expert: what a change adds to its score


def choices_moved(plain: RoutingTrace, changed: RoutingTrace, asked: Asked | None = None) -> Claim | None:
    """Claim how many choices go to other experts, and at which layers; if none, how far the nearest one is from it.

    A choice is the set of experts of a token at a layer, recorded in both traces, which are of the same tokens. None if
    there is no choice.

    asked   the experts that a change is about, by layer, with what it adds to their scores (0 if nothing); the nearest
            is then one that more of the same would move. By default all experts.

    Source: simple comparison; the distance is that of logits, if only these decide.
    """
    recorded = plain.recorded & changed.recorded
    differ = recorded & (_sets(plain, changed) != _sets(changed, plain)).any(axis=-1)
    if not recorded.any():
        return None
    counts = dict(zip(plain.model.layers, differ.sum(axis=1).tolist(), strict=True))
    layers = tuple((layer, number) for layer, number in counts.items() if number)
    near = None if layers else _nearest(plain, recorded, asked)
    return captions.choices_moved(int(differ.sum()), int(recorded.sum()), layers, near)


def _sets(trace: RoutingTrace, other: RoutingTrace) -> np.ndarray:
    """Return the experts of each choice in ascending order, in as many slots as the larger trace has."""
    more = max(other.experts.shape[2] - trace.experts.shape[2], 0)
    padded = np.pad(trace.experts, ((0, 0), (0, 0), (0, more)), constant_values=NO_EXPERT)
    return np.asarray(np.sort(padded, axis=-1))


def _nearest(trace: RoutingTrace, recorded: np.ndarray, asked: Asked | None) -> captions.Nearest | None:
    found = []
    for row, (layer, experts) in enumerate(zip(trace.model.layers, trace.model.num_experts, strict=True)):
        about = dict.fromkeys(range(experts), 0.0) if asked is None else asked.get(layer, {})
        if not about or not recorded[row].any():
            continue
        if trace.logits is None or (any(about.values()) and trace.model.score_function != "softmax"):
            return None
        scores = trace.logits[row, recorded[row], :experts].astype(np.float64)
        chosen = (trace.experts[row, recorded[row], :, None] == np.arange(experts)).any(axis=1)
        if (_ends(scores, chosen)[0] < _ends(scores, chosen)[1]).any():  # something else decides too
            return None
        scores[:, [*about]] += [*about.values()]
        last, best = _ends(scores, chosen)
        apart = np.where(chosen, scores - best[:, None], last[:, None] - scores)[:, [*about]]
        amount, own = np.array([*about.values()]), chosen[:, [*about]]
        apart[np.where(own, amount > 0, amount < 0)] = np.inf  # it is pushed the other way
        token, place = np.unravel_index(int(apart.argmin()), apart.shape)
        text, expert = trace.tokens["text"].to_numpy()[recorded[row]][token], [*about][place]
        found.append(captions.Nearest(layer, expert, str(text), bool(chosen[token, expert]), float(apart.min())))
    near = min(found, key=lambda one: one.logits, default=None)
    return near if near is not None and np.isfinite(near.logits) else None


def _ends(scores: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(chosen, scores, np.inf).min(axis=1), np.where(chosen, -np.inf, scores).max(axis=1)


Pair = tuple[RoutingTrace, RoutingTrace]
SAME, OTHER, APART = "the same first choice", "another first choice", "not compared"


def kept_rows(pair: Pair) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the rows, in either trace, of the tokens that both texts have, and the number of them before the change.

    Tokens are compared from the front, and then from the end.

    A word of one token may become one of several, and tokens next to it may form anew: what lies between is not in
    both.

    Source: simple comparison of token ids, or of texts where a trace lacks ids.
    """
    known = all((trace.tokens["token_id"] != NO_TOKEN_ID).all() for trace in pair)
    before, after = (trace.tokens["token_id" if known else "text"].to_numpy() for trace in pair)
    most = min(len(before), len(after))
    head = _equal(before[:most], after[:most])
    tail = _equal(before[::-1][: most - head], after[::-1][: most - head])
    mine, theirs = (np.r_[0:head, len(ids) - tail : len(ids)].astype(np.int64) for ids in (before, after))
    return mine, theirs, head


def _equal(one: np.ndarray, other: np.ndarray) -> int:
    differ = np.flatnonzero(one != other)
    return int(differ[0]) if len(differ) else len(one)


@needs_tokens
def word_change(pair: Pair) -> pd.DataFrame:
    """Compare the first choices of each token that two texts have in common.

    One row per token and layer. Columns: place int32 (of the token among those of both) · row, other_row int32 (in
    either trace) · sequence, position int32 (in the first) · text str · layer int32 · expert, other_expert int16 (first
    choices) · kind str (the same first choice, another first choice, or not compared, where one of the two does not
    record it) · follows bool (whether the token stands after what was changed). Raises `InvalidTrace` if the traces
    have other layers or no token in common, and `MissingField` if one of them does not say which choice is the first.

    Source: simple comparison.
    """
    one, other = pair
    if one.model.layers != other.model.layers:
        raise InvalidTrace(
            f"Two readings of a text are compared layer by layer, and these have layers {spans(one.model.layers)} and "
            f"{spans(other.model.layers)}. Give two traces of one model."
        )
    mine, theirs, head = kept_rows(pair)
    if not len(mine):
        raise InvalidTrace("The two texts have no token in common at either end. Change less of the text.")
    first, second = (trace.first_choices("What a word changes") for trace in pair)
    tokens = one.tokens.iloc[mine]
    told: dict[str, np.ndarray] = {"place": np.arange(len(mine), dtype=np.int32)}
    told |= {"row": mine.astype(np.int32), "other_row": theirs.astype(np.int32)}
    told |= {name: tokens[name].to_numpy() for name in ("sequence", "position", "text")}
    told |= {"follows": np.arange(len(mine)) >= head}
    frames = []
    for at, layer in enumerate(one.model.layers):
        ours, others = first[at, mine], second[at, theirs]
        apart = (ours == NOT_RECORDED) | (others == NOT_RECORDED)
        kind = np.select([apart, ours != others], [APART, OTHER], SAME)
        facts = {"layer": np.int32(layer), "expert": ours, "other_expert": others, "kind": kind}
        frames.append(pd.DataFrame(told | facts))
    return pd.concat(frames, ignore_index=True).astype({"text": "str", "kind": "str"})


def word_change_summary(changes: pd.DataFrame) -> Claim:
    """Claim how many first choices change, at which layer most, and how many before the word.

    Columns: those of `word_change`.
    """
    compared = changes[changes["kind"] != APART]
    changed = compared[compared["kind"] == OTHER]
    by_layer, of_layer = (rows["layer"].value_counts() for rows in (changed, compared))
    layer = None
    if len(changed) and len(of_layer) > 1 and (by_layer == by_layer.max()).sum() == 1:
        layer = int(by_layer.index[int(by_layer.argmax())])
    most, of = (0, 0) if layer is None else (int(by_layer[layer]), int(of_layer[layer]))
    before = int((~changed["follows"]).sum())
    return captions.changed_choices(len(changed), len(compared), layer, most, of, before)
