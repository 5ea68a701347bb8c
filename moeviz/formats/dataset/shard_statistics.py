"""The small tables of a shard: exact counts that are added up over shards, made while its rows are written.

| table | columns | |
|---|---|---|
| load | label, layer, expert, tokens, first | tokens that the expert has, and those whose first choice it is |
| slots | label, layer, filled, tokens | recorded tokens with so many experts |
| groups | row_group, layer, expert, tokens | where an expert's tokens are: balance over time, contexts |
| pairs | layer, expert, partner, tokens | tokens that have both; expert < partner |
| flow | from_layer, to_layer, from_expert, to_expert, tokens | by first choices, in consecutive MoE layers |
| locality | label, layer, pairs, same_first, same_any | consecutive tokens with an expert; label of the later |
| texts | text, label, tokens, first_row | |

Where experts' outputs were recorded, `load` has their sums too: norm, added, one_plus_cosine and one_plus_residual (1
more for each token, so that no sum is below 0), and greatest, the maximum. Versions before read the rest.

Rows that would be 0 are left out, except in `locality`. Where the order of slots is not known, `first`, `flow` and
`same_first` are of the order that the source had, and readers refuse them.

D labels, L layers, E experts, K slots, T tokens of a row group.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from moeviz.formats.dataset.layout import id_type, stored_values
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

SIGNED = {"cosine": "one_plus_cosine", "residual": "one_plus_residual"}


class ShardStatistics:
    """The sums over a shard's rows so far."""

    def __init__(self, model: ModelInfo) -> None:
        self.model, self.labels = model, dict[str, int]()
        self.L, self.E, self.K = len(model.layers), max(model.num_experts), model.top_k
        self.W = self.E + 1  # the last bin takes empty slots, and is dropped
        self.none, self.missing = stored_values(id_type(model))
        L, W = self.L, self.W
        self.load, self.first = (np.zeros((0, L, W), np.int64) for _ in range(2))
        self.slots, self.near = np.zeros((0, L, self.K + 1), np.int64), np.zeros((0, L, 3), np.int64)
        self.pairs, self.flow = np.zeros((L, W * W), np.int64), np.zeros((max(L - 1, 0), W * W), np.int64)
        self.groups: list[np.ndarray] = []
        self.outputs: dict[str, dict[str, np.ndarray]] = {}  # (L, E) sums of each figure, by label

    def add_outputs(self, label: str, trace: RoutingTrace) -> None:
        """Add the figures of the experts' outputs of a text with this label."""
        if trace.outputs is None:
            return
        layer, token, slot = np.nonzero(trace.filled)
        cell, arrays = layer * self.E + trace.experts[layer, token, slot], trace.outputs.arrays()
        sums = self.outputs.setdefault(label, {name: np.zeros(self.L * self.E) for name in arrays})
        for name, part in arrays.items():
            values = part[layer, token, slot].astype(np.float64)
            if name == "greatest":
                np.maximum.at(sums[name], cell, values)
            else:
                sums[name] += np.bincount(cell, values + (name in SIGNED), minlength=self.L * self.E)

    def add(self, ids: np.ndarray, label: np.ndarray, follows: np.ndarray) -> None:
        """A row group: ids (T, L, K) as stored, codes of labels (T,), whether the row before is the token before."""
        self._grow(len(self.labels))
        group, before = np.zeros((self.L, self.W), np.int64), None
        for row in range(self.L):
            stored = np.ascontiguousarray(ids[:, row].T)  # (K, T): slot by slot is ten times as fast
            recorded, chosen = stored[0] != self.missing, np.minimum(stored, self.E)
            wide = chosen.astype(np.intp)
            by_label = self._binned(wide, label, self.W)
            self.load[:, row] += by_label
            group[row] = by_label.sum(axis=0)
            self.first[:, row] += self._binned(wide[:1], label, self.W)
            filled = (chosen != self.E).sum(axis=0)
            self.slots[:, row] += self._binned(filled[None, recorded], label[recorded], self.K + 1)
            self._count_pairs(row, wide)
            if before is not None:
                self.flow[row - 1] += np.bincount(before * self.W + wide[0], minlength=self.W**2)
            before = wide[0]
            self.near[:, row] += same_as_before(chosen, filled > 0, follows, label, len(self.labels), self.E)
        self.groups.append(group)

    def _grow(self, labels: int) -> None:
        for name in ("load", "first", "slots", "near"):
            table = getattr(self, name)
            more = np.zeros((labels - len(table), *table.shape[1:]), np.int64)
            setattr(self, name, np.concatenate([table, more]))

    def _binned(self, values: np.ndarray, label: np.ndarray, width: int) -> np.ndarray:
        bins = np.bincount((label * width + values).ravel(), minlength=len(self.labels) * width)
        return bins.reshape(len(self.labels), width)

    def _count_pairs(self, row: int, wide: np.ndarray) -> None:
        for i in range(self.K):
            for j in range(i + 1, self.K):
                self.pairs[row] += np.bincount(wide[i] * self.W + wide[j], minlength=self.W**2)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Every table but `texts`, by name."""
        layer, names = np.asarray(self.model.layers, np.int32), np.array(list(self.labels), object)
        load, E = self.load[..., : self.E], self.E
        d, r, e = np.nonzero(load)
        first = self.first[..., :E][d, r, e]
        counts = {"label": names[d], "layer": layer[r], "expert": e, "tokens": load[d, r, e], "first": first}
        yield "load", _table(**counts, **self._sums_of_outputs(names, d, r * E + e))
        d, r, n = np.nonzero(self.slots)
        yield "slots", _table(label=names[d], layer=layer[r], filled=n, tokens=self.slots[d, r, n])
        groups = np.array(self.groups, np.int64).reshape(-1, self.L, self.W)[..., :E]
        g, r, e = np.nonzero(groups)
        yield "groups", _table(row_group=g.astype(np.int32), layer=layer[r], expert=e, tokens=groups[g, r, e])
        both = self.pairs.reshape(-1, self.W, self.W)[:, :E, :E]
        both = np.triu(both + both.transpose(0, 2, 1), 1)
        r, e, p = np.nonzero(both)
        yield "pairs", _table(layer=layer[r], expert=e, partner=p, tokens=both[r, e, p])
        flow = self.flow.reshape(-1, self.W, self.W)[:, :E, :E]
        r, a, b = np.nonzero(flow)
        ends = {"from_layer": layer[r], "to_layer": layer[r + 1] if len(r) else layer[r]}
        yield "flow", _table(**ends, from_expert=a, to_expert=b, tokens=flow[r, a, b])
        near, D = self.near.reshape(-1, 3), len(names)
        counted = dict(zip(("pairs", "same_first", "same_any"), near.T, strict=True))
        yield "locality", _table(label=np.repeat(names, self.L), layer=np.tile(layer, D), **counted)

    def _sums_of_outputs(self, names: np.ndarray, label: np.ndarray, cell: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of `load`: of these rows, by the place of the label and of layer and expert."""
        if not self.outputs:
            return {}
        known = set.intersection(*({*sums} for sums in self.outputs.values()))
        none = np.zeros(self.L * self.E)
        every = {name: np.stack([self.outputs.get(label, {}).get(name, none) for label in names]) for name in known}
        return {SIGNED.get(name, name): every[name][label, cell] for name in sorted(known)}


def same_as_before(
    chosen: np.ndarray, has: np.ndarray, follows: np.ndarray, label: np.ndarray, labels: int, none: int
) -> np.ndarray:
    """(D, 3): consecutive tokens that both have an expert; of them with the same first, and with any in common."""
    some = np.zeros(max(chosen.shape[1] - 1, 0), bool)
    for after in chosen:
        for before in chosen:
            some |= (before[:-1] == after[1:]) & (after[1:] != none)
    both = follows[1:] & has[1:] & has[:-1]
    same = both & (chosen[0, 1:] == chosen[0, :-1])
    return np.stack([np.bincount(label[1:][mask], minlength=labels) for mask in (both, same, both & some)], axis=1)


def _table(**columns: np.ndarray) -> pa.Table:
    small = ("expert", "partner", "from_expert", "to_expert", "filled")
    kinds = dict.fromkeys(small, pa.int16()) | {"label": pa.string()}
    return pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
