"""Does conditional computation behave as its paper of 2015 says?

The paper's errors are of all of MNIST, 60,000 digits; ours of 4,000. None of its figures is compared: each claim is
about two of our own networks. That the gated network beats a dense one of as much computation, and that it is faster
on the clock, is not claimed.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by
from history_checks.negative_controls import Control, swapped
from moeviz.history.conditional_computation_2015 import model
from moeviz.history.conditional_computation_2015.model import Conditional, train
from moeviz.history.shared.datasets import Digits, digits

SEEDS, QUICK_SEEDS, QUICK_EPOCHS = 3, 1, 8
TARGETS = (1 / 8, 1 / 16)  # what ships, and the paper's
AT_MOST_ABOVE = 3  # times the target
RATIO = 1.6
OPEN = 0.5
STEADIER = 0.5  # of the spread without a baseline
DIGITS, DRAWN = 100, 30  # whose blocks are drawn so many times


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Both targets and 3 seeds; where it is to be quick, the target of what ships, one seed and 8 of 40 epochs.

    Source: E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    found = [*of_policy(quick, seed), *of_variance(quick, seed)]
    return [*found, *without_losses(quick, seed), *of_baseline(quick, seed)]


def of_policy(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims that the policy has learnt which blocks to switch on."""
    runs = _trained(quick, seed)
    dense = _mean(runs(estimator="uniform", target=1.0), "error")
    found = []
    for target in TARGETS[: 1 if quick else None]:
        learnt = runs(target=target)
        found += [
            _against_uniform(learnt, runs, target),
            _on_share(learnt, target),
            _against_dense(learnt, dense, target),
        ]
    return found


def of_variance(quick: bool = False, seed: int = 0) -> list[Claim]:
    """L_v makes a block's probability go with the kind of digit."""
    runs = _trained(quick, seed)
    spread = [np.mean([run.class_spread() for run in runs(variance=weight)]) for weight in (1.0, 0.0)]
    what = "spread of σ over the kinds of digit, with L_v minus without"
    return [Claim(what, float(spread[0] - spread[1]), NOT_PRINTED, "above 0", bool(spread[0] > spread[1]))]


def without_losses(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Nothing but the errors tells the policy what to do, and more blocks make fewer."""
    on = min(run.on_share for run in _trained(quick, seed)(sparsity=0.0, variance=0.0))
    return [Claim("share of blocks on without the losses, lowest run", on, NOT_PRINTED, f"above {OPEN}", on > OPEN)]


def of_baseline(quick: bool = False, seed: int = 0) -> list[Claim]:
    """How much the policy gradient varies from draw to draw before training, with the baseline that training starts at.

    The baseline leaves the gradient right on average; what it is for is to make it vary less.

    Source: Williams, Machine Learning 8:229-256 (1992).
    """
    draws = torch.Generator().manual_seed(seeds(seed, 1)[0])
    network, digits_in, wanted = _untrained(DIGITS, draws)
    spread = {}
    for baseline in (math.log(model.CLASSES), 0.0):
        slopes = []
        for _ in range(DRAWN):
            logits = network.logits(digits_in).detach().requires_grad_()
            on = (torch.rand(logits.shape, generator=draws) < torch.sigmoid(logits)).float()
            cost = cross_entropy(network.classes(digits_in, on), wanted, reduction="none")
            model.reinforce(logits, on, cost, baseline).backward()
            slopes.append(logits.grad)
        spread[baseline > 0] = float(torch.stack(slopes).std(dim=0).mean())
    ratio = spread[True] / spread[False] if spread[False] else math.inf  # no gradient at all is not a steady one
    what = "spread of the policy gradient over draws, with the baseline / without"
    return [Claim(what, ratio, NOT_PRINTED, f"at most {STEADIER}", ratio <= STEADIER)]


def _trained(quick: bool, seed: int) -> partial:
    tried = seeds(seed, QUICK_SEEDS if quick else SEEDS)
    return partial(_runs, seeds=tried, **({"epochs": QUICK_EPOCHS} if quick else {}))


def _against_uniform(learnt: list[Conditional], runs: partial, target: float) -> Claim:
    """Uniform dropout gets exactly twice the blocks."""
    uniform = runs(estimator="uniform", target=min(1.0, 2 * _mean(learnt, "on_share")))
    ratio = _mean(learnt, "error") / _mean(uniform, "error")
    what = f"error, learned policy / uniform dropout with twice the blocks on, target {target}"
    return Claim(what, ratio, NOT_PRINTED, "below 1", ratio < 1)


def _on_share(learnt: list[Conditional], target: float) -> Claim:
    """The policy is less sparse than asked, but not by much."""
    ratio = _mean(learnt, "on_share") / target
    what = f"share of blocks on / target, target {target}"
    return Claim(what, ratio, NOT_PRINTED, f"above 1, at most {AT_MOST_ABOVE}", 1 < ratio <= AT_MOST_ABOVE)


def _against_dense(learnt: list[Conditional], dense: float, target: float) -> Claim:
    ratio = _mean(learnt, "error") / dense
    what = f"error, learned policy / all 256 units always on, target {target}"
    return Claim(what, ratio, NOT_PRINTED, f"at most {RATIO}", ratio <= RATIO)


def _runs(*, seeds: range, **settings: int | float | str) -> list[Conditional]:
    return [train(seed=seed, **settings) for seed in seeds]


def _mean(runs: list[Conditional], what: str) -> float:
    return float(np.mean([getattr(run, what) for run in runs]))


def _nothing(probability: torch.Tensor, *_: float) -> torch.Tensor:
    return probability.sum() * 0


def _backwards(*arguments: torch.Tensor | float, right: Callable = model.reinforce) -> torch.Tensor:
    return -right(*arguments)


def _off(logits: torch.Tensor, *_: torch.Tensor | float) -> torch.Tensor:
    return logits.sum() * 0


def _no_baseline(
    logits: torch.Tensor, on: torch.Tensor, cost: torch.Tensor, _: float, right: Callable = model.reinforce
) -> torch.Tensor:
    return right(logits, on, cost, 0.0)


CONTROLS = (
    Control(
        "the policy gradient's sign is flipped",
        (model, "reinforce", _backwards),
        ("uniform dropout", "all 256 units"),
        of_policy,
    ),
    Control(
        "the losses that keep it sparse are off", (model, "sparsity_loss", _nothing), ("blocks on / target",), of_policy
    ),
    Control("L_v is off", (model, "variance_loss", _nothing), ("spread of σ",), of_variance),
    Control("no baseline", (model, "reinforce", _no_baseline), ("over draws",), of_baseline),
    Control("the policy does not learn", (model, "reinforce", _off), ("without the losses",), without_losses),
)


# The mechanisms, each against something plainer.


def _untrained(some: int, draws: torch.Generator) -> tuple[model.GatedNetwork, torch.Tensor, torch.Tensor]:
    """Return a network before training, and the first digits of this number with what they are."""
    images, wanted = model._inputs(model.digits()[0])
    return model._at_random(model.BLOCKS, draws), images[:some], wanted[:some]


def _network_off(seed: int) -> float:
    """What the network says of two digits, unit by unit."""
    draws = torch.Generator().manual_seed(seed)
    network, images, _ = _untrained(2, draws)
    on = (torch.rand(2, 16, generator=draws) < 0.5).float()
    wanted = []
    for image, blocks in zip(images, on, strict=True):
        said = network.out_bias.detach().clone()
        for unit in range(256):
            active = torch.tanh(image @ network.into[:, unit] + network.into_bias[unit])
            said += blocks[unit // 16] * active.detach() * network.out[unit].detach()
        wanted.append(said)
    return apart(
        (network.classes(images, on), torch.stack(wanted)),
        (network.logits(images)[0, 3], images[0] @ network.policy[:, 3] + network.policy_bias[3]),
    )


def _estimators_off(seed: int) -> float:
    """Slopes of the two estimators, and the three losses, on three digits with two blocks."""
    draws = torch.Generator().manual_seed(seed)
    logits, cost = torch.randn(3, 2, generator=draws).requires_grad_(), torch.tensor([1.0, 2, 4], requires_grad=True)
    on, slope = torch.tensor([[0.0, 1], [1, 1], [0, 0]]), torch.randn(3, 2, generator=draws)
    model.reinforce(logits, on, cost, 1.5).backward()
    by_policy, logits.grad = logits.grad, None
    passed = model.straight_through(on, logits)
    (passed * slope).sum().backward()
    s = torch.sigmoid(logits.detach()).tolist()
    gradient = [
        [(u - p) * (c - 1.5) / 3 for u, p in zip(us, ps, strict=True)]
        for us, ps, c in zip(on.tolist(), s, (1, 2, 4), strict=True)
    ]
    means = [sum(each[block] for each in s) / 3 for block in range(2)]
    sparse = sum(abs(mean - 0.2) for mean in means) + sum(abs(sum(each) / 2 - 0.2) for each in s) / 3
    spread = -sum((each[block] - means[block]) ** 2 for each in s for block in range(2)) / 3
    return apart(
        (by_policy, gradient),
        (0 if cost.grad is None else cost.grad, 0),
        (passed, on),
        (logits.grad, slope),
        (model.sparsity_loss(torch.tensor(s), 0.2), sparse),
        (model.variance_loss(torch.tensor(s)), spread),
    )


@cache
def _few(first: int, many: int) -> Digits:
    training, _ = digits()
    return Digits(training.images[first : first + many], training.digit[first : first + many])


def _steps_off(seed: int) -> float:
    """Two epochs of two steps by each estimator; what they come to on 50 other digits, and the trace."""
    pairs = []
    for estimator in model.ESTIMATORS:
        with swapped(model, "digits", lambda: (_few(0, 200), _few(200, 50))), kept(model, "_at_random") as started:
            run = train(estimator, 0.3, sparsity=0.7, variance=0.2, epochs=2, seed=seed)
        pairs += _trained_plainly(run, started[0][1])
    return apart(*pairs)


def _trained_plainly(run: Conditional, trained: model.GatedNetwork) -> list[tuple]:
    estimator, draws = run.settings["estimator"], torch.Generator().manual_seed(run.settings["seed"])
    training, test = _few(0, 200), _few(200, 50)
    images, others = (torch.from_numpy(each.images).flatten(1) / 255 for each in (training, test))
    wanted, network = torch.from_numpy(training.digit), model._at_random(16, draws)
    own = {name: getattr(network, name) for name in network.__slots__}
    again, pairs = torch.Generator().manual_seed(run.settings["seed"]), []
    for name, shape in (("into", (784, 256)), ("out", (256, 10)), ("policy", (784, 16))):
        reach = math.sqrt(6 / sum(shape))
        pairs.append((own[name].detach().clone(), (2 * torch.rand(shape, generator=again) - 1) * reach))
    pairs.append((own["policy_bias"].detach().clone(), torch.full((16,), math.log(0.3 / 0.7))))
    moving = {name: torch.zeros_like(values) for name, values in own.items()}
    baseline = math.log(10)
    for _ in range(2):
        for rows in torch.randperm(200, generator=draws).split(100):
            logits = network.logits(images[rows])
            sigma = torch.full_like(logits, 0.3) if estimator == "uniform" else 1 / (1 + torch.exp(-logits))
            on = (torch.rand(sigma.shape, generator=draws) < sigma).float()
            gates = on + (logits - logits.detach()) if estimator == "straight-through" else on
            said = network.classes(images[rows], gates).log_softmax(dim=1)
            cost = -said[torch.arange(100), wanted[rows]]
            loss = cost.mean()
            if estimator != "uniform":
                by_block, by_digit = (sigma.mean(dim=0) - 0.3).abs().sum(), (sigma.mean(dim=1) - 0.3).abs().mean()
                spread = ((sigma - sigma.mean(dim=0)) ** 2).mean(dim=0).sum()
                loss = loss + 0.7 * (by_block + by_digit) - 0.2 * spread
            if estimator == "policy":
                log_chance = torch.where(on > 0, sigma, 1 - sigma).log().sum(dim=1)
                loss = loss + ((cost.detach() - baseline) * log_chance).mean()
            loss.backward()
            baseline = 0.95 * baseline + 0.05 * cost.mean().item()
            with torch.no_grad():
                for name, values in own.items():
                    if values.grad is not None:
                        of_policy = name.startswith("policy")
                        moving[name] = 0.9 * moving[name] + values.grad + (0 if of_policy else 1e-4) * values
                        values -= (0.02 if of_policy else 0.1) * moving[name]
                    values.grad = None
    with torch.no_grad():
        logits = network.logits(others)
        sigma = torch.full_like(logits, 0.3) if estimator == "uniform" else torch.sigmoid(logits)
        drawn = [(torch.rand(sigma.shape, generator=draws) < sigma).float() for _ in range(5)]
        answers = [network.classes(others, on).argmax(dim=1).numpy() for on in drawn]
        sure = network.classes(others, (sigma > 0.5).float()).argmax(dim=1).numpy()
    trace, kinds = model.trace_of(run), np.unique(test.digit)
    means = np.array([sigma.numpy()[test.digit == kind].mean(axis=0) for kind in kinds])
    return [
        *pairs,
        (trace.weights, trace.experts >= 0),
        (trace.model.score_function == "sigmoid", estimator != "uniform"),
        (1 + run.class_spread(), 1 + means.std(axis=0).mean()),
        *((getattr(trained, name), values) for name, values in own.items()),
        (run.probability, sigma),
        (run.on, drawn[0] > 0),
        (run.answer, answers[0]),
        (run.error, np.mean([(answer != test.digit).mean() for answer in answers])),
        (run.on_share, float(torch.stack(drawn).mean())),
        (run.threshold_error, (sure != test.digit).mean()),
        (run.threshold_on_share, (sigma > 0.5).float().mean()),
        ((trace.experts[0] >= 0).sum(axis=1), drawn[0].sum(dim=1)),
    ]


# fmt: off
MECHANISMS = (
    *noticed_by(
        "two digits, unit by unit",
        _network_off,
        ("a block that is off says nothing", model.GatedNetwork.classes, "units * on[:, :, None]", "units"),
        ("the policy sees the digit", model.GatedNetwork.logits, "images @ self.policy + ",
         "0 * images @ self.policy + "),
    ),
    *noticed_by(
        "slopes and losses of three digits by hand",
        _estimators_off,
        ("a block that is off makes 1 − σ likely", model.reinforce, "(1 - on) * F.logsigmoid(-logits)",
         "(1 - on) * F.logsigmoid(logits)"),
        ("L_v: a block goes with the digit", model.variance_loss, "-probability.var(dim=0, correction=0)",
         "-probability.var(dim=1, correction=0)"),
    ),
    *noticed_by(
        "four steps by each estimator, by hand",
        _steps_off,
        ("layers start as wide as Glorot's", model._uniform, "math.sqrt(6 /", "math.sqrt(3 /"),
        ("the trace has the blocks that are on", model.trace_of, "result.settings, result.on",
         "result.settings, ~result.on"),
    ),
)
# fmt: on
