"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.local_experts_1991.chart import DECISION_LINES, ERROR_CURVES
from moeviz.history.local_experts_1991.model import Mixture
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in

SHOWN = tuple((chart, lambda: (shipped(Mixture), stand_in())) for chart in (DECISION_LINES, ERROR_CURVES))
