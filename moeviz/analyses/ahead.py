"""A later layer's router run early: what it would choose by the hidden state that is already there.

When the router of one MoE layer runs, the residual stream still lacks what this layer's experts, and everything up to
the next router, will add. The next router reads it all the same, through its own norm. Nothing is reported before it
is certain that a router reads a norm of the stream: the norm's answer must be what the router is given, to the bit.

Letters: L layers, T tokens, E experts, D numbers of the stream.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_kernels.reference import scores_torch
from moeviz.capture.corpus import fitting_stretches
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import in_this_thread, patched
from moeviz.capture.record.joining import joined
from moeviz.capture.record.kernel_parity import router_inputs
from moeviz.capture.record.next_tokens import layers_of
from moeviz.capture.record.private_names import own_forward
from moeviz.capture.record.witness import checked
from moeviz.capture.routers.discovery import Router, find_routers, order_of
from moeviz.capture.routers.kernel_families import FAMILIES
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import RoutingTrace

NONE = -1  # the first layer's: no router ran before


def trace_ahead(
    model: LoadedModel,
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    layers_ahead: Sequence[int] = (1,),
    progress: Progress | None = None,
) -> tuple[RoutingTrace, np.ndarray]:
    """Read texts, and record what routers decide and what each would have decided some MoE layers early.

    The router of a layer is given the residual stream as it was before the router of an earlier MoE layer, through its
    own layer's norm. A router that looks experts up by token id answers as ever.

    tokens     read only this many of each text; default: all, in stretches that fit into the model's context.
    layers_ahead  how many MoE layers early, each from 1 on; by default one.
    progress   called with (done, total) after each text. Raise in it to stop.

    Returns the trace, and (N, L, T, E) int16: for each number of layers ahead, each layer and token, all experts that
    compute, in the order in which the early router names them (those that it chooses, then the others by its ranks); -1
    in the first layers, which no router is that far before.

    Raises `CaptureError` for a model whose routers do not read a norm of the residual stream, or whose layers run
    several times; and what `trace` raises.

    Source: speculative loading of experts, Eliseev and Mazur (arXiv 2312.17238), section 3.2.
    """
    routers = find_routers(model.model)
    for layers in layers_ahead:
        if not 1 <= layers < max(len(routers), 2):
            raise CaptureError(
                f"A router runs from 1 to {max(len(routers) - 1, 1)} layers early in a model of {len(routers)} MoE "
                f"layers; got {layers}."
            )
    listener = _Listener(model.model, routers, layers_ahead)
    texts, traces, ranked = list(texts), [], []
    if not texts:
        raise InvalidPrompt("There are no texts to read. Give at least one.")
    for done, text in enumerate(texts, start=1):
        stretches = fitting_stretches(model, text, tokens)
        for stretch in stretches if tokens is None else stretches[:1]:
            checked(prepare(model, CaptureRequest((stretch,)), None))  # reads a sentence that must not be recorded
            with listener.listening() as heard:
                traces.append(trace(model, stretch, kernels=False, keep_logits=False))
            ranked.append(_pad(heard, routers, len(traces[-1].tokens), layers_ahead))
        if progress is not None:
            progress(done, len(texts))
    return joined(traces), np.concatenate(ranked, axis=2)


def _pad(heard: Sequence["_Heard"], routers: Sequence[Router], tokens: int, layers_ahead: Sequence[int]) -> np.ndarray:
    most = max(router.num_experts for router in routers)
    found = np.full((len(layers_ahead), len(routers), tokens, most), NONE, np.int16)
    for row, of_layer in enumerate(heard):
        for at, layers in enumerate(layers_ahead):
            if row >= layers:
                (ranked,) = of_layer.ranked[layers]  # the model ran once
                found[at, row, :, : ranked.shape[1]] = ranked
    return found


@dataclass(slots=True)
class _Heard:
    """One layer with a router in one forward: its norms, the stream before its router, and the experts in order."""

    norms: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)  # module, what it read and answered
    stream: Tensor | None = None  # what the norm before the router read
    ranked: dict[int, list[np.ndarray]] = field(default_factory=dict)  # (T, E), by the number of layers ahead


class _Listener:
    """Hears the norms and routers of a model, and runs each router early."""

    def __init__(self, model: PreTrainedModel, routers: Sequence[Router], layers_ahead: Sequence[int] = (1,)) -> None:
        self.model, self.routers, self.layers_ahead = model, routers, layers_ahead
        layers = layers_of(model, routers)
        if model.config.is_encoder_decoder or layers is None or len(order_of(model, routers)) != len(routers):
            raise self._cannot("they are not all in the layers of one decoder, each of which runs once")
        if odd := [router for router in routers if router.adapter is not None and router.adapter.method]:
            raise self._cannot(f"the block around {odd[0].kind} decides")
        self.layers = [layers[router.layer] for router in routers]

    def _cannot(self, why: str) -> CaptureError:
        return CaptureError(f"The routers of {type(self.model).__name__} cannot be run one layer early: {why}.")

    @contextmanager
    def listening(self) -> Iterator[list[_Heard]]:
        heard = [_Heard() for _ in self.routers]

        def listen(module: nn.Module, note: Callable[..., None]) -> None:
            hook = in_this_thread(lambda _module, *told: note(*told))
            stack.enter_context(patched(lambda: module.register_forward_hook(hook, with_kwargs=True).remove))

        with ExitStack() as stack:
            for row, (router, layer) in enumerate(zip(self.routers, self.layers, strict=True)):
                for part in layer.children():
                    if "norm" in type(part).__name__.lower():
                        listen(part, partial(_note_norm, heard[row], part))
                listen(router.module, partial(self._route_early, heard, row))
            yield heard

    def _route_early(
        self, heard: list[_Heard], row: int, given: tuple[Any, ...], named: dict[str, Any], answer: Any
    ) -> None:
        """Find the norm that the router read, and run the router on the stream of the layer before."""
        router, here = self.routers[row], heard[row]
        hidden: Any = given[0] if given else next(iter(named.values()), None)
        found = next((norm for norm in reversed(here.norms) if _same(norm[2], hidden)), None)
        if found is None:
            raise self._cannot(f"that of layer {router.layer} does not read a norm of the residual stream")
        norm, here.stream, _ = found
        here.norms.clear()
        for layers in self.layers_ahead:
            before = heard[row - layers].stream if row >= layers else None
            if before is None:
                continue
            early = own_forward(norm)(before.to(here.stream.device)).reshape(hidden.shape).to(hidden.dtype)
            args = (early, *given[1:]) if given else ()
            kwargs = named if given else {**named, next(iter(named)): early}
            ranked = _rank(router, args, kwargs, own_forward(router.module)(*args, **kwargs))
            here.ranked.setdefault(layers, []).append(ranked)


def _note_norm(here: _Heard, norm: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> None:
    read = given[0] if given else next(iter(named.values()), None)
    if isinstance(read, Tensor) and isinstance(answer, Tensor):
        here.norms.append((norm, read.detach(), answer.detach()))


def _same(answer: Tensor, given: Any) -> bool:
    return isinstance(given, Tensor) and answer.numel() == given.numel() and torch.equal(answer.view_as(given), given)


def _rank(router: Router, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> np.ndarray:
    """Return (T, E) the experts that compute: those of the answer first, then the others by the router's ranks."""
    decided: tuple[Any, ...] = router.decided((*args, *kwargs.values()), answer)
    logits, _, chosen = (None if part is None else part.detach().reshape(-1, part.shape[-1]) for part in decided)
    assert chosen is not None, "a router says which experts it chooses"
    E, family = router.num_experts, FAMILIES.get(router.kind)
    ranks = torch.zeros(len(chosen), E, device=chosen.device) if logits is None else logits.float()
    bias = None if family is None else router_inputs(family, router.module, args, kwargs)[1]
    if family is not None and bias is not None:
        ranks = scores_torch(ranks, family.gating(router.module)) + bias.float()
    slots = torch.arange(chosen.shape[-1], 0, -1, device=chosen.device, dtype=ranks.dtype)
    first = torch.zeros(len(chosen), E + 1, device=chosen.device, dtype=ranks.dtype)
    first.scatter_(1, chosen.long().masked_fill(chosen < 0, E), slots.expand(len(chosen), -1))
    order = ranks.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(1, first[:, :E].gather(1, order).argsort(dim=-1, descending=True, stable=True))
    computes = order < E - router.zero_experts
    order = order.gather(1, computes.int().argsort(dim=-1, descending=True, stable=True))
    return order[:, : E - router.zero_experts].to(torch.int16).cpu().numpy()
