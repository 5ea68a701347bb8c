"""Hold a trace against what the experts received, or against another trace of the same: "equal", or how it differs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from moeviz.capture.routers.declared import Router, find_routers, place_of
from moeviz.capture.run.prompts import Batch
from moeviz.capture.trace import trace
from moeviz.routing_trace import NO_EXPERT, RoutingTrace
from survey.oracle import Routing, Testimony, witnessed
from survey.tiny_models import read, some_tokens, tokenizer

EQUAL, WRONG, REFUSED, NOT_TRIED = "equal", "wrong", "refused", "not tried"
ONE = "To be, or not to be, or to"
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # of weights: the same sums in another order


def told_apart(made: RoutingTrace, model: PreTrainedModel) -> str:
    """EQUAL, or where the trace differs from what the experts receive of its finished sequences."""
    for sequence, tokens in made.tokens.groupby("sequence"):
        ids = torch.tensor([tokens["token_id"].tolist()])
        with witnessed(model) as testimony:
            read(model, Batch(ids, torch.ones_like(ids)))
        part = made.select(tokens=(made.tokens["sequence"] == sequence).to_numpy())
        if trouble := difference(part, model, testimony):
            return f"{WRONG}: sequence {sequence}, {trouble}"
    return EQUAL


def as_it_runs(model: PreTrainedModel, handed: nn.Module | None = None, **options: object) -> str:
    """A trace of a prompt against what the experts receive in that very run, where a second run would be another."""
    if trouble := not_running(model):
        return trouble
    with listened(model) as hearing:
        made = trace(handed or model, ONE, tokenizer=tokenizer(), **options)
    return hearing.verdict(made)


def not_running(model: PreTrainedModel) -> str:
    """Why there is nothing to trace: transformers itself does not run the model this way. "" where it does."""
    try:
        read(model, some_tokens())
    except Exception as error:
        return f"{NOT_TRIED}: transformers does not run it ({str(error).partition(chr(10))[0]})"
    return ""


@dataclass(slots=True)
class Hearing:
    """What was witnessed while a model was traced."""

    model: PreTrainedModel
    testimony: Testimony = field(default_factory=Testimony)

    def verdict(self, made: RoutingTrace) -> str:
        """EQUAL, or how the trace differs from what the experts received last."""
        trouble = difference(made, self.model, self.testimony)
        return f"{WRONG}: {trouble}" if trouble else EQUAL


@contextmanager
def listened(model: PreTrainedModel) -> Iterator[Hearing]:
    """Inside the block, what the experts receive in the last forward of a prompt is kept for a verdict."""
    with witnessed(model) as testimony:
        yield Hearing(model, testimony)


def difference(made: RoutingTrace, model: PreTrainedModel, testimony: Testimony) -> str:
    """How a trace of one sequence, read in one forward, differs from the last that the experts received; "" if not.

    Before the last forward there may be those in which moeviz's kernels are tried out.
    """
    received = _of_the_site(made, model, testimony)
    if len(received) < len(made.experts):
        return f"{len(received)} layers were witnessed, and {len(made.experts)} recorded"
    for layer, (router, routing) in enumerate(received[-len(made.experts) :]):
        if len(routing) != len(made.tokens):
            return f"layer {layer} received {len(routing)} tokens, and {len(made.tokens)} are recorded"
        for token, expected in enumerate(routing):
            if trouble := _at(made, layer, token, expected, router, _tolerance(model)):
                return f"layer {layer}, token {token}: {trouble}"
    return ""


def _of_the_site(made: RoutingTrace, model: PreTrainedModel, testimony: Testimony) -> list[tuple[Router, Routing]]:
    """What was witnessed where the traced routers are, in the order in which it ran."""
    heard, witnessed_at = {}, {place_of(path) for path, calls in testimony.items() if calls}
    for router in find_routers(model, made.model.site or None):
        places = (*router.experts, router.block_path, router.path)
        heard |= dict.fromkeys([p for p in places if p in witnessed_at][:1], router)
    return [(heard[place_of(path)], routing) for path, routing in testimony.order if place_of(path) in heard]


def _at(made: RoutingTrace, layer: int, token: int, expected: dict, router: Router, tolerance: float) -> str:
    pairs = zip(made.experts[layer, token].tolist(), made.weights[layer, token].tolist(), strict=True)
    told = {expert: weight for expert, weight in pairs if expert != NO_EXPERT}
    received = {expert: weight for expert, weight in expected.items() if weight != 0}
    trifles = {expert for expert, weight in told.items() if abs(weight) <= tolerance * ABSOLUTE / RELATIVE}
    skips = router.zero_experts and any(expert >= router.num_experts - router.zero_experts for expert in told)
    if set(told) - trifles != set(received) - trifles or not (skips or set(expected) <= set(told)):
        return f"recorded {told}, received {expected}"
    close = {"rtol": tolerance, "atol": tolerance * ABSOLUTE / RELATIVE}
    if not all(np.isclose(told[e], w * router.factor, **close) for e, w in received.items() if w is not None):
        return f"recorded {told}, received {expected}"
    return ""


def _tolerance(model: PreTrainedModel) -> float:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else model.dtype
    return max(RELATIVE, torch.finfo(dtype).eps)


def same(made: RoutingTrace, quiet: RoutingTrace) -> str:
    """EQUAL, or how a trace differs from the one that was made when nothing else went on."""
    if made.experts.shape != quiet.experts.shape or made.model.layers != quiet.model.layers:
        return f"{WRONG}: {made.experts.shape} layers, tokens and slots, and {quiet.experts.shape} when quiet"
    if made.tokens["token_id"].tolist() != quiet.tokens["token_id"].tolist():
        return f"{WRONG}: other tokens than when quiet"
    if (made.experts != quiet.experts).any():
        return f"{WRONG}: {(made.experts != quiet.experts).mean():.1%} of the expert ids are other than when quiet"
    if not np.allclose(made.weights, quiet.weights, rtol=RELATIVE, atol=ABSOLUTE):
        return f"{WRONG}: other weights than when quiet"
    return EQUAL
