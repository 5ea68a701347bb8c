"""Analyses that read the rows of a dataset: the tokens that an expert gets, and their places in the text.

Each reads one row group after another, and calls `progress` after each with the rows read and the rows in all.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import DamagedShard, InvalidTrace, MissingField
from moeviz.formats.dataset.convert import trace_of_texts
from moeviz.formats.dataset.layout import ROWS, experts_column, stored_values
from moeviz.formats.dataset.reader import Dataset, Shard
from moeviz.metrics.expert_names import room_for, whole_texts_within
from moeviz.metrics.expert_tokens import LEFT, RIGHT, line_of
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import top_of_layer
from moeviz.routing_trace import RoutingTrace

AT_LEAST = 10  # occurrences of a token
MAX_CELLS = 2**25  # of a layer's table of token ids and experts
AROUND = 12  # tokens of a context on each side
MOST_GROUPS = 16  # row groups that a sample is read from
Progress = Callable[[int, int], object]  # rows that are read, of how many


def quiet(_read: int, _of: int) -> None:
    """Report nothing."""


def scan_rows(
    dataset: Dataset, columns: Sequence[str], progress: Progress, before: int, of: int
) -> Iterator[dict[str, Any]]:
    """Read these columns of every row group, and report each; `before` rows were read already, of `of`."""
    for _, _, rows in dataset.scan(columns):
        yield rows
        before += len(rows[columns[0]])
        progress(before, of)


def top_tokens(
    dataset: Dataset,
    layers: Sequence[int] | None = None,
    at_least: int = AT_LEAST,
    most: int = 10,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Compute `moeviz.metrics.vocabulary.top_tokens` for tokens with ids; reads every row of the layers.

    `text` is the first one that an id came with. Raises `MissingField` for a dataset without text, and `InvalidTrace`
    if no token occurs often enough, or if the table of a layer is too large because too many do.
    """
    wanted, frames = list(layers or dataset.model.layers), []
    for at, layer in enumerate(wanted):
        before, of = 2 * at * dataset.tokens, 2 * len(wanted) * dataset.tokens

        def of_all(read: int, _of: int, before: int = before, of: int = of) -> None:
            progress(before + read, of)

        frames.append(_top_of_layer(dataset, layer, at_least, most, of_all))
    return pd.concat(frames, ignore_index=True)


def _top_of_layer(dataset: Dataset, layer: int, at_least: int, most: int, progress: Progress) -> pd.DataFrame:
    num_experts, passes = dataset.model.num_experts[dataset.row_of(layer)], 2 * dataset.tokens
    ids, times, texts = vocabulary_of(dataset, layer, progress, passes)
    often = times >= at_least
    if len(ids) and not often.any():
        raise InvalidTrace(f"Top tokens must occur {at_least} times, and none occurs more than {times.max()} times.")
    ids, times, texts = ids[often], times[often], texts[often]
    counts, filled, recorded = chosen_of(dataset, layer, ids, num_experts, progress, passes)
    chance = filled / max(recorded, 1) / num_experts
    return top_of_layer(layer, ids.astype(np.int32), texts, counts, times, chance, most)


def vocabulary_of(
    dataset: Dataset, layer: int, progress: Progress, of: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the token ids that are recorded at a layer, in order of first appearance; their counts; their texts.

    The first reading of all rows. Raises `MissingField` if there are no texts or no ids.
    """
    if not dataset.kept.text:
        raise MissingField("Top tokens need the tokens' texts, and this dataset was written without them.")
    words: dict[int, str] = {}
    size, counted = 0, np.zeros(0, np.int64)
    for rows in scan_rows(dataset, ["token_id", "token", experts_column(layer)], progress, 0, of):
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
    kept = [token for token in words if counted[token]] if size else []
    ids = np.array(kept, np.int64)
    return ids, counted[ids], np.array([words[token] for token in kept], object)


def chosen_of(
    dataset: Dataset, layer: int, ids: np.ndarray, num_experts: int, progress: Progress, of: int
) -> tuple[np.ndarray, int, int]:
    """Count how often each of these ids chose each expert, (V, E); the filled slots, and the layer's recorded tokens.

    The second reading of all rows.
    """
    if len(ids) * num_experts > MAX_CELLS:
        raise InvalidTrace(f"{len(ids):,} tokens by {num_experts:,} experts are too many. Raise at_least.")
    counts = np.zeros(len(ids) * num_experts, np.int64)
    row = np.full(int(ids.max(initial=0)) + 2, -1)
    row[ids] = np.arange(len(ids))
    filled = recorded = 0
    for rows in scan_rows(dataset, ["token_id", experts_column(layer)], progress, dataset.tokens, of):
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


def contexts(
    dataset: Dataset,
    layer: int,
    expert: int,
    most: int = 20,
    seed: int = 0,
    token_id: int | None = None,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Tokens of an expert in their text: a random sample, in which each of its tokens is as likely as any other.

    Only the row groups that are drawn from are read; for a sample of one token of the vocabulary, those in
    which the expert has it. The same seed gives the same sample.

    One row per place, in the order of the corpus. Columns: text int64 (number of the text) · position int32 · label str
    ("" without labels) · before str · token str · after str (12 tokens on each side, of the same stretch). Raises
    `MissingField` for a dataset without text, and `InvalidTrace` for a layer or an expert that the model does not have.

    Source: keyword in context, Luhn (1960).
    """
    num_experts = dataset.model.num_experts[dataset.row_of(layer)]
    if not 0 <= expert < num_experts:
        raise InvalidTrace(f"Layer {layer} has no expert {expert}. Choose one of 0 to {num_experts - 1}.")
    if not dataset.kept.text:
        raise MissingField("Contexts need the tokens' texts, and this dataset was written without them.")
    places, tokens = _places(dataset, layer, expert)
    if token_id is not None:
        tokens = _of_token(dataset, places, layer, expert, token_id, progress)
    ends = np.cumsum(tokens)
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False)) if total else []
    group = np.searchsorted(ends, drawn, side="right")
    lines: list[tuple[Any, ...]] = []
    for at in np.unique(group).tolist():
        nth = np.asarray(drawn)[group == at] - (ends[at - 1] if at else 0)
        lines += _of_group(dataset, *places[at], layer, expert, nth, token_id)
    columns = ["text", "position", "label", "before", "token", "after"]
    strings = dict.fromkeys(("label", "before", "token", "after"), "str")
    return pd.DataFrame(lines, columns=columns).astype({"text": "int64", "position": "int32"} | strings)


def in_lines(found: pd.DataFrame) -> pd.DataFrame:
    """Convert contexts to lines, with the columns of `moeviz.metrics.expert_tokens.contexts` that a line has."""
    before = pd.Series([line_of(text)[-LEFT:] for text in found["before"]], found.index, "str")
    after = pd.Series([line_of(text)[:RIGHT] for text in found["after"]], found.index, "str")
    columns = {"before": before, "text": found["token"], "after": after, "label": found["label"], "weight": np.nan}
    return pd.DataFrame(columns, found.index)


def _places(dataset: Dataset, layer: int, expert: int) -> tuple[list[tuple[Shard, int]], list[int]]:
    """List the row groups in which the expert has tokens, and the number of tokens in each."""
    places: list[tuple[Shard, int]] = []
    tokens: list[int] = []
    for shard, table in dataset.table("groups", [layer]):
        own = table["expert"] == expert
        places += [(shard, group) for group in table["row_group"][own].tolist()]
        tokens += table["tokens"][own].tolist()
    return places, tokens


def sample_of_dataset(dataset: Dataset) -> RoutingTrace:
    """Sample whole texts of a dataset as a trace, like `moeviz.metrics.expert_names.sample_of_texts` those of a trace.

    They come from 16 row groups at most, so that a large dataset needs no more time. Raises `DamagedShard`, and
    `InvalidTrace` if no text is small enough.
    """
    tables = [pd.DataFrame(table)[["text", "label", "tokens", "first_row"]] for _, table in dataset.table("texts")]
    groups = [np.cumsum(table["tokens"]) // ROWS + 1e6 * number for number, table in enumerate(tables)]
    texts = pd.concat([table.assign(group=of) for table, of in zip(tables, groups, strict=True)], ignore_index=True)
    near = texts["group"].isin(texts["group"].unique()[_spread_over(texts["group"].nunique())])
    texts = texts[near]
    texts = texts.iloc[np.argsort(texts.groupby("label", sort=False).cumcount().to_numpy(), kind="stable")]
    taken = whole_texts_within(texts["tokens"].tolist(), room_for(dataset.model))
    if not taken:
        raise InvalidTrace(
            f"No text of this dataset has fewer than {room_for(dataset.model):,} tokens, so none can be shown as a "
            "whole. Open a trace of some texts."
        )
    return trace_of_texts(dataset, texts["text"].iloc[taken].tolist())


def _spread_over(groups: int) -> np.ndarray:
    """Return the indices of 16 of `groups` row groups, evenly spaced."""
    places: np.ndarray = np.unique(np.linspace(0, groups - 1, min(groups, MOST_GROUPS)).astype(int))
    return places


def _of_token(
    dataset: Dataset, places: list[tuple[Shard, int]], layer: int, expert: int, token_id: int, progress: Progress
) -> list[int]:
    """Count how often the expert has the token in each of the row groups."""
    column, found = experts_column(layer), []
    for at, (shard, group) in enumerate(places):
        rows = dataset.rows(shard, group, [column, "token_id"])
        found.append(int(((rows[column] == expert).any(axis=1) & (rows["token_id"] == token_id)).sum()))
        progress(at + 1, len(places))
    return found


def _of_group(
    dataset: Dataset, shard: Shard, group: int, layer: int, expert: int, nth: np.ndarray, token_id: int | None
) -> list[tuple[Any, ...]]:
    """Read the drawn tokens of the expert in a row group."""
    columns = ["text", "stretch", "position", "token", *(["label"] * dataset.kept.labels)]
    rows = dataset.rows(shard, group, [experts_column(layer), *columns, *(["token_id"] * (token_id is not None))])
    own = (rows[experts_column(layer)] == expert).any(axis=1)
    has = np.flatnonzero(own if token_id is None else own & (rows["token_id"] == token_id))
    if len(has) <= nth.max():
        why = f"its tables give expert {expert} more tokens than its rows"
        raise DamagedShard(f"{shard.name} is damaged: {why}. Write it again, or leave it out.", shard.number)
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
