"""Hidden Markov models as experts: K of them, over N sequences, in one pass of numpy, and in logarithms throughout.

A hidden Markov model is in one of S states at each frame, which nobody sees: it starts in one by chance (`start`),
goes on by chance (`transitions`), and each state gives frames of its own (`means`, `variances`: a Gaussian with a
diagonal covariance). Baum-Welch fits such a model to sequences. Here each sequence counts for each expert by a
responsibility, as soft EM needs; hmmlearn has no such weights, and is the oracle of the tests instead.

Source: Rabiner, Proceedings of the IEEE 77(2):257-286 (1989), equations 19-21, 25, 37 and 40.

N sequences, T frames (of the longest), D numbers a frame, K experts, S states. States come before sequences, since
numpy adds up over a long last axis much faster than over a short one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

LOWEST_VARIANCE = 1e-2  # a state may not shrink onto single frames
# Frames or sequences that every expert is taken to have seen of everything, so that no probability becomes 0.
SEEN_TRANSITIONS, SEEN_STARTS, SEEN_SEQUENCES = 0.1, 0.1, 1e-3
UNUSED = 1e-8  # frames: a state that explains fewer keeps its place
IMPOSSIBLE = -1e30  # the logarithm of 0: −∞ less −∞ would be no number


@dataclass(frozen=True, slots=True, eq=False)
class PaddedSequences:
    """N sequences side by side; the short ones are filled up with zeros."""

    values: Float64[np.ndarray, "T N D"]
    lengths: Int64[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, eq=False)
class HiddenMarkovModels:
    """K hidden Markov models and their shares in the mixture: πₖ and λₖ."""

    prior: Float64[np.ndarray, " K"]  # πₖ, sums to 1
    start: Float64[np.ndarray, "K S"]
    transitions: Float64[np.ndarray, "K S S"]  # from, to: rows sum to 1
    means: Float64[np.ndarray, "K S D"]
    variances: Float64[np.ndarray, "K S D"]


def side_by_side(frames: Sequence[Float[np.ndarray, "_ D"]]) -> PaddedSequences:
    """Sequences of any lengths, as one array."""
    lengths = np.array([len(each) for each in frames], np.int64)
    values = np.zeros((lengths.max(), len(frames), frames[0].shape[1]))
    for number, each in enumerate(frames):
        values[: len(each), number] = each
    return PaddedSequences(values, lengths)


def log_densities(experts: HiddenMarkovModels, data: PaddedSequences) -> Float64[np.ndarray, "T S N K"]:
    """log bⱼ(oₜ): how well each state explains each frame by itself; 0 after the end of a sequence."""
    states, features = experts.start.T.shape, data.values.shape[-1]
    centres = experts.means.swapaxes(0, 1).reshape(-1, features)
    precisions = 1 / experts.variances.swapaxes(0, 1).reshape(-1, features)
    squares = data.values**2 @ precisions.T - 2 * data.values @ (centres * precisions).T
    constant = (centres**2 * precisions - np.log(precisions) + np.log(2 * np.pi)).sum(axis=1)
    found = np.where(_inside(data)[..., None], -(squares + constant) / 2, 0)
    return np.ascontiguousarray(found.reshape(*found.shape[:2], *states).swapaxes(1, 2))


def forward(experts: HiddenMarkovModels, densities: Float64[np.ndarray, "T S N K"]) -> Float64[np.ndarray, "T S N K"]:
    """log αₜ(j): of the frames up to t, and state j at t (equations 19 and 20)."""
    goes = _log_transitions(experts)
    found = np.empty_like(densities)
    found[0] = _log(experts.start).T[:, None] + densities[0]
    for t in range(1, len(densities)):
        found[t] = log_sum(found[t - 1][:, None] + goes) + densities[t]
    return found


def backward(
    experts: HiddenMarkovModels, densities: Float64[np.ndarray, "T S N K"], lengths: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, "T S N K"]:
    """log βₜ(i): of the frames after t, given state i at t; 0 from the last frame on (equation 25)."""
    comes = _log_transitions(experts).swapaxes(0, 1)
    found = np.zeros_like(densities)
    for t in range(len(densities) - 2, -1, -1):
        after = log_sum((densities[t + 1] + found[t + 1])[:, None] + comes)
        found[t] = np.where((t < lengths - 1)[:, None], after, 0)
    return found


def prefix_log_likelihoods(experts: HiddenMarkovModels, data: PaddedSequences) -> Float64[np.ndarray, "T N K"]:
    """log p(o₁ … oₜ | λₖ) for every t: what each expert makes of a sequence so far (equation 21).

    After the end of a sequence it stays what it was.
    """
    sofar = log_sum(forward(experts, log_densities(experts, data)).swapaxes(0, 1))
    last = np.minimum(np.arange(len(sofar))[:, None], data.lengths - 1)
    return np.take_along_axis(sofar, last[..., None], axis=0)


def log_gate(experts: HiddenMarkovModels, data: PaddedSequences) -> Float64[np.ndarray, "T N K"]:
    """log πₖ + log p(o₁ … oₜ | λₖ): its softmax over k is the gate after t frames."""
    return _log(experts.prior) + prefix_log_likelihoods(experts, data)


def responsibilities(joint: Float64[np.ndarray, "N K"], assignment: str) -> Float64[np.ndarray, "N K"]:
    """The E step. Soft: rₙₖ = πₖ p(Oₙ | λₖ) / Σⱼ πⱼ p(Oₙ | λⱼ), from the logarithms of these. Hard: all to the best."""
    if assignment == "hard":
        return np.eye(joint.shape[1])[joint.argmax(axis=1)]
    return np.exp(joint - log_sum(joint.T)[:, None])


def step(experts: HiddenMarkovModels, data: PaddedSequences, assignment: str) -> tuple[HiddenMarkovModels, float]:
    """Take one step of EM: who is responsible for which sequence, and each expert refitted to its own.

    Returns the new experts, and what the old ones had of the objective: log Σₖ πₖ p(O | λₖ) of all sequences, and the
    logarithm of the prior that the SEEN_ counts amount to. Soft EM never lowers it; a variance at its floor is the
    best that is allowed, and a state that explains nothing keeps its place.
    """
    densities = log_densities(experts, data)
    ahead, behind = forward(experts, densities), backward(experts, densities, data.lengths)
    likelihood = log_sum(ahead[data.lengths - 1, :, np.arange(len(data.lengths))].swapaxes(0, 1))
    joint = _log(experts.prior) + likelihood
    shares = responsibilities(joint, assignment)
    weights = (_inside(data)[..., None] * shares)[:, None]
    occupied = np.exp(ahead + behind - likelihood) * weights  # γₜ(j), times the responsibility
    arrives = densities[1:] + behind[1:] - likelihood
    moves = np.exp(ahead[:-1, :, None] + _log_transitions(experts) + arrives[:, None])  # ξₜ(i, j)
    moved = np.einsum("tijnk,tnk->kij", moves, weights[1:, 0])
    return _refitted(experts, data, shares, occupied, moved), float(log_sum(joint.T).sum()) + _log_prior(experts)


def log_sum(terms: Float64[np.ndarray, "S ..."]) -> Float64[np.ndarray, "..."]:
    """Compute log Σ exp over the first axis; the highest term is factored out, so that nothing overflows."""
    highest = terms.max(axis=0)
    return highest + np.log(np.exp(terms - highest).sum(axis=0))


def _refitted(
    experts: HiddenMarkovModels,
    data: PaddedSequences,
    shares: Float64[np.ndarray, "N K"],
    occupied: Float64[np.ndarray, "T S N K"],
    moved: Float64[np.ndarray, "K S S"],
) -> HiddenMarkovModels:
    """Run the M step: every probability from its expected count (equation 40), every Gaussian from its frames."""
    weight = np.einsum("tsnk->ks", occupied)[..., None]
    used, divisor = weight > UNUSED, np.maximum(weight, UNUSED)
    by_frame = occupied.transpose(3, 1, 0, 2).reshape(experts.start.size, -1)
    frames = data.values.reshape(by_frame.shape[1], -1)
    means = (by_frame @ frames).reshape(experts.means.shape) / divisor
    squares = (by_frame @ frames**2).reshape(experts.means.shape) / divisor
    return HiddenMarkovModels(
        prior=_proportions(shares.sum(axis=0) + SEEN_SEQUENCES),
        start=_proportions(np.einsum("snk->ks", occupied[0]) + SEEN_STARTS),
        transitions=_proportions(moved + SEEN_TRANSITIONS),
        means=np.where(used, means, experts.means),
        variances=np.where(used, np.maximum(squares - means**2, LOWEST_VARIANCE), experts.variances),
    )


def _inside(data: PaddedSequences) -> Bool[np.ndarray, "T N"]:
    """Return a mask of the frames that a sequence has."""
    return np.arange(len(data.values))[:, None] < data.lengths


def _log_transitions(experts: HiddenMarkovModels) -> Float64[np.ndarray, "S S 1 K"]:
    """Return log probabilities of going from i to j, with an axis for all sequences."""
    return _log(experts.transitions).transpose(1, 2, 0)[:, :, None]


def _log_prior(experts: HiddenMarkovModels) -> float:
    """Return the log density of Dirichlet priors with parameters 1 + the prior counts, up to a constant."""
    seen = {"prior": SEEN_SEQUENCES, "start": SEEN_STARTS, "transitions": SEEN_TRANSITIONS}
    return float(sum(count * np.log(getattr(experts, name)).sum() for name, count in seen.items()))


def _proportions(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(axis=-1, keepdims=True)


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(values, out=np.full_like(values, IMPOSSIBLE), where=values > 0)


ROUNDS = 100


def k_means(
    points: Float64[np.ndarray, "N D"], clusters: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "clusters D"], Int64[np.ndarray, " N"]]:
    """Centres, and the centre that each point is nearest to. A cluster that loses all its points keeps its place.

    The first centres are points, each drawn with odds as its squared distance to the nearest one before.

    Source: Lloyd, IEEE Transactions on Information Theory 28(2):129-137 (1982); the start is of Arthur &
    Vassilvitskii, k-means++, SODA (2007), section 2.2.
    """
    centres = points[rng.integers(len(points), size=1)]
    while len(centres) < clusters:
        odds = _distances(points, centres).min(axis=1)
        odds = odds / odds.sum() if odds.sum() else np.full(len(points), 1 / len(points))
        centres = np.concatenate([centres, points[rng.choice(len(points), size=1, p=odds)]])
    nearest = _distances(points, centres).argmin(axis=1)
    for _ in range(ROUNDS):
        members = [points[nearest == cluster] for cluster in range(clusters)]
        pairs = zip(members, centres, strict=True)
        centres = np.stack([mine.mean(axis=0) if len(mine) else centre for mine, centre in pairs])
        before, nearest = nearest, _distances(points, centres).argmin(axis=1)
        if (before == nearest).all():
            break
    return centres, nearest


def _distances(points: np.ndarray, centres: np.ndarray) -> Float64[np.ndarray, "N clusters"]:
    return ((points[:, None] - centres) ** 2).sum(axis=-1)
