"""How our own models route the evaluation set, and what each kind of text loses without each of the embedded one's.

Recorded once, so that the page of an expert needs no model; `models.training.reference` makes the files. The
texts are those of `texts_over_training`: sixty held-out ones, of fifteen kinds.
"""

from pathlib import Path

import pandas as pd

from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.formats.trace_file import from_trace_file
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
ROUTING = {EMBEDDED: HERE / "reference.npz", NATURAL: HERE / "natural.npz", FINE: HERE / "fine.npz"}
MUTED = HERE / "muted.csv"
DIGITS = 5  # of the nats in MUTED
KINDS = {"layer": "int32", "expert": "int16", "label": "str"}


def reference_routing(name: str = EMBEDDED) -> RoutingTrace:
    """The trace of one of our own models: labels, ids and weights. A sibling's own weights may not be here."""
    return from_trace_file(ROUTING[name].read_bytes())


def muted_experts() -> pd.DataFrame:
    """Losses of each kind of text with each expert muted; columns of `moeviz.capture.muting.muted_by_label`."""
    return pd.read_csv(MUTED, dtype=KINDS)
