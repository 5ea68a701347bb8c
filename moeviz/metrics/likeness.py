"""Which known kind of text a trace is routed like: its experts beside those of a labelled trace of the same model."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.metrics.load import expert_load
from moeviz.metrics.specialization import load_by_label
from moeviz.routing_trace import RoutingTrace


def label_likeness(trace: RoutingTrace, reference: RoutingTrace) -> pd.DataFrame:
    """How near a trace's use of experts is to that of each kind of text in a labelled trace, nearest first.

    The Jensen-Shannon divergence in bits between the loads of the trace and the loads of a label, mean over layers: 0
    where both use every expert alike, 1 where they share none. A short text uses few experts by luck, so it is some way
    from every label; the order says more than the number.

    One row per label, nearest first. Columns: label str · divergence float64 (bits). Raises `MissingField` where the
    reference has no labels, and `InvalidTrace` where the two are not of the same layers and numbers of experts.

    Source: Lin (1991), section IV, with the logarithm to base 2; loads as in OLMoE (arXiv 2409.02060), section 5.
    """
    for fact in ("layers", "num_experts"):
        here, there = getattr(trace.model, fact), getattr(reference.model, fact)
        if here != there:
            raise InvalidTrace(f"Likeness compares traces of one model; {fact} is {here} here and {there} there.")
    labelled = load_by_label(reference).merge(expert_load(trace)[["layer", "expert", "load"]], on=["layer", "expert"])
    middle = (labelled["share"] + labelled["load"]) / 2
    parts = [_bits(labelled[column], middle) for column in ("share", "load")]
    by_layer = labelled.assign(divergence=(parts[0] + parts[1]) / 2).groupby(["label", "layer"], sort=False)
    mean = by_layer["divergence"].sum().groupby("label", sort=False).mean()
    return mean.clip(lower=0).sort_values(kind="stable").reset_index()


def _bits(share: pd.Series, middle: pd.Series) -> pd.Series:
    """Each expert's part of the divergence of `share` from `middle`."""
    used = np.where(share > 0, share, 1)
    return share * np.log2(used / np.where(share > 0, middle, 1))
