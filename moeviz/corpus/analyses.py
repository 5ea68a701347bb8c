"""The numbers of metrics, of a dataset: from its small tables, so that no row is read. Each says what it leaves out.

They are called like the metrics of a trace whose columns they have, and a test holds the two equal. What needs the
order of all tokens (shuffles, sets of experts) is missing here: NaN in its column.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.dataset.reader import Dataset, label_codes
from moeviz.metrics import coverage as of_coverage
from moeviz.metrics import load as of_load
from moeviz.metrics.co_activation import pair_rows, pairs_of_loads
from moeviz.metrics.divergence import divergences, entropy
from moeviz.metrics.flow import transition_rows
from moeviz.metrics.load import balance_of_counts
from moeviz.metrics.locality import FIRST_CHOICE, beside_mixtral, several, uniform_chance
from moeviz.metrics.specialization import MAX_LABELS, information_of_counts, most_information
from moeviz.metrics.specialization import load_by_label as of_labels

Layers = Sequence[int] | None


def expert_load(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.load.expert_load`."""
    return of_load.expert_load(_counts(dataset, layers))


def coverage(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.load.coverage`."""
    return of_load.coverage(_counts(dataset, layers))


def balance(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.load.balance`."""
    counts, slots = _counts(dataset, layers), filled_slots(dataset)
    frame = of_load.balance(counts)
    chances = []
    for layer, num_experts, assignments in frame[["layer", "num_experts", "assignments"]].itertuples(index=False):
        tokens = slots[dataset.row_of(layer)]
        p = np.arange(len(tokens)) / num_experts
        variance = (tokens * p * (1 - p)).sum()
        chances.append(np.sqrt(variance) / (assignments / num_experts) if assignments else np.nan)
    return frame.assign(chance_cv=chances)


def experts_needed(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.coverage.experts_needed`."""
    served = filled_slots(dataset)[:, 1:].sum(axis=1)
    counts = dataset.counts()
    counts = replace(counts, tokens=np.where(served > 0, served, counts.tokens[0])[None])
    return of_coverage.experts_needed(counts if layers is None else counts.select(layers))


def load_by_label(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.specialization.load_by_label`."""
    counts = labelled(dataset, "Load by label")
    return of_labels(counts if layers is None else counts.select(layers))


def label_information(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.specialization.label_information`, without shuffles (NaN): they need counts of each text."""
    counts, slots, rows = labelled(dataset, "Information about labels"), filled_slots(dataset), []
    for row in _rows(dataset, layers):
        by_label, num_experts = counts.assignments[:, row], dataset.model.num_experts[row]
        by_label = by_label[:, :num_experts]
        filled = np.flatnonzero(slots[row, 1:]) + 1
        most = most_information(by_label, int(filled.min(initial=dataset.model.top_k)))
        if counts.tokens[:, row].any():
            rows.append((dataset.model.layers[row], information_of_counts(by_label), np.nan, np.nan, most))
    columns = ["layer", "information", "shuffled", "shuffled_highest", "maximum"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": np.int32})


def label_divergence(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.specialization.label_divergence`, without its shuffles (NaN)."""
    dataset.need_order("A comparison of labels")
    names = np.array(labelled(dataset, "A comparison of labels").groups, object)
    if not 2 <= len(names) <= MAX_LABELS:
        raise InvalidTrace(f"Labels are compared in pairs, 2 to {MAX_LABELS} of them, and this has {len(names):,}.")
    firsts = first_choices(dataset, list(names))
    one, other = np.triu_indices(len(names), k=1)
    frames = []
    for row in _rows(dataset, layers):
        columns = {
            "layer": np.int32(dataset.model.layers[row]),
            "label": pd.Series(names[one], dtype="str"),
            "other": pd.Series(names[other], dtype="str"),
            "divergence": divergences(firsts[:, row], one, other),
            "shuffled": np.nan,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def co_activation(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.co_activation.co_activation`."""
    if dataset.model.top_k < 2:
        raise InvalidTrace(f"Co-activation needs two experts a token, and {dataset.model.name} gives each token one.")
    counts, slots, E = dataset.counts(), filled_slots(dataset), max(dataset.model.num_experts)
    rows = _rows(dataset, layers)
    together = np.zeros((len(rows), E, E), np.int64)
    for _, table in dataset.table("pairs", layers):
        at = np.searchsorted(rows, table["layer"])
        np.add.at(together, (at, table["expert"], table["partner"]), table["tokens"])
    frames = []
    for at, row in enumerate(rows):
        alone = counts.assignments[0, row]
        ids = np.flatnonzero(alone)
        both = together[at] + together[at].T + np.diag(alone)
        by_lot = pairs_of_loads(alone[ids], slots[row])
        frames.append(pair_rows(dataset.model.layers[row], ids.astype(np.int16), both[np.ix_(ids, ids)], by_lot))
    return pd.concat(frames, ignore_index=True)


def consecutive_transitions(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.flow.consecutive_transitions`; `layers` must be consecutive MoE layers of the model."""
    frames = [transition_rows(ends, *_taken(flow)) for ends, flow in flows(dataset, layers)]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def consecutive_information(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.flow.consecutive_information`, without its shuffles (NaN): they need every token."""
    rows = []
    for ends, flow in flows(dataset, layers):
        if tokens := int(flow.sum()):
            shares = flow / tokens
            one, other = entropy(shares.sum(axis=1)[None])[0], entropy(shares.sum(axis=0)[None])[0]
            both = entropy(shares.reshape(1, -1))[0]
            rows.append((*ends, tokens, max(one + other - both, 0.0), np.nan, min(one, other)))
    columns = ["from_layer", "to_layer", "tokens", "information", "shuffled", "maximum"]
    kinds = {"from_layer": "int32", "to_layer": "int32", "tokens": "int64"}
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns, "float64") | kinds)


def locality(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.locality.locality`.

    `load_chance` of any choice needs the sets of experts of all tokens, and `uniform_chance` of tokens with empty slots
    the sets of pairs: both are NaN.
    """
    near, first = _near(dataset), first_choices(dataset).sum(axis=0)
    slots, K, rows = filled_slots(dataset), dataset.model.top_k, []
    ordered = dataset.model.slot_order == "weight" or K == 1
    for row in _rows(dataset, layers):
        if not slots[row].any() and slots.any():
            continue  # nothing is recorded there
        pairs, same_first, same_any = near[row].tolist()
        num_experts, layer = dataset.model.num_experts[row], dataset.model.layers[row]
        full = slots[row, 1:K].sum() == 0
        shares = first[row] / max(first[row].sum(), 1)
        every = uniform_chance(np.array([K]), np.array([K]), num_experts) if full and pairs else np.nan
        facts: list[tuple[str, int, float, float]] = []
        if ordered:
            one = (1 / num_experts, float((shares**2).sum())) if pairs else (np.nan, np.nan)
            facts.append((FIRST_CHOICE, same_first, *one))
        if K > 1:
            facts.append((several(K), same_any, every, np.nan))
        for choice, same, uniform, load in facts:
            rows.append((layer, choice, same / pairs if pairs else np.nan, uniform, load, pairs))
    columns = ["layer", "choice", "share", "uniform_chance", "load_chance", "pairs"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "int32", "choice": "str", "pairs": "int64"})


def locality_beside_mixtral(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """As `moeviz.metrics.locality.locality_beside_mixtral`, of `locality`."""
    model = dataset.model if layers is None else dataset.model.with_layers(layers)[0]
    return beside_mixtral(locality(dataset, layers), model)


def balance_over_time(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """Measure how even the load is in each part of the corpus, in the order in which it was traced.

    As `moeviz.metrics.load.balance_over_time`; a part is a row group: 65,536 tokens or some more. One row per part and
    layer. Columns: part int32 (from 0) · layer int32 · assignments int64 · the measures of
    `moeviz.metrics.load.balance_of_counts` · shard int32 · row_group int32 (where the part is).
    """
    rows, part = [], -1
    for shard, table in dataset.table("groups", layers):
        E, chosen = max(dataset.model.num_experts), _rows(dataset, layers)
        groups = int(table["row_group"].max(initial=-1)) + 1
        counts = np.zeros((groups, len(dataset.model.layers), E), np.int64)
        np.add.at(counts, (table["row_group"], table["layer"], table["expert"]), table["tokens"])
        for group in range(groups):
            part += 1
            for row in chosen:
                own = counts[group, row, : dataset.model.num_experts[row]]
                facts = {"part": part, "layer": dataset.model.layers[row], "assignments": own.sum()}
                rows.append(facts | balance_of_counts(own) | {"shard": shard.number, "row_group": group})
    kinds = dict.fromkeys(("part", "layer", "shard", "row_group"), "int32")
    return pd.DataFrame(rows, columns=[*of_load.OVER_TIME, "shard", "row_group"]).astype(kinds)


def _rows(dataset: Dataset, layers: Layers) -> list[int]:
    """Which of the L these layers are. Raises `InvalidTrace` for one that is not there."""
    return list(range(len(dataset.model.layers))) if layers is None else dataset.model.with_layers(layers)[1]


def _counts(dataset: Dataset, layers: Layers) -> ExpertCounts:
    counts = dataset.counts()
    return counts if layers is None else counts.select(layers)


def labelled(dataset: Dataset, why: str) -> ExpertCounts:
    """Counts by label. Raises `MissingField` with a sentence that starts with `why`, where there are no labels."""
    if not dataset.kept.labels:
        raise MissingField(f"{why} needs tokens with a label, and this dataset has none. Trace labelled texts.")
    return dataset.counts_by_label(why)


def filled_slots(dataset: Dataset) -> np.ndarray:
    """(L, K + 1) recorded tokens by layer and filled slots."""
    found = np.zeros((len(dataset.model.layers), dataset.model.top_k + 1), np.int64)
    for _, table in dataset.table("slots"):
        np.add.at(found, (table["layer"], table["filled"]), table["tokens"])
    return found


def first_choices(dataset: Dataset, names: list[str] | None = None) -> np.ndarray:
    """(D, L, E) tokens by their first choice; all labels together without `names`."""
    found = np.zeros((len(names or [""]), len(dataset.model.layers), max(dataset.model.num_experts)), np.int64)
    for _, table in dataset.table("load"):
        label = np.zeros(len(table["layer"]), int) if names is None else label_codes(table, names)
        np.add.at(found, (label, table["layer"], table["expert"]), table["first"])
    return found


def _near(dataset: Dataset) -> np.ndarray:
    """(L, 3) consecutive tokens: pairs, with the same first choice, with any in common."""
    found = np.zeros((len(dataset.model.layers), 3), np.int64)
    for _, table in dataset.table("locality"):
        for at, name in enumerate(("pairs", "same_first", "same_any")):
            np.add.at(found[:, at], table["layer"], table[name])
    return found


def flows(dataset: Dataset, layers: Layers) -> list[tuple[tuple[int, int], np.ndarray]]:
    """(E, E) tokens by first choices, for each two consecutive layers."""
    dataset.need_order("Flow")
    model, rows, E = dataset.model, _rows(dataset, layers), max(dataset.model.num_experts)
    if len(rows) < 2 or rows != list(range(rows[0], rows[-1] + 1)):
        raise InvalidTrace("Flow in a dataset is between MoE layers that follow each other. Choose two of those.")
    flow = np.zeros((len(rows) - 1, E, E), np.int64)
    for _, table in dataset.table("flow", [model.layers[row] for row in rows[:-1]]):
        at = table["from_layer"] - rows[0]
        np.add.at(flow, (at, table["from_expert"], table["to_expert"]), table["tokens"])
    return [((model.layers[row], model.layers[row + 1]), flow[at]) for at, row in enumerate(rows[:-1])]


def _taken(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    before, after = np.nonzero(flow)
    return before, after, flow[before, after]
