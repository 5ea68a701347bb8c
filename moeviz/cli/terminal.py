"""What a terminal is given to show: no text from anywhere can move its cursor or break its lines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def frame_text(frame: "pd.DataFrame") -> str:
    """A frame for a terminal, all of it. A token cannot move the cursor, or break the line."""
    texts = [name for name, column in frame.items() if column.dtype.kind == "O"]
    return frame.assign(**{name: frame[name].astype("str").map(visible_line) for name in texts}).to_string(index=False)


def visible_line(text: str) -> str:
    """A text from anywhere on one line of a terminal, with its control characters spelled out."""
    from moeviz.metrics.tokens import visible

    return visible(text)
