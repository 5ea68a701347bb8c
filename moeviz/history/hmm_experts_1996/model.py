"""A mixture of hidden Markov models: each expert is a whole model of sequences, and the gate is what they make of one.

The gate needs no network: p(O) = Σₖ πₖ p(O | λₖ), so after t frames it is gₖ = softmaxₖ(log πₖ + log p(o₁ … oₜ | λₖ)),
and it decides while a sequence is read. All is trained by EM, without a step size.

Source: Smyth, Clustering sequences with hidden Markov models, NIPS 9:648-654 (1996), for mixtures of hidden Markov
models; Xu, Jordan & Hinton, NIPS 7:633-640 (1994), for a gate that EM trains. The vowels are those of
`datasets.japanese_vowels`. What the papers leave open is ours: three states, k-means to start from, the priors and the
floor in this module.

N utterances, T frames, D = 12 numbers a frame, K experts, S states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from moeviz.errors import MoevizError
from moeviz.history.hmm_experts_1996.hidden_markov import (
    LOWEST_VARIANCE,
    HiddenMarkovModels,
    k_means,
    log_gate,
    side_by_side,
    step,
)
from moeviz.history.shared.datasets import Utterances, japanese_vowels
from moeviz.history.shared.gates import samples, slots_from, soft_slots, system_trace
from moeviz.history.shared.results import INSTALL, Watch, history_extra, unwatched
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

ASSIGNMENTS, STARTS = ("soft", "hard"), ("k-means", "random")
MAX_ITERATIONS = 30
ENOUGH = 1e-5  # of the objective: less gain than this in an iteration, and EM ends
NO_SPEAKER = -1  # of an expert, if there are more experts than speakers
JITTER = 0.05  # states that go on alike would stay alike


@dataclass(frozen=True, slots=True, eq=False)
class HMMMixture:
    """A trained mixture of hidden Markov models, and whom its experts speak for."""

    settings: dict[str, int | str | bool]  # experts, states, supervised, seed; unless supervised: assignment, start
    prior: Float64[np.ndarray, " K"]  # πₖ
    start: Float64[np.ndarray, "K S"]
    transitions: Float64[np.ndarray, "K S S"]
    means: Float64[np.ndarray, "K S D"]
    variances: Float64[np.ndarray, "K S D"]
    objective: Float64[np.ndarray, " iterations"] = field(repr=False)  # what EM raises, before each of its steps
    speaker_of: tuple[int, ...]  # of each expert, 0 to 8, or NO_SPEAKER
    training_share: float  # of the training utterances whose expert at the end is that of their speaker
    test_share: float
    frames_needed: int  # until nine in ten test utterances are with their last expert for good

    @property
    def experts(self) -> HiddenMarkovModels:
        """The experts by themselves."""
        return HiddenMarkovModels(self.prior, self.start, self.transitions, self.means, self.variances)

    def logits(self, data: Utterances) -> Float64[np.ndarray, "T N K"]:
        """log πₖ + log p(o₁ … oₜ | λₖ): what the gate knows after t frames; after an utterance's end as at its end."""
        return log_gate(self.experts, side_by_side(data.frames))


def train(
    experts: int = 9,
    states: int = 3,
    assignment: str = "soft",
    start: str = "k-means",
    supervised: bool = False,
    seed: int = 0,
    watch: Watch = unwatched,
) -> HMMMixture:
    """Train a mixture on 270 utterances of nine men, none of whom is named to it, and see if it finds them.

    `assignment` "soft" shares an utterance out among the experts by its posterior, "hard" gives it to the best. `start`
    groups the utterances first: by k-means on the mean and spread of their frames, or at random. `supervised` names
    the men: each expert is fitted by hmmlearn to one of them, and assignment and start do not matter. The same
    arguments, the same result. `watch` is called before each iteration.

    Raises `MoevizError` for an assignment or a start that does not exist, fewer than 1 expert or state, a supervised
    mixture of other than 9 experts, or where hmmlearn (supervised) or scipy (else) is missing.
    """
    if not supervised:
        _assignment_solver()  # matches experts with speakers at the end; if it is missing, that is reported now
    training, test = japanese_vowels()
    if supervised:
        found, objective = one_each(training, experts, states, seed, watch), np.zeros(0)
    else:
        found, objective = fit(training.frames, experts, states, assignment, start, seed, watch)
    winners = [log_gate(found, side_by_side(part.frames)).argmax(axis=-1) for part in (training, test)]
    speaker_of = np.arange(SPEAKERS) if supervised else matched(winners[0][-1], training.speaker, experts)
    told = zip(winners, (training, test), strict=True)
    shares = [float((speaker_of[winner[-1]] == part.speaker).mean()) for winner, part in told]
    ours = {} if supervised else {"assignment": assignment, "start": start}
    return HMMMixture(
        settings={"experts": experts, "states": states, **ours, "supervised": supervised, "seed": seed},
        prior=found.prior,
        start=found.start,
        transitions=found.transitions,
        means=found.means,
        variances=found.variances,
        objective=objective,
        speaker_of=tuple(speaker_of.tolist()),
        training_share=shares[0],
        test_share=shares[1],
        frames_needed=int(np.quantile(settled_after(winners[1]), 0.9, method="higher")),
    )


def fit(
    frames: Sequence[Float[np.ndarray, "_ D"]],
    experts: int,
    states: int,
    assignment: str = "soft",
    start: str = "k-means",
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[HiddenMarkovModels, Float64[np.ndarray, " iterations"]]:
    """Fit a mixture of hidden Markov models to any sequences by EM, until an iteration gains next to nothing.

    Returns the experts, and the objective (see `step`) before each step.

    Raises `MoevizError` as `train` does.
    """
    if assignment not in ASSIGNMENTS or start not in STARTS:
        raise MoevizError(f"Got {assignment!r} and {start!r}. Choose one of {ASSIGNMENTS} and one of {STARTS}.")
    if experts < 1 or states < 1:
        raise MoevizError(f"Got {experts} experts with {states} states; at least 1 of each is needed.")
    rng, data = np.random.default_rng(seed), side_by_side(frames)
    groups = (
        k_means(_features(frames), experts, rng)[1] if start == "k-means" else rng.integers(experts, size=len(frames))
    )
    found, objective = _started(frames, groups, experts, states, rng), []
    for iteration in range(MAX_ITERATIONS):
        watch(iteration / MAX_ITERATIONS, f"iteration {iteration} of {MAX_ITERATIONS} at most")
        found, value = step(found, data, assignment)
        objective.append(value)
        if iteration and objective[-1] - objective[-2] < ENOUGH * abs(objective[-2]):
            break
    return found, np.array(objective)


def matched(expert: Int64[np.ndarray, " N"], label: Int64[np.ndarray, " N"], experts: int) -> Int64[np.ndarray, " K"]:
    """The label of each expert, no two the same, so that as many sequences as can be are with the expert of their own.

    NO_SPEAKER for experts that are left over.

    Source: Kuhn, Naval Research Logistics Quarterly 2(1-2):83-97 (1955), by `scipy.optimize.linear_sum_assignment`.
    """
    counts = np.zeros((experts, int(label.max()) + 1), np.int64)
    np.add.at(counts, (expert, label), 1)
    mine, theirs = _assignment_solver()(counts, maximize=True)
    found = np.full(experts, NO_SPEAKER)
    found[mine] = theirs
    return found


def _assignment_solver() -> Callable[..., Any]:
    with history_extra():
        from scipy.optimize import linear_sum_assignment
    return linear_sum_assignment


def settled_after(winner: Int64[np.ndarray, "T N"]) -> Int64[np.ndarray, " N"]:
    """After how many frames each sequence is with its last expert for good, from 1 to T."""
    elsewhere = winner != winner[-1]
    return np.where(elsewhere.any(axis=0), len(winner) - elsewhere[::-1].argmax(axis=0), 0) + 1


def _features(frames: Sequence[np.ndarray]) -> Float64[np.ndarray, "N _"]:
    """Return the mean and standard deviation of each sequence, each scaled by its own spread."""
    rows = np.array([np.concatenate([each.mean(axis=0), each.std(axis=0)]) for each in frames], np.float64)
    return (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)


def _started(
    frames: Sequence[np.ndarray], groups: np.ndarray, experts: int, states: int, rng: np.random.Generator
) -> HiddenMarkovModels:
    """Start each expert from its group's frames, cut into states by k-means; from all frames if it has too few."""
    everything, means, variances = np.concatenate(frames).astype(np.float64), [], []
    for expert in range(experts):
        mine = [each for each, group in zip(frames, groups, strict=True) if group == expert]
        own = np.concatenate(mine).astype(np.float64) if mine else everything
        own = own if len(own) > states else everything
        means.append(k_means(own, states, rng)[0])
        variances.append(np.broadcast_to(own.var(axis=0) + LOWEST_VARIANCE, means[-1].shape))
    transitions = 1 / states + rng.uniform(0, JITTER, (experts, states, states))
    counts = np.bincount(groups, minlength=experts) + 1
    return HiddenMarkovModels(
        prior=counts / counts.sum(),
        start=np.full((experts, states), 1 / states),
        transitions=transitions / transitions.sum(axis=-1, keepdims=True),
        means=np.stack(means),
        variances=np.stack(variances),
    )


# One hidden Markov model per speaker, each fitted by hmmlearn to only that speaker's utterances.

SPEAKERS = 9
ITERATIONS = 20  # of Baum-Welch for each


def one_each(data: Utterances, experts: int, states: int, seed: int, watch: Watch) -> HiddenMarkovModels:
    """Return an expert for each speaker, all equally likely beforehand.

    `watch` is called before each speaker. Raises `MoevizError` if hmmlearn is missing, or `experts` is not 9.
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
    return HiddenMarkovModels(
        prior=np.full(SPEAKERS, 1 / SPEAKERS),
        start=np.stack([model.startprob_ for model in models]),
        transitions=np.stack([model.transmat_ for model in models]),
        means=np.stack([model.means_ for model in models]),
        variances=np.stack([np.diagonal(model.covars_, axis1=1, axis2=2) for model in models]),
    )


def gaussian_hmm(states: int, seed: int) -> Any:
    """A hidden Markov model of hmmlearn, in logarithms, with diagonal covariances; its means are still to be set.

    hmmlearn's own start is scikit-learn's k-means, whose last bits depend on its threads.

    Raises `MoevizError` if hmmlearn is missing.
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


# The result as a trace.

ENDED = "An utterance has no expert after its last frame, and its logits there are those of its last frame."


def trace_of(
    result: HMMMixture, data: Utterances | None = None, slots: int | None = None, ends: bool = False
) -> RoutingTrace:
    """Return the division of utterances by the gate of a mixture of hidden Markov models, after every frame.

    A token is one utterance, a sequence of its own: `text` is "utterance 12 of speaker 3" and `label` the speaker. A
    layer is the number of frames so far, from 1. Utterances differ in length: after its last frame an utterance
    has no expert. With `ends` there is one layer instead, what the gate says of each utterance at its end.

    Logits are log πₖ + log p(o₁ … oₜ | λₖ), less the highest of the row, so that float32 keeps their differences: the
    softmax is the same. After the last frame they stay as they are there, as nothing more is read. The gate is
    soft, so every utterance goes to all K experts, with the gate's shares as weights; counts of assignments are then
    the same for all experts. With `slots` 1 only the expert with the highest share is kept, weight and all. `data` are
    the 370 test utterances unless given.

    Raises `InvalidTrace` if `slots` are not from 1 to K.

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    data = japanese_vowels()[1] if data is None else data
    experts = len(result.prior)
    slots = slots_from(slots, experts)
    logits = result.logits(data)[-1:] if ends else result.logits(data)
    logits = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float32)
    chosen, weights = soft_slots(logits, slots)
    over = np.arange(len(logits))[:, None] >= [len(each) for each in data.frames]
    layers = (1,) if ends else tuple(range(1, len(logits) + 1))
    taught = "speakers known" if result.settings["supervised"] else f"{result.settings['assignment']} EM"
    return system_trace(
        f"mixture of {experts} hidden Markov models, {taught}, seed {result.settings['seed']}",
        samples(names(data), [f"speaker {speaker + 1}" for speaker in data.speaker]),
        (np.where(over[..., None], np.int16(NO_EXPERT), chosen), np.where(over[..., None], np.float32(0), weights)),
        logits,
        layers=layers,
        score_function="softmax",
        layer_kind="last frame" if ends else "time step",
        item_kind="utterance",
        label_kind="speaker",
        caution="" if ends else ENDED,
    )


def names(data: Utterances) -> list[str]:
    """Name each utterance: "utterance 12 of speaker 3", both counted from 1, in the order of the data."""
    seen: dict[int, int] = {}
    found = []
    for speaker in data.speaker.tolist():
        seen[speaker] = seen.get(speaker, 0) + 1
        found.append(f"utterance {seen[speaker]} of speaker {speaker + 1}")
    return found
