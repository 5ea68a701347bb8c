"""Do mixtures of support vector machines behave as they should? The paper's own data are not available here."""

import numpy as np
import torch

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by
from history_checks.negative_controls import Control, swapped
from moeviz.history.shared import datasets
from moeviz.history.svm_experts_2002 import model

EXPERTS = (4, 8, 16)
UNIFORM = 0.6  # of the uniform mixture's error
MORE = 0.95  # of the error of fewer experts
KNOWING = 0.9  # of the error of a mixture whose experts know nothing
MNIST = "odd or even digits of MNIST; the paper has forest cover types"


Runs = dict[int, list[model.SVMMixture]]  # by number of experts


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The loop of 2002, with linear experts and room 1: means of 8 seeds, of 2 where it is to be quick."""
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
    Control("the gater does not learn", (model, "trained", lambda gater, *_: gater), ("uniform mixture",), _better),
    Control(
        "one expert gets every example", (model, "_experts_say", _one_for_all), (f"experts / of {EXPERTS[0]}",), _more
    ),
    Control("classes are shuffled", (model, "_experts_say", _anything), ("know nothing",), _known),
    Control("parts are never dealt again", (model, "assign", _dealt_once), ("uniform mixture",), _better),
    Control("room for all", (model, "capacity_of", lambda examples, *_: examples), ("first choice",), _overflow),
)


# The mechanisms, each against something plainer.


def _gater_off(seed: int) -> float:
    """What a small mixture answers, the slopes of its error, and four steps of training by torch."""
    draws = np.random.default_rng(seed)
    gater = model.Gater(*(draws.normal(size=shape) for shape in ((2, 3), 3, (3, 4), 4)))
    inputs, outputs, desired = draws.normal(size=(5, 2)), draws.normal(size=(5, 4)), np.array([1.0, -1, 1, 1, -1])

    def answers(*numbers: torch.Tensor) -> torch.Tensor:
        hidden, hidden_bias, output, output_bias = numbers
        rows = []
        for case, said in zip(torch.from_numpy(inputs), torch.from_numpy(outputs), strict=True):
            weights = torch.tanh(case @ hidden + hidden_bias) @ output + output_bias
            rows.append(torch.tanh(sum(w * s for w, s in zip(weights, said, strict=True))))
        return torch.stack(rows)

    numbers = [torch.from_numpy(number.copy()).requires_grad_() for number in gater.numbers]
    adam = torch.optim.Adam(numbers, model.STEP, model.MEMORY)
    error, gradient = model.squared_error(gater, inputs, outputs, desired)
    pairs = [(model.mixed(gater.weights(inputs), outputs), answers(*numbers))]
    for step in range(4):
        adam.zero_grad()
        missed = ((answers(*numbers) - torch.from_numpy(desired)) ** 2).mean()
        missed.backward()
        if not step:
            pairs.append((error, missed))
            pairs += [(ours, number.grad.clone()) for ours, number in zip(gradient.numbers, numbers, strict=True)]
        adam.step()
    with swapped(model, "STEPS", 4):
        trained = model.trained(gater, inputs, outputs, desired)
    return apart(*pairs, *zip(trained.numbers, numbers, strict=True))


def _task(first: int, many: int) -> model.Task:
    task, _ = model.odd_or_even()
    part = slice(first, first + many)
    return model.Task(task.inputs[part], task.odd[part], task.digit[part])


def _loop_off(seed: int) -> float:
    """Three iterations on 200 digits: who learns from what, by whom it is weighed, and who is full."""
    from sklearn.svm import LinearSVC

    task, test, pairs = _task(0, 200), _task(200, 100), []
    with (
        swapped(model, "odd_or_even", lambda: (task, test)),
        swapped(model, "STEPS", 30),
        kept(model, "_experts_say") as said,
        kept(model, "trained") as gaters,
    ):
        run = model.train(experts=3, room=2, iterations=3, seed=seed)
    draws = np.random.default_rng(seed)
    part = draws.permutation(np.arange(200) % 3)
    begins = [draws.normal(0, size, shape) for size, shape in ((30**-0.5, (30, 4)), (0.5, 4), (0.1, (4, 3)))]
    pairs += zip(gaters[0][0][0].numbers, [*begins, np.full(3, 1 / 3)], strict=True)
    images = datasets.Digits(np.zeros((200, 28, 28), np.uint8), task.digit)
    pairs += [(run.capacity, 69), (model._task(task.inputs, images).odd, np.where(task.digit % 2, 1, -1))]
    for turn, ((given, *_), (outputs, on_test)) in enumerate(said):
        machines = [
            LinearSVC(dual=False, random_state=0).fit(task.inputs[part == m], task.odd[part == m]) for m in range(3)
        ]
        (start, x, _, y, *_), gater = gaters[turn]
        weights = gater.weights(task.inputs)
        answer, learnt = (gater.weights(test.inputs) * on_test).sum(axis=1), (weights * outputs).sum(axis=1)
        pairs += [
            (given, part),
            (outputs, np.tanh([each.decision_function(task.inputs) for each in machines]).T),
            (on_test, np.tanh([each.decision_function(test.inputs) for each in machines]).T),
            (x, task.inputs),
            (y, task.odd),
            (start.hidden, gaters[turn - 1][1].hidden if turn else start.hidden),  # it goes on from where it was
            (run.first_choice[turn], weights.argmax(axis=1)),
            (run.train_error[turn], ((learnt > 0) != (task.odd > 0)).mean()),
            (run.test_error[turn], ((answer > 0) != (test.odd > 0)).mean()),
            (run.even_error[turn], ((on_test.sum(axis=1) > 0) != (test.odd > 0)).mean()),
        ]
        part = _given_out(weights, 69, draws)
        pairs.append((run.assigned[turn], part))
    trace, alone = model.trace_of(run), LinearSVC(dual=False, random_state=0).fit(task.inputs, task.odd)
    pairs += [
        (run.single_error, (alone.predict(test.inputs) != test.odd).mean()),
        (trace.experts[..., 0], run.first_choice),
        (trace.experts[..., 1], np.where(run.assigned == run.first_choice, -1, run.assigned.astype(int))),
        (trace.weights[..., 0], run.weights.max(axis=2)),
        (run.overflow, (run.assigned != run.first_choice).mean(axis=1)),
    ]
    return apart(*pairs)


def _given_out(weights: np.ndarray, capacity: int, draws: np.random.Generator) -> np.ndarray:
    """To each example, in random order, the expert with the highest weight that is not full."""
    part = np.full(len(weights), -1)
    for example in draws.permutation(len(weights)):
        best = weights[example].copy()
        best[np.bincount(part[part >= 0], minlength=weights.shape[1]) >= capacity] = -np.inf
        part[example] = best.argmax()
    return part


def _shuffled_off(seed: int) -> float:
    """Experts that know nothing learn from classes dealt out anew: as many of each, and not those of the images."""
    task, test = _task(0, 200), _task(200, 100)
    with (
        swapped(model, "odd_or_even", lambda: (task, test)),
        swapped(model, "STEPS", 1),
        kept(model, "_experts_say") as said,
    ):
        for shuffled in (True, False):
            model.train(experts=2, iterations=1, shuffled=shuffled, seed=seed)
    dealt, real = (arguments[3].odd for arguments, _ in said)
    return apart((dealt.sum(), task.odd.sum()), (real, task.odd), ((dealt == task.odd).all(), False))


# fmt: off
MECHANISMS = (
    *noticed_by(
        "a plain loop, and training by torch",
        _gater_off,
        ("the answer is the tanh of a weighted sum", model.mixed, "weights * outputs", "outputs"),
        ("steps are scaled by their squares", model.trained, "(np.sqrt(s / fresh[1]) + 1e-8)", "1"),
    ),
    *noticed_by(
        "three iterations on 200 digits",
        _loop_off,
        ("odd digits are 1", model._task, "% 2", "% 3"),
        ("the trace has the first choice", model.trace_of, "[first, elsewhere]", "[given, elsewhere]"),
    ),
    *noticed_by(
        "classes that were dealt out anew",
        _shuffled_off,
        ("experts that know nothing learn from shuffled classes", model.train,
         "rng.permutation(task.odd) if shuffled else task.odd", "task.odd"),
    ),
)
# fmt: on
