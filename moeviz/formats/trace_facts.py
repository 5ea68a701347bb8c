"""The JSON in every trace file: its format, the facts about the model, and the tokens. Strict on the way in.

A file comes from anyone. Whatever its JSON holds, reading it gives the facts or one `InvalidTrace`.

Every reader has a budget of bytes, `max_bytes`: of the file, and of what it unpacks to. What Python makes of a part of
a file can take more than that part: so JSON facts may have a 16th of the budget, and other limits are shares of it too
(`assignments_table`, `json_file`). A limit is looked at before anything of that size is made.
"""

import json
import re
from dataclasses import MISSING, asdict, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES, MAX_EXPERTS, check_experts, shown
from moeviz.image_tokens import BOX, IMAGE_COLUMNS, LARGEST_SIDE, MOST_IMAGES, NO_IMAGE
from moeviz.model_info import ModelInfo, ParameterCounts
from moeviz.routing_trace import OPTIONAL_COLUMNS, PHASES, TOKEN_COLUMNS, RoutingTrace, token_frame
from moeviz.text import is_text

FORMAT_VERSION = 2
FORMAT = f"moeviz trace v{FORMAT_VERSION}"
FACTS_SHARE = 16  # of the budget, a 16th for the JSON in a packed file: Python needs some ten times its bytes
MAX_TEXT = 4096  # characters of a model's name: the longest path
MAX_INT32 = 2**31 - 1
TOKEN_INTEGERS = {"sequence": (0, MAX_INT32), "position": (0, MAX_INT32), "token_id": (-1, MAX_INT32)}
OPTIONAL_INTEGERS = {"image": (NO_IMAGE, MOST_IMAGES - 1)}


def facts_of(trace: RoutingTrace) -> dict[str, Any]:
    """Return the format and the model's facts, ready for JSON. Raises `InvalidTrace` for what no reader accepts."""
    facts = {"format": FORMAT, "model": asdict(trace.model)}
    model_of(parse_json(json.dumps(facts).encode(), "header"))
    return facts


def model_of(facts: dict[str, Any]) -> ModelInfo:
    """Return the model's facts, checked one by one. Raises `InvalidTrace`."""
    _check_format(facts.get("format"))
    model = dict(_object(facts.get("model"), "model"))
    if model.get("parameters") is not None:
        model["parameters"] = _build(ParameterCounts, _object(model["parameters"], "parameters"), "parameters")
    info: ModelInfo = _build(ModelInfo, model, "model")
    limits = {
        "layers": (info.layers, 0, MAX_INT32),
        "num_experts": (info.num_experts, 1, MAX_EXPERTS),
        "top_k": ((info.top_k,), 1, MAX_EXPERTS),
    }
    for name, (values, low, high) in limits.items():
        if not values or not all(low <= value <= high for value in values):
            raise InvalidTrace(f"The model's {name} are {shown(values)}; they must be from {low} to {high}.")
    check_experts(info)
    return info


def tokens_as_json(tokens: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the tokens as one list per column. Raises `InvalidTrace` for a column that trace files cannot hold."""
    if unknown := set(tokens.columns) - {*TOKEN_COLUMNS, *OPTIONAL_COLUMNS, *IMAGE_COLUMNS}:
        raise InvalidTrace(
            f"Trace files cannot hold the token column {min(unknown, key=str)!r}. Remove it before you save the trace."
        )
    columns = {name: tokens[name].tolist() for name in TOKEN_COLUMNS}
    columns |= {name: tokens[name].astype("str").tolist() for name in OPTIONAL_COLUMNS if name in tokens}
    for name in (name for name in IMAGE_COLUMNS if name in tokens):
        values = tokens[name].tolist()
        columns[name] = [None if value != value else value for value in values] if name in BOX else values
    return columns


def tokens_of(columns: Any) -> pd.DataFrame:
    """Return the tokens of a `RoutingTrace` from `tokens_as_json`. Raises `InvalidTrace`."""
    columns = _object(columns, "tokens")
    if missing := TOKEN_COLUMNS.keys() - columns.keys():
        raise InvalidTrace(f"The tokens have no {min(missing)!r}; they need {', '.join(TOKEN_COLUMNS)}.")
    if unknown := columns.keys() - {*TOKEN_COLUMNS, *OPTIONAL_COLUMNS, *IMAGE_COLUMNS}:
        raise InvalidTrace(
            f"The tokens have an unknown column {shown(min(unknown))}. Remove it, or save the trace again."
        )
    count = len(columns["text"]) if isinstance(columns["text"], list) else None
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != count:
            raise InvalidTrace(
                f"The tokens' {name!r} is not a list of the same length as the others. Save the trace again."
            )
        if not _are_token_facts(name, values):
            row, value = next((row, value) for row, value in enumerate(values) if not _are_token_facts(name, [value]))
            raise InvalidTrace(
                f"Token {row} has the {name} {shown(value)}, which is not possible for a token. Save the trace again."
            )
    integers = {name: np.asarray(columns[name], np.int32) for name in TOKEN_INTEGERS}
    tokens = token_frame(text=columns["text"], phase=columns["phase"], **integers)
    for name in (name for name in OPTIONAL_COLUMNS if name in columns):
        tokens[name] = pd.Series(columns[name], dtype="str")
    for name in (name for name in IMAGE_COLUMNS if name in columns):
        tokens[name] = pd.Series(columns[name], dtype=IMAGE_COLUMNS[name])
    return tokens


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object from bytes of any origin. Raises `InvalidTrace`."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidTrace(f"The {what} is not valid JSON: {str(error)[:200]}. Save the trace again.") from error
    return _object(value, what)


def check_size(data: bytes, max_bytes: int = MAX_BYTES) -> None:
    """Raise `InvalidTrace` for more bytes than we read."""
    if len(data) > max_bytes:
        raise InvalidTrace(
            f"The file has {len(data):,} bytes, and files of up to {max_bytes:,} bytes are read. Save fewer tokens or "
            "layers."
        )


def check_facts_size(size: int, what: str, max_bytes: int) -> None:
    """Raise `InvalidTrace` if the JSON facts take more bytes than their share of the budget."""
    if size > (most := max_bytes // FACTS_SHARE):
        raise InvalidTrace(
            f"The file's {what} has {size:,} bytes of JSON, and at most {most:,} are read. Save fewer tokens."
        )


def _check_format(found: Any) -> None:
    if found == FORMAT:
        return
    version = re.fullmatch(r"moeviz trace v(\d{1,9})", found) if isinstance(found, str) else None
    newer = version is not None and int(version[1]) > FORMAT_VERSION
    what = "Update moeviz to open it." if newer else "Record the trace again: moeviz trace PROMPT --output FILE."
    raise InvalidTrace(f"The file's format is {shown(found)}, and this moeviz reads {FORMAT!r}. {what}")


def _are_token_facts(name: str, values: list[Any]) -> bool:
    """Check a whole column at once: one by one, the tokens of a large file would take minutes."""
    kinds = set(map(type, values))
    if name in BOX:
        return kinds <= {int, float, type(None)} and all(
            value is None or 0 <= value <= LARGEST_SIDE for value in values
        )
    if name in (whole := TOKEN_INTEGERS | OPTIONAL_INTEGERS):
        low, high = whole[name]
        return kinds <= {int} and low <= min(values, default=low) and max(values, default=high) <= high
    if not kinds <= {str}:
        return False
    return set(values) <= set(PHASES.categories) if name == "phase" else is_text("".join(values))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidTrace(f"The {what} of a trace file must be a JSON object; this file has {shown(value)}.")
    return value


def _build(kind: type, facts: dict[str, Any], what: str) -> Any:
    hints = get_type_hints(kind)
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if missing := required - facts.keys():
        raise InvalidTrace(f"The file does not give the {what}'s {min(missing)!r}. Save the trace again.")
    if unknown := facts.keys() - hints.keys():
        raise InvalidTrace(
            f"The file gives an unknown fact about the {what}: {shown(min(unknown))}. Remove it, or update moeviz."
        )
    for name, value in facts.items():
        if not _fits(value, hints[name]):
            wanted = getattr(hints[name], "__name__", "") if hints[name] in (str, int) else hints[name]
            raise InvalidTrace(f"The {what}'s {name} is {shown(value)}; it must be of type {wanted}.")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})


def _fits(value: Any, kind: Any) -> bool:
    if kind is str:
        return is_text(value) and len(value) <= MAX_TEXT
    if kind is int:  # a bool is an int to Python, and not to us
        return type(value) is int and 0 <= value < 2**63
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is UnionType or isinstance(kind, UnionType):
        return any(_fits(value, choice) for choice in get_args(kind))
    return value is None if kind is NoneType else isinstance(value, kind)
