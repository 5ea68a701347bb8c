"""Do mixtures of support vector machines behave as they should? The paper's own data are not available here."""

from collections.abc import Iterable

import numpy as np

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.history.shared import datasets
from moeviz.history.shared.datasets import Vowels, at_hand
from moeviz.history.svm_experts_2002 import em, model

EXPERTS = (4, 8, 16)
UNIFORM = 0.6  # of the uniform mixture's error
MORE = 0.95  # of the error of fewer experts
KNOWING = 0.9  # of the error of a mixture whose experts know nothing
LINE = 0.4  # error of one line, at least
TWO_LINES = {True: 0.095, False: 0.1}  # of two, at most: for measured vowels, and for those of the stand-in
MNIST = "odd or even digits of MNIST; the paper has forest cover types"


Runs = dict[int, list[model.SVMMixture]]  # by number of experts


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The digits with 8 seeds, the vowels with 20; 2 and 4 where it is to be quick."""
    return [*of_vowels(quick, seed), *of_digits(quick, seed)]


def of_vowels(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Two linear machines and a gate, by soft EM from k-means, against one linear machine."""
    tried = seeds(seed, 4 if quick else 20)
    return [claim for data in at_hand() for claim in two_lines(data, tried)]


def two_lines(data: Vowels, tried: Iterable[int]) -> list[Claim]:
    """Claims about soft mixtures of two lines on these vowels, from these seeds."""
    runs = [em.train_soft(data, experts=2, seed=seed) for seed in tried]
    most = TWO_LINES[data.measured]
    worst, single = max(float(run.test_error[-1]) for run in runs), runs[0].single_error
    soft, alone = f"test error of 2 experts by soft EM, worst of {len(runs)} seeds", "test error of one linear machine"
    return [
        Claim(soft, worst, NOT_PRINTED, f"at most {most:.1%}", worst <= most, data.source),
        Claim(alone, single, NOT_PRINTED, f"at least {LINE:.0%}", single >= LINE, data.source),
    ]


def of_digits(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The loop of 2002, with linear experts and room 1: means of the seeds."""
    experts, tried = EXPERTS[::2] if quick else EXPERTS, seeds(seed, 2 if quick else 8)
    runs = {m: [model.train(m, seed=run) for run in tried] for m in experts}
    return [better(runs), more_is_better(runs), known(runs), overflow(runs)]


def better(runs: Runs) -> Claim:
    """A gater makes the fewest experts better than they are by themselves."""
    fewest = min(runs)
    ratio = _error(runs[fewest]) / float(np.mean([run.uniform_error for run in runs[fewest]]))
    what = f"test error of {fewest} experts, gated / uniform mixture"
    return Claim(what, ratio, NOT_PRINTED, f"at most {UNIFORM}", ratio <= UNIFORM, MNIST)


def more_is_better(runs: Runs) -> Claim:
    """The most experts against the fewest: from one number to the next the gain is as small as seeds differ."""
    ratio = _error(runs[max(runs)]) / _error(runs[min(runs)])
    what = f"test error of {max(runs)} experts / of {min(runs)}"
    return Claim(what, ratio, NOT_PRINTED, f"at most {MORE}", ratio <= MORE, MNIST)


def known(runs: Runs) -> Claim:
    """Experts that have learnt odd from even, against such that learnt shuffled classes and leave it to the gater."""
    empty = {m: [model.train(m, shuffled=True, seed=run.settings["seed"]) for run in runs[m]] for m in runs}
    ratio = max(_error(runs[m]) / _error(empty[m]) for m in runs)
    what = f"test error of {', '.join(map(str, runs))} experts / that of experts that know nothing, highest"
    return Claim(what, ratio, NOT_PRINTED, f"at most {KNOWING}", ratio <= KNOWING, MNIST)


def overflow(runs: Runs) -> Claim:
    """Some come too late for the expert that they want."""
    most = max(runs)
    least = min(float(run.overflow.min()) for run in runs[most])
    what = f"share of examples that do not get their first choice, {most} experts with room 1, lowest"
    return Claim(what, least, NOT_PRINTED, "above 0", least > 0, MNIST)


def _error(runs: list[model.SVMMixture]) -> float:
    return float(np.mean([run.test_error[-1] for run in runs]))


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
    """Give an expert the same random part in every iteration, whatever the gater says."""
    return np.random.default_rng(0).permutation(np.arange(len(weights)) % weights.shape[1])


CONTROLS = (
    Control(
        "the gate stays uniform",
        (em, "fitted_gate", lambda gate, *_: gate),
        ("2 experts by soft EM",),
        of_vowels,
    ),
    Control("a task that one line can do", (datasets, "ONES", (0, 1)), ("one linear machine",), of_vowels),
    Control("the gater does not learn", (model, "trained", lambda gater, *_: gater), ("uniform mixture",), _better),
    Control(
        "one expert gets every example", (model, "_experts_say", _one_for_all), (f"experts / of {EXPERTS[0]}",), _more
    ),
    Control("classes are shuffled", (model, "_experts_say", _anything), ("know nothing",), _known),
    Control("parts are never dealt again", (model, "assign", _dealt_once), ("uniform mixture",), _better),
    Control("room for all", (model, "capacity_of", lambda examples, *_: examples), ("first choice",), _overflow),
)
