"""RoutingTrace: what every router decided for every token.

The one type between models and charts. Everything in `capture` makes one, everything in `metrics` reads one. No torch
here, no charts, no model object.

Shape letters, used throughout moeviz:

    L  MoE layers     T  routed tokens     K  slots (top-k)     E experts (of the layer with the most)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int16

from moeviz._viewers import VIEWERS
from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.expert_outputs import ExpertOutputs
from moeviz.image_tokens import BOX, TraceImage, check_image_tokens
from moeviz.model_info import ModelInfo
from moeviz.next_tokens import NEXT, NextTokens
from moeviz.text import no_segment

ARRAYS = ("experts", "weights", "logits")
NO_EXPERT = -1  # an empty slot: the token was dropped, or this layer has fewer slots than K
NOT_RECORDED = -2  # in all slots of a token at a layer: it was routed, and the source does not say where
NO_TOKEN_ID = -1  # the source does not say which token of the vocabulary this is
PHASES = pd.CategoricalDtype(["prompt", "generated"])
TOKEN_COLUMNS: dict[str, str | pd.CategoricalDtype] = {
    "sequence": "int32",
    "position": "int32",
    "token_id": "int32",
    "text": "str",
    "phase": PHASES,
}
OPTIONAL_COLUMNS = ("label", "segment")  # of tokens, both texts


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RoutingTrace:
    """The decisions of every router for every token: recorded, never recomputed.

    A field that a backend cannot see is None. A field that is there means exactly this, whichever backend made it:

    tokens    T rows. `sequence` int32 · `position` int32, from 0 in each sequence, padding not counted ·
              `token_id` int32, NO_TOKEN_ID if unknown · `text` str, exact, except that a token which holds only a
              part of a character reads `⟨é 1/2⟩` · `phase` prompt or generated. Optional: `label`, a class such as a
              domain; in a chat, `segment`, as "user" or "answer"; with images, `IMAGE_COLUMNS`: `kind` text, image or
              mark · `image` its number, -1 for text · `view` whole, tile or overview · `x0`, `y0`, `x1`, `y1` the box
              in pixels, NaN if unknown. Padding, and the last sampled token (it never went through a router), are
              not here.
    experts   ids, highest weight first (or in an unknown order, where `model.slot_order` says so) · NO_EXPERT = empty
              slot · NOT_RECORDED = the source does not say; then it says so of all slots of that token at that layer.
    weights   the factor on that expert's output as the model applies it: after renormalising and scaling. They need
              not sum to 1. 0 in an empty slot, and where nothing was recorded.
    logits    router output before score function and balancing bias; -inf if a layer has fewer than E experts. None
              where any token is not recorded.
    next_tokens  the five likeliest tokens after each token, and after each layer: see `NextTokens`. Recorded by choice.
    outputs   what each expert put out for each token, in figures: see `ExpertOutputs`. Recorded by choice.
    images    size and SHA-256 of each image of the prompt: see `TraceImage`. Pixels are not kept.

    Raises `InvalidTrace` if the arrays and the facts about the model do not fit together.

    >>> import moeviz
    >>> trace = moeviz.trace("embedded", "Il fait froid.")
    >>> trace.experts.shape == trace.weights.shape, trace.tokens.columns[:3].tolist()
    (True, ['sequence', 'position', 'token_id'])
    """

    model: ModelInfo
    tokens: pd.DataFrame
    experts: Int16[np.ndarray, "L T K"]
    weights: Float32[np.ndarray, "L T K"] | None = None
    logits: Float32[np.ndarray, "L T E"] | None = None
    next_tokens: NextTokens | None = None
    outputs: ExpertOutputs | None = None
    images: tuple[TraceImage, ...] = ()

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_tokens(self.tokens)
        check_image_tokens(self.tokens, self.images)
        _check_values(self)

    def __repr__(self) -> str:
        optional = {name: getattr(self, name) for name in (*ARRAYS[1:], "next_tokens", "outputs")}
        fields = " and ".join(name.replace("_", " ") for name, part in optional.items() if part is not None)
        layers, tokens, slots = self.experts.shape
        what = f"{tokens} tokens, {layers} MoE layers, top-{slots} of {max(self.model.num_experts)} experts"
        return f"<RoutingTrace of {self.model.name!r}: {what}, {f'with {fields}' if fields else 'ids alone'}>"

    def need(self, field: Literal["weights", "logits"], why: str) -> np.ndarray:
        """Return a field that may be absent, or raise `MissingField` with a sentence that starts with `why`."""
        values = self.weights if field == "weights" else self.logits
        if values is None:
            hint = " CSV and Parquet files leave them out; .npz and .json keep them." if field == "logits" else ""
            raise MissingField(f"{why} needs router {field}, and this trace ({self.model.backend}) has none.{hint}")
        return values

    def probabilities(self, why: str) -> Float32[np.ndarray, "L T E"]:
        """Router scores of all experts, scaled so that each row sums to 1.

        softmax(logits) for softmax routers; sigmoid or sqrt-softplus scores divided by their sum for routers that score
        each expert separately (the normalised affinities of DeepSeek-V3, arXiv 2412.19437, eq. 18). Raises
        `MissingField` if there are no logits, or if the score function is not known.
        """
        logits = self.need("logits", why)
        if self.model.score_function == "unknown":
            raise MissingField(
                f"{why} needs the router's score function, and the trace of {self.model.name!r} does not say which "
                "it is."
            )
        return normalised_scores(logits, self.model.score_function)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays and its tokens take."""
        arrays = sum(int(values.nbytes) for name in ARRAYS if (values := getattr(self, name)) is not None)
        optional = sum(part.nbytes for part in (self.next_tokens, self.outputs) if part is not None)
        return arrays + optional + int(self.tokens.memory_usage(deep=True).sum())

    @property
    def filled(self) -> Bool[np.ndarray, "L T K"]:
        """Which slots hold an expert."""
        holds: np.ndarray = self.experts >= 0
        return holds

    @property
    def recorded(self) -> Bool[np.ndarray, "L T"]:
        """At which layers the source says where each token went: to experts, or to none."""
        says: np.ndarray = self.experts[..., 0] != NOT_RECORDED
        return says

    @property
    def ordered(self) -> bool:
        """True where slot 0 is each token's first choice, the expert with the highest weight."""
        return self.model.slot_order == "weight" or self.model.top_k == 1

    def first_choices(self, why: str) -> Int16[np.ndarray, "L T"]:
        """Return the expert with the highest weight; NO_EXPERT or NOT_RECORDED as in `experts`.

        Raises `MissingField`, with a sentence that starts with `why`, if the order of slots is not known.
        """
        if not self.ordered:
            raise MissingField(
                f"{why} needs each token's first choice, the expert with the highest weight, and the trace of "
                f"{self.model.name!r} does not say which of a token's {self.model.top_k} experts that is. Record "
                "router weights too."
            )
        first: np.ndarray = self.experts[..., 0]
        return first

    def counts(self) -> ExpertCounts:
        """Count how many tokens each expert got. Tokens that are not recorded at a layer do not count there."""
        return self._counts(np.zeros(1, np.int64), ("",), "all")

    def counts_by_label(self, why: str = "This") -> ExpertCounts:
        """Count tokens by expert and by label, in the order in which labels first appear.

        Raises `MissingField`, with a sentence that starts with `why`, if the tokens have no labels.
        """
        labels, codes = self.labels(why)
        return self._counts(codes.astype(np.int64), tuple(labels), "label")

    def counts_of_groups(self, group: np.ndarray, count: int) -> ExpertCounts:
        """Count tokens by expert and by group, which `group` (T,) gives for each token: 0 to `count` - 1."""
        return self._counts(group.astype(np.int64), tuple(map(str, range(count))), "label")

    def labels(self, why: str) -> tuple[list[str], np.ndarray]:
        """Return the labels in the order in which they first appear, and for each token (T,) which of them it has.

        Raises `MissingField`, with a sentence that starts with `why`, if the tokens have no labels.
        """
        if "label" not in self.tokens:
            raise MissingField(
                f"{why} needs tokens with a label, and this trace has none. Record a labelled trace with “moeviz "
                "corpus”, or choose the 60 texts of 15 kinds in the app."
            )
        codes, names = pd.factorize(self.tokens["label"])
        return [str(name) for name in names], codes

    def in_segment(self, name: str) -> Bool[np.ndarray, " T"]:
        """Mark the tokens of one segment of a chat, as "answer". Raises `MissingField` if there are none."""
        if "segment" not in self.tokens:
            raise MissingField(
                f"This trace of {self.model.name!r} does not say which segment of a chat a token belongs to. Record a "
                "chat (moeviz trace --chat, or --messages FILE), by a template that shows where each part ends."
            )
        segments = self.tokens["segment"]
        if not (kept := (segments == name).to_numpy(bool)).any():
            raise MissingField(no_segment(name, sorted(segments.unique())))
        return kept

    def of_segment(self, name: str | None) -> "RoutingTrace":
        """Return the trace of the tokens of one segment; of all tokens for None. Raises what `in_segment` does."""
        return self if name is None else self.select(tokens=self.in_segment(name))

    def _counts(self, group: np.ndarray, groups: tuple[str, ...], kind: Literal["all", "label"]) -> ExpertCounts:
        """Count choices. `group` gives each token's group among G, or one number for all of them."""
        G, width = len(groups), max(self.model.num_experts) - NOT_RECORDED
        first = (group * width - NOT_RECORDED)[:, None]  # in a row: not recorded, empty, then every expert
        found = [np.bincount((first + chosen).ravel(), minlength=G * width) for chosen in self.experts]
        table = np.stack(found).reshape(len(found), G, width).swapaxes(0, 1)
        sizes = np.bincount(np.broadcast_to(group, len(self.tokens)), minlength=G)
        tokens = sizes[:, None] - table[..., 0] // self.model.top_k
        return ExpertCounts(self.model, table[..., -NOT_RECORDED:], tokens, groups, kind)

    def assignments(self) -> pd.DataFrame:
        """Return one row per filled slot, by layer, token and slot: the long form of the trace.

        Columns: layer int32 (the model's own index) · token int32 (row of `tokens`) · slot int16 · expert int16 ·
        weight float32 (NaN if the trace has no weights).

        Source: OLMoE (arXiv 2409.02060), section 5, counts specialization over these rows.
        """
        layer, token, slot = np.nonzero(self.filled)
        weight = np.float32("nan") if self.weights is None else self.weights[layer, token, slot]
        return pd.DataFrame(
            {
                "layer": np.asarray(self.model.layers, np.int32)[layer],
                "token": token.astype(np.int32),
                "slot": slot.astype(np.int16),
                "expert": self.experts[layer, token, slot],
                "weight": weight,
            }
        )

    def select(self, layers: Sequence[int] | None = None, tokens: np.ndarray | slice | None = None) -> "RoutingTrace":
        """Return the trace of some layers (the model's own indices) or of some rows of `tokens`.

        Metrics of one layer, or of two to compare, are metrics of such a trace. Parameter counts are counts of whole
        models, so a trace without some layers has none.
        """
        model, kept = (
            (self.model, list(range(len(self.model.layers)))) if layers is None else self.model.with_layers(layers)
        )
        rows = slice(None) if tokens is None else tokens
        weights, logits = (None if part is None else part[kept][:, rows] for part in (self.weights, self.logits))
        if logits is not None:
            logits = logits[..., : max(model.num_experts)]
        tokens_kept = self.tokens.iloc[rows].reset_index(drop=True)
        following = None if self.next_tokens is None else self.next_tokens.select(kept, rows)
        outputs = None if self.outputs is None else self.outputs.select(kept, rows)
        experts = self.experts[kept][:, rows]
        return RoutingTrace(model, tokens_kept, experts, weights, logits, following, outputs, self.images)

    @property
    def plot(self) -> Any:
        """Charts of this trace, one method per topic: `trace.plot.load()`."""
        return VIEWERS["plot"](self)

    def _repr_html_(self) -> str:
        return str(VIEWERS["html"](self))

    def equals(self, other: "RoutingTrace") -> bool:
        """True if every fact, token, id and the last bit of every number are the same."""
        return (
            self.model == other.model
            and self.tokens.equals(other.tokens)
            and self.images == other.images
            and all(_same(getattr(self, f), getattr(other, f)) for f in ARRAYS)
            and _same_part(self.next_tokens, other.next_tokens)
            and _same_part(self.outputs, other.outputs)
        )


Counted = RoutingTrace | ExpertCounts  # what a metric takes that needs no more than counts


def normalised_scores(logits: Float32[np.ndarray, "*rows E"], function: str) -> Float32[np.ndarray, "*rows E"]:
    """Apply a router's score function to logits and scale each row to sum 1; -inf (no such expert) gives 0."""
    if function == "softmax":
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    elif function == "sigmoid":
        scores = np.exp(-np.logaddexp(np.float32(0), -logits))
    else:
        scores = np.sqrt(np.logaddexp(np.float32(0), logits))
    shares: np.ndarray = scores / np.maximum(scores.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return shares


def sort_slots(
    experts: Int16[np.ndarray, "L T K"], weights: Float32[np.ndarray, "L T K"] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Put each token's slots in the order that `RoutingTrace` promises: highest weight first, empty slots last.

    Routers do not keep that order themselves: many take `topk(sorted=False)`. Equal weights keep their order.
    """
    key = np.zeros(experts.shape, np.float32) if weights is None else -weights
    order = np.argsort(np.where(experts < 0, np.float32("inf"), key), axis=-1, kind="stable")
    experts = np.take_along_axis(experts, order, -1)
    if weights is None:
        return experts, None
    return experts, np.where(experts < 0, np.float32(0), np.take_along_axis(weights, order, -1))


def pad_layers(parts: Sequence[np.ndarray], fill: int | float) -> np.ndarray:
    """Stack layers (T, n) of different n into one array (L, T, largest n), filled on the right."""
    width = max(part.shape[-1] for part in parts)
    if all(part.shape[-1] == width for part in parts):
        return np.stack(parts)
    return np.stack([np.pad(part, ((0, 0), (0, width - part.shape[-1])), constant_values=fill) for part in parts])


def token_frame(
    sequence: np.ndarray,
    position: np.ndarray,
    text: list[str],
    token_id: np.ndarray | None = None,
    phase: list[str] | np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the `tokens` of a `RoutingTrace`, in the dtypes it asks for."""
    numbers = {"sequence": sequence, "position": position, "token_id": NO_TOKEN_ID if token_id is None else token_id}
    columns = {name: np.array(np.broadcast_to(values, len(text)), np.int32) for name, values in numbers.items()}
    words = pd.array(text, dtype="str")
    codes = np.zeros(len(text), np.int8)
    if phase is not None:
        codes[:] = np.select([np.asarray(phase) == name for name in PHASES.categories], [0, 1], -1)
    return pd.DataFrame(columns | {"text": words, "phase": pd.Categorical.from_codes(codes, dtype=PHASES)}, copy=False)


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _same_part(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else bool(a.equals(b))


def _check_shapes(trace: RoutingTrace) -> None:
    L, T, K = trace.experts.shape
    model = trace.model
    facts = {"layers": len(model.layers), "expert counts": len(model.num_experts)}
    if model.parameters is not None:
        facts["expert sizes"] = len(model.parameters.per_expert)
    for what, count in facts.items():
        if count != L:
            raise InvalidTrace(
                f"The trace has {L} MoE layers of expert ids, but its model lists {count} {what}. Give one for each "
                "layer."
            )
    if L == 0 or len(set(model.layers)) != L or list(model.layers) != sorted(model.layers):
        raise InvalidTrace(f"The MoE layers of a trace must be different and in ascending order; got {model.layers}.")
    if len(trace.tokens) != T:
        raise InvalidTrace(
            f"The trace has routing for {T} tokens, but {len(trace.tokens)} rows of tokens. Give one row per token."
        )
    if model.top_k != K:
        raise InvalidTrace(
            f"The trace has {K} slots per token, but its model says that top_k is {model.top_k}. Make the two agree."
        )
    widths = {"weights": (L, T, K), "logits": (L, T, max(model.num_experts))}
    for field, shape in widths.items():
        values = getattr(trace, field)
        if values is not None and values.shape != shape:
            raise InvalidTrace(f"The {field} have the shape {values.shape}; they must have {shape}.")
    if (following := trace.next_tokens) is not None:
        of_layers = None if following.lens_rows is None else following.lens_rows.shape
        if following.rows.shape != (T, NEXT) or of_layers not in (None, (L, T, NEXT)):
            raise InvalidTrace(
                f"The next tokens have the shape {following.rows.shape}, and after each layer {of_layers}; they must "
                f"have {(T, NEXT)} and {(L, T, NEXT)}."
            )
    if trace.outputs is not None and trace.outputs.norm.shape != (L, T, K):
        raise InvalidTrace(
            f"The experts' outputs have the shape {trace.outputs.norm.shape}; they must have {(L, T, K)}."
        )


def _check_tokens(tokens: pd.DataFrame) -> None:
    columns = {name: column.array for name, column in tokens.items()}
    for column, kind in TOKEN_COLUMNS.items():
        if column not in columns:
            raise InvalidTrace(f"The tokens have no column {column!r}; they need {', '.join(TOKEN_COLUMNS)}.")
        if columns[column].dtype != kind:
            raise InvalidTrace(f"Token column {column!r} is {columns[column].dtype}; it must be {kind}.")
    needed = (values for name, values in columns.items() if values.dtype.kind not in "iub" and name not in BOX)
    if any(values.isna().any() for values in needed):
        raise InvalidTrace(
            "A token has no text, no phase, no label or no segment. An empty string is allowed, a missing value is not."
        )
    sequence, position = (np.asarray(columns[name]) for name in ("sequence", "position"))
    if (sequence < 0).any() or (position < 0).any():
        raise InvalidTrace("A token has a negative sequence or position; both count from 0.")
    text, place = np.diff(sequence), np.diff(position)
    in_order = bool(((text > 0) | ((text == 0) & (place > 0))).all())
    if not in_order and tokens.duplicated(["sequence", "position"]).any():
        raise InvalidTrace("Two tokens are at the same position of the same sequence. Give each its own position.")


def _check_values(trace: RoutingTrace) -> None:
    counts = np.asarray(trace.model.num_experts)[:, None, None]
    outside = (trace.experts < NOT_RECORDED) | (trace.experts >= counts)
    if outside.any():
        place = np.unravel_index(int(outside.argmax()), outside.shape)
        layer, token, _ = place
        raise InvalidTrace(
            f"Got expert {trace.experts[place]} in layer {trace.model.layers[layer]}, token {token}; that layer "
            f"has experts 0 to {trace.model.num_experts[layer] - 1}."
        )
    missing = trace.experts == NOT_RECORDED
    if (missing.any(axis=-1) != missing.all(axis=-1)).any():
        raise InvalidTrace("Some slots of a token at a layer are not recorded; they must be all of them, or none.")
    if trace.logits is not None and missing.any():
        raise InvalidTrace("A trace in which some tokens are not recorded has no logits. Leave the logits out.")
    if trace.weights is not None:
        if trace.model.slot_order == "unknown":
            raise InvalidTrace("A trace with weights has its slots in order of weight; slot_order cannot be 'unknown'.")
        if not np.isfinite(trace.weights).all():
            raise InvalidTrace("The weights contain NaN or infinity; a router's weights must be finite numbers.")
        filled = trace.filled
        if (trace.weights[~filled] != 0).any():
            raise InvalidTrace("An empty slot has a weight; it must be 0.")
        if (filled[..., 1:] & ((np.diff(trace.weights) > 0) | ~filled[..., :-1])).any():
            raise InvalidTrace("The slots of a token are not in order of weight; the highest must come first.")
    if trace.logits is not None and (np.isnan(trace.logits).any() or np.isposinf(trace.logits).any()):
        raise InvalidTrace("The logits contain NaN or +infinity; only -infinity (no such expert) is allowed.")
