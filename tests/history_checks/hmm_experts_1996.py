"""Do mixtures of hidden Markov models find who speaks, is soft EM better than hard, and are our sums right?"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import numpy as np

from benchmarks.history_tables import DATA_SETS, accuracies
from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.mechanisms import apart, noticed_by
from history_checks.negative_controls import Control, swapped
from moeviz.history.hmm_experts_1996 import hidden_markov, model
from moeviz.history.hmm_experts_1996.hidden_markov import HiddenMarkovModels, prefix_log_likelihoods, side_by_side
from moeviz.history.hmm_experts_1996.model import STARTS, HMMMixture, gaussian_hmm, train
from moeviz.history.shared.datasets import Utterances, japanese_vowels

SEEDS, QUICK_SEEDS = 20, 6
TOLD_STATES, TOLD_SEEDS = 5, 3
ROUNDING = 1e-9  # of the objective
ORACLE = 1e-8  # nats
RECOVERED, RECOGNISED = 0.80, 0.96
NO_CHAIN = "experts of one state, without any order in time, do it as well"
SOFT_FINDS, HARD_FINDS = 0.95, 0.75  # shares of the data sets, 19 of 20 and 15 of 20
FROM_MEMORY = "two models whose constants are from memory"


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """20 seeds on the vowels and 20 data sets of Smyth's pair; 6 and 3 where it is to be quick.

    No figure of a paper stands here: what Smyth and the authors of the vowels print could not be read. That
    an expert needs the order of its states is seen in Smyth's pair alone: without it, the speakers are found as well.

    Raises `MoevizError` where hmmlearn, which is the oracle, is missing.

    Source: Smyth, NIPS 9:648-654 (1996); Kudo, Toyama & Shimbo, Pattern Recognition Letters 20:1103-1111 (1999).
    """
    return [*of_vowels(quick, seed), *told(quick, seed), *of_pairs(quick, seed)]


def of_vowels(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Speakers whom nobody named."""
    runs = [train(seed=run) for run in seeds(seed, QUICK_SEEDS if quick else SEEDS)]
    return [_oracle(runs[0]), _rising(runs), _recovered(runs)]


def oracle_difference(result: HMMMixture) -> float:
    """The largest difference between our log p(O | λₖ) and hmmlearn's, over all test utterances and experts, in nats.

    Source: hmmlearn's `GaussianHMM.score`.
    """
    frames = japanese_vowels()[1].frames
    ours = prefix_log_likelihoods(result.experts, side_by_side(frames))[-1]
    theirs = np.empty_like(ours)
    for expert in range(ours.shape[1]):
        model = gaussian_hmm(result.settings["states"], seed=0)
        model.startprob_, model.transmat_ = result.start[expert], result.transitions[expert]
        model.n_features = result.means.shape[-1]
        model.means_, model.covars_ = result.means[expert], result.variances[expert]
        theirs[:, expert] = [model.score(each.astype(np.float64)) for each in frames]
    return float(np.abs(ours - theirs).max())


def _oracle(run: HMMMixture) -> Claim:
    off = oracle_difference(run)
    what = "largest difference from hmmlearn in the log-likelihood of an utterance, nats"
    return Claim(what, off, NOT_PRINTED, f"at most {ORACLE}", off <= ORACLE, "hmmlearn is the oracle")


def _rising(runs: list[HMMMixture]) -> Claim:
    rise = min(float((np.diff(run.objective) / np.abs(run.objective[:-1])).min()) for run in runs)
    what = "smallest rise of the objective in a step of soft EM, as a share of it"
    remark = "the log-likelihood, with the prior that our smoothing amounts to"
    return Claim(what, rise, NOT_PRINTED, f"no fall beyond {ROUNDING}, which is rounding", rise >= -ROUNDING, remark)


def _recovered(runs: list[HMMMixture]) -> Claim:
    share = float(np.mean([run.training_share for run in runs]))
    what = "share of training utterances with the expert of their speaker, nobody named, mean of seeds"
    return Claim(what, share, NOT_PRINTED, f"at least {RECOVERED}; chance is 0.11", share >= RECOVERED, NO_CHAIN)


def told(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Speakers who are named."""
    tried = seeds(seed, 1 if quick else TOLD_SEEDS)
    worst = min(train(states=TOLD_STATES, supervised=True, seed=run).test_share for run in tried)
    what = f"share of test utterances recognised by one expert of {TOLD_STATES} states per speaker, lowest of seeds"
    return [Claim(what, worst, NOT_PRINTED, f"at least {RECOGNISED}", worst >= RECOGNISED)]


def of_pairs(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Smyth's pairs: soft against hard EM, by start."""
    frame = accuracies(seeds(seed, 3 if quick else DATA_SETS))
    found = frame.groupby(["assignment", "start"])["found"].mean()
    rows = []
    for start in STARTS:
        soft, hard = float(found["soft", start]), float(found["hard", start])
        what = f"share of Smyth's data sets with accuracy 0.9 or more, {{}} EM, {start} start"
        asked = (f"at least {SOFT_FINDS}", f"at most {HARD_FINDS}")
        rows.append(Claim(what.format("soft"), soft, NOT_PRINTED, asked[0], soft >= SOFT_FINDS, FROM_MEMORY))
        rows.append(Claim(what.format("hard"), hard, NOT_PRINTED, asked[1], hard <= HARD_FINDS, FROM_MEMORY))
    return rows


def _even(values: HiddenMarkovModels, right: Callable = hidden_markov._log_transitions) -> np.ndarray:
    """From every state to every state alike: frames in any order are as likely."""
    return right(replace(values, transitions=np.full_like(values.transitions, 1 / values.transitions.shape[-1])))


def _of_another_case(
    joint: np.ndarray, assignment: str, right: Callable = hidden_markov.responsibilities
) -> np.ndarray:
    share = right(joint, assignment)
    return share[np.random.default_rng(0).permutation(len(share))]


def _soft(joint: np.ndarray, assignment: str, right: Callable = hidden_markov.responsibilities) -> np.ndarray:
    return right(joint, "soft")


def _hard(joint: np.ndarray, assignment: str, right: Callable = hidden_markov.responsibilities) -> np.ndarray:
    return right(joint, "hard")


def _misnamed(right: Callable = model.japanese_vowels) -> tuple[Utterances, Utterances]:
    """The training utterances with the names of others."""
    training, test = right()
    return replace(training, speaker=np.random.default_rng(0).permutation(training.speaker)), test


EVEN = (hidden_markov, "_log_transitions", _even)
CONTROLS = (
    Control("the states have no order", EVEN, ("difference from hmmlearn",), of_vowels),
    Control("the states have no order in time", EVEN, (", soft EM, k-means", ", soft EM, random"), of_pairs),
    Control(
        "responsibilities go to other utterances",
        (hidden_markov, "responsibilities", _of_another_case),
        ("smallest rise", "nobody named"),
        of_vowels,
    ),
    Control("speakers are misnamed", (model, "japanese_vowels", _misnamed), ("recognised by one expert",), told),
    Control("hard EM is soft", (hidden_markov, "responsibilities", _soft), (", hard EM, ",), of_pairs),
    Control("soft EM is hard", (hidden_markov, "responsibilities", _hard), (", soft EM, ",), of_pairs),
)


# The mechanisms, each against something plainer.

K, S, D = 2, 2, 2  # experts, states, numbers a frame
LENGTHS = (3, 1, 2, 4, 3)


def _drawn(seed: int) -> tuple[HiddenMarkovModels, list[np.ndarray]]:
    """Two small models with unequal shares, and five sequences of unequal lengths."""
    draws = np.random.default_rng(seed)

    def shares(*shape: int) -> np.ndarray:
        values = draws.uniform(0.2, 1, shape)
        return values / values.sum(axis=-1, keepdims=True)

    means, variances = draws.normal(size=(K, S, D)), draws.uniform(0.5, 2, (K, S, D))
    models = HiddenMarkovModels(np.array([0.9, 0.1]), shares(K, S), shares(K, S, S), means, variances)
    return models, [draws.normal(size=(length, D)) for length in LENGTHS]


def _paths(models: HiddenMarkovModels, frames: np.ndarray, expert: int) -> dict[tuple[int, ...], float]:
    """How likely an expert goes along each path of states and gives these frames."""
    found = {}
    for path in product(range(S), repeat=len(frames)):
        likely = models.start[expert, path[0]]
        for before, after in pairwise(path):
            likely *= models.transitions[expert, before, after]
        for state, frame in zip(path, frames, strict=True):
            spread = models.variances[expert, state]
            far = (frame - models.means[expert, state]) ** 2 / spread
            likely *= np.prod(np.exp(-far / 2) / np.sqrt(2 * np.pi * spread))
        found[path] = float(likely)
    return found


def _step_off(seed: int) -> float:
    """One step of soft and of hard EM, from all paths of states."""
    models, frames = _drawn(seed)
    pairs = []
    for assignment in ("soft", "hard"):
        with swapped(hidden_markov, "LOWEST_VARIANCE", 1.0):  # so high that some variance meets it
            found, objective = hidden_markov.step(models, side_by_side(frames), assignment)
            wanted, likelihood = _stepped(models, frames, assignment == "hard")
        pairs += [(getattr(found, name), values) for name, values in wanted.items()] + [(objective, likelihood)]
    return apart(*pairs)


def _stepped(models: HiddenMarkovModels, frames: list[np.ndarray], hard: bool) -> tuple[dict, float]:
    prior, start, goes = np.full(K, 1e-3), np.full((K, S), 0.1), np.full((K, S, S), 0.1)  # what is taken as seen
    seen: list[list[list]] = [[[] for _ in range(S)] for _ in range(K)]  # weights and frames
    objective = sum(
        (count * np.log(part)).sum()
        for count, part in ((1e-3, models.prior), (0.1, models.start), (0.1, models.transitions))
    )
    for each in frames:
        paths = [_paths(models, each, expert) for expert in range(K)]
        joint = models.prior * [sum(found.values()) for found in paths]
        objective += np.log(joint.sum())
        share = np.eye(K)[joint.argmax()] if hard else joint / joint.sum()
        prior += share
        for expert, found in enumerate(paths):
            for path, likely in found.items():
                weight = share[expert] * likely / sum(found.values())
                start[expert, path[0]] += weight
                for before, after in pairwise(path):
                    goes[expert, before, after] += weight
                for state, frame in zip(path, each, strict=True):
                    seen[expert][state].append((weight, frame))
    means, variances = models.means.copy(), models.variances.copy()
    for expert, state in product(range(K), range(S)):
        weight, frame = (np.array(part) for part in zip(*seen[expert][state], strict=True))
        if weight.sum() > 1e-8:
            means[expert, state] = weight @ frame / weight.sum()
            far = weight @ (frame - means[expert, state]) ** 2 / weight.sum()
            variances[expert, state] = np.maximum(far, hidden_markov.LOWEST_VARIANCE)
    counts = {"prior": prior, "start": start, "transitions": goes}
    return {name: count / count.sum(axis=-1, keepdims=True) for name, count in counts.items()} | {
        "means": means,
        "variances": variances,
    }, float(objective)


def _gate_off(seed: int) -> float:
    """The gate after each frame, from all paths of states."""
    models, frames = _drawn(seed)
    wanted = [
        [
            [np.log(models.prior[k] * sum(_paths(models, each[: t + 1], k).values())) for k in range(K)]
            for each in frames
        ]
        for t in range(max(LENGTHS))
    ]
    return apart((hidden_markov.log_gate(models, side_by_side(frames)), wanted))


def _by_hand_off(seed: int) -> float:
    """What goes before and after EM, on cases that can be seen through."""
    points = np.array([[0.0], [1], [10], [11], [12]])
    draws = np.random.default_rng(seed)
    centres, nearest = hidden_markov.k_means(points, 2, draws)
    with swapped(hidden_markov, "ROUNDS", 0):
        first, _ = hidden_markov.k_means(np.append(np.zeros(50), 10)[:, None], 2, draws)
    frames = [points[:2], points[1:3], points[2:4], points[3:]]
    started = model._started(frames, np.array([0, 0, 0, 1]), 2, 1, draws)
    features = model._features(frames)
    spread = np.array([[each.mean(), each.std()] for each in frames])
    again = np.random.default_rng(seed)
    ours = model._started(frames, hidden_markov.k_means(features, 2, again)[1], 2, 1, again)
    for _ in range(2):
        ours, _ = hidden_markov.step(ours, side_by_side(frames), "soft")
    with swapped(model, "MAX_ITERATIONS", 2):
        fitted, _ = model.fit(frames, 2, 1, seed=seed)
    votes = {(0, 0): 5, (0, 1): 4, (1, 0): 4}  # the most are right if expert 1 has label 0
    expert, label = (np.repeat([pair[i] for pair in votes], list(votes.values())) for i in (0, 1))
    return apart(
        (np.sort(centres[:, 0]), [0.5, 11]),
        *((getattr(fitted, name), getattr(ours, name)) for name in ("prior", "means", "variances")),
        (np.sort(first[:, 0]), [0, 10]),
        (centres[nearest, 0], [0.5, 0.5, 11, 11, 11]),
        (started.prior, np.array([4, 2]) / 6),
        (started.means[:, 0, 0], [np.concatenate(frames[:3]).mean(), 11.5]),
        (features, (spread - spread.mean(axis=0)) / spread.std(axis=0)),
        (model.matched(expert, label, 3), [1, 0, -1]),
        (model.settled_after(np.array([[0, 1, 1], [1, 1, 0], [1, 1, 1]])), [2, 1, 3]),
    )


def _runs_off(seed: int) -> float:
    """Shares of a short run and its trace, utterance by utterance; and experts of one state that know their man."""
    known = train(states=1, supervised=True, seed=seed)
    training, test = japanese_vowels()
    own = [
        np.concatenate([each for each, who in zip(training.frames, training.speaker, strict=True) if who == man])
        for man in range(9)
    ]
    log_gate = np.array(
        [
            [
                (-((each - means) ** 2 / spread + np.log(2 * np.pi * spread)) / 2).sum()
                for means, spread in zip(known.means[:, 0], known.variances[:, 0], strict=True)
            ]
            for each in test.frames
        ]
    )
    trace = model.trace_of(known, ends=True)
    share = np.exp(log_gate - log_gate.max(axis=1, keepdims=True))
    return apart(
        (known.means[:, 0], [frames.mean(axis=0) for frames in own]),
        (known.test_share, (log_gate.argmax(axis=1) == test.speaker).mean()),
        (trace.weights[0], -np.sort(-share / share.sum(axis=1, keepdims=True), axis=1)),
        (trace.experts[0, :, 0], log_gate.argmax(axis=1)),
    )


REFITTED = hidden_markov._refitted
# fmt: off
MECHANISMS = (
    *noticed_by(
        "a step from all paths of states",
        _step_off,
        ("a path has its start", hidden_markov.forward, "_log(experts.start).T[:, None] + ", ""),
        ("starts are smoothed", REFITTED, " + SEEN_STARTS", " + 2 * SEEN_STARTS"),
    ),
    *noticed_by(
        "the gate after each frame from all paths",
        _gate_off,
        ("the gate has the prior", hidden_markov.log_gate, "_log(experts.prior) + ", ""),
    ),
    *noticed_by(
        "cases by hand",
        _by_hand_off,
        ("a centre is the mean of its points", hidden_markov.k_means, "mine.mean(axis=0)", "mine[0]"),
        ("the gate has settled once it turns no more", model.settled_after, "elsewhere[::-1]", "elsewhere"),
    ),
    *noticed_by(
        "speakers and their trace, utterance by utterance",
        _runs_off,
        ("a named expert learns its own man", model.one_each, "if who == speaker", "if who >= speaker"),
        ("the trace has the gate", model.trace_of, "result.logits(data)[-1:]", "result.logits(data)[:1]"),
    ),
)
# fmt: on
