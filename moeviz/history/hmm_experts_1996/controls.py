"""The hidden Markov models of 1996 with a part of their mixture broken, and the claims that must miss then."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moeviz.history.hmm_experts_1996 import experts, model
from moeviz.history.hmm_experts_1996.checks import of_pairs, of_vowels, told
from moeviz.history.hmm_experts_1996.experts import Experts
from moeviz.history.shared.controls import Control
from moeviz.history.shared.datasets import Utterances


def _even(values: Experts, right: Callable = experts._log_transitions) -> np.ndarray:
    """From every state to every state alike: frames in any order are as likely."""
    return right(replace(values, transitions=np.full_like(values.transitions, 1 / values.transitions.shape[-1])))


def _of_another_case(joint: np.ndarray, assignment: str, right: Callable = experts.responsibilities) -> np.ndarray:
    share = right(joint, assignment)
    return share[np.random.default_rng(0).permutation(len(share))]


def _soft(joint: np.ndarray, assignment: str, right: Callable = experts.responsibilities) -> np.ndarray:
    return right(joint, "soft")


def _hard(joint: np.ndarray, assignment: str, right: Callable = experts.responsibilities) -> np.ndarray:
    return right(joint, "hard")


def _misnamed(right: Callable = model.japanese_vowels) -> tuple[Utterances, Utterances]:
    """The training utterances with the names of others."""
    training, test = right()
    return replace(training, speaker=np.random.default_rng(0).permutation(training.speaker)), test


EVEN = (experts, "_log_transitions", _even)
CONTROLS = (
    Control("the states have no order", EVEN, ("difference from hmmlearn",), of_vowels),
    Control("the states have no order in time", EVEN, (", soft EM, k-means", ", soft EM, random"), of_pairs),
    Control(
        "responsibilities go to other utterances",
        (experts, "responsibilities", _of_another_case),
        ("smallest rise", "nobody named"),
        of_vowels,
    ),
    Control("speakers are misnamed", (model, "japanese_vowels", _misnamed), ("recognised by one expert",), told),
    Control("soft EM is hard", (experts, "responsibilities", _hard), (", soft EM, ",), of_pairs),
    Control("hard EM is soft", (experts, "responsibilities", _soft), (", hard EM, ",), of_pairs),
)
