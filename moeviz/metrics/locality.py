"""The share of consecutive tokens that go to the same experts, compared with chance."""

from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Bool

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.inputs import Statistics, chosen_experts, needs_tokens, per_layer
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.words import one_row
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

FIRST_CHOICE = "first choice"
MAX_SETS = 4096  # different sets of experts that are compared each with each
THIS_TRACE, MIXTRAL = "this trace", "Mixtral 8x7B, published"
MIXTRAL_LAYERS = (0, 15, 31)
MIXTRAL_DEPTHS = tuple(layer / 31 for layer in MIXTRAL_LAYERS)  # of its 32 layers: 0 is the first, 1 the last
# Per cent of pairs, arXiv 2401.04088, table 5: first choice at those layers, then first or second choice at them.
MIXTRAL_TABLE_5 = {
    "ArXiv": (14.0, 27.9, 22.7, 46.5, 62.3, 52.9),
    "DM Mathematics": (14.1, 28.4, 19.7, 44.9, 67.0, 44.5),
    "Github": (14.9, 28.1, 19.7, 49.9, 66.9, 49.2),
    "Gutenberg": (13.9, 26.1, 26.3, 49.5, 63.1, 52.2),
    "PhilPapers": (13.6, 25.3, 22.1, 46.9, 61.9, 51.3),
    "PubMed Abstracts": (14.2, 24.6, 22.0, 48.6, 61.6, 51.8),
    "StackExchange": (13.6, 27.2, 23.6, 48.2, 64.6, 53.6),
    "Wikipedia (en)": (14.4, 23.6, 25.3, 49.8, 62.1, 51.8),
}


@per_layer
def locality(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the share of tokens that go to the same expert as the token before them, layer by layer.

    "first choice": both tokens have the same expert in slot 0. "first or second choice" (of k experts: "any of k
    choices"): at least one expert is among the choices of both. Consecutive tokens are those of one sequence at
    positions n and n + 1; sequences are never joined. A token without an expert is in no pair, and neither is one that
    is not recorded.

    There are two chance levels. `uniform_chance`: all experts equally likely, 1 / E for the first choice, and 1 -
    C(E - k, k) / C(E, k) for any of k (12.5% and 46.4% with 2 of 8). `load_chance`: two of the layer's tokens drawn
    at random, with the choices that they made, so that an expert that is busy everywhere does not look like locality.
    For the first choice that is the sum of its squared shares, and for any choice the share of pairs of tokens whose
    experts overlap (if more than 4,096 different sets of experts occur, among 4,096 evenly spaced tokens).

    One row per layer and choice; with one slot, only the first choice, and without it if the trace does not say which
    expert that is. Columns: layer int32 · choice str · share,
    uniform_chance, load_chance float64 (of pairs; NaN without any) · pairs int64 (consecutive tokens that both have an
    expert).

    Source: Mixtral of Experts (arXiv 2401.04088), table 5.
    """
    if isinstance(trace, Statistics):
        return _locality_of_sums(trace)
    return _locality(trace, np.zeros(len(trace.tokens), np.int64), [""]).drop(columns="label")


def _locality_of_sums(statistics: Statistics) -> pd.DataFrame:
    """Return the rows of `locality`, NaN for what needs the sets of all tokens: for any choice, `load_chance`,
    and `uniform_chance` with empty slots."""
    near, first, slots = statistics.repeats(), statistics.first_choices(), statistics.filled_slots()
    model, rows = statistics.model, []
    for row, (layer, num_experts) in enumerate(zip(model.layers, model.num_experts, strict=True)):
        if not slots[row].any() and slots.any():
            continue  # nothing is recorded there
        pairs, same_first, same_any = near[row].tolist()
        shares = first[row] / max(first[row].sum(), 1)
        full = bool(pairs) and slots[row, 1 : model.top_k].sum() == 0
        every = uniform_chance(np.array([model.top_k]), np.array([model.top_k]), num_experts) if full else np.nan
        for choice, _ in _choices(model):
            same = same_first if choice == FIRST_CHOICE else same_any
            chances = (1 / num_experts, float((shares**2).sum())) if choice == FIRST_CHOICE else (every, np.nan)
            if not pairs:
                chances = (np.nan, np.nan)
            rows.append((layer, choice, same / pairs if pairs else np.nan, *chances, pairs))
    columns = ["layer", "choice", "share", "uniform_chance", "load_chance", "pairs"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "int32", "choice": "str", "pairs": "int64"})


@per_layer
def locality_by_label(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the share of tokens that go to the same expert as the token before them, by layer and kind of text.

    One row per layer, label (in the order in which they first appear) and choice. Columns: layer int32 · label str ·
    those of `locality`: both tokens of a pair have the label, and load_chance is of the label's own tokens. Raises
    `MissingField` if the tokens have no labels.

    Source: Mixtral of Experts (arXiv 2401.04088), table 5, whose rows are data sets.
    """
    names, codes = trace.labels("Locality by label")
    return _locality(trace, codes, names)


@needs_tokens
def locality_beside_mixtral(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the share of tokens with the expert of the token before them, and the figures published for Mixtral 8x7B.

    The rows of `locality`. If every layer of the trace has 8 experts and each token goes to 2, so that chance is the
    same, they are followed by one row for each published layer (0, 15, 31) and choice of Mixtral 8x7B: the mean of its
    eight data sets, with the lowest and the highest of them. Those are of another model and other texts: a yardstick,
    not part of the trace.

    Columns: routing str ("this trace", "Mixtral 8x7B, published") · those of `locality` (load_chance and pairs were not
    published and are missing in those rows; pairs is Int64 here) · lowest, highest float64 (of the data sets; NaN in
    rows of the trace).

    Source: Mixtral of Experts (arXiv 2401.04088), table 5.
    """
    return beside_mixtral(locality(trace), trace.model)


def beside_mixtral(frame: pd.DataFrame, model: ModelInfo) -> pd.DataFrame:
    """Return the rows of `locality` of a model, and the published ones below them where they compare."""
    frame = frame.astype({"pairs": "Int64"})
    frame.insert(0, "routing", THIS_TRACE)
    frame = frame.assign(lowest=np.nan, highest=np.nan)
    if model.top_k != 2 or set(model.num_experts) != {8}:
        return frame
    return pd.concat([frame, _published_rows(frame.columns)], ignore_index=True)


def published_first_choices() -> pd.DataFrame:
    """Published rates at which the first choice of Mixtral 8x7B repeats: mean, lowest and highest of eight data sets.

    One row per published layer. Columns: layer int32 · share, chance, lowest, highest float64 (of pairs).

    Source: Mixtral of Experts (arXiv 2401.04088), table 5.
    """
    columns = ["choice", "layer", "share", "uniform_chance", "lowest", "highest"]
    frame = _published_rows(pd.Index(["routing", *columns, "load_chance", "pairs"]))[columns]
    first = frame[frame["choice"] == FIRST_CHOICE].drop(columns="choice")
    return first.rename(columns={"uniform_chance": "chance"}).reset_index(drop=True)


def _published_rows(columns: pd.Index) -> pd.DataFrame:
    figures, rows = np.array(list(MIXTRAL_TABLE_5.values())) / 100, []
    for place, layer in enumerate(MIXTRAL_LAYERS):
        for at, (choice, slots) in enumerate([(FIRST_CHOICE, 1), (any_choice(2), 2)]):
            shares = figures[:, place + at * len(MIXTRAL_LAYERS)]
            facts = {"routing": MIXTRAL, "layer": layer, "choice": choice, "share": shares.mean()}
            chance = uniform_chance(np.array([slots]), np.array([slots]), 8)
            rows.append(facts | {"uniform_chance": chance, "lowest": shares.min(), "highest": shares.max()})
    frame = pd.DataFrame(rows).assign(load_chance=np.nan, pairs=pd.array([None] * len(rows), "Int64"))
    return frame.astype({"routing": "str", "layer": np.int32, "choice": "str"})[list(columns)]


def _locality(trace: RoutingTrace, groups: np.ndarray, names: list[str]) -> pd.DataFrame:
    model, rows = trace.model, []
    tokens = [np.flatnonzero(groups == group) for group in range(len(names))]
    pairs = [_consecutive(trace.tokens, rows_of_group) for rows_of_group in tokens]
    for experts, layer, num_experts in zip(trace.experts, model.layers, model.num_experts, strict=True):
        for name, own, (before, after) in zip(names, tokens, pairs, strict=True):
            for choice, slots in _choices(model):
                chosen = chosen_experts(experts[:, :slots], num_experts)
                facts = {"layer": layer, "label": name, "choice": choice}
                rows.append(facts | _measure(chosen[before], chosen[after], chosen[own]))
    kinds = {"layer": "int32", "label": "str", "choice": "str", "pairs": "int64"}
    columns = ["layer", "label", "choice", "share", "uniform_chance", "load_chance", "pairs"]
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def _choices(model: ModelInfo) -> list[tuple[str, int]]:
    """Return the names of the choices, each with its number of slots: the first one, if known, and any of them."""
    ordered = model.slot_order == "weight" or model.top_k == 1
    return [(FIRST_CHOICE, 1)] * ordered + [(any_choice(model.top_k), model.top_k)] * (model.top_k > 1)


def any_choice(top_k: int) -> str:
    """Return the name of all choices of a token together."""
    return "first or second choice" if top_k == 2 else f"any of {top_k} choices"


def _consecutive(tokens: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each of `rows` with the token right before it in its sequence: (before, after)."""
    sequence, position = (tokens[name].to_numpy()[rows] for name in ("sequence", "position"))
    order = np.lexsort((position, sequence))
    follows = (np.diff(sequence[order]) == 0) & (np.diff(position[order]) == 1)
    return rows[order[:-1][follows]], rows[order[1:][follows]]


def _measure(
    before: Bool[np.ndarray, "P E"], after: Bool[np.ndarray, "P E"], own: Bool[np.ndarray, "T E"]
) -> dict[str, float]:
    routed = before.any(axis=1) & after.any(axis=1)
    before, after = before[routed], after[routed]
    if not len(before):
        return {"share": np.nan, "uniform_chance": np.nan, "load_chance": np.nan, "pairs": 0}
    return {
        "share": (before & after).any(axis=1).mean(),
        "uniform_chance": uniform_chance(before.sum(axis=1), after.sum(axis=1), before.shape[1]),
        "load_chance": _load_chance(own[own.any(axis=1)]),
        "pairs": len(before),
    }


def uniform_chance(a: np.ndarray, b: np.ndarray, num_experts: int) -> float:
    """Mean over pairs of the chance that a of E experts and b of E, drawn at random, have one in common."""
    sizes, counts = np.unique(np.stack([a, b], axis=1), axis=0, return_counts=True)
    misses = [comb(num_experts - i, j) / comb(num_experts, j) for i, j in sizes.tolist()]
    return float(1 - np.average(misses, weights=counts))


def _load_chance(chosen: Bool[np.ndarray, "T E"]) -> float:
    """Return the chance that two tokens, each drawn from all, have an expert in common."""
    packed, counts = np.unique(np.packbits(chosen, axis=1), axis=0, return_counts=True)
    if len(packed) > MAX_SETS:
        evenly = np.linspace(0, len(chosen) - 1, MAX_SETS).astype(np.int64)
        packed, counts = np.unique(np.packbits(chosen[evenly], axis=1), axis=0, return_counts=True)
    sets = np.unpackbits(packed, axis=1, count=chosen.shape[1]).astype(np.float32)
    shares = counts / counts.sum()
    return float(shares @ (sets @ sets.T > 0) @ shares)


def first_choice_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim in which layer neighbours go to the same first expert most often, of those beyond chance."""
    return _repeats_caption(frame[frame["choice"] == FIRST_CHOICE], first=True)


def any_choice_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim in which layer neighbours have an expert in common most often, of those beyond chance."""
    return _repeats_caption(frame[frame["choice"] != FIRST_CHOICE], first=False)


def _repeats_caption(frame: pd.DataFrame, first: bool) -> Claim | None:
    own = frame[frame["routing"] == THIS_TRACE]
    beyond = beyond_chance(own["share"], own["pairs"].astype("float64"), own["load_chance"].astype("float64"), 1.2)
    if not beyond.any():
        return None
    row = one_row(own, own["share"][beyond].idxmax())
    return captions.repeated_choice(row.layer, row.share, first, row.load_chance, int(beyond.sum()), len(own))
