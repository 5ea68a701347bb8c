"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.deep_mixture_2013.chart import FACTOR_INFORMATION, GATES_BY_PLACE_AND_DIGIT, SHARE_BY_EPOCH
from moeviz.history.deep_mixture_2013.model import DeepMixture
from moeviz.history.shared.results import shipped

SHOWN = (
    (GATES_BY_PLACE_AND_DIGIT, lambda: (shipped(DeepMixture),)),
    (FACTOR_INFORMATION, lambda: (shipped(DeepMixture),)),
    (SHARE_BY_EPOCH, lambda: (shipped(DeepMixture),)),
)
