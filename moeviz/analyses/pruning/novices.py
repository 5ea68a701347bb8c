"""A mean output in a cut expert's place: a "novice", which gives every token what the expert gives on average.

Letters: N rows of a forward, K slots, E experts, D numbers of an output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moeviz.analyses.expert_vectors import read_telling_outputs
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.expert_outputs import SlotOutputs, are_given_weights
from moeviz.capture.routers.discovery import Router, find_routers
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError

MeanOutputs = Mapping[int, Tensor]  # by layer: (E, D) float32


def mean_outputs(model: LoadedModel, texts: Iterable[Prompt], told: Callable[[], None]) -> MeanOutputs:
    """Compute each expert's mean output (E, D) over the tokens that chose it, before its weight; 0 without any.

    told   called after each text. Raise in it to stop.

    Raises `CaptureError` for experts that no mean can stand in for, and what recording outputs raises.

    Source: MoNE (arXiv 2507.00390), whose novices are these means.
    """
    routers = find_routers(model.model)
    _check(routers)
    sums: dict[int, Tensor] = {}
    counts = {router.layer: torch.zeros(router.num_experts) for router in routers}

    def add(index: int, slots: SlotOutputs, rows: slice, outputs: Tensor) -> None:
        router, ids = routers[index], slots.ids[rows].flatten().long()
        filled = ids >= 0
        given = outputs.flatten(0, 1)[filled].cpu()
        total = sums.setdefault(router.layer, torch.zeros(router.num_experts, given.shape[-1]))
        total.index_add_(0, ids[filled].cpu(), given)
        counts[router.layer] += torch.bincount(ids[filled].cpu(), minlength=router.num_experts)

    for text in texts:
        read_telling_outputs(prepare(model, CaptureRequest.of(text)), add)
        told()
    return {layer: total / counts[layer].clamp(min=1)[:, None] for layer, total in sums.items()}


@contextmanager
def novices_in_place(model: nn.Module, means: MeanOutputs, cut: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Inside the block routers choose and weigh as ever, and each cut expert gives its mean output."""
    with ExitStack() as stack:
        for router in find_routers(model):
            if gone := cut.get(router.layer):
                for hook in _hooks(means[router.layer], torch.tensor(sorted(gone))):
                    (experts,) = router.experts.values()
                    stack.callback(hook(experts).remove)
        yield


def _hooks(means: Tensor, gone: Tensor) -> Iterator[Callable[[nn.Module], Any]]:
    """Remove the weights of cut experts before the experts run, and add their means with these weights after."""
    added: list[Tensor] = []

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        parts: dict[Any, Any] = dict(enumerate(given)) | named
        ids = next(part for part in parts.values() if not part.is_floating_point())
        where, weights = [(at, part) for at, part in parts.items() if part is not ids and part.shape == ids.shape][-1]
        is_gone = torch.isin(ids, gone.to(ids.device))
        taken = weights.masked_fill(~is_gone, 0).float()
        own = means.to(ids.device)[ids.masked_fill(~is_gone, 0)]
        added[:] = [torch.bmm(taken.unsqueeze(1), own).squeeze(1)]
        parts[where] = weights.masked_fill(is_gone, 0)
        return tuple(parts[at] for at in range(len(given))), {name: parts[name] for name in named}

    def after(_module: nn.Module, _given: tuple[Any, ...], _named: dict[str, Any], answer: Tensor) -> Tensor:
        return answer + added.pop().view_as(answer).to(answer.dtype)

    yield lambda experts: experts.register_forward_pre_hook(before, with_kwargs=True)
    yield lambda experts: experts.register_forward_hook(after, with_kwargs=True)


def _check(routers: Sequence[Router]) -> None:
    for router in routers:
        if not are_given_weights(router):
            raise CaptureError(
                f"The experts of {router.block_path} are not given their weights, so no mean can stand in a cut one's "
                "place. Let routers take their next best."
            )
