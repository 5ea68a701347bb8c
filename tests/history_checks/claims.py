"""One row of `moeviz history check`: what a paper says, next to what we get."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

NOT_PRINTED = float("nan")

# What a row of the table is worth. Only what is measured, or about a mechanism, is a check: the others cannot fail
# while the code is the same.
MEASURED = "measured"
MECHANISM = "mechanism"  # a part of the system against something plainer: see `mechanisms`
CHECKS = (MEASURED, MECHANISM)
IDENTITY = "identity"  # true by construction
SHIPS = "of what ships"  # read from files that were trained before
MISPRINT = "misprint found"  # the paper's own figures contradict each other
APART = 100  # a check from seed S trains with 100 · S, 100 · S + 1, …: no two checks share a run


@dataclass(frozen=True, slots=True)
class Claim:
    """Our number next to the paper's."""

    what: str  # what is measured, with its unit
    ours: float | int
    paper: float | int  # NOT_PRINTED where it gives none, or none that holds for our data
    tolerance: str  # what counts as the same, or what we ask instead: "within 0.05", "below 0.5"
    passed: bool
    remark: str = ""
    kind: str = MEASURED


def seeds(first: int, many: int) -> range:
    """The seeds of so many runs of a check from this seed on.

    >>> seeds(0, 3), seeds(11, 2)
    (range(0, 3), range(1100, 1102))
    """
    return range(APART * first, APART * first + many)


def frame_of(claims: list[Claim]) -> pd.DataFrame:
    """The claims as a table. Columns: the fields of `Claim`; ours and paper float64, passed bool, the others str."""
    kinds = {"ours": np.float64, "paper": np.float64, "passed": bool}
    kinds |= dict.fromkeys(("what", "tolerance", "remark", "kind"), "str")
    return pd.DataFrame([{name: getattr(claim, name) for name in Claim.__slots__} for claim in claims]).astype(kinds)
