"""The support vector machines of 2002 with a part of their mixture broken, and the claims that must miss then."""

import numpy as np

from moeviz.history.shared import vowels
from moeviz.history.shared.claims import Claim, seeds
from moeviz.history.shared.controls import Control
from moeviz.history.svm_experts_2002 import em, model
from moeviz.history.svm_experts_2002.checks import EXPERTS, Runs, better, known, more_is_better, of_vowels, overflow


def _runs(experts: tuple[int, ...], quick: bool, seed: int) -> Runs:
    return {m: [model.train(m, seed=run) for run in seeds(seed, 2 if quick else 8)] for m in experts}


def _better(quick: bool, seed: int) -> list[Claim]:
    return [better(_runs(EXPERTS[:1], quick, seed))]


def _more(quick: bool, seed: int) -> list[Claim]:
    return [more_is_better(_runs(EXPERTS[::2] if quick else EXPERTS, quick, seed))]


def _known(quick: bool, seed: int) -> list[Claim]:
    return [known(_runs(EXPERTS[::2] if quick else EXPERTS, quick, seed))]


def _overflow(quick: bool, seed: int) -> list[Claim]:
    return [overflow(_runs(EXPERTS[-1:], quick, seed))]


def _one_for_all(part: np.ndarray, *rest, right=model._experts_say) -> tuple[np.ndarray, np.ndarray]:
    """The first expert learns from all examples, and the others from none."""
    return right(np.zeros_like(part), *rest)


def _anything(part: np.ndarray, experts: int, kernel: str, task: model.Task, *rest, right=model._experts_say) -> tuple:
    """Odd and even dealt out anew among the images."""
    order = np.random.default_rng(0).permutation(len(task.odd))
    return right(part, experts, kernel, model.Task(task.inputs, task.odd[order], task.digit), *rest)


def _dealt_once(weights: np.ndarray, capacity: int, rng: np.random.Generator) -> np.ndarray:
    """The same random part for an expert in every iteration, whatever the gater says."""
    return np.random.default_rng(0).permutation(np.arange(len(weights)) % weights.shape[1])


CONTROLS = (
    Control(
        "the gate stays uniform",
        (em, "fitted_gate", lambda gate, *_: gate),
        ("2 experts by soft EM",),
        of_vowels,
    ),
    Control("a task that one line can do", (vowels, "ONES", (0, 1)), ("one linear machine",), of_vowels),
    Control("the gater does not learn", (model, "trained", lambda gater, *_: gater), ("uniform mixture",), _better),
    Control(
        "one expert gets every example", (model, "_experts_say", _one_for_all), (f"experts / of {EXPERTS[0]}",), _more
    ),
    Control("classes are shuffled", (model, "_experts_say", _anything), ("know nothing",), _known),
    Control("parts are never dealt again", (model, "assign", _dealt_once), ("uniform mixture",), _better),
    Control("room for all", (model, "capacity_of", lambda examples, *_: examples), ("first choice",), _overflow),
)
