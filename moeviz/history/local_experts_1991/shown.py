"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.local_experts_1991.chart import DECISION_LINES
from moeviz.history.local_experts_1991.model import Mixture
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in

SHOWN = ((DECISION_LINES, lambda: (shipped(Mixture), stand_in())),)
