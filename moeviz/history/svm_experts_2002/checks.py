"""Do mixtures of support vector machines behave as they should? The paper's own data are not available here."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from moeviz.history.shared.claims import NOT_PRINTED, Claim
from moeviz.history.shared.vowels import Vowels, at_hand
from moeviz.history.svm_experts_2002 import em as svm_em
from moeviz.history.svm_experts_2002 import model as svm_mixtures

EXPERTS = (4, 8, 16)
UNIFORM = 0.6  # of the uniform mixture's error
LINE = 0.4  # error of one line, at least
TWO_LINES = {True: 0.095, False: 0.1}  # of two, at most: for measured vowels, and for those of the stand-in
MNIST = "odd or even digits of MNIST; the paper has forest cover types"


def claims(quick: bool = False) -> list[Claim]:
    """The digits with 8 seeds, the vowels with 20; 2 and 4 where it is to be quick."""
    soft = [claim for data in at_hand() for claim in of_vowels(data, range(4 if quick else 20))]
    return [*soft, *of_digits(range(2 if quick else 8), EXPERTS[::2] if quick else EXPERTS)]


def of_vowels(data: Vowels, seeds: Iterable[int]) -> list[Claim]:
    """Two linear machines and a gate, by soft EM from k-means, against one linear machine."""
    runs = [svm_em.train(data, experts=2, seed=seed) for seed in seeds]
    most = TWO_LINES[data.measured]
    worst, single = max(float(run.test_error[-1]) for run in runs), runs[0].single_error
    return [
        Claim(
            f"test error of 2 experts by soft EM, worst of {len(runs)} seeds",
            worst,
            NOT_PRINTED,
            f"at most {most:.1%}",
            worst <= most,
            data.source,
        ),
        Claim(
            "test error of one linear machine", single, NOT_PRINTED, f"at least {LINE:.0%}", single >= LINE, data.source
        ),
    ]


def of_digits(seeds: Iterable[int], experts: tuple[int, ...]) -> list[Claim]:
    """The loop of 2002, with linear experts and room 1: means of the seeds."""
    runs = {m: [svm_mixtures.train(m, seed=seed) for seed in seeds] for m in experts}
    gated = {m: float(np.mean([run.test_error[-1] for run in runs[m]])) for m in experts}
    ratio = gated[experts[0]] / float(np.mean([run.uniform_error for run in runs[experts[0]]]))
    steepest = max(gated[more] - gated[fewer] for fewer, more in pairwise(experts))
    least = min(float(run.overflow.min()) for run in runs[experts[-1]])
    names = ", ".join(str(m) for m in experts)
    return [
        Claim(
            f"test error of {experts[0]} experts, gated / uniform mixture",
            ratio,
            NOT_PRINTED,
            f"at most {UNIFORM}",
            ratio <= UNIFORM,
            MNIST,
        ),
        Claim(
            f"change of test error from each of {names} experts to the next, highest",
            steepest,
            NOT_PRINTED,
            "below 0",
            steepest < 0,
            MNIST,
        ),
        Claim(
            f"share of examples that do not get their first choice, {experts[-1]} experts with room 1, lowest",
            least,
            NOT_PRINTED,
            "above 0",
            least > 0,
            MNIST,
        ),
    ]
