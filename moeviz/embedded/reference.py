"""How the embedded model routes the texts of its evaluation set, and what each kind of text loses without each expert.

Recorded once, so that the page of an expert needs no model; `moeviz.embedded.training.reference` makes the files. The
texts are those of `texts_over_training`: sixty held-out ones, of fifteen kinds.
"""

from pathlib import Path

import pandas as pd

from moeviz.formats.trace_file import from_trace_file
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
ROUTING = HERE / "reference.npz"
NATURAL_ROUTING = HERE / "natural.npz"
MUTED = HERE / "muted.csv"
DIGITS = 5  # of the nats in MUTED
KINDS = {"layer": "int32", "expert": "int16", "label": "str"}


def reference_routing() -> RoutingTrace:
    """The trace: labels, ids and weights."""
    return from_trace_file(ROUTING.read_bytes())


def natural_routing() -> RoutingTrace:
    """The same texts in the sibling `embedded-natural`, whose own weights lie elsewhere."""
    return from_trace_file(NATURAL_ROUTING.read_bytes())


def muted_experts() -> pd.DataFrame:
    """What muting each expert does to each kind of text; columns of `moeviz.capture.muting.muted_by_label`."""
    return pd.read_csv(MUTED, dtype=KINDS)
