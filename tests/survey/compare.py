"""Hold a trace against what the experts received, or against another trace of the same: "equal", or how it differs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moeviz.capture.record.witness import ABSOLUTE, RELATIVE, Testimony, difference, is_standard, weights_of, witnessed
from moeviz.capture.routers.discovery import Router
from moeviz.capture.run.prompts import Batch
from moeviz.capture.trace import trace
from moeviz.routing_trace import RoutingTrace
from survey.tiny_models import read, some_tokens, tokenizer

EQUAL, WRONG, REFUSED, NOT_TRIED = "equal", "wrong", "refused", "not tried"
ONE = "To be, or not to be, or to"


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
    with oracle_recording(model) as hearing:
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
class OracleRecording:
    """What was witnessed while a model was traced."""

    model: PreTrainedModel
    testimony: Testimony = field(default_factory=Testimony)

    def verdict(self, made: RoutingTrace) -> str:
        """EQUAL, or how the trace differs from what the experts received last."""
        trouble = difference(made, self.model, self.testimony)
        return f"{WRONG}: {trouble}" if trouble else EQUAL


@contextmanager
def oracle_recording(model: PreTrainedModel) -> Iterator[OracleRecording]:
    """Inside the block, what the experts receive in the last forward of a prompt is kept for a verdict."""
    with witnessed(model) as testimony:
        yield OracleRecording(model, testimony)


def told_of_computing(trace: RoutingTrace, layer: int, token: int, router: Router) -> dict[int, np.float32]:
    """Each recorded weight of an expert that computes; the others may be their block's (test_odd_routers.py)."""
    found = weights_of(trace.experts[layer, token].tolist(), trace.weights[layer, token].tolist())
    computing = router.num_experts - router.zero_experts
    return {expert: np.float32(weight) for expert, weight in found.items() if expert < computing and weight != 0}


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


@torch.no_grad()
def block_factor(model: nn.Module, read: Callable[[], object]) -> float | None:
    """Measure what the first MoE block multiplies its experts' sum by: its output for ones, less that for zeros.

    None where the block is a whole layer, or does more with the sum than multiply it and add to it.
    """
    path = next((path for path, part in model.named_modules() if is_standard(path, part)), None)
    if path is None or path.split(".")[-2].isdigit():
        return None
    experts, block = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
    outputs = []
    for constant in (0.0, 1.0):
        with ExitStack() as stack:
            answer = experts.register_forward_hook(lambda _e, _g, output, c=constant: torch.full_like(output, c))
            stack.callback(answer.remove)
            stack.callback(block.register_forward_hook(lambda _b, _g, output: outputs.append(_first(output))).remove)
            read()
    step = outputs[1] - outputs[0]
    return float(step.median()) if step.std() < 1e-3 * step.abs().mean() else None


def _first(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
