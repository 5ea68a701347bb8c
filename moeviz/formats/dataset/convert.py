"""A trace as a dataset, and a dataset that fits into memory as a trace."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.dataset.folder import new_plan, writing
from moeviz.formats.dataset.layout import WEIGHTS, Kept, Weights, experts_column, unpacked_ids, weights_column
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.s3 import Place, place_of
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace, token_frame

TOKEN_BYTES = 100  # per token in memory, in addition to its routing
WORDS = ("text", "stretch", "position", "generated", "label", "token_id", "token")


def write_dataset(
    trace: RoutingTrace, path: str | Place, weights: Weights = "exact", text: bool = True, shard_tokens: int = 1_000_000
) -> None:
    """Write a trace as a dataset in a new folder. Its tokens are then in order of sequence and position.

    weights       "exact" (float32), "float16", or "none"; a trace without weights has none.
    text          False leaves the tokens' texts and ids out.
    shard_tokens  a shard ends with the text that fills this many tokens.

    Logits, and which tokens are of images, are left out. Raises `MoevizError` if the folder holds something, and
    `OSError` if it cannot be written.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_dataset(sample_trace(), f"{folder}/out")
    ...     moeviz.read_dataset(f"{folder}/out").model.top_k
    2
    """
    kept = Kept("none" if trace.weights is None else weights, text, "label" in trace.tokens)
    order = np.lexsort((trace.tokens["position"], trace.tokens["sequence"]))
    trace = trace.select(tokens=order)
    sequence = trace.tokens["sequence"].to_numpy(np.int64)
    bounds = _bounds(sequence, shard_tokens)
    shards = [{"texts": len(np.unique(sequence[start:end])), "tokens": end - start} for start, end in bounds]
    with writing(place_of(path), new_plan(trace.model, kept, shards, source="a trace")) as folder:
        for number, (start, end) in enumerate(bounds):
            part = trace.select(tokens=slice(start, end))
            labels = part.tokens["label"].tolist() if kept.labels else [""] * len(part.tokens)
            with folder.writer(number) as writer:
                for first, last in _bounds(sequence[start:end], writer.most):
                    writer.add_rows(
                        sequence[start + first : start + last],
                        labels[first:last],
                        part.select(tokens=slice(first, last)),
                    )
                writer.commit(folder.digest)
        folder.finish()


def trace_of(dataset: Dataset, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Return a dataset as one trace, without logits. Each stretch of a text is a sequence.

    Raises `InvalidTrace` if it would take more than `max_bytes` of memory: its metrics need no trace.
    """
    L, K, T = len(dataset.model.layers), dataset.model.top_k, dataset.tokens
    kind = WEIGHTS[dataset.kept.weights]
    needed = T * (L * K * (2 if kind is None else 6) + TOKEN_BYTES)
    if needed > max_bytes:
        raise InvalidTrace(
            f"The dataset has {T:,} tokens, which take {needed:,} bytes as a trace, and at most {max_bytes:,} are "
            "read. “moeviz metrics FOLDER” reads it where it lies."
        )
    experts = np.empty((L, T, K), np.int16)
    weights = None if kind is None else np.empty((L, T, K), np.float32)
    layers = dataset.model.layers
    words, columns = _columns(dataset)
    frames, at = [], 0
    for _, _, rows in dataset.scan(columns):
        place = slice(at, at + len(rows["text"]))
        for row, layer in enumerate(layers):
            experts[row, place] = unpacked_ids(rows[experts_column(layer)])
            if weights is not None:
                weights[row, place] = rows[weights_column(layer)]
        frames.append(pd.DataFrame({name: _plain(rows[name]) for name in words}))
        at = place.stop
    return RoutingTrace(dataset.model, _tokens(frames, dataset.kept), experts, weights)


def trace_of_texts(dataset: Dataset, texts: Sequence[int]) -> RoutingTrace:
    """Some texts of a dataset, by their numbers, as one trace. Raises `DamagedShard`."""
    wanted, layers = np.unique(np.asarray(texts, np.int64)), dataset.model.layers
    weighed, (words, columns) = WEIGHTS[dataset.kept.weights], _columns(dataset)
    K, frames = dataset.model.top_k, []
    experts, weights = ([np.empty((len(layers), 0, K), kind)] for kind in (np.int16, np.float32))
    for _, _, rows in dataset.scan(columns, wanted):
        own = np.isin(rows["text"], wanted)
        experts.append(np.stack([unpacked_ids(rows[experts_column(layer)][own]) for layer in layers]))
        if weighed is not None:
            weights.append(np.stack([rows[weights_column(layer)][own].astype(np.float32) for layer in layers]))
        frames.append(pd.DataFrame({name: _plain(rows[name]) for name in words})[own])
    found = None if weighed is None else np.concatenate(weights, axis=1)
    return RoutingTrace(dataset.model, _tokens(frames, dataset.kept), np.concatenate(experts, axis=1), found)


def _words(kept: Kept) -> list[str]:
    absent = (() if kept.text else ("token_id", "token")) + (() if kept.labels else ("label",))
    return [name for name in WORDS if name not in absent]


def _columns(dataset: Dataset) -> tuple[list[str], list[str]]:
    words, layers = _words(dataset.kept), dataset.model.layers
    experts = [experts_column(layer) for layer in layers]
    return words, words + experts + ([] if dataset.kept.weights == "none" else [weights_column(one) for one in layers])


def _plain(values: object) -> object:
    return values if isinstance(values, np.ndarray) else values.to_pandas().astype("str")  # type: ignore[attr-defined]


def _tokens(frames: list[pd.DataFrame], kept: Kept) -> pd.DataFrame:
    if not frames:
        frames = [pd.DataFrame({name: [] for name in _words(kept)})]
    rows = pd.concat(frames, ignore_index=True)
    text, stretch = rows["text"].to_numpy(np.int64), rows["stretch"].to_numpy(np.int64)
    sequence = text
    if stretch.any():  # each is a sequence of its own
        sequence = np.cumsum(np.append(False, (np.diff(text) != 0) | (np.diff(stretch) != 0)))
    count = len(rows)
    phase = np.where(rows["generated"].to_numpy(bool), "generated", "prompt")
    words = rows["token"].tolist() if kept.text else [""] * count
    ids = rows["token_id"].to_numpy(np.int32) if kept.text else np.full(count, NO_TOKEN_ID)
    tokens = token_frame(sequence, rows["position"].to_numpy(np.int32), words, ids, phase)
    return tokens.assign(label=rows["label"].astype("str")) if kept.labels else tokens


def _bounds(sequence: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return the bounds of shards, or of row groups: each ends with the text that fills it."""
    texts = [*(np.flatnonzero(np.diff(sequence)) + 1).tolist(), len(sequence)]
    ends, start = [], 0
    for end in texts:
        if end - start >= most or end == len(sequence):
            ends.append(end)
            start = end
    return list(zip([0, *ends[:-1]], ends, strict=True))
