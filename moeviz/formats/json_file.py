"""JSON: the whole trace as text, for any language.

    {
      "format":  "moeviz trace v2",
      "model":   {"name": ..., "layers": [...], "num_experts": [...], "top_k": ...},       the fields of ModelInfo
      "tokens":  {"sequence": [...], "position": [...], "token_id": [...], "text": [...], "phase": [...]},    T each
      "experts": [[[expert, ...], ...], ...],        layers x tokens x slots, highest weight first, unless the model's
                                                     slot_order is "unknown"; -1 = empty slot, -2 = not recorded
      "weights": [[[weight, ...], ...], ...],        the same shape, or null for the whole of it
      "logits":  [[[logit, ...], ...], ...],         layers x tokens x experts, or null; one null = no such expert
      "next_tokens": {...}, "outputs": {...}         if the trace has them: as in a trace file, arrays in base64
      "images":  [{"width": ..., "height": ..., "sha256": ..., "note": ...}]       if the prompt had images
    }

Numbers have as many digits as float32 needs. It is strict JSON, without NaN and Infinity: a logit of -infinity is null.
"""

import json
from itertools import chain
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES, MAX_EXPERTS
from moeviz.formats.table_facts import short_floats
from moeviz.formats.trace_facts import check_size, facts_of, model_of, parse_json, tokens_as_json, tokens_of
from moeviz.formats.trace_file import optional_parts_as_json, optional_parts_of
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace

KEYS = {"format", "model", "tokens", "experts", "weights", "logits", "next_tokens", "outputs", "images"}
BYTES_A_VALUE = 32  # of memory, while a number, a text or a list is read


def to_json(trace: RoutingTrace) -> bytes:
    """Write a trace as JSON in UTF-8, one layer a line."""
    parts = {key: json.dumps(value) for key, value in facts_of(trace).items()}
    parts["tokens"] = json.dumps(tokens_as_json(trace.tokens), ensure_ascii=False)
    parts |= {name: json.dumps(part) for name, part in optional_parts_as_json(trace).items()}
    parts |= {name: _layers(getattr(trace, name)) for name in ("experts", "weights", "logits")}
    return ("{" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "}\n").encode()


def from_json(data: bytes, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from `to_json`. Raises `InvalidTrace` if the file holds anything else.

    `max_bytes` is the most that the file may have, and that its numbers, texts and lists may take while they are read.
    """
    check_size(data, max_bytes)
    _check_values(data, max_bytes)
    content = parse_json(data, "file")
    if unknown := content.keys() - KEYS:
        raise InvalidTrace(
            f"The file has an unknown key {min(unknown)[:60]!r}, which a trace in JSON does not have. Remove it, or "
            "save the trace again with `to_json`."
        )
    model, tokens = model_of(content), tokens_of(content.get("tokens"))
    slots = (len(model.layers), len(tokens), model.top_k)
    scores = (*slots[:2], max(model.num_experts))
    return RoutingTrace(
        model,
        tokens,
        _integers(_flat(content.get("experts"), "experts", slots)).reshape(slots),
        _optional(content.get("weights"), "weights", slots, (int, float)),
        _optional(content.get("logits"), "logits", scores, (int, float, type(None))),
        **optional_parts_of(content, slots),
    )


def _check_values(data: bytes, max_bytes: int) -> None:
    values, most = data.count(b",") + 1, max_bytes // BYTES_A_VALUE  # texts may have commas too: an upper bound
    if values > most:
        raise InvalidTrace(
            f"The JSON has up to {values:,} values, and at most {most:,} are read. Save fewer tokens or layers, or use "
            ".npz."
        )


def _layers(values: np.ndarray | None) -> str:
    if values is None:
        return "null"
    if values.dtype.kind == "f":
        values = short_floats(values)
    return "[" + ",\n".join(json.dumps(layer.tolist()).replace("-Infinity", "null") for layer in values) + "]"


def _flat(values: Any, name: str, shape: tuple[int, ...]) -> list[Any]:
    """Flatten nested lists of exactly that shape. No array is made before the lists prove as large as it."""
    parts = [values]
    for size, what in zip(shape, ("layers", "tokens", "numbers per token"), strict=True):
        if not all(isinstance(part, list) and len(part) == size for part in parts):
            raise InvalidTrace(
                f"The {name} are not lists of {size} {what}, as the model and tokens require. Save the trace again "
                "with `to_json`."
            )
        parts = list(chain.from_iterable(parts))
    return parts


def _integers(values: list[Any]) -> np.ndarray:
    if not all(type(value) is int and NOT_RECORDED <= value < MAX_EXPERTS for value in values):
        raise InvalidTrace(
            f"An expert id is not a whole number from {NOT_RECORDED} to {MAX_EXPERTS - 1}. Use ids in that range, -1 "
            "for an empty slot, and -2 where the source does not say."
        )
    return np.array(values, np.int16)


def _optional(values: Any, name: str, shape: tuple[int, ...], kinds: tuple[type, ...]) -> np.ndarray | None:
    if values is None:
        return None
    flat = _flat(values, name, shape)
    if not set(map(type, flat)) <= set(kinds):
        raise InvalidTrace(
            f"The {name} contain something that is not a number. Use numbers, or null as `to_json` does."
        )
    try:
        doubles = np.array([-np.inf if value is None else value for value in flat], np.float64)
    except OverflowError as error:
        raise InvalidTrace(
            f"The {name} contain a number too large for a float. Use numbers that float32 can hold."
        ) from error
    with np.errstate(over="ignore"):  # RoutingTrace refuses the infinity
        return doubles.astype(np.float32).reshape(shape)
