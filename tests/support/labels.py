"""Labels for traces that have none."""

from dataclasses import replace

import numpy as np
import pandas as pd

from moeviz import RoutingTrace


def labelled(trace: RoutingTrace, labels: tuple[str, ...] = ("prose", "code", "sums")) -> RoutingTrace:
    """The trace with one label after the other, each for an equal stretch of tokens."""
    which = np.arange(len(trace.tokens)) * len(labels) // max(len(trace.tokens), 1)
    label = pd.Series(np.array(labels, object)[which], dtype="str")
    return replace(trace, tokens=trace.tokens.assign(label=label))
