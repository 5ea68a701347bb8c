"""One row of `moeviz history check`: what a paper says, next to what we get."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

NOT_PRINTED = float("nan")


@dataclass(frozen=True, slots=True)
class Claim:
    """Our number next to the paper's."""

    what: str  # what is measured, with its unit
    ours: float | int
    paper: float | int  # NOT_PRINTED where it gives none, or none that holds for our data
    tolerance: str  # what counts as the same, or what we ask instead: "within 0.05", "below 0.5"
    passed: bool
    remark: str = ""


def frame_of(claims: list[Claim]) -> pd.DataFrame:
    """The claims as a table. Columns: the fields of `Claim`; ours and paper float64, passed bool, the others str."""
    kinds = {"ours": np.float64, "paper": np.float64, "passed": bool}
    kinds |= dict.fromkeys(("what", "tolerance", "remark"), "str")
    return pd.DataFrame([{name: getattr(claim, name) for name in Claim.__slots__} for claim in claims]).astype(kinds)
