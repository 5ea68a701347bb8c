"""The origin of one checkpoint's experts in another: matched by their weights, a few matrices at a time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd

from moeviz.analyses.expert_files import DENSE_MLP, Expert, ExpertFiles, Shapes, open_experts, shapes_of
from moeviz.analyses.number_formats import FORMATS
from moeviz.errors import CaptureError
from moeviz.text import quoted, spans, with_and

Progress = Callable[[int, int], None]
Place = tuple[int, int]  # layer, expert

NUMBERS, MOST_NUMBERS = 2**23, 2**13  # that are kept of a checkpoint, and of an expert, to find whom to look at
AT_ONCE = 2**18  # numbers of each expert that are held against those of others
LEAST, BEYOND, SURE = 0.2, 3, 0.9  # cosines of a match: above the first, this many times chance, or above the last
KNOWN, QUANTILE = 256, 0.99  # cosines that are kept of two layers; of unrelated experts' cosines
MOST_SOURCES = 8  # of a merged expert
NEARER, MERGED = 0.9, 0.5  # distance of a match, as a share of that of the base's own experts to each other
SAME = 1e-6  # relative difference that another order of adding up explains
MATRIX = 0.95  # cosine of a matrix with its source, in a splice
KEPT, MOVED, TUNED, COPIED, AVERAGED, SPLICED = "kept", "moved", "tuned", "copied", "averaged", "spliced"
RELATED, UNRELATED, ZEROED, CUT = "related", "unrelated", "zeroed", "cut"
COLUMNS = {
    "layer": "int32",
    "expert": "int16",
    "what": "str",
    "base_layer": "int32",
    "base_experts": "object",
    "parts": "object",
    "similarity": "float64",
    "difference": "float64",
    "runner_up": "float64",
}


@dataclass(frozen=True, slots=True, eq=False)
class Lineage:
    """Experts of a checkpoint matched with those of its base: the table of `lineage`, and what it rests on.

    layers         the layer of the base that each of the child's layers was compared with.
    formats        number formats of most weights of the experts: of the base, and of the child.
    chance         the cosine that 99% of unrelated experts (of different layers) stay below.
    threshold      the cosine that a match needs.
    left_out       other stacks of layers with experts, which were not compared: of the base, and of the child.
    splices        of each spliced expert (layer, number): the base's expert (layer, number) that each matrix is of.

    >>> import moeviz
    >>> found = moeviz.lineage("embedded", "embedded")
    >>> len(found.table) == sum(moeviz.load_model().info.num_experts)
    True
    """

    table: pd.DataFrame
    base: str
    child: str
    layers: dict[int, int]
    formats: tuple[str, str]
    chance: float
    threshold: float
    left_out: tuple[tuple[str, ...], tuple[str, ...]]
    splices: dict[Place, dict[str, Place]]

    @property
    def says(self) -> list[str]:
        """Say in sentences how many experts were kept, changed and cut, and then all that limits the finding."""
        return [_numbers(self), *_notes(self)]


def lineage(base: str, child: str, *, progress: Progress | None = None) -> Lineage:
    """Find where each expert of a checkpoint comes from in another, by weights: kept, moved, copied, averaged or tuned.

    base, child   each the name of one of moeviz's own models, a folder of safetensors, one such file, or a GGUF file.
                  No model is loaded and no code of a checkpoint is run.
    progress      called with (done, total) experts. Raise in it to stop.

    Some rows of each matrix, the same of all experts, say which ones to look at; those are then compared number by
    number, after dequantisation, a few matrices at a time. Each layer of the child is compared with the layer of the
    base that it is most like. A source is named where its cosine is beyond three times what 99% of experts of
    different layers have, and beyond 0.2, and where it is nearer than the base's experts are to each other.

    One row per expert of the child, then one per lost expert of the base. Columns: layer int32 · expert int16 (-1 for
    a lost one) · what str · base_layer int32 (-1: none) · base_experts object (tuple of the sources' numbers; -1 is the
    MLP of a dense base) · parts object (tuple of floats: the least-squares coefficients of the sources) · similarity
    float64 (cosine of the weights with their source, or with the best sum of several; of no match, with the nearest) ·
    difference float64 (distance to the source as a share of the source's norm) · runner_up float64 (the largest cosine
    with another expert of that layer, estimated from some rows; NaN if there is none).

    `what` is one of: kept (the same numbers in the same place, but for rounding where the formats differ) · moved
    (the same numbers in another place) · tuned (one source, changed) · copied (a source that several have, and not it
    in its own place) · averaged (a sum of two to eight) · spliced (its matrices are of several experts, in whichever
    layers; base_layer and base_experts are those of most of them, and parts their shares of the matrices) · related
    (like the base's experts, and no nearer to one than they are to each other) · zeroed · unrelated · cut (of the base,
    and in no expert of the child).

    An expert without a match that has the neurons of one of the base in another order, in whichever layer, is moved:
    they are recognised by the lengths of their weights, of up to 512 such experts. An expert of the base is cut only if
    no expert of that layer of the child is left without a match. Shared experts are left out.

    Raises `ModelNotFound` if there is no checkpoint or it is damaged, and `CaptureError` if there are no experts,
    or the two have none of the same shape.

    >>> import moeviz
    >>> moeviz.lineage("embedded", "embedded").table["what"].unique().tolist()
    ['kept']

    Source: cosine of concatenated weights as in MC-SMoE (arXiv 2310.01334), section 3.1; sources are added one by one
    as in orthogonal matching pursuit (Pati et al. 1993).
    """
    base_files = open_experts(base)
    files = base_files, open_experts(child, base_files.stack)
    if all(file.is_dense for file in files):
        raise CaptureError(
            f"Neither {quoted(base)} nor {quoted(child)} has experts. Give a mixture of experts as one of the two."
        )
    _check_shapes(*files)
    search = _Search(*files, progress)
    rows = [row for layer in files[1].layers for row in search.layer(layer)]
    _match_neurons(rows, *files)
    _name_copies(rows)
    rows += _lost_experts(rows, search)
    table = pd.DataFrame(rows, columns=[*COLUMNS]).astype(COLUMNS)
    formats = files[0].format, files[1].format
    left_out = files[0].left_out, files[1].left_out
    layers, splices = search.layers, search.splices
    return Lineage(table, base, child, layers, formats, search.chance, search.threshold, left_out, splices)


def _shape_of(experts: dict[int, Expert]) -> Shapes:
    return shapes_of(next(iter(experts.values())))


def _check_shapes(base: ExpertFiles, child: ExpertFiles) -> None:
    if base.hidden_size != child.hidden_size:
        raise CaptureError(
            f"The experts of {quoted(base.name)} write vectors of {base.hidden_size:,} numbers, and those of "
            f"{quoted(child.name)} of {child.hidden_size:,}: neither can come from the other by cutting, copying or "
            "merging experts. Give two models of one hidden size."
        )
    shapes = [{_shape_of(experts) for experts in file.layers.values()} for file in (base, child)]
    if not shapes[0] & shapes[1]:
        first, second = (_describe_shapes(min(shape)) for shape in shapes)
        raise CaptureError(
            f"An expert of {quoted(base.name)} has the matrices {first}, and one of {quoted(child.name)} {second}. "
            "Experts of different shapes are not compared: give models with experts of one size."
        )


def _describe_shapes(shapes: Shapes) -> str:
    return ", ".join(f"{role} {rows:,} x {columns:,}" for role, (rows, columns) in shapes)


class _Search:
    """Samples of all experts, what chance gives, and which layer is whose."""

    def __init__(self, base: ExpertFiles, child: ExpertFiles, progress: Progress | None) -> None:
        self.base, self.child = base, child
        counts = [sum(map(len, file.layers.values())) for file in (base, child)]
        self.total, self.done, self.progress = counts[0] + 2 * counts[1], 0, progress
        size = min(MOST_NUMBERS, NUMBERS // max(counts))
        self.ends, self.splices = dict[Shapes, list[int]](), dict[Place, dict[str, Place]]()
        self.samples = {id(file): self._sample_layer(file, size) for file in (base, child)}
        alike, known = dict[tuple[int, int], float](), dict[tuple[int, int], np.ndarray]()
        for mine, theirs in product(child.layers, base.layers):
            if _shape_of(child.layers[mine]) == _shape_of(base.layers[theirs]):
                cosines = self._cosines(mine, theirs)
                alike[mine, theirs] = float(cosines.max(1).mean())
                known[mine, theirs] = np.abs(cosines.ravel()[:: -(-cosines.size // KNOWN)])
        self.layers = _layers(alike)
        apart = [found for (mine, theirs), found in known.items() if self.layers[mine] != theirs]
        apart = apart or [np.abs(_between(self._sample(base, layer))) for layer in base.layers]
        unrelated = np.concatenate(apart)
        self.chance = float(np.quantile(unrelated, QUANTILE)) if len(unrelated) else 0.0
        self.threshold = min(max(LEAST, BEYOND * self.chance), SURE)

    def _sample(self, file: ExpertFiles, layer: int) -> np.ndarray:
        return self.samples[id(file)][layer]

    def _cosines(self, mine: int, theirs: int) -> np.ndarray:
        found: np.ndarray = self._sample(self.child, mine) @ self._sample(self.base, theirs).T
        return found

    def _step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _sample_layer(self, file: ExpertFiles, size: int) -> dict[int, np.ndarray]:
        """Sample (E, n) of each layer: some numbers of each expert, of length 1 together."""
        found = {}
        for layer, experts in file.layers.items():
            rows = []
            for number, expert in experts.items():
                parts = _sample_of(expert, size)
                rows.append(np.concatenate(parts))
                self.ends[shapes_of(expert)] = np.cumsum([len(part) for part in parts])[:-1].tolist()
                if not np.isfinite(rows[-1]).all():
                    raise _not_finite(file, layer, number)
                self._step()
            found[layer] = _unit(np.stack(rows))
        return found

    def layer(self, layer: int) -> list[dict[str, Any]]:
        if layer not in self.layers:
            return [_row(layer, number, UNRELATED, -1) for number in self.child.layers[layer]]
        theirs = self.layers[layer]
        numbers, taken, rows = [*self.base.layers[theirs]], set[int](), list[dict[str, Any]]()
        samples, of_layer = self._sample(self.base, theirs), self._cosines(layer, theirs)
        between = _between(samples)
        apart = float(np.median(np.sqrt(np.maximum(2 - 2 * between, 0)))) if len(between) else sqrt(2)
        for (number, expert), cosines, sample in zip(
            self.child.layers[layer].items(), of_layer, self._sample(self.child, layer), strict=True
        ):
            chosen = self._chosen(sample, samples, cosines)
            chosen[0] = _break_tie(chosen[0], cosines, numbers, number, taken)
            beside = self._as_near(cosines, chosen, len(sample))
            sources = [self.base.layers[theirs][numbers[at]] for at in (*chosen, *beside)]
            products = _products([expert, *sources])
            if not np.isfinite(products).all():
                raise _not_finite(self.child, layer, number)
            rounding = [_rounding(expert, source) for source in sources]
            what, found, parts, similarity, difference = self._judge(products, len(chosen), apart, rounding)
            sources_at = [(*chosen, *beside)[at] for at in found]
            if what == KEPT and (theirs, numbers[sources_at[0]]) != (layer, number):
                what = MOVED
            taken |= {*sources_at}
            others = np.delete(cosines, sources_at or chosen[0])
            pairs = sorted(zip((numbers[at] for at in sources_at), parts, strict=True))
            row = _row(layer, number, what, theirs, tuple(source for source, _ in pairs))
            row |= {"parts": tuple(part for _, part in pairs), "similarity": similarity, "difference": difference}
            if what in (AVERAGED, TUNED, RELATED, UNRELATED) and (splice := self._find_splice(layer, sample)):
                self.splices[layer, number] = splice
                row |= _spliced_row([*splice.values()])
            rows.append(row | {"runner_up": float(others.max()) if len(others) else np.nan})
            self._step()
        return rows

    def _find_splice(self, layer: int, sample: np.ndarray) -> dict[str, Place] | None:
        """Find the base's expert that each matrix of an expert comes from; None if it is one, or unclear."""
        shape = _shape_of(self.child.layers[layer])
        places = [(one, number) for one, experts in self.base.layers.items() for number in experts]
        places = [(one, number) for one, number in places if _shape_of(self.base.layers[one]) == shape]
        others = np.concatenate([self._sample(self.base, one) for one in dict.fromkeys(one for one, _ in places)])
        of_others = np.split(others, self.ends[shape], axis=1)
        pairs = zip(np.split(sample, self.ends[shape]), of_others, strict=True)
        cosines = np.stack([_unit(theirs) @ _unit(mine[None])[0] for mine, theirs in pairs])
        best = cosines.max(axis=1)
        near = cosines >= best[:, None] - SAME
        if best.min() < MATRIX or near.all(axis=0).any():
            return None
        chosen = [int(np.flatnonzero(row)[0]) for row in near]
        apart = 1 - cosines[:, chosen].min(axis=1)  # from the source of another matrix
        if (apart < np.maximum(4 * (1 - best), 1e-3)).any():
            return None
        return {role: places[at] for (role, _), at in zip(sorted(shape), chosen, strict=True)}

    def _as_near(self, cosines: np.ndarray, chosen: list[int], size: int) -> list[int]:
        """List others that may be nearer than the nearest by the sample: two at most."""
        best = float(cosines[chosen[0]])
        if best < self.threshold / 2:
            return []
        least = best - 4 * sqrt(max(1 - best**2, 0) / size)
        near = [at for at in np.argsort(-cosines).tolist() if cosines[at] >= least and at not in chosen]
        return near[:2]

    def _judge(
        self, products: np.ndarray, chosen: int, apart: float, rounding: list[float]
    ) -> tuple[str, list[int], tuple[float, ...], float, float]:
        """Compare an expert with others by their inner products: its fate, sources, their parts, and similarity."""
        lengths = np.sqrt(np.diagonal(products))
        if not lengths[0]:
            return ZEROED, [], (), np.nan, np.nan
        safe = np.where(lengths > 0, lengths, np.inf)
        cosines = np.minimum(products[0] / (lengths[0] * safe), 1.0)
        nearest = 1 + int(cosines[1:].argmax())
        rest = max(products[0, 0] - 2 * products[0, nearest] + products[nearest, nearest], 0.0)
        alike, difference = float(cosines[nearest]), sqrt(rest) / lengths[nearest] if lengths[nearest] else np.inf
        part = (float(products[0, nearest] / safe[nearest] ** 2),)
        if difference <= rounding[nearest - 1]:
            return KEPT, [nearest - 1], part, alike, difference
        if (sums := self._describe_sum(products[: 1 + chosen, : 1 + chosen], apart)) is not None:
            return AVERAGED, *sums
        if alike < self.threshold:
            return UNRELATED, [], (), alike, np.nan
        if sqrt(max(1 - alike**2, 0)) > NEARER * apart:
            return RELATED, [], (), alike, np.nan
        return TUNED, [nearest - 1], part, alike, difference

    def _chosen(self, sample: np.ndarray, samples: np.ndarray, cosines: np.ndarray) -> list[int]:
        """Choose the base's experts of which the sample is a sum, the nearest first: at least one."""
        chosen, rest = [int(cosines.argmax())], sample.astype(np.float64)
        while len(chosen) < min(MOST_SOURCES, len(samples)):
            axes, _ = np.linalg.qr(samples[chosen].T.astype(np.float64))
            rest = sample - axes @ (axes.T @ sample)
            further = samples - (samples @ axes) @ axes.T
            lengths = np.linalg.norm(further, axis=1)
            lengths[lengths < 1e-3] = np.inf  # it is one of them, or a sum of them
            partial = further @ rest / lengths / max(float(np.linalg.norm(rest)), 1e-12)
            best = int(np.abs(partial).argmax())
            if np.linalg.norm(rest) < 1e-4 or abs(partial[best]) < self.threshold:
                break
            chosen.append(best)
        return chosen

    def _describe_sum(
        self, products: np.ndarray, apart: float
    ) -> tuple[list[int], tuple[float, ...], float, float] | None:
        """Describe the expert as a sum of others; None if several fit no better than one."""
        others = [*range(1, len(products))]
        while len(others) > 1:
            parts, rest = _fit(products, others)
            without = {one: _fit(products, [at for at in others if at != one])[1] for one in others}
            least = min(without, key=lambda one: without[one])
            if sqrt(max(1 - rest / without[least], 0)) >= self.threshold:  # each adds what no other does
                break
            others.remove(least)
        else:
            return None
        if sqrt(rest / products[0, 0]) > MERGED * apart:
            return None
        length = float(parts @ products[np.ix_(others, others)] @ parts)
        alike = min(float(parts @ products[others, 0]) / sqrt(length * products[0, 0]), 1.0)
        return [at - 1 for at in others], tuple(map(float, parts)), alike, sqrt(rest / length)


def _fit(products: np.ndarray, others: list[int]) -> tuple[np.ndarray, float]:
    """Fit by least squares: return the coefficients of these, and the squared length of the rest."""
    within, towards = products[np.ix_(others, others)], products[others, 0]
    parts = np.linalg.lstsq(within, towards)[0]
    rest = products[0, 0] - 2 * parts @ towards + parts @ within @ parts
    return parts, max(float(rest), float(np.finfo(float).tiny))


def _layers(alike: dict[tuple[int, int], float]) -> dict[int, int]:
    """Find the base's layer that each of the child's is like: its own number unless another is clearly more so."""
    found = {}
    for mine in dict.fromkeys(one for one, _ in alike):
        likes = {theirs: like for (one, theirs), like in alike.items() if one == mine}
        best = max(likes, key=lambda theirs: likes[theirs])
        own = mine if mine in likes else best
        found[mine] = best if likes[best] > LEAST and likes[own] < SURE * likes[best] else own
    return found


def _not_finite(file: ExpertFiles, layer: int, number: int) -> CaptureError:
    return CaptureError(
        f"Expert {number} of layer {layer} of {quoted(file.name)}, or the one that it is like, has weights that are no "
        "finite numbers, so nothing can be compared with it. Make the checkpoint again."
    )


def _sample_of(expert: Expert, size: int) -> list[np.ndarray]:
    """Sample numbers of each matrix of an expert, by the matrices' names: rows far apart, or parts of one row."""
    found = []
    for _, matrix in sorted(expert.items()):
        height, width = matrix.shape
        most = size // len(expert)
        rows = np.linspace(0, height - 1, min(height, max(most // width, 1)), dtype=int)
        found.append(matrix.pick(rows).ravel()[:: -(-width // most)])
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _between(samples: np.ndarray) -> np.ndarray:
    found: np.ndarray = (samples @ samples.T)[np.triu_indices(len(samples), 1)]
    return found


def _break_tie(nearest: int, cosines: np.ndarray, numbers: list[int], own: int, taken: set[int]) -> int:
    """Choose the nearest expert; among ties, the one of its own number, or one that no other came from."""
    as_near = np.flatnonzero(cosines >= cosines[nearest] - SAME).tolist()
    same = [at for at in as_near if numbers[at] == own]
    return (same or [at for at in as_near if at not in taken] or [nearest])[0]


def _products(experts: list[Expert]) -> np.ndarray:
    """Compute the (n, n) inner products of experts, all matrices of one as one vector."""
    found = np.zeros((len(experts), len(experts)))
    for role, matrix in experts[0].items():
        height, width = matrix.shape
        whole = any(expert[role].turned for expert in experts)  # of one on its side, all is read at once
        step = height if whole else max(AT_ONCE // width, 1)
        for start in range(0, height, step):
            stop = min(start + step, height)
            numbers = np.stack([expert[role].read(start, stop).ravel() for expert in experts]).astype(np.float64)
            found += numbers @ numbers.T
    return found


def _rounding(one: Expert, other: Expert) -> float:
    formats = {role: (one[role].tensor.format, other[role].tensor.format) for role in one}
    if all(mine == theirs for mine, theirs in formats.values()):
        return SAME
    return SAME + max(sum(FORMATS[name].rounding for name in pair) for pair in formats.values())


def _row(layer: int, expert: int, what: str, base_layer: int, sources: tuple[int, ...] = ()) -> dict[str, Any]:
    row = {"layer": layer, "expert": expert, "what": what, "base_layer": base_layer, "base_experts": sources}
    return row | {"parts": ()} | dict.fromkeys(("similarity", "difference", "runner_up"), np.nan)


def _spliced_row(sources: list[Place]) -> dict[str, Any]:
    """Describe a splice by the layer of most of its matrices, and the experts of that layer."""
    layer = Counter(layer for layer, _ in sources).most_common(1)[0][0]
    counts = sorted(Counter(expert for of, expert in sources if of == layer).items())
    parts = tuple(count / len(sources) for _, count in counts)
    row = {"what": SPLICED, "base_layer": layer, "base_experts": tuple(expert for expert, _ in counts)}
    return row | {"parts": parts, "similarity": np.nan, "difference": np.nan}


MOST_UNMATCHED, SAME_LENGTHS = 512, 1e-3  # experts of either, and a relative difference of lengths


def _match_neurons(rows: list[dict[str, Any]], base: ExpertFiles, child: ExpertFiles) -> None:
    """Match experts without a match by their neurons, in whichever order and layer these are.

    The lengths of neurons' weights, which no order changes, say which two to compare number by number.
    """
    unmatched = [row for row in rows if row["what"] == UNRELATED]
    named = {(row["base_layer"], one) for row in rows for one in row["base_experts"]}
    free = [(layer, one) for layer, experts in base.layers.items() for one in experts if (layer, one) not in named]
    if not free or max(len(unmatched), len(free)) > MOST_UNMATCHED:
        return
    known = {(layer, one): _lengths(_neurons(base.layers[layer][one])) for layer, one in free} if unmatched else {}
    for row in unmatched:
        neurons = _neurons(child.layers[row["layer"]][row["expert"]])
        own = _lengths(neurons)
        for (layer, number), other in known.items():
            if own.shape != other.shape or np.abs(own - other).max() > SAME_LENGTHS * other.max():
                continue
            source = _neurons(base.layers[layer][number])
            difference = float(np.linalg.norm(neurons - source) / max(float(np.linalg.norm(source)), 1e-12))
            if difference < SAME_LENGTHS:
                row |= {"what": MOVED, "base_layer": layer, "base_experts": (number,), "parts": (1.0,)}
                row |= {"similarity": 1.0, "difference": difference}
                break


def _neurons(expert: Expert) -> np.ndarray:
    """Read all weights of an expert, a row per neuron, in the order of their lengths: that of a file plays no part."""
    parts = []
    for role, matrix in sorted(expert.items()):
        height, width = matrix.shape
        numbers = matrix.read(0, height).reshape(height, width).astype(np.float32)
        parts.append(numbers.T if role == "down" else numbers)
    neurons = np.concatenate(parts, axis=1)
    ordered: np.ndarray = neurons[np.argsort((neurons.astype(np.float64) ** 2).sum(axis=1), kind="stable")]
    return ordered


def _lengths(neurons: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(neurons, axis=1)
    return lengths


def _name_copies(rows: list[dict[str, Any]]) -> None:
    """Call all experts of one source copies, except an unchanged one in the source's place."""
    single = [row for row in rows if row["what"] in (KEPT, MOVED, TUNED)]
    children = Counter((row["base_layer"], row["base_experts"]) for row in single)
    for row in single:
        if children[row["base_layer"], row["base_experts"]] > 1 and row["what"] != KEPT:
            row["what"] = COPIED


def _lost_experts(rows: list[dict[str, Any]], search: _Search) -> list[dict[str, Any]]:
    """List the base's experts that no row names; none if the child has nothing of the base, or it is unclear."""
    if not any(row["base_experts"] for row in rows):
        return []
    named = {(row["base_layer"], one) for row in rows for one in row["base_experts"]}
    named |= {source for splice in search.splices.values() for source in splice.values()}
    untold = {row["base_layer"] for row in rows if row["what"] == RELATED}
    untold |= {search.layers.get(row["layer"], -1) for row in rows if row["what"] == UNRELATED}  # it may be one of them
    now = {theirs: mine for mine, theirs in reversed(search.layers.items())}
    return [
        _row(now.get(layer, -1), -1, CUT, layer, (number,))
        for layer, experts in search.base.layers.items()
        if layer not in untold
        for number in experts
        if (layer, number) not in named
    ]


PHRASES = {
    KEPT: "{} kept",
    MOVED: "{} moved",
    TUNED: "{} tuned",
    COPIED: "{} copied",
    AVERAGED: "{} averaged",
    SPLICED: "{} spliced",
    RELATED: "{} related, though from which expert cannot be told",
    ZEROED: "{} set to zero",
    UNRELATED: "{} unrelated",
}


def _numbers(found: Lineage) -> str:
    counts = found.table["what"].value_counts()
    experts = int((found.table["what"] != CUT).sum())
    if counts.get(UNRELATED, 0) == experts:
        return f"None of the {experts:,} experts of {found.child} comes from {found.base}, as far as weights say."
    parts = [says.format(f"{counts[what]:,}") for what, says in PHRASES.items() if what in counts]
    cut = int(counts.get(CUT, 0))
    lost = f"; {cut:,} of {found.base}’s {'were' if cut > 1 else 'was'} cut" if cut else ""
    dense = any(DENSE_MLP in sources for sources in found.table["base_experts"])
    whose = "the MLPs" if dense else "the experts"
    return (
        f"{experts:,} expert{'s' * (experts > 1)} of {found.child}, against {whose} of {found.base}: "
        f"{', '.join(parts)}{lost}."
    )


def _notes(found: Lineage) -> list[str]:
    table = found.table
    notes = [
        f"Of unrelated experts (of different layers) 99% have a cosine below {found.chance:.3f}; a match needs "
        f"{found.threshold:.2f}."
    ]
    if found.formats[0] != found.formats[1]:
        notes.append(
            f"{found.base} is stored as {found.formats[0]} and {found.child} as {found.formats[1]}, so that “kept” "
            "allows for rounding: a change smaller than that cannot be seen."
        )
    for name, stacks in zip((found.base, found.child), found.left_out, strict=True):
        if stacks:
            named = with_and([stack.rstrip(".") for stack in stacks])
            notes.append(f"Not compared: the experts of {name} in {named}.")
    for (layer, number), splice in [*found.splices.items()][:4]:
        of = [f"{role} of expert {expert} of layer {at}" for role, (at, expert) in splice.items()]
        notes.append(f"Expert {number} of layer {layer} of {found.child} is spliced: {with_and(of)} of {found.base}.")
    matched = set(table.loc[table["base_experts"].map(len) > 0, "layer"])
    others = {mine: theirs for mine, theirs in found.layers.items() if mine != theirs and mine in matched}
    if others:
        pairs = [f"{mine} is {theirs}" for mine, theirs in others.items()]
        said = ", ".join(pairs[:4]) + (f" … and {len(pairs) - 4:,} more" if len(pairs) > 4 else "")
        notes.append(f"Layers have other numbers in {found.child} than in {found.base}: {said}.")
    if len(matched) and (unknown := sorted(set(table.loc[table["what"] == UNRELATED, "layer"].tolist()))):
        notes.append(
            f"Experts of {found.child} without a match, at layer{'s' * (len(unknown) > 1)} {spans(unknown)}, may be "
            f"some of {found.base} in another form. So it is not known whether any were cut there."
        )
    if gone := sorted(set(table.loc[(table["what"] == CUT) & (table["layer"] < 0), "base_layer"].tolist())):
        notes.append(f"Of {found.base}, layer{'s' * (len(gone) > 1)} {spans(gone)} went whole.")
    return notes
