"""Limits of files from anyone, whatever their format, and how a value from one is shown in a sentence."""

import reprlib
from typing import Any

from moeviz.errors import InvalidTrace
from moeviz.model_info import ModelInfo

MAX_BYTES = 2**30  # of a file, and of what it unpacks to, unless somebody sets another budget
MAX_EXPERTS = 2**15 - 1  # expert ids are int16
MAX_LAYERS = 2**12
MAX_ALL_EXPERTS = 2**16  # of all layers together; the largest model has 30,720
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxtuple, SHORT.maxdict = 3, 20, 20, 20
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 100


def check_experts(model: ModelInfo) -> None:
    """Raise `InvalidTrace` for more layers or experts than we read: what is made of a trace has numbers for each."""
    layers, experts = len(model.layers), max(model.num_experts)
    if layers > MAX_LAYERS:
        raise InvalidTrace(f"The model has {layers:,} layers, and at most {MAX_LAYERS:,} are read. Leave some out.")
    if layers * experts > MAX_ALL_EXPERTS:
        raise InvalidTrace(
            f"The model has {layers:,} layers of up to {experts:,} experts, {layers * experts:,} in all, and at most "
            f"{MAX_ALL_EXPERTS:,} are read. Leave some layers out, or number the experts from 0."
        )


def shown(value: Any) -> str:
    """Return a value of any origin, short enough for a sentence. Only as much of it is spelled out as is shown."""
    if isinstance(value, str):
        value = value[:60]
    text = SHORT.repr(value).replace("\n", " ")  # an array has lines
    return text if len(text) <= 60 else f"{text[:57]}..."
