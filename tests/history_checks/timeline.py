"""Do the sizes that two papers print give the parameters that they print?"""

import pandas as pd

from history_checks.claims import MEASURED, MISPRINT, Claim
from history_checks.negative_controls import Control
from moeviz.history.timeline import published_counts as counting
from moeviz.history.timeline.published_counts import UNITS, published_counts

AS_PRINTED = "as Table 9 says"  # in the remark of a reading


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Shazeer's nine and Switch's four.

    If a paper leaves a size open, some reading must give the printed count. Where the sizes that it prints do not, and
    others do, that is a misprint found, and no check.
    """
    return [_claim(readings) for _, readings in published_counts().groupby("system", sort=False)]


def _claim(readings: pd.DataFrame) -> Claim:
    """The first reading that gives the printed count, or the first of all; the remark says what the others give."""
    printed = readings[readings["remark"].str.contains(AS_PRINTED)]
    misprint = bool(readings["agrees"].any() and len(printed) and not printed["agrees"].any())
    shown = printed if misprint else readings.sort_values("agrees", ascending=False, kind="stable")
    first = shown.iloc[0]
    others = readings.drop(first.name)
    units = UNITS[first["unit"]]
    rest = [f"another reading, {row.ours / units:,.1f}: {row.remark}" for row in others.itertuples()]
    return Claim(
        what=f"parameters of {first['system']}, {first['counted']}, {first['unit']}s",
        ours=first["ours"] / units,
        paper=float(first["printed"]),
        tolerance="to the printed digit",
        passed=bool(readings["agrees"].any()),
        remark="; ".join([first["remark"], *rest]),
        kind=MISPRINT if misprint else MEASURED,
    )


def _half_of_2017(experts: int, groups: int = 0, right=counting.sparsely_gated_parameters) -> int:
    return right(experts // 2, groups)


def _half_of_2021(experts: int, right=counting.switch_parameters, **sizes) -> int:
    return right(experts=experts // 2, **sizes)


CONTROLS = (
    Control("half the experts", (counting, "sparsely_gated_parameters", _half_of_2017), ("of MoE-",), claims),
    Control("half of Switch's experts", (counting, "switch_parameters", _half_of_2021), ("of Switch-",), claims),
)
