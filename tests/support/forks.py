"""Where a trace that was made in a batch parts from the one that was made alone, and how near that decision was."""

from dataclasses import dataclass

import numpy as np
import torch

from moeviz import Sampling
from moeviz.capture.run.sampling import sampling_processors
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class Compared:
    """Two traces of one text up to where they part: differences are of the largest value in the trace alone."""

    token: int | None  # row of the last token with the same past; None: they never part
    layer: int | None  # of the trace, where another expert was chosen; None: another token was drawn
    weights: float
    logits: float


def compared(alone: RoutingTrace, together: RoutingTrace) -> Compared:
    """Find the first other expert or token, and the largest difference before it."""
    ids, others = (trace.tokens["token_id"].to_numpy() for trace in (alone, together))
    most = min(len(ids), len(others))
    same = int((ids[:most] == others[:most]).cumprod().sum())
    differ = (alone.experts[:, :same] != together.experts[:, :same]).any(axis=2)
    token, layer = same - 1, None
    if differ.any():
        token = int(differ.any(axis=0).argmax())
        layer = int(differ[:, token].argmax())
    elif same == len(ids) == len(others):
        token = None
    upto = np.ones_like(differ)
    if token is not None:
        upto[:, token + 1 :] = False
        if layer is not None:
            upto[layer + 1 :, token] = False
    weights = difference(alone.weights, together.weights, upto & ~differ)
    return Compared(token, layer, weights, difference(alone.logits, together.logits, upto))


def difference(one: np.ndarray | None, other: np.ndarray | None, where: np.ndarray) -> float:
    """The largest difference there, of the largest value; 0 where nothing was recorded."""
    if one is None or other is None or not where.any():
        return 0.0
    one, other = (part[:, : where.shape[1]][where] for part in (one, other))
    finite = np.isfinite(one)
    assert np.array_equal(finite, np.isfinite(other))
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0) / np.abs(one[finite]).max(initial=1e-30))


@torch.no_grad()
def gap_of_draw(model: torch.nn.Module, alone: RoutingTrace, sampling: Sampling, token: int) -> float:
    """The distance between the two best scores, of the largest, when the token after this one was drawn."""
    ids = torch.tensor([alone.tokens["token_id"].tolist()[: token + 1]])
    prompt = int((alone.tokens["phase"] == "prompt").sum())
    draw = sampling_processors(sampling)
    for at, logits in enumerate(model(input_ids=ids).logits[0].float(), 1):
        if at >= prompt:
            scores = draw(ids[:, :at], logits[None].clone())
    best, second = scores[0].topk(2).values.tolist()
    return (best - second) / max(abs(best), 1e-30)
