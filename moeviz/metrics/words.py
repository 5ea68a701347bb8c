"""How sentences say numbers, names and tokens. Of strangers' text they quote what is there: for text nodes only."""

import re
from typing import Any

import pandas as pd

from moeviz.metrics.tokens import visible
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

LONGEST_QUOTE = 24  # characters


def layer_word(model: ModelInfo) -> str:
    """What one step of axis L is called: layer, time step, iteration … A file may say anything, so it is looked at."""
    return model.layer_kind if re.fullmatch(r"[a-z ]{1,20}", model.layer_kind) else "layer"


def percent(share: float) -> str:
    """A share in per cent, rounded, but never to all or nothing.

    >>> percent(0.841), percent(1.0), percent(0.9999), percent(0.001)
    ('84 %', '100 %', 'over 99 %', 'under 1 %')
    """
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def quoted(trace: RoutingTrace, token: int) -> str:
    """The text of a token between quotation marks, without the space before a word."""
    return f"“{short(str(trace.tokens['text'].iat[token]).strip(' ') or ' ')}”"


def short(name: object) -> str:
    """A stranger's name, its characters made visible, no longer than a quoted token."""
    shown = visible(str(name))
    return shown if len(shown) <= LONGEST_QUOTE else shown[: LONGEST_QUOTE - 1] + "…"


def one_row(frame: pd.DataFrame, at: Any) -> Any:
    """A row of a frame to read fields of, whole numbers as whole numbers."""
    (row,) = frame.loc[[at]].itertuples(index=False)
    return row
