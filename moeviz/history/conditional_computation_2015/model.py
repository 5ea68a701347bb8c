"""Conditional computation: blocks of a network, each switched on or off for every input by a learnt policy.

One hidden layer of 256 tanh units in 16 blocks classifies handwritten digits. A policy sees the digit too, and gives
each block a probability of its own. A block that is off need not be computed. Being on or off has no slope, so the
policy cannot be trained by plain backpropagation, and there are two ways around that here.

Source: the straight-through estimator: Y. Bengio, Léonard & Courville, arXiv 1308.3432 (2013). Blocks, policy and its
three losses: E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015). The weights of the losses and the steps are
ours, since we train with momentum and on 4,000 digits; so is a running mean as the baseline.

N digits, D pixels (784), B blocks, U units of a block, C classes.

Two Bengios: the estimators of 2013 are Yoshua's, the policy and its losses of 2015 Emmanuel's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, UInt8

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import Digits, digits
from moeviz.history.shared.gates import samples, switched_slots, system_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.routing_trace import RoutingTrace


def reinforce(
    logits: Float32[torch.Tensor, "N B"],
    on: Float32[torch.Tensor, "N B"],
    cost: Float32[torch.Tensor, " N"],
    baseline: float,
) -> Float32[torch.Tensor, ""]:
    """Loss whose gradient is the policy's: the mean of (C − b) log π(u | x), C the digit's negative log-likelihood.

    π(u | x) = Πⱼ σⱼ^uⱼ (1 − σⱼ)^(1 − uⱼ), a Bernoulli per block. By its logit the slope is (uⱼ − σⱼ)(C − b), which
    is right on average whatever the baseline b; b only makes it vary less.

    Source: 2015, its sigmoid-Bernoulli policy; Williams, Machine Learning 8:229-256 (1992), REINFORCE. 2013 has
    the same estimator for a single unit.
    """
    log_probability = (on * F.logsigmoid(logits) + (1 - on) * F.logsigmoid(-logits)).sum(dim=1)
    return ((cost.detach() - baseline) * log_probability).mean()


def straight_through(
    on: Float32[torch.Tensor, "N B"], logits: Float32[torch.Tensor, "N B"]
) -> Float32[torch.Tensor, "N B"]:
    """Return the sampled 0s and 1s with a gradient that passes to the logits as if nothing were between.

    Biased: the fourth of the four estimators of 2013, which gave it its name; Hinton had shown it in a lecture in 2012.
    """
    return on + (logits - logits.detach())


def sparsity_loss(probability: Float32[torch.Tensor, "N B"], target: float) -> Float32[torch.Tensor, ""]:
    """L_b + L_e: each block should be on for a share τ of the batch, and each digit should use a share τ of the blocks.

    L_b = Σⱼ |meanᵢ σᵢⱼ − τ|, L_e = meanᵢ |meanⱼ σᵢⱼ − τ|. Source: 2015, L_b and L_e.
    """
    by_block = (probability.mean(dim=0) - target).abs().sum()
    return by_block + (probability.mean(dim=1) - target).abs().mean()


def variance_loss(probability: Float32[torch.Tensor, "N B"]) -> Float32[torch.Tensor, ""]:
    """L_v = −Σⱼ varᵢ σᵢⱼ: a block's probability should depend on the digit, and not be τ for all. Source: 2015, L_v."""
    return -probability.var(dim=0, correction=0).sum()


ESTIMATORS = ("policy", "straight-through", "uniform")  # the last learns no policy: block dropout
BLOCKS, UNITS, CLASSES = 16, 16, 10
EPOCHS, BATCH = 40, 100
STEP, POLICY_STEP, MOMENTUM, DECAY = 0.1, 0.02, 0.9, 1e-4
FIRST_ON = 0.3  # how likely a block is on before training
REMEMBERED = 0.95  # of the baseline, at each step
DRAWS = 5  # of the blocks of all test digits: errors are means over them
STEPS_UNWATCHED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    """A trained network, and what it did with the N test digits."""

    settings: dict[str, int | float | str]  # the arguments of `train`
    digit: UInt8[np.ndarray, " N"]  # what it is
    answer: UInt8[np.ndarray, " N"]  # what the network says with the blocks in `on`
    logits: Float32[np.ndarray, "N B"] | None  # Z x + d; None if no policy was learnt
    probability: Float32[np.ndarray, "N B"]  # σ, of each block to be on: rows need not sum to 1
    on: Bool[np.ndarray, "N B"]  # one draw
    error: float  # share of wrong answers, blocks drawn
    on_share: float  # of all blocks of all digits, drawn
    threshold_error: float  # the same with every block on whose σ is above 1/2
    threshold_on_share: float

    def class_spread(self) -> float:
        """The spread of the blocks over kinds of digit: standard deviation over kinds of the mean σ, mean of blocks."""
        means = [self.probability[self.digit == kind].mean(axis=0, dtype=np.float64) for kind in range(CLASSES)]
        return float(np.std(means, axis=0).mean())


@dataclass(frozen=True, slots=True, eq=False)
class GatedNetwork:
    """The parameters, and what they compute."""

    into: Float32[torch.Tensor, "D BU"]
    into_bias: Float32[torch.Tensor, " BU"]
    out: Float32[torch.Tensor, "BU C"]
    out_bias: Float32[torch.Tensor, " C"]
    policy: Float32[torch.Tensor, "D B"]  # Z
    policy_bias: Float32[torch.Tensor, " B"]  # d

    def logits(self, images: Float32[torch.Tensor, "N D"]) -> Float32[torch.Tensor, "N B"]:
        """Logits of the policy, before its sigmoid: Z x + d."""
        return images @ self.policy + self.policy_bias

    def classes(
        self, images: Float32[torch.Tensor, "N D"], on: Float32[torch.Tensor, "N B"]
    ) -> Float32[torch.Tensor, "N C"]:
        """h = tanh(W x + b), each unit times the gate of its block; then a linear layer. Here all of h is computed."""
        units = torch.tanh(images @ self.into + self.into_bias).unflatten(1, (-1, UNITS))
        return (units * on[:, :, None]).flatten(1) @ self.out + self.out_bias


def train(
    estimator: str = "policy",
    target: float = 1 / 8,
    sparsity: float = 1.0,
    variance: float = 1.0,
    blocks: int = BLOCKS,
    seed: int = 0,
    epochs: int = EPOCHS,
    watch: Watch = unwatched,
) -> Conditional:
    """Train a network and its policy on 4,000 digits, and try them on 1,000 others.

    `estimator`: "policy" is the policy gradient of 2015, "straight-through" that of 2013, and "uniform" learns no
    policy, but switches each block on with probability `target`, for training and for testing. `target` is τ;
    `sparsity` and `variance` are λ_s and λ_v. With "uniform" and target 1 all blocks are always on: a dense network of
    16 × `blocks` units.

    The loss: cost + λ_s (L_b + L_e) + λ_v L_v, and the policy gradient. The same arguments, the same result. `watch`
    is called every five batches.

    Raises `MoevizError` for an estimator that is not one of the three, a target that is not above 0 and at most 1,
    weights below 0, or fewer than 1 block or epoch.
    """
    settings = {"estimator": estimator, "target": target, "sparsity": sparsity, "variance": variance}
    settings |= {"blocks": blocks, "seed": seed, "epochs": epochs}
    _check(settings)
    training, test = digits()
    images, wanted = _inputs(training)
    generator = torch.Generator().manual_seed(seed)
    network = _at_random(blocks, generator)
    optimiser = _optimiser(network)
    baseline, steps = math.log(CLASSES), math.ceil(len(images) / BATCH)
    for step in range(epochs * steps):
        if step % steps == 0:
            batches = torch.randperm(len(images), generator=generator).split(BATCH)
        batch = batches[step % steps]
        loss, cost, on = _loss(network, images[batch], wanted[batch], settings, baseline, generator)
        if step % STEPS_UNWATCHED == 0:
            says = f"epoch {step // steps + 1} of {epochs}, loss {cost:.2f}, {on:.0%} of the blocks on"
            watch(step / (epochs * steps), says)
        baseline = REMEMBERED * baseline + (1 - REMEMBERED) * cost
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _result(network, test, settings, generator)


def _check(settings: dict[str, int | float | str]) -> None:
    if settings["estimator"] not in ESTIMATORS:
        raise MoevizError(f"Got the estimator {settings['estimator']!r}. Choose one of {', '.join(ESTIMATORS)}.")
    if not 0 < settings["target"] <= 1:
        raise MoevizError(f"Got the target {settings['target']}. It is a share of blocks: above 0 and at most 1.")
    weights, counts = (settings["sparsity"], settings["variance"]), (settings["blocks"], settings["epochs"])
    if not all(weight >= 0 for weight in weights) or min(counts) < 1:
        got = ", ".join(f"{name} {settings[name]}" for name in ("sparsity", "variance", "blocks", "epochs"))
        raise MoevizError(f"Got {got}. The first two are weights, of at least 0; the others must be at least 1.")


def _loss(
    network: GatedNetwork,
    images: Float32[torch.Tensor, "N D"],
    wanted: Int64[torch.Tensor, " N"],
    settings: dict[str, int | float | str],
    baseline: float,
    generator: torch.Generator,
) -> tuple[Float32[torch.Tensor, ""], float, float]:
    """Compute the loss of a batch, its cost without penalties, and the share of blocks that were on."""
    estimator, target = settings["estimator"], settings["target"]
    logits = network.logits(images)
    probability = torch.full_like(logits, target) if estimator == "uniform" else torch.sigmoid(logits)
    on = _drawn(probability, generator)
    gates = straight_through(on, logits) if estimator == "straight-through" else on
    cost = F.cross_entropy(network.classes(images, gates), wanted, reduction="none")
    loss = cost.mean()
    if estimator != "uniform":
        loss = loss + settings["sparsity"] * sparsity_loss(probability, target)
        loss = loss + settings["variance"] * variance_loss(probability)
    if estimator == "policy":
        loss = loss + reinforce(logits, on, cost, baseline)
    return loss, float(cost.detach().mean()), float(on.mean())


@torch.no_grad()
def _result(
    network: GatedNetwork, test: Digits, settings: dict[str, int | float | str], generator: torch.Generator
) -> Conditional:
    images, wanted = _inputs(test)
    logits = network.logits(images)
    uniform = settings["estimator"] == "uniform"
    probability = torch.full_like(logits, settings["target"]) if uniform else torch.sigmoid(logits)
    draws = [_drawn(probability, generator) for _ in range(DRAWS)]
    answers = [network.classes(images, on).argmax(dim=1) for on in draws]
    sure = (probability > 0.5).float()
    return Conditional(
        settings=settings,
        digit=test.digit.astype(np.uint8),
        answer=answers[0].numpy().astype(np.uint8),
        logits=None if uniform else logits.numpy(),
        probability=probability.numpy(),
        on=draws[0].numpy() > 0,
        error=float(np.mean([_error(answer, wanted) for answer in answers])),
        on_share=float(np.mean([float(on.mean()) for on in draws])),
        threshold_error=_error(network.classes(images, sure).argmax(dim=1), wanted),
        threshold_on_share=float(sure.mean()),
    )


def _inputs(some: Digits) -> tuple[Float32[torch.Tensor, "N D"], Int64[torch.Tensor, " N"]]:
    return torch.from_numpy(some.images).flatten(1).float() / 255, torch.from_numpy(some.digit)


def _drawn(probability: Float32[torch.Tensor, "N B"], generator: torch.Generator) -> Float32[torch.Tensor, "N B"]:
    return (torch.rand(probability.shape, generator=generator) < probability).float()


def _error(answer: Int64[torch.Tensor, " N"], wanted: Int64[torch.Tensor, " N"]) -> float:
    return float((answer != wanted).float().mean())


def _at_random(blocks: int, generator: torch.Generator) -> GatedNetwork:
    pixels, units = 28 * 28, blocks * UNITS
    start = {
        "into": _uniform(pixels, units, generator),
        "into_bias": torch.zeros(units),
        "out": _uniform(units, CLASSES, generator),
        "out_bias": torch.zeros(CLASSES),
        "policy": _uniform(pixels, blocks, generator),
        "policy_bias": torch.full((blocks,), math.log(FIRST_ON / (1 - FIRST_ON))),
    }
    return GatedNetwork(**{name: values.requires_grad_() for name, values in start.items()})


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Float32[torch.Tensor, "rows columns"]:
    """Draw initial weights. Source: Glorot & Bengio, AISTATS 2010, equation 16."""
    return (2 * torch.rand(rows, columns, generator=generator) - 1) * math.sqrt(6 / (rows + columns))


def _optimiser(network: GatedNetwork) -> torch.optim.SGD:
    rest = [network.into, network.into_bias, network.out, network.out_bias]
    policy = {"params": [network.policy, network.policy_bias], "lr": POLICY_STEP}
    return torch.optim.SGD([{"params": rest, "weight_decay": DECAY}, policy], lr=STEP, momentum=MOMENTUM)


# The result as a trace.

DRAWN = "Which blocks are on was drawn once, as in training: another draw with the same probabilities differs."


def trace_of(result: Conditional) -> RoutingTrace:
    """Return the blocks of a gated network that each test digit switched on, as a trace.

    A token is one of the 1,000 test digits, each a sequence of its own: `text` is the digit and, if the network got it
    wrong, its answer; `label` is the digit. An expert is a block. Gates are independent, so a digit has any number
    of blocks, even 0, and the rows of weights do not sum to 1: a weight is what the block's output is
    multiplied by, 1 if it is on. Their order in the slots is by id and means nothing. Logits are those of the
    policy, one sigmoid per block; if blocks are dropped uniformly nothing scores them, and there are no logits.

    The blocks are those of the draw that gave the answers.

    Source: Y. Bengio, Léonard & Courville, arXiv 1308.3432 (2013); E. Bengio, Bacon, Pineau & Precup, arXiv
    1511.06297 (2015).
    """
    settings, on = result.settings, result.on
    slots = switched_slots(on[None], np.ones((1, *on.shape), np.float32))
    name = f"conditional computation, {settings['estimator']}, blocks drawn, seed {settings['seed']}"
    tokens = samples(_texts(result), [str(digit) for digit in result.digit])
    scored = {"score_function": "unknown" if result.logits is None else "sigmoid", "num_experts": on.shape[1:]}
    facts = {"layer_kind": "hidden layer", "item_kind": "digit", "label_kind": "digit", "caution": DRAWN}
    return system_trace(name, tokens, slots, None if result.logits is None else result.logits[None], **scored, **facts)


def _texts(result: Conditional) -> list[str]:
    pairs = zip(result.digit, result.answer, strict=True)
    return [f"{digit}" if digit == answer else f"{digit} taken for {answer}" for digit, answer in pairs]
