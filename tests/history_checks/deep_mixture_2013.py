"""Do the gates of a deep mixture respond to where and to what, as its paper of 2013 says?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from history_checks.claims import NOT_PRINTED, SHIPS, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.errors import MoevizError
from moeviz.history.deep_mixture_2013 import model
from moeviz.history.deep_mixture_2013.exhibit import factor_information, share_by_epoch, shares
from moeviz.history.deep_mixture_2013.model import BATCH, MARGIN, DeepMixture, train
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
    least, most = (float(pick(pick(shares(run)["share"]) for run in _some(runs))) for pick in (min, max))
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
    most = [float(shares(run)["share"].max()) for run in _some(runs)]
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
