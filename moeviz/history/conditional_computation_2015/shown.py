"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.conditional_computation_2015.chart import BLOCKS_BY_DIGIT, BLOCKS_ON, ERROR_BY_BLOCKS
from moeviz.history.conditional_computation_2015.model import Conditional
from moeviz.history.shared.results import shipped

SHOWN = (
    (BLOCKS_BY_DIGIT, lambda: (shipped(Conditional),)),
    (BLOCKS_ON, lambda: (shipped(Conditional),)),
    (ERROR_BY_BLOCKS, lambda: (shipped(Conditional),)),
)
