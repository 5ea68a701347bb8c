"""A made-up trace of a prompt with images, for what reads traces and runs no model."""

from dataclasses import replace

import numpy as np
import pandas as pd

from moeviz.image_tokens import IMAGE_COLUMNS, TraceImage
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

ROWS, COLUMNS, SIDE = 3, 4, 10  # patches of the first image, and pixels of each


def image_trace(note: str = "", layers: int = 4) -> RoutingTrace:
    """A mark, 12 patches and a mark; a word; another image of one token without a box; and words."""
    trace = sample_trace(layers=layers, tokens=24)
    count = ROWS * COLUMNS
    kind = ["mark", *["image"] * count, "mark", "text", "image", *["text"] * 8]
    number = [*[0] * (count + 2), -1, 1, *[-1] * 8]
    view = ["", *["whole"] * count, "", "", "", *[""] * 8]
    box = np.full((24, 4), np.nan, np.float32)
    for place in range(count):
        x, y = place % COLUMNS * SIDE, place // COLUMNS * SIDE
        box[1 + place] = x, y, x + SIDE, y + SIDE
    columns = {"kind": kind, "image": number, "view": view, **dict(zip(("x0", "y0", "x1", "y1"), box.T, strict=True))}
    frame = pd.DataFrame(columns).astype(IMAGE_COLUMNS)
    images = TraceImage(COLUMNS * SIDE, ROWS * SIDE, "0" * 64, note), TraceImage(8, 8, "1" * 64)
    return replace(trace, tokens=pd.concat([trace.tokens, frame], axis=1), images=images)
