"""ExpertCounts: the tokens of each expert, which a trace reduces to, and which are all that some sources have.

An importance matrix, an engine's balance statistics or a training log know how often each expert was chosen, and not
by which token. Every metric that needs no more takes either.

Shape letters as in `routing_trace.py`, and G groups: labels, or steps of a training run; otherwise a single one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from moeviz._viewers import VIEWERS
from moeviz.errors import InvalidTrace, MissingField
from moeviz.model_info import ModelInfo

GroupKind = Literal["all", "label", "step"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ExpertCounts:
    """Counts of the tokens that each expert of each layer got.

    model        as in a trace: layers, experts of each, and top_k.
    assignments  tokens sent to each expert; 0 for the ids that a layer with fewer than E experts does not have.
    tokens       tokens that were counted in each layer. Fewer assignments than tokens x K mean dropped tokens.
    groups       names of the G groups, all different: labels are str, steps are whole numbers from 0 in ascending
                 order. `("",)` if everything is counted together.
    group_kind   "all", "label" or "step".

    Raises `InvalidTrace` if the numbers and the facts about the model do not fit together.

    >>> from moeviz.testing import sample_trace
    >>> counts = sample_trace(layers=4, tokens=32, top_k=2).counts()
    >>> counts.assignments.sum(axis=-1).tolist(), counts.tokens.tolist()
    ([[64, 64, 64, 64]], [[32, 32, 32, 32]])
    """

    model: ModelInfo
    assignments: Int64[np.ndarray, "G L E"]
    tokens: Int64[np.ndarray, "G L"]
    groups: tuple[str, ...] | tuple[int, ...] = ("",)
    group_kind: GroupKind = "all"

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_groups(self)
        _check_numbers(self)

    def __repr__(self) -> str:
        layers, experts = self.assignments.shape[1:]
        by = {"all": "", "label": f" by {len(self.groups)} labels", "step": f" at {len(self.groups)} steps"}
        most = int(self.tokens.sum(axis=0).max(initial=0))
        what = f"{most:,} tokens, {layers} MoE layers, top-{self.model.top_k} of {experts} experts"
        return f"<ExpertCounts of {self.model.name!r}: {what}{by[self.group_kind]}>"

    def counts(self) -> "ExpertCounts":
        """All groups together: what a trace gives by the same name."""
        if self.group_kind == "all":
            return self
        sums = (part.sum(axis=0, keepdims=True) for part in (self.assignments, self.tokens))
        return ExpertCounts(self.model, *sums)

    def of_group(self, at: int) -> "ExpertCounts":
        """The counts of only one group, by its index from 0. Raises `IndexError` for a group that does not exist."""
        of = [range(len(self.groups))[at]]
        return ExpertCounts(self.model, self.assignments[of], self.tokens[of])

    def counts_by_label(self, why: str = "This") -> "ExpertCounts":
        """Return these counts, if they are by label. Raises `MissingField` with a sentence that starts with `why`."""
        if self.group_kind != "label":
            raise MissingField(
                f"{why} needs counts by label, and the counts of {self.model.name!r} have none. Count labelled texts."
            )
        return self

    def select(self, layers: Sequence[int]) -> "ExpertCounts":
        """Return the counts of some layers, by the model's own indices. Parameter counts are of whole models: none."""
        model, kept = self.model.with_layers(layers)
        assignments = self.assignments[:, kept, : max(model.num_experts)]
        return replace(self, model=model, assignments=assignments, tokens=self.tokens[:, kept])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays take."""
        return int(self.assignments.nbytes + self.tokens.nbytes)

    @property
    def plot(self) -> Any:
        """Charts of these counts, one method per topic: `counts.plot.load()`."""
        return VIEWERS["plot"](self)

    def equals(self, other: "ExpertCounts") -> bool:
        """True if every fact and every number is the same."""
        mine, theirs = (((c.model, c.groups, c.group_kind), (c.assignments, c.tokens)) for c in (self, other))
        return mine[0] == theirs[0] and all(np.array_equal(a, b) for a, b in zip(mine[1], theirs[1], strict=True))


def added(parts: Sequence[ExpertCounts]) -> ExpertCounts:
    """Counts of the same model and groups, added up: a corpus from its pieces. Raises `InvalidTrace` for others."""
    if not parts:
        raise InvalidTrace("There are no counts to add up. Give at least one.")
    return reduce(_sum, parts)


def _sum(one: ExpertCounts, other: ExpertCounts) -> ExpertCounts:
    for fact in ("layers", "num_experts", "top_k"):
        here, there = getattr(one.model, fact), getattr(other.model, fact)
        if here != there:
            raise InvalidTrace(
                f"Counts can be added up if they are of one model, and {fact} is {here} in {one.model.name!r} and "
                f"{there} in {other.model.name!r}."
            )
    if (one.groups, one.group_kind) != (other.groups, other.group_kind):
        raise InvalidTrace(f"Counts can be added up if their groups are the same; got {one.groups} and {other.groups}.")
    return replace(one, assignments=one.assignments + other.assignments, tokens=one.tokens + other.tokens)


def _check_shapes(counts: ExpertCounts) -> None:
    model = counts.model
    if not model.layers or list(model.layers) != sorted(set(model.layers)):
        raise InvalidTrace(f"The MoE layers of counts must be different and in ascending order; got {model.layers}.")
    if len(model.num_experts) != len(model.layers):
        raise InvalidTrace(
            f"The model lists {len(model.layers)} layers, but {len(model.num_experts)} expert counts. Give one for "
            "each layer."
        )
    shape = (len(counts.groups), len(model.layers), max(model.num_experts))
    for name, values, wanted in (("assignments", counts.assignments, shape), ("tokens", counts.tokens, shape[:2])):
        if values.shape != wanted:
            raise InvalidTrace(f"The {name} have the shape {values.shape}; they must have {wanted}.")


def _check_groups(counts: ExpertCounts) -> None:
    groups: tuple[Any, ...] = counts.groups
    if counts.group_kind == "all" and groups != ("",):
        raise InvalidTrace(f"Counts of everything together have one group without a name; got {groups}.")
    kind = int if counts.group_kind == "step" else str
    if len(set(groups)) != len(groups) or not all(type(group) is kind for group in groups):
        raise InvalidTrace(f"The groups of counts must be different {counts.group_kind}s; got {groups}.")
    if groups and kind is int and (list(groups) != sorted(groups) or groups[0] < 0):
        raise InvalidTrace(f"The steps of counts must be in ascending order, from 0 on; got {groups}.")


def _check_numbers(counts: ExpertCounts) -> None:
    if (counts.assignments < 0).any() or (counts.tokens < 0).any():
        raise InvalidTrace("A count is negative; give numbers of tokens.")
    absent = np.arange(counts.assignments.shape[-1]) >= np.asarray(counts.model.num_experts)[:, None]
    if (counts.assignments * absent).any():
        _, layer, expert = np.argwhere(counts.assignments * absent)[0]
        raise InvalidTrace(
            f"Expert {expert} of layer {counts.model.layers[layer]} got tokens; that layer has experts 0 to "
            f"{counts.model.num_experts[layer] - 1}."
        )
    if (counts.assignments.sum(axis=-1) > counts.tokens * counts.model.top_k).any():
        raise InvalidTrace(
            f"There are more assignments than the counted tokens can have, with {counts.model.top_k} experts each."
        )
