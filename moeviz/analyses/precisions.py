"""Precisions compared on the same prompts: which tokens go to other experts, and which of these were ties.

A choice is a boundary tie where rounding the router's own logits is enough to change it: in that precision the last
expert chosen and the best one left out cannot be told apart. Any other change comes from hidden states that moved.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_kernels.reference import route_torch
from moeviz.capture.interventions.precision import NAMES
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.memory import bytes_free, bytes_needed, layer_lists
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import listen
from moeviz.capture.record.intervening import probe_routers
from moeviz.capture.record.kernel_parity import ProbedRouter, router_inputs
from moeviz.capture.record.private_names import own_forward, with_forward
from moeviz.capture.record.witness import checked
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.generation import decode
from moeviz.capture.run.generation_plan import PROMPTS_ONLY
from moeviz.capture.run.prompts import ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest, prompts_of
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

GROUP = 32  # weights that share a step
Place = tuple[int, int]  # layer, expert
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionTrace:
    """A trace in one precision, and which choices of the float32 trace are boundary ties in it. L layers, T tokens."""

    trace: RoutingTrace
    tied: np.ndarray  # (L, T) bool
    known: tuple[bool, ...]  # L: whether moeviz knows how the layer's router ranks; where not, `tied` is False


def in_precisions(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[Any],
    names: Sequence[str] = NAMES,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
) -> dict[str, PrecisionTrace]:
    """Read prompts in float32, and in each of `names`; by name, float32 first.

    The weights are converted where they are, one layer at a time while it runs, and are as they were afterwards.

    float32, bfloat16 and float16: weights and arithmetic, as `model.to` has it. int8: the weights of linear layers and
    of experts rounded to 8 bits, each row of the last dimension by its largest value; arithmetic, embeddings, norms and
    routers stay in float32, as weight-only quantisation has it.

    `chat` reads each prompt as a user's turn of a chat. Raises what `trace` raises, and `CaptureError` where weights
    lie on disk.
    """
    run = prepare(model, CaptureRequest(prompts_of(prompts), chat=chat), tokenizer)
    run = replace(run, info=replace(run.info, witness=checked(run)))
    names = [name for name in names if name != "float32"]
    with ExitStack() as stack:
        stack.enter_context(converted(run.model, "float32"))
        routers = probe_routers(run)
        known = tuple(probed.trouble is None for probed in routers)
        ties: list[dict[str, Tensor]] = [{} for _ in routers]
        for probed, noted in zip(routers, ties, strict=True):
            if probed.trouble is None:
                noting = _noting_ties(probed, [name for name in names if name in DTYPES], noted)
                stack.enter_context(with_forward(probed.router.module, noting))
        plain = _trace(run, "float32")
    kept = (run.batch.attention_mask == 1).flatten().cpu()
    none = torch.zeros(len(kept), dtype=torch.bool)
    found = {"float32": PrecisionTrace(plain, np.zeros(plain.experts.shape[:2], bool), known)}
    for name in names:
        tied = np.stack([noted.get(name, none).cpu()[kept].numpy() for noted in ties])
        with converted(run.model, name):
            found[name] = PrecisionTrace(_trace(run, name), tied, known)
    return found


@contextmanager
def converted(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Inside the block a model runs in another precision, as `in_precision` copies it, in the memory of one model.

    Each layer's weights are converted when it begins and put back when it ends; what is in no layer (embeddings, head)
    is converted for the whole block. Other threads must not run the model meanwhile.
    """
    _check_precision(model, name)
    rounded = {id(weights) for weights in _quantised(model)} if name == "int8" else set()
    layers = _layers(model)
    inside = {id(part) for layer in layers for part in layer.modules()}
    outside = [part for part in model.modules() if id(part) not in inside]
    own: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def put(place: nn.Module, parts: Iterable[nn.Module]) -> None:
        own[place] = [
            (values, values.data)
            for part in parts
            for values in (*part.parameters(recurse=False), *part.buffers(recurse=False))
            if values.is_floating_point()
        ]
        for values, data in own[place]:
            values.data = _as_precision(data, name, id(values) in rounded)

    def back(place: nn.Module) -> None:
        for values, data in reversed(own.pop(place, [])):
            values.data = data

    training = model.training
    with ExitStack() as stack, torch.no_grad():
        stack.callback(model.train, training)
        model.eval()  # nothing may be drawn where two compare
        for layer in layers:
            stack.callback(back, layer)
            begins = layer.register_forward_pre_hook(lambda layer, _given: put(layer, layer.modules()), prepend=True)
            ends = layer.register_forward_hook(lambda layer, _given, _answer: back(layer), always_call=True)
            stack.callback(begins.remove)
            stack.callback(ends.remove)
        stack.callback(back, model)
        put(model, outside)
        yield


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the layers that routers stand in, and the dense ones in the same lists."""
    return [layer for path in layer_lists(model) for layer in model.get_submodule(path).children()]


def _as_precision(values: Tensor, name: str, rounded: bool) -> Tensor:
    other = values.to(DTYPES.get(name, torch.float32))
    return _rounded(other) if rounded else other


def in_precision(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a copy of a model in another precision, in eval mode; see `in_precisions`.

    Raises `CaptureError` if the copy does not fit into the memory.
    """
    _check_precision(model, name)
    dtype = name if name in DTYPES else "float32"
    needed = bytes_needed(sum(parameter.numel() for parameter in model.parameters()), dtype)
    free = bytes_free(str(model.device))
    if free is not None and needed > free:
        raise CaptureError(
            f"A copy of {type(model).__name__} in {name} needs about {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            "are free here. “moeviz precision” needs no copy."
        )
    other: PreTrainedModel = copy.deepcopy(model).to(DTYPES.get(name, torch.float32)).eval()  # type: ignore[arg-type]  # nothing may be drawn where two compare
    if name == "int8":
        with torch.no_grad():
            for weights in _quantised(other):
                weights.copy_(_rounded(weights))
    return other


def _check_precision(model: PreTrainedModel, name: str) -> None:
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise CaptureError(
            f"Some weights of {type(model).__name__} lie on disk, and a copy in another precision needs them all in "
            "memory. Use a machine with more of it, or a smaller model."
        )
    if name not in NAMES:
        raise CaptureError(f"There is no precision {name!r}; take one of {', '.join(NAMES)}.")


def _quantised(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield the weights that weight-only quantisation rounds: of linear layers but the head, and of experts."""
    head = model.get_output_embeddings()
    seen: set[int] = set()
    layers = [part for part in model.modules() if isinstance(part, nn.Linear) and part is not head]
    found = find_routers(model)
    experts = [part for router in found for part in router.experts.values()]
    routers = {id(weights) for router in found for weights in router.module.parameters()}
    for part in [*layers, *experts]:
        for weights in part.parameters():
            if weights.dim() >= 2 and id(weights) not in seen | routers:
                seen.add(id(weights))
                yield weights


def _rounded(weights: Tensor) -> Tensor:
    """To 255 steps between minus and plus the largest value of each row of the last dimension."""
    step = (weights.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights / step).round() * step


def rounded_in_groups(weights: Tensor, codes: int) -> Tensor:
    """Round weights to this many codes, 32 at a time along the last axis (the last may be fewer) by their largest.

    The step is kept in float16, and the largest weight gets the outermost code, so that 16 codes are llama.cpp's Q4_0.

    >>> rounded_in_groups(torch.tensor([[-8.0, 3.4, 3.6]]), 16).tolist()
    [[-8.0, 3.0, 4.0]]
    """
    size, half = weights.shape[-1], codes // 2
    groups = nn.functional.pad(weights.float(), (0, -size % GROUP)).unflatten(-1, (-1, GROUP))
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    step = largest / -half
    scaled = groups * torch.where(step == 0, 0, 1 / step)  # and then in place: memory of its own takes most of the time
    code = scaled.add_(half).add_(0.5).clamp_(0, codes - 1).floor_().sub_(half)
    rounded: Tensor = code.mul_(step.half().float()).flatten(-2)[..., :size].to(weights.dtype)
    return rounded


@contextmanager
def experts_rounded(matrices: Mapping[int, Sequence[Sequence[Tensor]]], codes: Mapping[Place, int]) -> Iterator[None]:
    """Inside the block the weights of some experts are rounded where they are; after it every bit is as it was.

    matrices   of `expert_matrices`, by layer.
    codes      by layer and expert: how many values a weight of it can have in its group.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for (layer, expert), count in codes.items():
                for matrix in matrices[layer][expert]:
                    kept.append((matrix, matrix.clone()))
                    matrix.copy_(rounded_in_groups(matrix, count))
        yield
    finally:
        with torch.no_grad():
            for matrix, own in reversed(kept):  # where layers share experts, the first one is the model's
                matrix.copy_(own)


def _trace(run: ModelInput, name: str) -> RoutingTrace:
    with listen(run.model, keep_logits=True) as recording:
        written = decode(run.model, run.batch, PROMPTS_ONLY)
    return assemble(recording, replace(run, info=replace(run.info, dtype=name)), written)


def _noting_ties(probed: ProbedRouter, names: list[str], noted: dict[str, Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return the router's own forward, that also notes which of its choices rounding its logits would change."""
    own, family = own_forward(probed.router.module), probed.family
    assert family is not None  # of a router that has no trouble

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, ...]:
        logits, weights, experts, *rest = own(*args, **kwargs)
        chosen = experts.reshape(-1, experts.shape[-1]).sort(dim=-1).values
        _, bias = router_inputs(family, probed.router.module, args, kwargs)
        for name in names:
            rounded = logits.reshape(len(chosen), -1).to(DTYPES[name])
            again = route_torch(rounded, family.gating(probed.router.module), bias)
            noted[name] = (again.experts.sort(dim=-1).values != chosen).any(dim=-1) | (again.margin == 0)
        return logits, weights, experts, *rest

    return forward
