"""The cells of a table: each value of a stranger's checked, and numbers written with no more digits than they need."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_EXPERTS, shown
from moeviz.formats.trace_facts import LABEL, MAX_INT32
from moeviz.routing_trace import NO_TOKEN_ID, PHASES

INTEGERS = {  # column: lowest, highest, and what an absent or empty cell means (None: it must be there)
    "sequence": (0, MAX_INT32, 0),
    "position": (0, MAX_INT32, None),
    "token_id": (NO_TOKEN_ID, MAX_INT32, NO_TOKEN_ID),
    "layer": (0, MAX_INT32, None),
    "slot": (0, MAX_INT32, None),
    "expert": (0, MAX_EXPERTS - 1, None),
}
TEXTS = {"phase": "prompt", "token": "", LABEL: ""}
NUMBERS = ("weight", "logit", "probability")


def checked_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that we know: integers as int64, texts as str, weight as float32 (NaN in every row where unknown).

    What is absent and has a default gets it. Raises `InvalidTrace` with the row, the first being 1, and the value.
    """
    columns: dict[str, pd.Series] = {}
    for name, (low, high, default) in INTEGERS.items():
        if name in table:
            columns[name] = _whole(table[name], low, high, default)
        elif default is not None:
            columns[name] = pd.Series(default, index=table.index, dtype=np.int64)
    for name, text in TEXTS.items():
        if name in table:
            columns[name] = table[name].astype("str").fillna(text)
        elif name != LABEL:
            columns[name] = pd.Series(text, index=table.index, dtype="str")
    wrong = ~columns["phase"].isin(PHASES.categories)
    refuse_rows(columns["phase"], wrong, f"be {' or '.join(PHASES.categories)}")
    weights = _weights(table["weight"]) if "weight" in table else np.full(len(table), np.nan)
    return pd.DataFrame(columns, index=table.index).assign(weight=weights)


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
    """A column as numbers (NaN where a cell is none), and where its cells are empty."""
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
    good = (numbers >= low) & (numbers <= high) & (numbers % 1 == 0)
    refuse_rows(column, ~good, f"be a whole number from {low} to {high}")
    return numbers.astype(np.int64)


def _weights(column: pd.Series) -> np.ndarray:
    """Weights to the last bit: pandas finds the cells that are no numbers, Python reads those that are."""
    numbers, empty = _numbers(column)
    if empty.all():
        return np.full(len(column), np.nan, np.float32)
    with np.errstate(over="ignore"):
        good = np.isfinite(numbers.to_numpy(np.float64).astype(np.float32))
    refuse_rows(column, ~good, "be a finite number, or empty in every row")
    return column.to_numpy(dtype=object).astype(np.float64).astype(np.float32)


def short_floats(values: Float32[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    """Return doubles that print with the fewest digits that still round to the same float32.

    >>> short_floats(np.float32([0.3])).tolist(), np.float32([0.3]).tolist()
    ([0.3], [0.30000001192092896])
    """
    short = values.astype("U32").astype(np.float64)
    # Decimal to double to float32 rounds twice; where that goes astray, all digits it is.
    return np.where(short.astype(np.float32) == values, short, values.astype(np.float64))
