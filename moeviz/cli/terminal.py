"""What a terminal is given to show: no text from anywhere can move its cursor or break its lines."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROWS = 10_000  # of a table that become text at a time: text takes ten times the memory of numbers


def frame_text(frame: "pd.DataFrame") -> str:
    """A frame for a terminal, all of it. A token cannot move the cursor, or break the line."""
    texts = [name for name, column in frame.items() if column.dtype.kind == "O"]
    return frame.assign(**{name: frame[name].astype("str").map(visible_line) for name in texts}).to_string(index=False)


def frame_texts(frame: "pd.DataFrame") -> Iterator[str]:
    """The same for a frame that may be long: every so many rows begin again with the names of the columns."""
    for start in range(0, max(len(frame), 1), ROWS):
        yield frame_text(frame.iloc[start : start + ROWS])


def print_tables(tables: dict[str, "pd.DataFrame"]) -> None:
    """Tables as one JSON object on one line: for each name, its rows."""
    from json import dumps

    for number, (name, frame) in enumerate(tables.items()):
        sys.stdout.write(f"{', ' if number else '{'}{dumps(name)}: [")
        for start in range(0, len(frame), ROWS):
            rows = frame.iloc[start : start + ROWS].to_json(orient="records", double_precision=15)  # NaN is null
            sys.stdout.write((", " if start else "") + rows[1:-1])
        sys.stdout.write("]")
    sys.stdout.write("}\n" if tables else "{}\n")


def visible_line(text: str) -> str:
    """A text from anywhere on one line of a terminal, with its control characters spelled out."""
    from moeviz.metrics.tokens import visible

    return visible(text)
