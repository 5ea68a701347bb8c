"""Tables of anyone's: each value checked, numbers with no more digits than they need, and in JSON what rows cannot say.

| key | meaning |
|---|---|
| format, model | as in every trace file |
| rows | their number in the table |
| weights | whether they are known |
| idle_tokens | the tokens without a row: columns as in JSON |
| token_order | the place of each token among all tokens by sequence and position, as runs |
| images | of a prompt with images: width, height, sha256 and note of each |
| not_recorded | for each layer in which some tokens are not recorded, by its index: those tokens, as runs |

Runs are a short way to list which tokens of a long trace are meant: `[[0, 3], [7, 1]]` is 0, 1, 2, 7. Each run has its
first number and its length.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_EXPERTS, shown
from moeviz.formats.trace_facts import MAX_INT32, facts_of, tokens_as_json, tokens_of
from moeviz.image_tokens import BOX, IMAGE_COLUMNS, LARGEST_SIDE, MOST_IMAGES, NO_IMAGE, TEXT, images_as_json
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, OPTIONAL_COLUMNS, PHASES, RoutingTrace

PLAIN = "Remove the facts to open it as a plain table."


def facts_beside_table(trace: RoutingTrace) -> dict[str, Any]:
    """Return the facts of a trace for its table, ready for JSON."""
    filled, layers = trace.filled, zip(trace.model.layers, trace.recorded, strict=True)
    missing = {str(layer): runs_of(np.flatnonzero(~recorded)) for layer, recorded in layers if not recorded.all()}
    return {
        **facts_of(trace),
        "rows": int(filled.sum()),
        "weights": trace.weights is not None,
        "idle_tokens": tokens_as_json(trace.tokens.iloc[np.flatnonzero(~filled.any(axis=(0, 2)))]),
        "token_order": runs_of(np.argsort(_by_place(trace.tokens))),
        "not_recorded": missing,
        **({"images": images_as_json(trace.images)} if trace.images else {}),
    }


def all_tokens(token: np.ndarray, tokens: pd.DataFrame, facts: dict[str, Any]) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the tokens of the rows and those without a row, in the order of the trace; and the token of each row.

    `tokens` stand in order of first appearance, which cannot be trusted: a table may have been sorted.
    """
    without = tokens_of(facts.get("idle_tokens"))
    if len(tokens) and len(without) and list(tokens.columns) != list(without.columns):
        raise InvalidTrace(
            "The tokens of the rows and those of the facts differ: only one of the two has labels, or images, or "
            f"segments. {PLAIN}"
        )
    both = pd.concat([part for part in (tokens, without) if len(part)] or [without], ignore_index=True)
    order = _stated_order(both, facts.get("token_order"))
    place = np.argsort(order)
    return place[token], both.iloc[order].reset_index(drop=True)


def mark_not_recorded(experts: np.ndarray, model: ModelInfo, facts: dict[str, Any]) -> None:
    """Write NOT_RECORDED into the slots of which the facts say so."""
    missing, layers = facts.get("not_recorded"), {str(layer): row for row, layer in enumerate(model.layers)}
    if not isinstance(missing, dict) or not missing.keys() <= layers.keys():
        raise InvalidTrace(
            f"The facts say {shown(missing)} for not_recorded; it must give tokens by layer, one of "
            f"{shown(model.layers)}. {PLAIN}"
        )
    for layer, runs in missing.items():
        tokens = numbers_of(runs, experts.shape[1], f"the tokens that layer {layer} did not record")
        if (experts[layers[layer], tokens] >= 0).any():
            raise InvalidTrace(
                f"The facts say of layer {layer} that some tokens are not recorded, and the table has rows of them. "
                f"{PLAIN}"
            )
        experts[layers[layer], tokens] = NOT_RECORDED


def _by_place(tokens: pd.DataFrame) -> np.ndarray:
    order: np.ndarray = np.lexsort((tokens["position"], tokens["sequence"]))
    return order


def _stated_order(tokens: pd.DataFrame, runs: Any) -> np.ndarray:
    ranks = numbers_of(runs, len(tokens), "the order of the tokens")
    if len(ranks) != len(tokens):
        raise InvalidTrace(
            f"The facts give the order of {len(ranks):,} tokens, and the table has {len(tokens):,}. {PLAIN}"
        )
    order: np.ndarray = _by_place(tokens)[ranks]
    return order


def runs_of(numbers: np.ndarray) -> list[list[int]]:
    """Numbers in any order as runs.

    >>> runs_of(np.array([4, 5, 6, 0, 1])), runs_of(np.array([], int))
    ([[4, 3], [0, 2]], [])
    """
    starts = np.flatnonzero(np.append(True, np.diff(numbers) != 1))[: len(numbers)]
    lengths = np.diff(np.append(starts, len(numbers)))
    return [list(run) for run in zip(numbers[starts].tolist(), lengths.tolist(), strict=True)]


def numbers_of(runs: Any, count: int, what: str) -> np.ndarray:
    """Return the numbers from `runs_of`, if they are different ones below `count`. Raises `InvalidTrace`.

    Nothing is made before the runs prove to hold no more than `count` numbers.
    """
    if not isinstance(runs, list) or not all(_is_run(run, count) for run in runs) or sum(n for _, n in runs) > count:
        raise _wrong(runs, count, what)
    numbers = np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + n) for first, n in runs)])
    if len(np.unique(numbers)) != len(numbers):
        raise _wrong(runs, count, what)
    return numbers


def _is_run(run: Any, count: int) -> bool:
    whole = isinstance(run, list) and len(run) == 2 and all(type(number) is int for number in run)
    return whole and run[0] >= 0 and run[1] >= 1 and run[0] + run[1] <= count


def _wrong(runs: Any, count: int, what: str) -> InvalidTrace:
    return InvalidTrace(
        f"The facts give {shown(runs)} as {what}, which does not fit {count:,} tokens: each run is its first token and "
        "how many follow, and no token comes twice. Remove the facts to open it as a plain table."
    )


INTEGERS = {  # column: lowest, highest, and what an absent or empty cell means (None: it must be there)
    "sequence": (0, MAX_INT32, 0),
    "position": (0, MAX_INT32, None),
    "token_id": (NO_TOKEN_ID, MAX_INT32, NO_TOKEN_ID),
    "layer": (0, MAX_INT32, None),
    "slot": (0, MAX_INT32, None),
    "expert": (0, MAX_EXPERTS - 1, None),
    "image": (NO_IMAGE, MOST_IMAGES - 1, NO_IMAGE),
}
TEXTS = {"phase": "prompt", "token": "", **dict.fromkeys(OPTIONAL_COLUMNS, ""), "kind": TEXT, "view": ""}
OPTIONAL = (*OPTIONAL_COLUMNS, *IMAGE_COLUMNS)  # columns that a trace has or not
NUMBERS = ("weight", "logit", "probability", *BOX)


def checked_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the known columns: integers as int64, texts as str, weight as float32 (NaN in every row if unknown).

    A missing column gets its default if there is one. Raises `InvalidTrace` with the row, the first being 1, and the
    value.
    """
    columns: dict[str, pd.Series] = {}
    for name, (low, high, default) in INTEGERS.items():
        if name in table:
            columns[name] = _whole(table[name], low, high, default)
        elif default is not None and name not in OPTIONAL:
            columns[name] = pd.Series(default, index=table.index, dtype=np.int64)
    for name, text in TEXTS.items():
        if name in table:
            columns[name] = table[name].astype("str").fillna(text)
        elif name not in OPTIONAL:
            columns[name] = pd.Series(text, index=table.index, dtype="str")
    wrong = ~columns["phase"].isin(PHASES.categories)
    refuse_rows(columns["phase"], wrong, f"be {' or '.join(PHASES.categories)}")
    for name in (name for name in BOX if name in table):
        columns[name] = _box(table[name])
    weights = _weights(table["weight"]) if "weight" in table else np.full(len(table), np.nan)
    return pd.DataFrame(columns, index=table.index).assign(weight=weights)


def check_names(names: list[str]) -> None:
    """Raise `InvalidTrace` if two columns have the same name."""
    if len(set(names)) != len(names):
        raise InvalidTrace(f"Several columns of the table have the same name: {shown(names)}. Rename or remove them.")


def refuse_rows(column: pd.Series, wrong: Any, need: str) -> None:
    """Raise `InvalidTrace` about the first row where `wrong` is true."""
    wrong = np.asarray(wrong, bool)
    if wrong.any():
        row = int(wrong.argmax())
        value = column.iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        got = "empty" if value is None or value != value else shown(value)
        raise InvalidTrace(f"Row {row + 1} of the table: {column.name} is {got}; it must {need}.")


def _numbers(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return a column as numbers (NaN if a cell is not a number), and a mask of its empty cells."""
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        raise InvalidTrace(f"Column {column.name!r} is of type {column.dtype}; it must hold numbers.")
    if pd.api.types.is_numeric_dtype(column):
        return column, column.isna()
    numbers = pd.to_numeric(column.to_numpy(dtype=object), errors="coerce")
    return pd.Series(numbers, index=column.index, name=column.name), column.isna() | (column == "")


def _whole(column: pd.Series, low: int, high: int, default: int | None) -> pd.Series:
    numbers, empty = _numbers(column)
    if default is not None:
        numbers = numbers.where(~empty, default)
    with np.errstate(over="ignore", invalid="ignore"):
        good = (numbers >= low) & (numbers <= high) & (numbers % 1 == 0)
    refuse_rows(column, ~good, f"be a whole number from {low} to {high}")
    return numbers.astype(np.int64)


def _weights(column: pd.Series) -> np.ndarray:
    """Parse weights to the last bit: pandas finds the cells that are not numbers, Python reads the others."""
    numbers, empty = _numbers(column)
    if empty.all():
        return np.full(len(column), np.nan, np.float32)
    with np.errstate(over="ignore"):
        good = np.isfinite(numbers.to_numpy(np.float64).astype(np.float32))
    refuse_rows(column, ~good, "be a finite number, or empty in every row")
    return column.to_numpy(dtype=object).astype(np.float64).astype(np.float32)


def _box(column: pd.Series) -> pd.Series:
    """Return one side of boxes as float32; NaN if a cell is empty."""
    numbers, empty = _numbers(column)
    values = numbers.to_numpy(np.float64)
    refuse_rows(column, ~(empty.to_numpy(bool) | ((values >= 0) & (values <= LARGEST_SIDE))), "be pixels, or empty")
    return pd.Series(values, index=column.index, dtype=np.float32)


def short_floats(values: Float32[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    """Return doubles that print with the fewest digits that still round to the same float32.

    >>> short_floats(np.float32([0.3])).tolist(), np.float32([0.3]).tolist()
    ([0.3], [0.30000001192092896])
    """
    short = values.astype("U32").astype(np.float64)
    # Decimal to double to float32 rounds twice; where that goes astray, all digits it is.
    return np.where(short.astype(np.float32) == values, short, values.astype(np.float64))
