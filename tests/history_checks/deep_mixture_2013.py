"""Do the gates of a deep mixture respond to where and to what, as its paper of 2013 says?"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from history_checks.claims import NOT_PRINTED, SHIPS, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by
from history_checks.negative_controls import Control, swapped
from moeviz.errors import MoevizError
from moeviz.history.deep_mixture_2013 import model
from moeviz.history.deep_mixture_2013.exhibit import factor_information, share_by_epoch, shares
from moeviz.history.deep_mixture_2013.model import BATCH, MARGIN, DeepMixture, train
from moeviz.history.shared.datasets import Digits, digits
from moeviz.history.shared.results import shipped

SEEDS = 4
TIMES = {1: ("where", "what", 10), 2: ("what", "where", 3)}  # what each layer has to tell, and how many times as much
LEAST, MOST = 0.10, 0.45  # an expert's share with the constraint; even is 0.25
COLLAPSED = 0.80  # the share of one expert that leaves the others next to nothing
MOST_LEAD = MARGIN + BATCH  # samples: an expert within the margin may yet get all of the next batch
SHORT = 5  # epochs
LITTLE = 1e-12  # instead of no information at all, which nothing is a multiple of


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """4 seeds with the constraint, and 4 without; where it is to be quick, what ships and a short run of each kind."""
    return [*bound(quick, seed), *unbound(quick, seed)]


def bound(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about runs with the constraint."""
    if not quick:
        runs = _runs(True, seeds(seed, SEEDS))
        return [*factored(runs), *balanced(runs), *held(runs)]
    whole, short = [shipped(DeepMixture)], [train(epochs=SHORT, seed=seeds(seed, 1)[0])]
    ships = [replace(claim, kind=SHIPS) for claim in (*factored(whole), *balanced(whole))]
    return [*ships, *begun(short), *held(short)]


def unbound(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Without it."""
    if not quick:
        return collapsed(_runs(False, seeds(seed, SEEDS)))
    return collapsed([train(epochs=SHORT, constraint=False, seed=seeds(seed, 1)[0])])


def begun(runs: Sequence[DeepMixture]) -> list[Claim]:
    """After a few epochs each layer has begun to go by its own factor."""
    found = []
    for layer, (one, other, _) in TIMES.items():
        least = min(_times(run, layer, one, other) for run in _some(runs))
        what = f"layer {layer}: information on {one} / on {other}, after {SHORT} epochs"
        found.append(Claim(what, least, NOT_PRINTED, "above 1", least > 1))
    return found


def factored(runs: Sequence[DeepMixture]) -> list[Claim]:
    """Layer 1 goes by where, layer 2 by what. The paper shows it in figure 2 and gives no number.

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), figure 2; how many times is ours.
    """
    found = []
    for layer, (one, other, times) in TIMES.items():
        ratios = [_times(run, layer, one, other) for run in _some(runs)]
        what = f"layer {layer}: information on {one} / on {other}, median of {len(ratios)} runs"
        middle = float(np.median(ratios))
        found.append(Claim(what, middle, NOT_PRINTED, f"at least {times}", middle >= times, _each(ratios, ".1f")))
    return found


def balanced(runs: Sequence[DeepMixture]) -> list[Claim]:
    """Claim that with the constraint all experts are in use at the end, some epochs after it was lifted."""
    least, most = (float(pick(pick(shares(run).ravel()) for run in _some(runs))) for pick in (min, max))
    return [
        Claim("lowest share of any expert, constraint on", least, NOT_PRINTED, f"at least {LEAST}", least >= LEAST),
        Claim("highest share of any expert, constraint on", most, NOT_PRINTED, f"at most {MOST}", most <= MOST),
    ]


def held(runs: Sequence[DeepMixture]) -> list[Claim]:
    """While the constraint holds, no running total is ahead of the mean by more than the margin and a batch."""
    frames = [share_by_epoch(run) for run in _some(runs)]
    lead = max(float(frame.loc[frame["bound"], "lead"].max()) for frame in frames)
    what = "most samples by which an expert is ahead while the constraint holds"
    return [Claim(what, lead, NOT_PRINTED, f"at most {MOST_LEAD:g}", lead <= MOST_LEAD)]


def collapsed(runs: Sequence[DeepMixture]) -> list[Claim]:
    """Without the constraint, one expert of some layer takes nearly everything."""
    most = [float(shares(run).max()) for run in _some(runs)]
    what = f"highest share of any expert, constraint off, median of {len(most)} runs"
    middle = float(np.median(most))
    return [Claim(what, middle, NOT_PRINTED, f"at least {COLLAPSED}", middle >= COLLAPSED, _each(most, ".2f"))]


def _runs(constraint: bool, tried: range) -> list[DeepMixture]:
    return [train(constraint=constraint, seed=seed) for seed in tried]


def _times(run: DeepMixture, layer: int, one: str, other: str) -> float:
    known = factor_information(run).set_index(["layer", "factor"])["information"]
    return float(known[layer, one] / max(known[layer, other], LITTLE))


def _each(values: Sequence[float], digits: str) -> str:
    """Every run by itself, since a median hides those that do not do as they should."""
    return "each run: " + ", ".join(format(value, digits) for value in values)


def _some(runs: Sequence[DeepMixture]) -> Sequence[DeepMixture]:
    if not runs:
        raise MoevizError("Got no run to judge; at least 1 is needed.")
    return runs


def _even(logits: torch.Tensor, totals: torch.Tensor, margin: float) -> torch.Tensor:
    return torch.full_like(logits, 1 / logits.shape[1])


def _unlimited(logits: torch.Tensor, totals: torch.Tensor, margin: float) -> torch.Tensor:
    return logits.softmax(dim=1)


def _always(logits: torch.Tensor, totals: torch.Tensor, margin: float, right=model.balanced) -> torch.Tensor:
    return right(logits, totals, MARGIN)


CONTROLS = (
    Control("the gates stay uniform", (model, "balanced", _even), ("information on",), bound),
    Control(
        "the constraint is ignored",
        (model, "balanced", _unlimited),
        ("an expert is ahead", "lowest share", "constraint on"),
        bound,
    ),
    Control("the constraint is never lifted", (model, "balanced", _always), ("constraint off",), unbound),
)


# The mechanisms, each against something plainer.

Said = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # scores of the digits, the gates' logits, and the gates


def _plainly(network: model.DeepMixtureNetwork, x: torch.Tensor, left_out: torch.Tensor | None = None) -> Said:
    """One expert after another; `left_out` are those of each layer that the constraint leaves out."""
    logits, gates = [], []
    for number, layer in enumerate(network.layers):
        (below, a), (above, b), (experts, c) = layer.below, layer.above, layer.experts
        logits.append((x @ below + a).clamp(min=0) @ above + b)
        powers, units = logits[-1].exp() * (1 if left_out is None else ~left_out[number]), experts.shape[1] // len(b)
        gates.append(powers / powers.sum(dim=1, keepdim=True))
        parts = [slice(e * units, (e + 1) * units) for e in range(len(b))]
        x = sum(gates[-1][:, e, None] * (x @ experts[:, part] + c[part]).clamp(min=0) for e, part in enumerate(parts))
    return x @ network.top[0] + network.top[1], torch.stack(logits), torch.stack(gates)


def _network_off(seed: int) -> float:
    """A network on three pictures, free and where some experts are ahead; and what it calls learnt."""
    draws = torch.Generator().manual_seed(seed)
    network = model.start(3, draws)
    inputs, totals = torch.rand(3, 1296, generator=draws), torch.tensor([[25.0, 5, 0], [20, 20, 50]])
    free, bound = network.run(inputs, totals), network.run(inputs, totals, 12.0)
    wanted = _plainly(network, inputs), _plainly(network, inputs, totals - totals.mean(dim=1, keepdim=True) > 12)
    again, sizes = torch.Generator().manual_seed(seed), []
    for width, units, gate_units in ((1296, 100, 50), (100, 20, 50)):
        sizes += [(width, 3 * units), (width, gate_units), (gate_units, 3)]
    shapes = [(size, shape) for size in (*sizes, (20, 10)) for shape in (size, size[1:])]
    start = [(2 * torch.rand(shape, generator=again) - 1) / size[0] ** 0.5 for size, shape in shapes]
    everything = [
        each for layer in network.layers for line in (layer.experts, layer.below, layer.above) for each in line
    ]
    learnt = {id(each) for each in network.learnt()}
    return apart(
        *zip([*everything, *network.top], start, strict=True),
        *zip(free, wanted[0], strict=True),
        *zip(bound, wanted[1], strict=True),
        (len(learnt & {id(each) for each in [*everything, *network.top]}), 14),
    )


@cache
def _few(first: int, of_each: int) -> Digits:
    """So many digits of each kind."""
    training, _ = digits()
    rows = np.concatenate([np.flatnonzero(training.digit == kind)[first : first + of_each] for kind in range(10)])
    return Digits(training.images[rows], training.digit[rows])


def _shown(image: np.ndarray, place: int) -> torch.Tensor:
    """A digit on a larger picture, from which its place moves it to the right and down."""
    picture = torch.zeros(36, 36)
    right, down = place % 9 - 4, place // 9 - 4
    picture[4 + down : 32 + down, 4 + right : 32 + right] = torch.from_numpy(image / 255.0)
    return picture.flatten()


def _training_off(seed: int) -> float:
    """Two epochs of 100 digits, the second without the constraint, and what is measured then."""
    training, test = _few(0, 10), _few(10, 2)
    with (
        swapped(model, "digits", lambda: (training, test)),
        swapped(model, "MARGIN", 1.0),
        kept(model, "start") as started,
    ):
        run = train(epochs=2, seed=seed)
        free = train(epochs=1, constraint=False, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    network, trained = model.start(4, draws), started[0][1]
    momentum = [torch.zeros_like(each) for each in network.learnt()]
    totals, shares = torch.zeros(2, 4), []
    for epoch in range(2):
        order, places = torch.randperm(100, generator=draws), torch.randint(81, (100,), generator=draws)
        before = totals.clone()
        for rows in order.split(50):
            pictures = torch.stack([_shown(training.images[row], int(places[row])) for row in rows])
            ahead = totals - totals.mean(dim=1, keepdim=True) > 1
            scores, _, gates = _plainly(network, pictures, None if epoch else ahead)
            scores.log_softmax(dim=1)[torch.arange(50), torch.from_numpy(training.digit)[rows]].mean().neg().backward()
            with torch.no_grad():
                for each, moving in zip(network.learnt(), momentum, strict=True):
                    moving.mul_(0.9).add_(each.grad)
                    each.sub_(0.05 * moving)
                    each.grad = None
            totals = totals + gates.detach().sum(dim=1)
        shares.append((totals - before) / 100)
    measured, trace = (4, 40, 72), model.trace_of(run)
    gates, wrong = np.zeros((2, 10, 3, 4)), 0
    for at in range(81):
        pictures = torch.stack([_shown(image, at) for image in test.images])
        scores, _, gate = trained.run(pictures, torch.zeros(2, 4))
        wrong += int((scores.argmax(dim=1).numpy() != test.digit).sum())
        if at in measured:
            gates[:, :, measured.index(at)] = gate.detach().unflatten(1, (10, 2)).mean(dim=2)
    powers = np.exp(run.logits)
    return apart(
        *zip(trained.learnt(), network.learnt(), strict=True),
        (run.shares, torch.stack(shares)),
        ((run.bound, free.bound), (1, 0)),
        (run.mean_gate[:, :, list(measured)], gates),
        (run.error, wrong / (81 * 20)),
        (trace.weights, -np.sort(-powers / powers.sum(axis=2, keepdims=True), axis=2)),
    )


# fmt: off
MECHANISMS = (
    *noticed_by(
        "a plain loop over experts",
        _network_off,
        ("lines start within one over the root of their inputs", model._line, "inputs**-0.5", "outputs**-0.5"),
        ("gates are learnt", model.DeepMixtureNetwork.learnt, "(layer.experts, layer.below, layer.above)",
         "(layer.experts,)"),
    ),
    *noticed_by(
        "two epochs of 100 digits, by hand",
        _training_off,
        ("a digit is where its place says", model.moved, "SHIFT - right", "SHIFT + right"),
        ("the trace has the gates", model.trace_of, "soft_slots(result.logits, slots)",
         "soft_slots(-result.logits, slots)"),
    ),
)
# fmt: on
