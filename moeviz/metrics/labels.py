"""The labels of a trace's tokens: what kind of text each one comes from."""

import numpy as np
import pandas as pd

from moeviz.errors import MissingField
from moeviz.routing_trace import RoutingTrace


def labels_of(trace: RoutingTrace, why: str) -> tuple[list[str], np.ndarray]:
    """The labels in the order in which they first appear, and for each token which of them it has.

    Raises `MissingField`, with a sentence that starts with `why`, if the trace has no labels.
    """
    if "label" not in trace.tokens:
        raise MissingField(
            f"{why} needs tokens with a label, and this trace has none. Record a labelled trace with `moeviz corpus`, "
            "or open the evaluation set on the app's Traces page."
        )
    codes, names = pd.factorize(trace.tokens["label"])
    return [str(name) for name in names], codes
