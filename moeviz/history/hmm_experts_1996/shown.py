"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.hmm_experts_1996.chart import GATE_OVER_TIME, SETTLING, SOFT_AND_HARD
from moeviz.history.hmm_experts_1996.model import Mixture
from moeviz.history.shared.datasets import japanese_vowels
from moeviz.history.shared.results import shipped

SHOWN = (
    (GATE_OVER_TIME, lambda: (shipped(Mixture), japanese_vowels()[1], 3)),
    (SETTLING, lambda: (shipped(Mixture), japanese_vowels()[1])),
    (SOFT_AND_HARD, lambda: ()),
)
