"""One expert in a dataset: the numbers of `moeviz.metrics.expert`, from the sums that the dataset keeps."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moeviz.corpus.analyses import DatasetStatistics, co_activation
from moeviz.corpus.rows import Progress, chosen_of, quiet, scan_rows, vocabulary_of
from moeviz.formats.dataset.layout import experts_column, stored_values
from moeviz.formats.dataset.reader import Dataset
from moeviz.metrics import expert as of_expert
from moeviz.metrics.expert import strongest
from moeviz.metrics.expert_tokens import enough_occurrences, keeping_rows, which_keep

MOST_CELLS = 2**18  # labels x layers x experts
MOST = 14  # tokens of an expert
READINGS = 3  # of all rows of the layer


def expert_numbers(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert.expert_numbers`, without its mean weight (NaN): the tables have no weights."""
    return of_expert.expert_numbers(DatasetStatistics(dataset), layer, expert)


def expert_loads(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert.expert_loads`."""
    return of_expert.expert_loads(DatasetStatistics(dataset), layer, expert)


def expert_kinds(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert.expert_kinds`, without its `luck` (NaN), which needs the counts of each text.

    So nothing stands out.
    """
    return of_expert.expert_kinds(DatasetStatistics(dataset), layer, expert)


def expert_atlas(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert.expert_atlas`; of the expert's layer only, if all are too many to draw."""
    counts = DatasetStatistics(dataset).counts_by_label("An atlas of experts")
    of_expert.row_of(counts, layer, expert)
    if counts.assignments.size > MOST_CELLS:
        counts = counts.select([layer])
    return of_expert.expert_atlas(counts, layer, expert)


def partners(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert.shared_tokens`, of the expert's own layer: no table has pairs of two layers."""
    counts = dataset.counts()
    row = of_expert.row_of(counts, layer, expert)
    size, has = dataset.model.num_experts[row], int(counts.assignments[0, row, expert])
    tokens, usual = np.zeros(size, np.int64), np.full(size, np.nan)
    tokens[expert] = has
    if dataset.model.top_k > 1 and DatasetStatistics(dataset).filled_slots()[row].any():
        own = co_activation(dataset, [layer]).query("expert == @expert")
        tokens[own["partner"]], usual[own["partner"]] = own["tokens"], own["chance"]
    frame = pd.DataFrame({"layer": np.full(size, layer, np.int32), "expert": np.arange(size, dtype=np.int16)})
    share = tokens / has if has else np.full(size, np.nan)
    frame = of_expert.marked(frame.assign(tokens=tokens, share=share, usual=usual), layer, expert)
    times = frame["share"] / frame["usual"].where(frame["usual"] > 0)
    return frame.assign(times=times.where(~frame["here"]))[
        ["layer", "expert", "tokens", "share", "usual", "times", "here"]
    ]


def expert_flow(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Count the first choices, one layer before and one layer after, of the tokens whose first choice is an expert.

    Like `moeviz.metrics.expert.expert_flow`, but by first choices only, of which the tables have pairs: on each
    side, share is of these tokens that have a first choice there, and sums to 1 over its experts; times is share /
    that expert's share of all first choices. Raises `MissingField` if first choices are unknown.

    Source: moeviz's own; the shares are counts.
    """
    model, sides = dataset.model, []
    row = of_expert.row_of(dataset.counts(), layer, expert)
    for side, at in (("before", row - 1), ("after", row + 1)):
        if 0 <= at < len(model.layers):
            ((_, flow),) = DatasetStatistics(dataset, [model.layers[n] for n in sorted((row, at))]).transitions()
            flow = flow if side == "before" else flow.T  # of the other layer's experts, down, to those of this one
            tokens, usual = flow[:, expert], flow.sum(axis=1) / max(flow.sum(), 1)
            share = tokens / max(tokens.sum(), 1)
            there = pd.DataFrame({"layer": model.layers[at], "expert": np.arange(len(flow)), "tokens": tokens})
            times = np.divide(share, usual, out=np.full(len(flow), np.nan), where=usual > 0)
            sides.append((side, there.assign(share=share, times=times), model.num_experts[at]))
    return strongest(sides)


def expert_specific_tokens(dataset: Dataset, layer: int, most: int = MOST, progress: Progress = quiet) -> pd.DataFrame:
    """Compute `moeviz.metrics.expert_tokens.keeping_tokens` for every expert of a layer.

    Columns: expert int16, and those of the metric, with the token's id as `code`. Reads all rows of the layer, since
    the tables of a dataset do not name tokens. Raises `MissingField` for a dataset without text or ids, and
    `InvalidTrace` if the table of the layer is too large because too many tokens occur often.
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
class _TextCounts:
    """The number of texts with each token. Rows come text by text; a text may go on in the next row group."""

    counted: np.ndarray
    last: int = -1
    seen: set[int] = field(default_factory=set)  # in the last text

    def add(self, text: np.ndarray, token: np.ndarray) -> None:
        """Add these rows, in the order of the corpus."""
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
    """Count the texts, (V,), in which each of these ids occurs at the layer; only for those that are wanted."""
    row, column = np.full(int(ids.max(initial=0)) + 2, -1), experts_column(layer)
    row[ids[wanted]] = wanted
    found = _TextCounts(np.zeros(len(ids), np.int64))
    for rows in scan_rows(dataset, ["text", "token_id", column], progress, 2 * dataset.tokens, of):
        which = row[np.minimum(rows["token_id"], len(row) - 1)]
        here = (which >= 0) & (rows[column][:, 0] != stored_values(rows[column].dtype)[1])
        found.add(rows["text"][here], which[here])
    return found.counted
