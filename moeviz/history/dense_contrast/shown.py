"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.dense_contrast.chart import MEMORY_COMPUTE, PAYOFF, PERPLEXITY
from moeviz.history.dense_contrast.model import Run
from moeviz.history.dense_contrast.payoff import payoff_runs
from moeviz.history.dense_contrast.picture import shipped_sweep
from moeviz.history.shared.results import shipped

SHOWN = (
    (PAYOFF, lambda: (payoff_runs(),)),
    (MEMORY_COMPUTE, lambda: (shipped(Run),)),
    (PERPLEXITY, lambda: (shipped(Run), shipped_sweep())),
)
