"""RoutingTrace: what every router decided for every token.

The one type between models and pictures. Everything in `capture` makes one, everything in `metrics` reads one.
No torch here, no charts, no model object.

Shape letters, used all over moeviz:

    L  MoE layers     T  routed tokens     K  slots (top-k)     E  experts (of the layer that has most)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int16

from moeviz.errors import InvalidTrace, MissingField
from moeviz.model_info import ModelInfo

ARRAYS = ("experts", "weights", "logits")
NO_EXPERT = -1  # an empty slot: the token was dropped, or this layer has fewer slots than K
NO_TOKEN_ID = -1  # the source does not say which token of the vocabulary this is
PHASES = pd.CategoricalDtype(["prompt", "generated"])
# What draws a trace stands above it, unknown to this file: the front door, `moeviz/__init__.py`, puts it here.
VIEWERS: dict[Literal["plot", "html"], Callable[["RoutingTrace"], Any]] = {}
TOKEN_COLUMNS: dict[str, str | pd.CategoricalDtype] = {
    "sequence": "int32",
    "position": "int32",
    "token_id": "int32",
    "text": "str",
    "phase": PHASES,
}


@dataclass(frozen=True, slots=True, eq=False)
class RoutingTrace:
    """What every router decided for every token: recorded, never recomputed.

    A field that a backend cannot see is None. A field that is there means exactly this, whichever backend made it:

    tokens    T rows. `sequence` int32 · `position` int32, from 0 in each sequence, padding not counted ·
              `token_id` int32, NO_TOKEN_ID where unknown · `text` str, exact, except that a token which holds only a
              part of a character reads `⟨é 1/2⟩` · `phase` prompt or generated. Optional: `label`, a class such as a
              domain. Padding, and the last sampled token (it met no router), are not here.
    experts   ids, highest weight first, NO_EXPERT = empty slot.
    weights   the factor on that expert's output as the model applies it: after renormalising and scaling. They need
              not sum to 1. 0 in an empty slot.
    logits    router output before score function and balancing bias; -inf where a layer has fewer than E experts.

    Raises `InvalidTrace` where the arrays and the facts about the model do not fit together.
    """

    model: ModelInfo
    tokens: pd.DataFrame
    experts: Int16[np.ndarray, "L T K"]
    weights: Float32[np.ndarray, "L T K"] | None = None
    logits: Float32[np.ndarray, "L T E"] | None = None

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_tokens(self.tokens)
        _check_values(self)

    def __repr__(self) -> str:
        fields = " and ".join(name for name in ARRAYS[1:] if getattr(self, name) is not None)
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

        softmax(logits) for softmax routers; sigmoid or sqrt-softplus scores divided by their sum for routers that
        score each expert by itself (the normalised affinities of DeepSeek-V3, arXiv 2412.19437, eq. 18). Raises
        `MissingField` without logits, or where the score function is not known.
        """
        logits = self.need("logits", why)
        if self.model.score_function == "unknown":
            raise MissingField(
                f"{why} needs the router's score function, and the trace of {self.model.name!r} does not say which "
                "it is."
            )
        return normalised_scores(logits, self.model.score_function)

    def assignments(self) -> pd.DataFrame:
        """One row per filled slot, by layer, token and slot: the long form of the trace.

        Columns: layer int32 (the model's own index) · token int32 (row of `tokens`) · slot int16 · expert int16 ·
        weight float32 (NaN where the trace has no weights).

        Source: OLMoE (arXiv 2409.02060), section 5, counts specialisation over these rows.
        """
        layer, token, slot = np.nonzero(self.experts != NO_EXPERT)
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
        """The same trace with some layers (the model's own indices) or some rows of `tokens` only.

        Metrics of one layer, or of two to compare, are metrics of such a trace. Parameter counts are of whole models,
        so a trace that misses layers has none.
        """
        model, rows = self.model, slice(None) if tokens is None else tokens
        kept = list(range(len(model.layers)))
        if layers is not None:
            if missing := set(layers) - set(model.layers):
                raise InvalidTrace(f"{model.name} has no MoE layer {min(missing)}; it has {model.layers}.")
            kept = [kept for kept in kept if model.layers[kept] in set(layers)]
            layers, num_experts = (tuple(of_all[i] for i in kept) for of_all in (model.layers, model.num_experts))
            model = replace(model, parameters=None, layers=layers, num_experts=num_experts)
        weights, logits = (None if part is None else part[kept][:, rows] for part in (self.weights, self.logits))
        if logits is not None:
            logits = logits[..., : max(model.num_experts)]
        tokens_kept = self.tokens.iloc[rows].reset_index(drop=True)
        return RoutingTrace(model, tokens_kept, self.experts[kept][:, rows], weights, logits)

    @property
    def plot(self) -> Any:
        """Charts of this trace, one method a topic: `trace.plot.load()`."""
        return VIEWERS["plot"](self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(VIEWERS["html"](self))

    def equals(self, other: "RoutingTrace") -> bool:
        """True where every fact, token, id and the last bit of every number are the same."""
        return (
            self.model == other.model
            and self.tokens.equals(other.tokens)
            and all(_same(getattr(self, f), getattr(other, f)) for f in ARRAYS)
        )


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
    order = np.argsort(np.where(experts == NO_EXPERT, np.float32("inf"), key), axis=-1, kind="stable")
    experts = np.take_along_axis(experts, order, -1)
    if weights is None:
        return experts, None
    return experts, np.where(experts == NO_EXPERT, np.float32(0), np.take_along_axis(weights, order, -1))


def token_frame(
    sequence: np.ndarray,
    position: np.ndarray,
    text: list[str],
    token_id: np.ndarray | None = None,
    phase: list[str] | np.ndarray | None = None,
) -> pd.DataFrame:
    """The `tokens` of a `RoutingTrace`, in the dtypes it asks for."""
    columns = {
        "sequence": sequence,
        "position": position,
        "token_id": NO_TOKEN_ID if token_id is None else token_id,
        "text": pd.Series(text, dtype="str"),
        "phase": pd.Categorical(["prompt"] * len(text) if phase is None else phase, dtype=PHASES),
    }
    return pd.DataFrame(columns).astype({name: kind for name, kind in TOKEN_COLUMNS.items() if name != "phase"})


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _check_shapes(trace: RoutingTrace) -> None:
    L, T, K = trace.experts.shape
    model = trace.model
    facts = {"layers": len(model.layers), "expert counts": len(model.num_experts)}
    if model.parameters is not None:
        facts["expert sizes"] = len(model.parameters.per_expert)
    for what, count in facts.items():
        if count != L:
            raise InvalidTrace(f"The trace has {L} MoE layers of expert ids, but its model lists {count} {what}.")
    if L == 0 or len(set(model.layers)) != L or list(model.layers) != sorted(model.layers):
        raise InvalidTrace(f"The MoE layers of a trace are different and in order; got {model.layers}.")
    if len(trace.tokens) != T:
        raise InvalidTrace(f"The trace has routing for {T} tokens, but {len(trace.tokens)} rows of tokens.")
    if model.top_k != K:
        raise InvalidTrace(f"The trace has {K} slots a token, but its model says top_k is {model.top_k}.")
    widths = {"weights": (L, T, K), "logits": (L, T, max(model.num_experts))}
    for field, shape in widths.items():
        values = getattr(trace, field)
        if values is not None and values.shape != shape:
            raise InvalidTrace(f"The {field} have shape {values.shape}; they need {shape}.")


def _check_tokens(tokens: pd.DataFrame) -> None:
    for column, kind in TOKEN_COLUMNS.items():
        if column not in tokens:
            raise InvalidTrace(f"The tokens have no column {column!r}; they need {', '.join(TOKEN_COLUMNS)}.")
        if tokens[column].dtype != kind:
            raise InvalidTrace(f"Token column {column!r} is {tokens[column].dtype}; it needs to be {kind}.")
    if tokens.isna().to_numpy().any():
        raise InvalidTrace(
            "A token has no text, no phase or no label: an empty string is fine, a missing value is not."
        )
    if (tokens[["sequence", "position"]] < 0).to_numpy().any():
        raise InvalidTrace("Sequences and positions count from 0; a token has a negative one.")
    if tokens.duplicated(["sequence", "position"]).any():
        raise InvalidTrace("Two tokens stand at the same position of the same sequence.")


def _check_values(trace: RoutingTrace) -> None:
    counts = np.asarray(trace.model.num_experts)[:, None, None]
    outside = (trace.experts < NO_EXPERT) | (trace.experts >= counts)
    if outside.any():
        layer, token, _ = np.argwhere(outside)[0]
        raise InvalidTrace(
            f"Expert {trace.experts[outside][0]} at layer {trace.model.layers[layer]}, token {token}: that layer has "
            f"experts 0 to {trace.model.num_experts[layer] - 1}."
        )
    if trace.weights is not None:
        if not np.isfinite(trace.weights).all():
            raise InvalidTrace("The weights hold NaN or infinity; a router's weights are finite numbers.")
        filled = trace.experts != NO_EXPERT
        if (trace.weights[~filled] != 0).any():
            raise InvalidTrace("An empty slot has a weight; it must be 0.")
        if (filled[..., 1:] & ((np.diff(trace.weights) > 0) | ~filled[..., :-1])).any():
            raise InvalidTrace("The slots of a token are not in order of weight, highest first.")
    if trace.logits is not None and (np.isnan(trace.logits).any() or np.isposinf(trace.logits).any()):
        raise InvalidTrace("The logits hold NaN or +infinity; only -infinity (no such expert) is allowed.")
