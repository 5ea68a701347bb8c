"""What two recordings of the same text come to, in a sentence: how much differs, where it begins, what ties explain."""

import pandas as pd

from moeviz.metrics.words import percent, short


def said_of_shift(moved: pd.DataFrame) -> str | None:
    """That rows are off, and by how many; None where they are not. Columns: those of `shifts`."""
    shift = int(moved["shift"][moved["chosen"]].iloc[0])
    if not shift:
        return None
    return (
        f"Rows are misaligned: token t of A is token t{shift:+d} of B. One of the two lost a row, or has one twice. "
        "What follows compares the rows that belong together."
    )


def said_of_engines(layers: pd.DataFrame, partings: pd.DataFrame) -> str:
    """How many experts differ, where that begins, and what share ties explain.

    Columns: those of `engine_difference` and of `first_partings`.
    """
    chosen, different = int(layers["chosen"].sum()), int(layers["different"].sum())
    parted = partings[partings["layer"] >= 0]
    if parted.empty:
        return f"All of A's {chosen:,} expert ids are the same in B.{_of_order(layers)}"
    share = percent(different / max(chosen, 1))
    says = f"Of A's {chosen:,} expert ids, {_others(different)} in B ({share}). {_of_place(parted, partings)}"
    return f"{says} {_of_ties(layers)}"


def _of_order(layers: pd.DataFrame) -> str:
    if layers["equal_ids"].isna().any():
        return " Their order is not compared: it is not known in both."
    turned = round(float((layers["tokens"] * (layers["equal_sets"] - layers["equal_ids"])).sum()))
    return f" {_times(turned)} they stand in another order." if turned else " They stand in the same order too."


def _times(number: int) -> str:
    return "Once" if number == 1 else f"{number:,} times"


def _of_place(parted: pd.DataFrame, partings: pd.DataFrame) -> str:
    first = parted.iloc[0]
    where = f"token {first['position']:,} (“{short(str(first['text']).strip(' ') or ' ')}”), layer {first['layer']}"
    if len(partings) == 1:
        return f"They first part at {where}."
    return f"{len(parted):,} of {len(partings):,} sequences part, sequence {first['sequence']} at {where}."


def _others(number: int) -> str:
    return "1 is different" if number == 1 else f"{number:,} are different"


def _of_ties(layers: pd.DataFrame) -> str:
    known = layers[layers["ties"].notna()]
    others = float((known["tokens"] * (1 - known["equal_sets"])).sum())
    if not others:
        return "What ties explain is not known: that takes the router logits of A."
    share = float((known["tokens"] * known["ties"]).sum()) / others
    if not share:
        return "No tie explains any of it."
    return f"Ties in A explain {percent(share)} of the tokens with other experts."
