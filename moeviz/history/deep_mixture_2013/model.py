"""A deep mixture of experts: two layers of experts, each with a gate of its own, on digits that are moved about.

Every expert sees all of its layer's input, and so does the gate, which weights each expert. The gates are free to
use where the digit is, or what it is.

Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013). Sizes are those of a row of its table, 4×100-4×20 with
gates 50-50; moves and constraint are the paper's too. It trained on MNIST, and here are 4,000 digits of it. The
step size, the margin of the constraint and when it is lifted are ours.

N samples, D inputs of a layer, E experts, H outputs of an expert, G hidden units of a gate, L layers, C digits, P
places, T samples kept.

Digits are moved by up to 4 pixels in each direction on a picture of 36 × 36, so that where they are has nothing to do
with what they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.shared.datasets import Digits, digits
from moeviz.history.shared.gates import samples, slots_from, soft_slots, system_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.routing_trace import RoutingTrace

SIDE, SHIFT = 36, 4  # pixels: of the picture, and by how much a digit may be moved to either side, and up or down
MOVES = 2 * SHIFT + 1
PLACES = MOVES**2


def windows(data: Digits) -> Float[Tensor, "N 9 9 36 36"]:
    """Every digit at all places, row by row: views of one picture with a wide margin, so nothing is copied yet."""
    images = torch.from_numpy(data.images) / 255
    margin = (SIDE + 2 * SHIFT - images.shape[1]) // 2
    wide = torch.nn.functional.pad(images, [margin] * 4)
    return wide.unfold(1, SIDE, 1).unfold(2, SIDE, 1)


def moved(views: Float[Tensor, "N 9 9 36 36"], rows: Int64[Tensor, " K"], place: Int64[Tensor, " K"]) -> Tensor:
    """These rows, each at its place, as K rows of pixels. A picture cut out further up shows its digit further down."""
    right, down = moves(place)
    return views[rows, SHIFT - down, SHIFT - right].flatten(1)


def moves(place: Int[Tensor, " K"] | Int[np.ndarray, " K"]) -> tuple:
    """Return the pixels by which a place is right of the middle, and below it. Place 0 is upper left, row by row."""
    return place % MOVES - SHIFT, place // MOVES - SHIFT


DIGITS = 10
EXPERT_UNITS, GATE_UNITS = (100, 20), (50, 50)  # of the first layer, of the second
EPOCHS, FREE = 42, 2 / 7  # and the share of them, at the end, in which the constraint is lifted
BATCH, MARGIN = 50, 10.0  # samples; the margin is in samples too, so a larger batch asks for a larger margin
STEP, MOMENTUM = 0.05, 0.9

Line = tuple[Tensor, Tensor]  # weights (inputs, outputs) and biases


@dataclass(frozen=True, slots=True, eq=False)
class GatedLayer:
    """Experts and their gate. What it holds is learnt."""

    experts: Line  # Wᵢ and bᵢ of all experts, side by side: E·H outputs
    below: Line  # A and a of the gate: G outputs
    above: Line  # B and b of the gate: E outputs

    def logits(self, inputs: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """Logits of the gate, before its softmax: B·relu(A x + a) + b."""
        return along(self.above, relu(along(self.below, inputs)))

    def mix(self, inputs: Float[Tensor, "N D"], gate: Float[Tensor, "N E"]) -> Float[Tensor, "N H"]:
        """Output of the layer: Σᵢ gᵢ(x) fᵢ(x), with experts fᵢ(x) = relu(Wᵢ x + bᵢ)."""
        said = relu(along(self.experts, inputs)).unflatten(1, (gate.shape[1], -1))
        return (gate[:, :, None] * said).sum(dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class DeepMixtureNetwork:
    """z¹ = Σᵢ gᵢ¹(x) fᵢ¹(x), z² = Σⱼ gⱼ²(z¹) fⱼ²(z¹), and a softmax of z² predicts the digit."""

    layers: tuple[GatedLayer, GatedLayer]
    top: Line

    def run(
        self, inputs: Float[Tensor, "N D"], totals: Float[Tensor, "L E"], margin: float = float("inf")
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "L N E"], Float[Tensor, "L N E"]]:
        """The logits of the digits, and of both layers' gates the logits and the values. No margin, no constraint."""
        logits, gates = [], []
        for layer, total in zip(self.layers, totals, strict=True):
            logits.append(layer.logits(inputs))
            gates.append(balanced(logits[-1], total, margin))
            inputs = layer.mix(inputs, gates[-1])
        return along(self.top, inputs), torch.stack(logits), torch.stack(gates)

    def learnt(self) -> list[Tensor]:
        """Everything that training changes."""
        lines = [line for layer in self.layers for line in (layer.experts, layer.below, layer.above)]
        return [tensor for line in (*lines, self.top) for tensor in line]


@dataclass(frozen=True, slots=True, eq=False)
class DeepMixture:
    """A trained deep mixture: how its gates came to share, and what they go by. Layers are 1 and 2, as in the paper."""

    settings: dict[str, int | bool]  # experts, constraint, epochs, seed
    shares: Float32[np.ndarray, "epochs L E"]  # mean gate over the training samples of each epoch; sums to 1
    samples: int  # in an epoch
    bound: int  # number of epochs, the first ones, under the constraint
    mean_gate: Float32[np.ndarray, "L C P E"] = field(repr=False)  # of the test digits of each kind, at each place
    digits_of_kind: Int64[np.ndarray, " C"]  # how many test digits there are of each
    error: float  # share of the test digits that are misclassified, each at all P places
    logits: Float32[np.ndarray, "L T E"] = field(repr=False)  # of T samples, one for each kind and place
    digit: UInt8[np.ndarray, " T"] = field(repr=False)  # what it is
    place: UInt8[np.ndarray, " T"] = field(repr=False)  # and where: `moves` says how far that is


def train(
    *, experts: int = 4, constraint: bool = True, epochs: int = EPOCHS, seed: int = 0, watch: Watch = unwatched
) -> DeepMixture:
    """Train a deep mixture on 4,000 digits, each moved elsewhere in every epoch, and measure its gates.

    Stochastic gradient descent with momentum on the cross-entropy of the digits. With the constraint, no expert's
    running total may lead for long; for the last two sevenths of the epochs it is lifted, and the gates are free. The
    same arguments, the same result. `watch` is called before each batch.

    Raises `MoevizError` for fewer than 2 experts or 1 epoch.
    """
    if experts < 2 or epochs < 1:
        raise MoevizError(f"Got {experts} experts and {epochs} epochs; at least 2 experts and 1 epoch are needed.")
    training, test = digits()
    chance = torch.Generator().manual_seed(seed)
    network = start(experts, chance)
    optimizer = torch.optim.SGD(network.learnt(), STEP, MOMENTUM)
    views, digit = windows(training), torch.from_numpy(training.digit)
    bound = epochs - round(FREE * epochs) if constraint else 0
    totals, shares = torch.zeros(2, experts, dtype=torch.float64), []
    for epoch in range(epochs):
        before, margin = totals.clone(), MARGIN if epoch < bound else float("inf")
        for done, rows, places in _batches(len(digit), chance):
            watch((epoch + done) / epochs, f"epoch {epoch + 1} of {epochs}")
            scores, _, gates = network.run(moved(views, rows, places), totals, margin)
            optimizer.zero_grad()
            cross_entropy(scores, digit[rows]).backward()
            optimizer.step()
            totals += gates.detach().sum(dim=1)
        shares.append((totals - before) / len(digit))
    settings = {"experts": experts, "constraint": constraint, "epochs": epochs, "seed": seed}
    return DeepMixture(
        settings=settings,
        shares=torch.stack(shares).float().numpy(),
        samples=len(digit),
        bound=bound,
        **_measured(network, test, watch),
    )


def balanced(logits: Float[Tensor, "N E"], totals: Float[Tensor, " E"], margin: float) -> Float[Tensor, "N E"]:
    """Return the gate under the constraint: an expert ahead of the others is left out until they have caught up.

    With the running total Gᵢ of expert i over all samples so far, gᵢ = 0 where Gᵢ − mean(G) > m, and what is left is
    scaled to sum to 1. That is a softmax over the experts that are left, which stays a number also where their gates
    were next to nothing. They are never all left out, since not all can be ahead of their mean.
    """
    ahead = totals - totals.mean() > margin
    return logits.masked_fill(ahead, -torch.inf).softmax(dim=1)


def start(experts: int, chance: torch.Generator) -> DeepMixtureNetwork:
    """Return a network before training: weights and biases uniform in ±1/√inputs."""
    width, layers = SIDE**2, []
    for units, gate_units in zip(EXPERT_UNITS, GATE_UNITS, strict=True):
        sizes = ((width, experts * units), (width, gate_units), (gate_units, experts))
        layers.append(GatedLayer(*(_line(*size, chance) for size in sizes)))
        width = units
    return DeepMixtureNetwork((layers[0], layers[1]), _line(width, DIGITS, chance))


def along(line: Line, inputs: Float[Tensor, "N D"]) -> Float[Tensor, "N O"]:
    """W x + b."""
    weights, biases = line
    return inputs @ weights + biases


def _line(inputs: int, outputs: int, chance: torch.Generator) -> Line:
    reach = inputs**-0.5
    return tuple(
        ((2 * torch.rand(size, generator=chance) - 1) * reach).requires_grad_()
        for size in ((inputs, outputs), (outputs,))
    )


def _batches(samples: int, chance: torch.Generator) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield all samples once, shuffled, each at a random place: the share done before, the rows and their places."""
    order = torch.randperm(samples, generator=chance)
    places = torch.randint(PLACES, (samples,), generator=chance)
    for first in range(0, samples, BATCH):
        rows = order[first : first + BATCH]
        yield first / samples, rows, places[rows]


@torch.no_grad()
def _measured(network: DeepMixtureNetwork, test: Digits, watch: Watch) -> dict[str, Any]:
    """Measure all test digits at all places, and a sample of each kind and place, the same for every network."""
    chance = np.random.default_rng(0)
    views, digit = windows(test), torch.from_numpy(test.digit)
    everyone, of_kind = torch.arange(len(digit)), torch.bincount(digit, minlength=DIGITS)
    unbound = torch.zeros(2, network.layers[0].above[1].numel())
    kept = np.stack([chance.choice(np.flatnonzero(test.digit == kind), PLACES) for kind in range(DIGITS)])
    means, samples, wrong = [], [], 0
    for place in range(PLACES):
        watch(1.0, f"measuring the gates at position {place + 1} of {PLACES}")
        scores, logits, gates = network.run(moved(views, everyone, torch.full_like(everyone, place)), unbound)
        sums = torch.zeros(2, DIGITS, gates.shape[2]).index_add(1, digit, gates)
        means.append(sums / of_kind[:, None])
        samples.append(logits[:, kept[:, place]])
        wrong += int((scores.argmax(dim=1) != digit).sum())
    return {
        "mean_gate": torch.stack(means, dim=2).numpy(),
        "digits_of_kind": of_kind.numpy(),
        "error": wrong / (PLACES * len(digit)),
        "logits": torch.cat(samples, dim=1).numpy(),
        "digit": np.tile(np.arange(DIGITS, dtype=np.uint8), PLACES),
        "place": np.repeat(np.arange(PLACES, dtype=np.uint8), DIGITS),
    }


# The result as a trace.

LAYERS = (1, 2)  # as the paper counts
THIRD = (2 * SHIFT + 1) // 3  # of the moves in a direction
DOWN, RIGHT = ("upper", "middle", "lower"), ("left", "middle", "right")
LABELS = ("digit", "place")


def trace_of(result: DeepMixture, label: str = "digit", slots: int | None = None) -> RoutingTrace:
    """The division of 810 test digits by the two gates of a deep mixture: one of each kind at each of the 81 positions.

    A token is one sample, alone in its sequence: `text` is "7 moved 2 right, 3 up". `label` is the digit or, with
    "place", which of nine regions it was moved to; each has as many samples as any other. Layers are 1 and 2, as the
    paper counts. The gates are soft, so every sample goes to all E experts of both layers, with weights that sum to 1;
    counts of assignments are then the same for all experts. With `slots` 1 only the expert with the highest gate is
    kept, weight and all, and counts tell who wins.

    Raises `InvalidTrace` for a label other than digit or place, or slots that are not from 1 to E.

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013).
    """
    experts = result.logits.shape[2]
    slots = slots_from(slots, experts)
    if label not in LABELS:
        raise InvalidTrace(
            f"Got the label {label!r}. Samples are labelled by {' or by '.join(LABELS)}; choose one of them."
        )
    found = soft_slots(result.logits, slots)
    steps = list(zip(*(part.tolist() for part in moves(result.place.astype(np.int64))), strict=True))
    digits = [str(digit) for digit in result.digit]
    texts = [f"{digit} {_in_words(*move)}" for digit, move in zip(digits, steps, strict=True)]
    tokens = samples(texts, digits if label == "digit" else [_region(*move) for move in steps])
    name = f"deep mixture of {experts} and {experts} experts, seed {result.settings['seed']}"
    facts = {"layers": LAYERS, "score_function": "softmax", "dtype": "float32"}
    return system_trace(name, tokens, found, result.logits, item_kind="digit", label_kind=label, **facts)


def _in_words(right: int, down: int) -> str:
    ways = ((right, "right", "left"), (down, "down", "up"))
    said = [f"{abs(pixels)} {ahead if pixels > 0 else back}" for pixels, ahead, back in ways if pixels]
    return f"moved {', '.join(said)}" if said else "in the middle"


def _region(right: int, down: int) -> str:
    """Name the region of a place, one of nine with nine places each: upper left, upper middle and so on."""
    across, along = RIGHT[(right + SHIFT) // THIRD], DOWN[(down + SHIFT) // THIRD]
    return "middle" if across == along else f"{along} {across}"
