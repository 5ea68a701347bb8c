"""Printed counts against sizes that are not those of the papers, and the claims that must miss then."""

from moeviz.history.shared.controls import Control
from moeviz.history.timeline import published_counts
from moeviz.history.timeline.checks import claims


def _half_of_2017(experts: int, groups: int = 0, right=published_counts.sparsely_gated_parameters) -> int:
    return right(experts // 2, groups)


def _half_of_2021(experts: int, right=published_counts.switch_parameters, **sizes) -> int:
    return right(experts=experts // 2, **sizes)


CONTROLS = (
    Control("half the experts", (published_counts, "sparsely_gated_parameters", _half_of_2017), ("of MoE-",), claims),
    Control(
        "half of Switch's experts", (published_counts, "switch_parameters", _half_of_2021), ("of Switch-",), claims
    ),
)
