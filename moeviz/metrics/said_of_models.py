"""One sentence on a chart of parameters, coverage or placement: what stands out, or None."""

from math import sqrt

import pandas as pd

from moeviz.metrics.placement import BALANCED, CONTIGUOUS, HELD_OUT
from moeviz.metrics.words import one_row, percent
from moeviz.parameters import CONVENTIONS

HALF, HALF_MORE, A_FIFTH_MORE = 0.5, 1.5, 1.2
STANDARD_ERRORS = 4


def said_of_parts(frame: pd.DataFrame) -> str | None:
    """The share of the routed experts in all parameters, and of one token in those, if they are half or more."""
    every = frame[frame["convention"] == CONVENTIONS[0]]
    routed, total = every[every["part"] == "routed_experts"], every["parameters"].sum()
    if len(routed) != 1 or routed["parameters"].iloc[0] < HALF * total:
        return None
    row = one_row(routed, routed.index[0])
    through = percent(row.active / row.parameters)
    share = percent(row.parameters / total)
    return f"Routed experts are {share} of all parameters; one token runs through {through} of them."


def said_of_active(frame: pd.DataFrame) -> str | None:
    """What share of the parameters one token runs through, if it is half or less."""
    every = frame[frame["convention"] == CONVENTIONS[0]]
    active, total = int(every["active"].sum()), int(every["parameters"].sum())
    if not total or active > HALF * total:
        return None
    return f"One token runs through {percent(active / total)} of all parameters: {active:,} of {total:,}."


def said_of_touched(frame: pd.DataFrame) -> str | None:
    """What the whole text has touched, if it is a fifth more than one token runs through."""
    if frame.empty or frame["touched"].iloc[-1] < A_FIFTH_MORE * frame["active"].iloc[-1]:
        return None
    row = one_row(frame, frame.index[-1])
    touched, active = percent(row.touched / row.total), percent(row.active / row.total)
    return f"Together the {row.tokens:,} tokens run through {touched} of all parameters, one token through {active}."


def said_of_needed(frame: pd.DataFrame) -> str | None:
    """The layer where the fewest experts do half of the work, if random ones need half more, and two."""
    half = frame[(frame["level"] == HALF) & (frame["needed"] > 0)]
    clear = half[(half["by_lot"] >= HALF_MORE * half["needed"]) & (half["by_lot"] >= half["needed"] + 2)]
    if clear.empty:
        return None
    row = one_row(clear, (clear["by_lot"] / clear["needed"]).idxmax())
    few = "1 expert does" if row.needed == 1 else f"{row.needed} experts do"
    return f"At layer {row.layer}, {few} half of the work; at random it would take {row.by_lot}."


def said_of_touched_experts(frame: pd.DataFrame) -> str | None:
    """The layer that touches the fewest experts in all, if four standard errors fewer than random choices would."""
    if frame.empty:
        return None
    last = frame[frame["tokens"] == frame.groupby("layer")["tokens"].transform("max")]
    spread = (last["chance"] * (1 - last["chance"] / last["num_experts"])).clip(lower=0).map(sqrt)
    missing = (last["chance"] - last["experts"]) / (spread + 1 / STANDARD_ERRORS)
    if missing.max() < STANDARD_ERRORS:
        return None
    row = one_row(last, missing.idxmax())
    touched = f"{row.experts} of its {row.num_experts} experts"
    return f"Layer {row.layer} uses {touched}; choosing at random would use about {row.chance:.0f}."


def said_of_imbalance(frame: pd.DataFrame) -> str | None:
    """The layer where a plan helps most on tokens it was not made from: by a fifth, of 1.5 times uniform."""
    held = frame[frame["judged_on"] == HELD_OUT]
    table = held.pivot(index="layer", columns="placement", values="imbalance")
    if not {CONTIGUOUS, BALANCED} <= set(table.columns):
        return None
    helped = table[(table[CONTIGUOUS] >= HALF_MORE) & (table[CONTIGUOUS] >= A_FIFTH_MORE * table[BALANCED])]
    if helped.empty:
        return None
    row = one_row(helped.reset_index(), int((helped[CONTIGUOUS] / helped[BALANCED]).argmax()))
    change = f"from {row.contiguous:.2f}× to {row.balanced:.2f}× a uniform share"
    return f"On held-out tokens, balancing lowers the busiest device of layer {row.layer} {change}."
