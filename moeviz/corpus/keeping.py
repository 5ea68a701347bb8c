"""Which tokens keep to the experts of a layer: the numbers of `keeping_tokens`, of a dataset, for all its experts."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moeviz.corpus.rows import Progress, chosen_of, quiet, told, vocabulary_of
from moeviz.formats.dataset.layout import experts_column, stored_values
from moeviz.formats.dataset.reader import Dataset
from moeviz.metrics.expert_tokens import enough_occurrences, keeping_rows, which_keep

MOST = 14  # tokens of an expert
READINGS = 3  # of all rows of the layer


def keeping_tokens(dataset: Dataset, layer: int, most: int = MOST, progress: Progress = quiet) -> pd.DataFrame:
    """As `moeviz.metrics.expert_tokens.keeping_tokens`, of every expert of a layer.

    Columns: expert int16, and those of the metric, with the token's id as `code`. Reads all rows of the layer, since
    the tables of a dataset do not name tokens. Raises `MissingField` for a dataset without text or ids, and
    `InvalidTrace` if so many tokens occur often enough that the table of the layer is too large.
    """
    num_experts, of = dataset.model.num_experts[dataset.row_of(layer)], READINGS * dataset.tokens
    ids, times, words = vocabulary_of(dataset, layer, progress, of)
    least = enough_occurrences(int(times.sum()))
    ids, times, words = (part[times >= least] for part in (ids, times, words))
    counts, _, recorded = chosen_of(dataset, layer, ids, num_experts, progress, of)
    load = dataset.counts().select([layer]).assignments[0, 0]
    usual = load / max(recorded, 1)
    found = [which_keep(times, counts[:, at], float(usual[at]), least, most) for at in range(num_experts)]
    expert, own = np.repeat(np.arange(num_experts), [len(tokens) for tokens in found]), np.concatenate(found)
    texts = _texts(dataset, layer, ids, np.unique(own), progress, of)
    named = ids[own], ids[own].astype(np.int32), words[own]
    frame = keeping_rows(named, counts[own, expert], times[own], texts[own], usual[expert], len(ids))
    frame.insert(0, "expert", expert.astype(np.int16))
    return frame.assign(rank=(frame.groupby("expert").cumcount() + 1).astype(np.int16))


@dataclass(slots=True)
class _Texts:
    """In how many texts each token occurs: rows come text by text, and a text may go on in the next row group."""

    counted: np.ndarray
    last: int = -1
    seen: set[int] = field(default_factory=set)  # in the last text

    def add(self, text: np.ndarray, token: np.ndarray) -> None:
        """Add rows, in the order of the corpus."""
        pairs = np.unique(np.stack([text, token]), axis=1)
        known = np.isin(pairs[1], list(self.seen)) & (pairs[0] == self.last)
        np.add.at(self.counted, pairs[1][~known], 1)
        if len(text):
            own = {*pairs[1][pairs[0] == text[-1]].tolist()}
            self.seen = own | self.seen if text[-1] == self.last else own
            self.last = int(text[-1])


def _texts(
    dataset: Dataset, layer: int, ids: np.ndarray, wanted: np.ndarray, progress: Progress, of: int
) -> np.ndarray:
    """(V,) in how many texts each of these ids occurs, recorded at the layer; of those that are wanted."""
    row, column = np.full(int(ids.max(initial=0)) + 2, -1), experts_column(layer)
    row[ids[wanted]] = wanted
    found = _Texts(np.zeros(len(ids), np.int64))
    for rows in told(dataset, ["text", "token_id", column], progress, 2 * dataset.tokens, of):
        which = row[np.minimum(rows["token_id"], len(row) - 1)]
        here = (which >= 0) & (rows[column][:, 0] != stored_values(rows[column].dtype)[1])
        found.add(rows["text"][here], which[here])
    return found.counted
