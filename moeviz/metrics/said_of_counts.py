"""What counts without tokens come to, in two sentences: the busiest expert, and those that got nothing."""

import pandas as pd

from moeviz.metrics.words import one_row, percent


def said_of_counts(loads: pd.DataFrame) -> str:
    """The busiest expert of all layers, and how many experts no token reached. Columns: those of `expert_load`."""
    counted = loads[loads.groupby("layer")["tokens"].transform("sum") > 0]
    if counted.empty:
        return "No token was counted in any layer."
    row = one_row(counted, counted["times_even"].idxmax())
    share = f"{percent(row.load)} of the layer's assignments, {row.times_even:.1f}× a uniform share"
    says = f"The busiest is expert {row.expert} of layer {row.layer}, with {share}."
    return f"{says} {_of_unused(counted)}"


def _of_unused(counted: pd.DataFrame) -> str:
    unused = counted[counted["tokens"] == 0]
    if unused.empty:
        row = one_row(counted, counted["times_even"].idxmin())
        least = f"expert {row.expert} of layer {row.layer} has the least, {percent(row.load)}"
        return f"Every one of the {len(counted):,} experts got some tokens; {least}."
    number = unused.groupby("layer").size()
    if len(number) == 1:
        where = f"in layer {number.index[0]}"
    else:
        where = f"most of them in layer {number.idxmax()}: {number.max():,}"
    return f"Of {len(counted):,} experts, {len(unused):,} got no token, {where}."
