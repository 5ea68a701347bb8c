"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.hierarchical_1994.chart import LEARNING_CURVES
from moeviz.history.hierarchical_1994.model import Hierarchy
from moeviz.history.shared.results import shipped

SHOWN = ((LEARNING_CURVES, lambda: (shipped(Hierarchy),)),)
