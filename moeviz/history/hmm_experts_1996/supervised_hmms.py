"""One hidden Markov model a speaker, each fitted by hmmlearn to that speaker alone: experts that know their man."""

from typing import Any

import numpy as np

from moeviz.errors import MoevizError
from moeviz.history.hmm_experts_1996.experts import Experts
from moeviz.history.hmm_experts_1996.k_means import k_means
from moeviz.history.shared.datasets import Utterances
from moeviz.history.shared.extra import INSTALL
from moeviz.history.shared.results import Watch

SPEAKERS = 9
ITERATIONS = 20  # of Baum-Welch for each


def one_each(data: Utterances, experts: int, states: int, seed: int, watch: Watch) -> Experts:
    """An expert for each speaker, all equally likely beforehand.

    `watch` is called before each speaker. Raises `MoevizError` where hmmlearn is missing, or `experts` is not 9.
    """
    if experts != SPEAKERS or states < 1:
        raise MoevizError(
            f"Got {experts} experts with {states} states. With one expert per speaker, 9 experts with at least 1 "
            "state are needed."
        )
    rng, models = np.random.default_rng(seed), []
    for speaker in range(SPEAKERS):
        watch(speaker / SPEAKERS, f"speaker {speaker + 1} of {SPEAKERS}")
        mine = [frames for frames, who in zip(data.frames, data.speaker, strict=True) if who == speaker]
        together = np.concatenate(mine).astype(np.float64)
        model = gaussian_hmm(states, seed)
        model.means_ = k_means(together, states, rng)[0]
        models.append(model.fit(together, [len(each) for each in mine]))
    return Experts(
        prior=np.full(SPEAKERS, 1 / SPEAKERS),
        start=np.stack([model.startprob_ for model in models]),
        transitions=np.stack([model.transmat_ for model in models]),
        means=np.stack([model.means_ for model in models]),
        variances=np.stack([np.diagonal(model.covars_, axis1=1, axis2=2) for model in models]),
    )


def gaussian_hmm(states: int, seed: int) -> Any:
    """A hidden Markov model of hmmlearn, in logarithms, with diagonal covariances; its means are still to be set.

    hmmlearn's own start is scikit-learn's k-means, whose last bits depend on its threads.

    Raises `MoevizError` where hmmlearn is missing.
    """
    try:
        from hmmlearn.hmm import GaussianHMM
    except ImportError as error:
        raise MoevizError(
            f"When the speakers are known, experts are fitted by hmmlearn, which is not installed here. Run {INSTALL} "
            "with a Python before 3.14, or train with the speakers unknown."
        ) from error
    return GaussianHMM(
        states, n_iter=ITERATIONS, random_state=seed, implementation="log", init_params="stc", covariance_type="diag"
    )
