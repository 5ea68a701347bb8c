"""Which known kind of text a trace is routed like, judged by a labelled trace of the same model."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.metrics.divergence import divergences
from moeviz.metrics.load import expert_load
from moeviz.metrics.specialization import load_by_label
from moeviz.routing_trace import Counted


def label_likeness(trace: Counted, reference: Counted) -> pd.DataFrame:
    """How close a trace's use of experts is to that of each kind of text in a labelled trace, closest first.

    The Jensen-Shannon divergence in bits between the loads of the trace and the loads of a label, averaged over layers:
    0 if both use every expert alike, 1 if they have none in common. A short text uses few experts by luck, so it is at
    some distance from every label; the order says more than the numbers.

    One row per label, closest first; the mean is over the layers that are recorded in both. Columns: label str ·
    divergence float64 (bits). Raises `MissingField` if the reference has no labels, and `InvalidTrace` if the two do
    not have the same layers and numbers of experts.

    Source: Lin (1991), section IV, with the logarithm to base 2; loads as in OLMoE (arXiv 2409.02060), section 5.
    """
    for fact in ("layers", "num_experts"):
        here, there = getattr(trace.model, fact), getattr(reference.model, fact)
        if here != there:
            raise InvalidTrace(
                f"Only traces of one model can be compared, and {fact} is {here} here and {there} in the labelled "
                "trace. Use a labelled trace of the same model."
            )
    loads, labelled = expert_load(trace), load_by_label(reference)
    names, apart = labelled["label"].unique(), []
    for layer, shares in labelled[labelled["layer"].isin(loads["layer"])].groupby("layer", sort=False):
        table = shares.pivot(index="label", columns="expert", values="share").reindex(names)
        rows = np.vstack([table, loads.loc[loads["layer"] == layer, "load"]])
        apart.append(divergences(rows, np.arange(len(names)), np.full(len(names), len(names))))
    mean = pd.DataFrame({"label": names, "divergence": pd.DataFrame(apart).mean().to_numpy()})
    return mean.sort_values("divergence", kind="stable", ignore_index=True)
