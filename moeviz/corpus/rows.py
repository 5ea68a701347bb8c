"""What needs the rows of a dataset: the tokens that an expert gets, and places in the text where it has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace, MissingField
from moeviz.formats.dataset.layout import experts_column, stored_values
from moeviz.formats.dataset.reader import Dataset, Shard
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import top_of_layer

AT_LEAST = 10  # occurrences of a token
MAX_CELLS = 2**25  # of a layer's table of token ids and experts
AROUND = 12  # tokens of a context on each side


def top_tokens(
    dataset: Dataset, layers: Sequence[int] | None = None, at_least: int = AT_LEAST, most: int = 10
) -> pd.DataFrame:
    """As `moeviz.metrics.vocabulary.top_tokens`, for tokens with ids; reads every row of the layers.

    `text` is the first one that an id came with. Raises `MissingField` for a dataset without text, and `InvalidTrace`
    if no token occurs often enough, or so many do that the table of a layer is too large.
    """
    frames = [_top_of_layer(dataset, layer, at_least, most) for layer in layers or dataset.model.layers]
    return pd.concat(frames, ignore_index=True)


def _top_of_layer(dataset: Dataset, layer: int, at_least: int, most: int) -> pd.DataFrame:
    num_experts = dataset.model.num_experts[dataset.row_of(layer)]
    ids, times, texts = _vocabulary(dataset, layer, at_least)
    counts, filled, recorded = _chosen(dataset, layer, ids, num_experts)
    chance = filled / max(recorded, 1) / num_experts
    words = ids.astype(np.int32), np.array(texts, dtype=object)
    return top_of_layer(layer, *words, counts, times, chance, most)


def _vocabulary(dataset: Dataset, layer: int, at_least: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The token ids that are recorded often enough at a layer, in order of first appearance; how often; their texts."""
    if not dataset.kept.text:
        raise MissingField("Top tokens need the tokens' texts, and this dataset was written without them.")
    words: dict[int, str] = {}
    size, counted = 0, np.zeros(0, np.int64)
    for _, _, rows in dataset.scan(["token_id", "token", experts_column(layer)]):
        missing = stored_values(rows[experts_column(layer)].dtype)[1]
        ids = rows["token_id"][rows[experts_column(layer)][:, 0] != missing].astype(np.int64)
        if not len(ids):
            continue
        if ids.min() < 0 or ids.max() >= 2**24:
            raise MissingField("Top tokens need tokens with ids, and some of this dataset have none.")
        size = max(size, int(ids.max()) + 1)
        counted = np.concatenate([counted, np.zeros(size - len(counted), np.int64)])
        counted += np.bincount(ids, minlength=size)
        new, at = np.unique(rows["token_id"], return_index=True)
        for token, place in sorted(zip(new.tolist(), at.tolist(), strict=True), key=lambda pair: pair[1]):
            if token not in words:
                words[token] = rows["token"][place].as_py()
    kept = [token for token in words if counted[token] >= at_least] if size else []
    if size and not kept:
        raise InvalidTrace(f"Top tokens must occur {at_least} times, and none occurs more than {counted.max()} times.")
    ids = np.array(kept, np.int64)
    return ids, counted[ids], [words[token] for token in kept]


def _chosen(dataset: Dataset, layer: int, ids: np.ndarray, num_experts: int) -> tuple[np.ndarray, int, int]:
    """(V, E) how often each of these ids chose each expert; the filled slots, and the tokens recorded at the layer."""
    if len(ids) * num_experts > MAX_CELLS:
        raise InvalidTrace(f"{len(ids):,} tokens by {num_experts:,} experts are too many. Raise at_least.")
    counts = np.zeros(len(ids) * num_experts, np.int64)
    row = np.full(int(ids.max(initial=0)) + 2, -1)
    row[ids] = np.arange(len(ids))
    filled = recorded = 0
    for _, _, rows in dataset.scan(["token_id", experts_column(layer)]):
        chosen = rows[experts_column(layer)]
        which = row[np.minimum(rows["token_id"], len(row) - 1)]
        has = chosen < num_experts
        filled, recorded = (
            filled + int(has.sum()),
            recorded + int((chosen[:, 0] != stored_values(chosen.dtype)[1]).sum()),
        )
        token, slot = np.nonzero(has & (which >= 0)[:, None])
        counts += np.bincount(which[token] * num_experts + chosen[token, slot], minlength=len(counts))
    return counts.reshape(len(ids), num_experts), filled, recorded


def contexts(dataset: Dataset, layer: int, expert: int, most: int = 20, seed: int = 0) -> pd.DataFrame:
    """Tokens of an expert in their text: a random sample, in which each of its tokens is as likely as any other.

    Only the row groups that are drawn from are read. The same seed gives the same sample. One row per place, in the
    order of the corpus. Columns: text int64 (number of the text) · position int32 · label str ("" without labels) ·
    before str · token str · after str (12 tokens on each side, of the same stretch). Raises `MissingField` for a
    dataset without text, and `InvalidTrace` for a layer or an expert that the model does not have.

    Source: keyword in context, Luhn (1960).
    """
    num_experts = dataset.model.num_experts[dataset.row_of(layer)]
    if not 0 <= expert < num_experts:
        raise InvalidTrace(f"Layer {layer} has no expert {expert}. Choose one of 0 to {num_experts - 1}.")
    if not dataset.kept.text:
        raise MissingField("Contexts need the tokens' texts, and this dataset was written without them.")
    places: list[tuple[Shard, int]] = []
    tokens: list[int] = []
    for shard, table in dataset.table("groups", [layer]):
        own = table["expert"] == expert
        places += [(shard, group) for group in table["row_group"][own].tolist()]
        tokens += table["tokens"][own].tolist()
    ends = np.cumsum(tokens)
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False)) if total else []
    group = np.searchsorted(ends, drawn, side="right")
    lines: list[tuple[Any, ...]] = []
    for at in np.unique(group).tolist():
        nth = np.asarray(drawn)[group == at] - (ends[at - 1] if at else 0)
        lines += _of_group(dataset, *places[at], layer, expert, nth)
    columns = ["text", "position", "label", "before", "token", "after"]
    strings = dict.fromkeys(("label", "before", "token", "after"), "str")
    return pd.DataFrame(lines, columns=columns).astype({"text": "int64", "position": "int32"} | strings)


def _of_group(
    dataset: Dataset, shard: Shard, group: int, layer: int, expert: int, nth: np.ndarray
) -> list[tuple[Any, ...]]:
    """Those of the expert's tokens in a row group."""
    columns = [experts_column(layer), "text", "stretch", "position", "token", *(["label"] * dataset.kept.labels)]
    with dataset.file(shard) as file:
        rows = dataset.group(shard, file, group, columns)
    has = np.flatnonzero((rows[experts_column(layer)] == expert).any(axis=1))
    if len(has) <= nth.max():
        raise InvalidTrace(f"{shard.name} is damaged: its tables give expert {expert} more tokens than its rows.")
    return [_line(rows, int(at)) for at in has[nth]]


def _line(rows: dict[str, Any], at: int) -> tuple[Any, ...]:
    text, stretch, token = rows["text"], rows["stretch"], rows["token"]
    near = np.arange(max(at - AROUND, 0), min(at + AROUND + 1, len(text)))
    near = near[(text[near] == text[at]) & (stretch[near] == stretch[at])]
    before, after = (
        "".join(token[place].as_py() for place in side.tolist()) for side in (near[near < at], near[near > at])
    )
    label = rows["label"][at].as_py() if "label" in rows else ""
    return int(text[at]), int(rows["position"][at]), label, before, visible(token[at].as_py()), after
