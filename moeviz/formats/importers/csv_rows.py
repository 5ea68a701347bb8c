"""Tables of numbers as text, from anyone: parsed at once, and each number checked."""

from io import BytesIO

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.source import BYTES_A_VALUE, Source
from moeviz.names import quoted


def table_of(data: bytes, source: Source) -> pd.DataFrame:
    """A CSV with a header, every cell as text. A last line that was cut is left out. Raises `InvalidTrace`."""
    end = data.rfind(b"\n") + 1
    whole = data[:end] or data
    if (cells := whole.count(b",") + whole.count(b"\n")) > (most := source.max_bytes // BYTES_A_VALUE):
        raise InvalidTrace(f"{quoted(source.name)} has {cells:,} cells, and at most {most:,} are read. Split it.")
    try:
        return pd.read_csv(BytesIO(whole), dtype="str", keep_default_na=False, encoding="utf-8", on_bad_lines="error")
    except (ValueError, pd.errors.ParserError) as error:
        raise InvalidTrace(
            f"{quoted(source.name)} is no CSV table in UTF-8: {' '.join(str(error).split())[:100]!r}."
        ) from error


def integers(table: pd.DataFrame, *names: str) -> list[np.ndarray]:
    """Columns of whole numbers. Raises `InvalidTrace` with the row and what stands there."""
    columns = []
    for name in names:
        if name not in table or not len(table):
            raise InvalidTrace(f"The table has no rows, or no column {name!r}: {shown(list(table.columns))}.")
        cells = table[name].astype("str").str.strip()
        wrong = ~cells.str.fullmatch(r"-?\d{1,15}").to_numpy(bool)
        if wrong.any():
            row = int(wrong.argmax())
            raise InvalidTrace(
                f"Row {row + 1} of the table has {shown(cells.iloc[row])} as {name}; it must be a whole number."
            )
        columns.append(cells.astype(np.int64).to_numpy())
    return columns
