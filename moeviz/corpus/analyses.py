"""Compute metrics of a dataset from the sums that it keeps, without reading its rows.

Each is called like the metric of a trace, and is the same function, given the dataset's sums instead of a trace. What
needs the order of all tokens (shuffles, sets of experts) is missing here: NaN in its column.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moeviz.corpus import rows
from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.dataset.reader import Dataset, label_codes
from moeviz.metrics import balance as of_luck
from moeviz.metrics import co_activation as of_pairs
from moeviz.metrics import coverage as of_coverage
from moeviz.metrics import flow as of_flow
from moeviz.metrics import load as of_load
from moeviz.metrics import locality as of_locality
from moeviz.metrics import specialization as of_labels
from moeviz.metrics.inputs import Statistics

Layers = Sequence[int] | None
Analysis = Callable[..., pd.DataFrame]  # of a dataset, and of layers


class DatasetStatistics(Statistics):
    """The sums that a dataset keeps, of all its layers or of some, added up over its shards.

    Raises `InvalidTrace` for a layer that the model does not have.
    """

    def __init__(self, dataset: Dataset, layers: Layers = None) -> None:
        self.dataset, self.layers, model = dataset, layers, dataset.model
        self.model, self.rows = (model, list(range(len(model.layers)))) if layers is None else model.with_layers(layers)

    def counts(self) -> ExpertCounts:
        """Count the tokens of each expert."""
        return self._of_layers(self.dataset.counts())

    def counts_by_label(self, why: str = "This") -> ExpertCounts:
        """Count them by label. Raises `MissingField`, with a sentence that starts with `why`, without labels."""
        if not self.dataset.kept.labels:
            raise MissingField(f"{why} needs tokens with a label, and this dataset has none. Trace labelled texts.")
        return self._of_layers(self.dataset.counts_by_label(why))

    def texts_by_label(self, names: list[str]) -> np.ndarray:
        """Count the texts of each of these labels."""
        texts = np.zeros(len(names), np.int64)
        for _, table in self.dataset.table("texts"):
            np.add.at(texts, label_codes(table, names), 1)
        return texts

    def output_means(self) -> dict[str, np.ndarray]:
        """Return the figures of experts' outputs by name, (L, E) each, as means; empty where they were not recorded."""
        return {name: values[self.rows] for name, values in self.dataset.output_means().items()}

    def filled_slots(self) -> np.ndarray:
        """Count the recorded tokens of each layer by the slots that they fill, 0 to K."""
        found = np.zeros((len(self.dataset.model.layers), self.model.top_k + 1), np.int64)
        for _, table in self.dataset.table("slots"):
            np.add.at(found, (table["layer"], table["filled"]), table["tokens"])
        return found[self.rows]

    def first_choices(self) -> np.ndarray:
        """Count the tokens of each layer by their first choice."""
        return self._first_choices(None)[0]

    def first_choices_by_label(self, names: list[str], why: str) -> np.ndarray:
        """Count them by label. Raises `MissingField`, starting with `why`, if first choices are not known."""
        self.dataset.need_order(why)
        return self._first_choices(names)

    def _first_choices(self, names: list[str] | None) -> np.ndarray:
        model = self.dataset.model
        found = np.zeros((len(names or [""]), len(model.layers), max(model.num_experts)), np.int64)
        for _, table in self.dataset.table("load"):
            label = np.zeros(len(table["layer"]), int) if names is None else label_codes(table, names)
            np.add.at(found, (label, table["layer"], table["expert"]), table["first"])
        return found[:, self.rows]

    def pairs(self) -> Iterator[np.ndarray]:
        """Count, layer by layer, the tokens that two experts share; on the diagonal, those that each has."""
        counts, E = self.dataset.counts(), max(self.dataset.model.num_experts)
        together = np.zeros((len(self.rows), E, E), np.int64)
        for _, table in self.dataset.table("pairs", self.layers):
            at = np.searchsorted(self.rows, table["layer"])
            np.add.at(together, (at, table["expert"], table["partner"]), table["tokens"])
        for at, row in enumerate(self.rows):
            yield together[at] + together[at].T + np.diag(counts.assignments[0, row])

    def transitions(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Count, for each two consecutive layers, tokens by their first choices in both.

        Raises `InvalidTrace` for layers that do not follow each other, and `MissingField` without first choices.
        """
        self.dataset.need_order("Flow")
        model, rows, E = self.dataset.model, self.rows, max(self.dataset.model.num_experts)
        if len(rows) < 2 or rows != list(range(rows[0], rows[-1] + 1)):
            raise InvalidTrace("Flow in a dataset is between MoE layers that follow each other. Choose two of those.")
        flow = np.zeros((len(rows) - 1, E, E), np.int64)
        for _, table in self.dataset.table("flow", [model.layers[row] for row in rows[:-1]]):
            at = table["from_layer"] - rows[0]
            np.add.at(flow, (at, table["from_expert"], table["to_expert"]), table["tokens"])
        for at, row in enumerate(rows[:-1]):
            yield (model.layers[row], model.layers[row + 1]), flow[at]

    def repeats(self) -> np.ndarray:
        """Count neighbouring tokens: all pairs, those with the same first choice, those with any in common."""
        found = np.zeros((len(self.dataset.model.layers), 3), np.int64)
        for _, table in self.dataset.table("locality"):
            for at, name in enumerate(("pairs", "same_first", "same_any")):
                np.add.at(found[:, at], table["layer"], table[name])
        return found[self.rows]

    def _of_layers(self, counts: ExpertCounts) -> ExpertCounts:
        return counts if self.layers is None else counts.select(self.layers)


FROM_TABLES: dict[str, Analysis] = {}  # by the name of the metric
FROM_ROWS: dict[str, Analysis] = {"top_tokens": rows.top_tokens}  # which also take `progress`


def _from_sums(metric: Callable[..., pd.DataFrame]) -> Analysis:
    """Make the analysis of a dataset that has a metric's numbers, and enter it in `FROM_TABLES`."""

    def analysis(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
        return metric(DatasetStatistics(dataset, layers))

    analysis.__name__ = analysis.__qualname__ = metric.__name__
    analysis.__doc__ = f"Compute `{metric.__module__}.{metric.__name__}` of a dataset, from the sums that it keeps."
    FROM_TABLES[metric.__name__] = analysis
    return analysis


expert_load = _from_sums(of_load.expert_load)
load_beside_luck = _from_sums(of_luck.load_beside_luck)
coverage = _from_sums(of_load.coverage)
balance = _from_sums(of_load.balance)
experts_needed = _from_sums(of_coverage.experts_needed)
load_by_label = _from_sums(of_labels.load_by_label)
label_information = _from_sums(of_labels.label_information)
label_divergence = _from_sums(of_labels.label_divergence)
co_activation = _from_sums(of_pairs.co_activation)
consecutive_transitions = _from_sums(of_flow.consecutive_transitions)
consecutive_information = _from_sums(of_flow.consecutive_information)
locality = _from_sums(of_locality.locality)
locality_beside_mixtral = _from_sums(of_locality.locality_beside_mixtral)


def balance_over_time(dataset: Dataset, layers: Layers = None) -> pd.DataFrame:
    """Compute the balance of the load in each part of the corpus, in the order in which it was traced.

    See `moeviz.metrics.load.balance_over_time`; a part is a row group: 65,536 tokens or some more. One row per part and
    layer. Columns: part int32 (from 0) · layer int32 · assignments int64 · the measures of
    `moeviz.metrics.load.balance_of_counts` · shard int32 · row_group int32 (where the part is).
    """
    parts, part, chosen = [], -1, DatasetStatistics(dataset, layers).rows
    for shard, table in dataset.table("groups", layers):
        groups = int(table["row_group"].max(initial=-1)) + 1
        counts = np.zeros((groups, len(dataset.model.layers), max(dataset.model.num_experts)), np.int64)
        np.add.at(counts, (table["row_group"], table["layer"], table["expert"]), table["tokens"])
        for group in range(groups):
            part += 1
            for row in chosen:
                own = counts[group, row, : dataset.model.num_experts[row]]
                facts = {"part": part, "layer": dataset.model.layers[row], "assignments": own.sum()}
                parts.append(facts | of_load.balance_of_counts(own) | {"shard": shard.number, "row_group": group})
    kinds = dict.fromkeys(("part", "layer", "shard", "row_group"), "int32")
    return pd.DataFrame(parts, columns=[*of_load.OVER_TIME, "shard", "row_group"]).astype(kinds)


FROM_TABLES["balance_over_time"] = balance_over_time


def answer_of(metric: Callable[..., Any]) -> Analysis | None:
    """Find the analysis that has the numbers of a metric; None if a dataset does not keep what it needs."""
    return FROM_TABLES.get(metric.__name__) or FROM_ROWS.get(metric.__name__)
