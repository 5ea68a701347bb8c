"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.hierarchical_1994.chart import LEARNING_CURVES, SQUARE_LINES, TREE_LINES
from moeviz.history.hierarchical_1994.model import Hierarchy
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in

SHOWN = (
    (TREE_LINES, lambda: (shipped(Hierarchy), stand_in())),
    (SQUARE_LINES, lambda: ()),
    (LEARNING_CURVES, lambda: ()),
)
