"""What interventions do, done by other means: no router's answer is read or written here.

Some experts are muted without rerouting, or exchanged, by editing what the experts receive; where they receive neither
ids nor weights, by editing their weights. Choosing again is left to the router's own code: while it runs, the `topk`
that it calls sees some experts above or below all others. Another top-k is another number in the module.

Each gives what to call the experts that a witness then hears.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from moeviz.capture.interventions.bias import Bias
from moeviz.capture.interventions.force import Force
from moeviz.capture.interventions.intervention import Intervention
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.interventions.replay import Replay
from moeviz.capture.interventions.swap import Swap
from moeviz.capture.interventions.top_k import TopK
from moeviz.capture.models.patching import patched_attribute
from moeviz.capture.routers.discovery import Router
from moeviz.capture.trace import trace
from moeviz.routing_trace import RoutingTrace
from survey.tiny_models import tokenizer

Renamed = Callable[[dict], dict]  # expert -> weight of a token, as a witness hears it; as it should be recorded
SCALED_INPUTS = "Llama4Router"
IN_TWO_PARTS = "JetMoeTopKGating"
MULTIPLIES_BY_TOP_K = "OpenAIPrivacyFilterMLP"
BEYOND = 1e4


@contextmanager
def silenced(router: Router, muted: Sequence[int]) -> Iterator[Renamed]:
    """The experts add nothing."""
    with ExitStack() as stack:
        if router.kind == IN_TWO_PARTS:
            last = router.block.output_linear
            stack.enter_context(_with_weights(last, lambda weight: weight.index_fill(0, torch.tensor(muted), 0)))
        elif router.kind == SCALED_INPUTS:
            stack.enter_context(_given(router, lambda scaled: scaled.index_fill(0, torch.tensor(muted), 0)))
        else:
            silence = _ids_and_weights(lambda ids, w: (ids, w.masked_fill(torch.isin(ids, torch.tensor(muted)), 0)))
            stack.enter_context(_received(router, silence))
        yield lambda row: {expert: weight for expert, weight in row.items() if expert not in muted}


@contextmanager
def exchanged(router: Router, one: int, other: int) -> Iterator[Renamed]:
    """Two experts are given what the other would be."""
    new = torch.arange(router.num_experts)
    new[[one, other]] = new[[other, one]]
    with ExitStack() as stack:
        if router.kind == IN_TWO_PARTS:
            for part in router.experts.values():
                stack.enter_context(_with_weights(part, lambda weight: weight[new]))
            yield lambda row: {int(new[expert]): weight for expert, weight in row.items()}
            return
        if router.kind == SCALED_INPUTS:
            stack.enter_context(_given(router, lambda scaled: scaled[new]))
        else:
            stack.enter_context(_received(router, _ids_and_weights(lambda ids, weights: (new[ids], weights))))
        yield _as_heard


@contextmanager
def pushed(router: Router, by: Mapping[int, float]) -> Iterator[Renamed]:
    """The router's own code chooses with this added to ranks: inf above all others, -inf as if it were not there."""
    push = torch.zeros(router.num_experts)
    for expert, value in by.items():
        push[expert] = value
    mode = _Pushing(push, getattr(router.module, "num_group", None) or 1)
    hooks = [
        router.module.register_forward_pre_hook(lambda *_: mode.__enter__() and None),
        router.module.register_forward_hook(lambda *_: mode.__exit__(None, None, None), always_call=True),
    ]
    try:
        yield _as_heard
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def with_top_k(router: Router, top_k: int) -> Iterator[Renamed]:
    """The router and its block have another top-k."""
    with ExitStack() as stack:
        for part in (router.module, router.block):
            if hasattr(part, "top_k"):
                stack.enter_context(patched_attribute(part, "top_k", top_k))
        if type(router.block).__name__ == MULTIPLIES_BY_TOP_K:
            stack.enter_context(patched_attribute(router.block, "num_experts", top_k))
        yield _as_heard


class _Pushing(TorchFunctionMode):
    """`topk` and `max` over experts, over those of each group, and over groups."""

    def __init__(self, push: Tensor, groups: int) -> None:
        super().__init__()
        self.push, self.groups = push, groups

    def __torch_function__(self, func: Callable, _types: object, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        if func in (torch.topk, Tensor.topk) and args[0].shape[-1:] == self.push.shape:
            places = func(self._moved(args[0], self.push), *args[1:], **kwargs).indices
            return torch.return_types.topk((args[0].gather(-1, places), places))
        grouped = self.push.view(self.groups, -1)
        if func in (torch.topk, Tensor.topk, torch.max, Tensor.max) and args[0].shape[-2:] == grouped.shape:
            found = func(self._moved(args[0], grouped), *args[1:], **kwargs)
            values = found.values
            if func in (torch.topk, Tensor.topk) and values.shape[-1] == 2:  # the second counts 0 where it is not there
                values = torch.stack([values[..., 0], values[..., 1].masked_fill(values[..., 1] == -torch.inf, 0)], -1)
            return type(found)((values, found.indices))
        return func(*args, **kwargs)

    def _moved(self, ranks: Tensor, push: Tensor) -> Tensor:
        return torch.where(push.isinf(), push.to(ranks.dtype), ranks + push.to(ranks.dtype))


def _as_heard(row: dict) -> dict:
    return row


def _ids_and_weights(edit: Callable) -> Callable[[list], list]:
    """An edit of ids and weights, wherever they stand among the arguments of standard experts."""

    def edited(tensors: list) -> list:
        at = next(i for i, part in enumerate(tensors) if not part.is_floating_point())
        beside = next(
            i for i, part in enumerate(tensors) if part.is_floating_point() and part.shape == tensors[at].shape
        )
        new = list(tensors)
        new[at], new[beside] = edit(tensors[at], tensors[beside])
        return new

    return edited


@contextmanager
def _received(router: Router, edit: Callable[[list], list]) -> Iterator[None]:
    """Experts receive something else."""
    (experts,) = router.experts.values()

    def hook(_experts: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        new = edit([*args, *kwargs.values()])
        return tuple(new[: len(args)]), dict(zip(kwargs, new[len(args) :], strict=True))

    handle = experts.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _given(router: Router, edit: Callable[[Tensor], Tensor]) -> object:
    """Experts are given every token E times, scaled: the same, edited as (E, T, D)."""

    def edited(tensors: list) -> list:
        return [edit(tensors[0].view(router.num_experts, -1, tensors[0].shape[-1])).reshape(tensors[0].shape)]

    return _received(router, edited)


@contextmanager
def _with_weights(part: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    before = part.weight.detach().clone()
    with torch.no_grad():
        part.weight.copy_(edit(before))
    try:
        yield
    finally:
        with torch.no_grad():
            part.weight.copy_(before)


TEXT = "12 + 7 = 19, und heute ist es kalt"


@dataclass(frozen=True, slots=True)
class Subject:
    """The routers of one class at one site of a model, and what they decide as they are."""

    model: PreTrainedModel
    site: str
    routers: tuple[Router, ...]  # of the class
    plain: RoutingTrace
    output: Tensor

    def busiest(self, router: Router) -> list[int]:
        """The two experts that most tokens of a layer have. Not 0, by which one family says something else."""
        ids = self.plain.experts[self.plain.model.layers.index(router.layer)]
        load = np.bincount(ids[ids > 0], minlength=router.num_experts)[1 : router.num_experts - router.zero_experts]
        return (np.argsort(-load, kind="stable")[:2] + 1).tolist()

    def idlest(self, router: Router) -> int:
        """The expert that fewest tokens of a layer have."""
        ids = self.plain.experts[self.plain.model.layers.index(router.layer)]
        return int(np.bincount(ids[ids > 0], minlength=router.num_experts)[1:].argmin()) + 1


Ours = Callable[[Subject], Intervention]


Others = Callable[[Subject, Router], object]  # a block that does the same to one router


def _mute(subject: Subject, reroute: bool) -> Intervention:
    return Mute({router.layer: subject.busiest(router) for router in subject.routers}, reroute)


def _up_and_down(subject: Subject, router: Router) -> dict[int, float]:
    return {subject.busiest(router)[0]: -BEYOND, subject.idlest(router): BEYOND}


def _last(subject: Subject) -> Router:
    return subject.routers[-1]


KINDS: dict[str, tuple[Ours, Others]] = {
    "Mute": (
        lambda subject: _mute(subject, True),
        lambda subject, router: pushed(router, dict.fromkeys(subject.busiest(router), -torch.inf)),
    ),
    "Mute, no rerouting": (
        lambda subject: _mute(subject, False),
        lambda subject, router: silenced(router, subject.busiest(router)),
    ),
    "Force": (
        lambda subject: Force({router.layer: (subject.idlest(router),) for router in subject.routers}),
        lambda subject, router: pushed(router, {subject.idlest(router): torch.inf}),
    ),
    # Amounts beyond all scores, whose units the router's own code may have changed before it ranks.
    "Bias": (
        lambda subject: Bias({router.layer: _up_and_down(subject, router) for router in subject.routers}),
        lambda subject, router: pushed(router, _up_and_down(subject, router)),
    ),
    "TopK": (
        lambda subject: TopK(subject.plain.model.top_k + 1, tuple(router.layer for router in subject.routers)),
        lambda subject, router: with_top_k(router, subject.plain.model.top_k + 1),
    ),
    "Swap": (
        lambda subject: Swap(_last(subject).layer, *subject.busiest(_last(subject))),
        lambda subject, router: exchanged(router, *subject.busiest(router)) if router is _last(subject) else _nothing(),
    ),
    # The routing of a run in which two experts of every layer were exchanged by other means.
    "Replay": (
        lambda subject: Replay(_exchanged_everywhere(subject)),
        lambda subject, router: exchanged(router, *subject.busiest(router)),
    ),
}


@contextmanager
def _nothing() -> Iterator[Renamed]:
    yield lambda row: row


def _exchanged_everywhere(subject: Subject) -> RoutingTrace:
    """Record while experts are exchanged after the routers, with the ids that the experts know.

    Of routers whose answer cannot be written, the trace as it is: they must refuse it.
    """
    if any(router.writer is None for router in subject.routers):
        return subject.plain
    with ExitStack() as stack:
        for router in subject.routers:
            stack.enter_context(exchanged(router, *subject.busiest(router)))
        recorded = trace(subject.model, TEXT, tokenizer=tokenizer(), site=subject.site)
    experts = recorded.experts.copy()
    for router in subject.routers:
        at, (one, other) = recorded.model.layers.index(router.layer), subject.busiest(router)
        experts[at] = np.select([experts[at] == one, experts[at] == other], [other, one], experts[at])
    return replace(recorded, experts=experts)
