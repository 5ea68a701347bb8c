"""Record what each expert puts out for each token, in the forward whose routing is recorded.

A model adds its experts' outputs up and forgets them. If it sums weighted outputs slot by slot, they are recorded
there, and the first rows run again to see which expert each belongs to. Other experts run a second time, by the model's
own code, on what they were given: each (token, slot) by itself, with weight 1. The weighted sum must be what they gave
together, or the recording fails. Experts that give each output by itself are not run again.

Letters: N rows of a forward, K slots, E experts, D numbers of an output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moeviz.capture.models.patching import in_this_thread, patched
from moeviz.capture.routers.discovery import LAYER_INDEX, Router, find_routers, unwrapped_module
from moeviz.errors import CaptureError
from moeviz.expert_outputs import FIGURES, ExpertOutputs, find_figures, outputs_from_figures
from moeviz.routing_trace import NO_EXPERT

MOST_NUMBERS = 2**24  # of outputs that are there at once: 64 MB in float32
TINY = 1e-30
GREATEST = FIGURES.index("greatest")
PROJECTIONS = ("fc2_latent_proj", "post_expert_proj")  # of a block whose experts are in a space of their own
SEEN_AGAIN = 2  # rows of the first forward
SMALLEST = {True: 1e-6, False: 2**-6}  # weight by which a product in float32, or in another dtype, is divided
REFUSED = {
    "NllbMoeExperts": "run experts 0 and 1 whatever the router decides (transformers 5.25)",
    "DogeCDMoE": "are single rows of a table, which their block mixes without giving an output of each",
}


class SlotOutputs(NamedTuple):
    """The experts of one layer in one forward, by the slots of the rows that they were given."""

    ids: Tensor  # (N, K), NO_EXPERT where a row has none
    weights: Tensor  # (N, K): the factors on the outputs, without the block's own
    whole: Tensor | None  # (N, D): their weighted sum, as the experts gave it; None where their block sums
    outputs: Callable[[slice], Tensor]  # (n, K, D) of some rows
    size: int  # D
    of_all: Callable[[slice], Tensor] | None = None  # (n, E, D): of every expert for some rows, if available
    again: Callable[[slice], Tensor] | None = None  # outputs by running the experts again, if they were recorded


# Gets a router's index, slots, some rows, and the outputs (n, K, D) of these.
OutputReader = Callable[[int, SlotOutputs, slice, Tensor], None]


@dataclass(slots=True)
class OutputRecord:
    """The figures of one model's experts, forward after forward."""

    routers: tuple[Router, ...]
    also: OutputReader | None = None
    streams: dict[int, Tensor] = field(default_factory=dict)  # what the layer of each router read last
    answers: dict[int, Any] = field(default_factory=dict)  # what each router answered last, where that is needed
    summed: dict[int, list[Tensor]] = field(default_factory=dict)  # what the experts of each summed last, (N, K, D)
    otherwise: set[int] = field(default_factory=set)  # routers whose experts sum something else than they give
    ids: list[list[Tensor]] = field(default_factory=list)  # a router's (N, K) of each call
    figures: list[list[Tensor]] = field(default_factory=list)  # and (N, K, FIGURES)
    shares_space: list[bool] = field(default_factory=list)  # of a router: is the residual stream of the outputs' space?
    errors: list[list[Tensor]] = field(default_factory=list)  # of each call: how far off a row's sum is, at most

    def __post_init__(self) -> None:
        count = len(self.routers)
        self.ids, self.figures, self.errors = ([[] for _ in range(count)] for _ in range(3))
        self.shares_space = [True] * count

    @torch.no_grad()
    def note(self, index: int, slots: SlotOutputs) -> None:
        """Keep the figures of one layer's experts in one forward."""
        N, K = slots.ids.shape
        stream = self._stream(index, N, slots)
        kinds = [part.dtype for part in (slots.weights, slots.whole) if part is not None]
        found, errors, eps = [], [], max(torch.finfo(kind).eps for kind in kinds)
        step = max(MOST_NUMBERS // max(K * slots.size, 1), 1)
        for start in range(0, N, step):
            rows = slice(start, min(start + step, N))
            outputs, weights = slots.outputs(rows).float(), slots.weights[rows].float()
            summed = torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)
            whole = summed if slots.whole is None else slots.whole[rows].float()
            found.append(_figures(outputs, whole, None if stream is None else stream[rows]))
            scale = (weights.abs() * found[-1][..., GREATEST]).sum(-1).clamp(min=TINY)
            off = (summed - whole).abs().amax(-1) / scale  # NaN where an output is: of padding, or refused below
            errors.append(off.nan_to_num(nan=0.0, posinf=torch.inf).amax())
            if self.also is not None:
                self.also(index, slots, rows, outputs)
        self.ids[index].append(slots.ids.to(torch.int16))
        self.figures[index].append(torch.cat(found))
        self.errors[index].append(torch.stack(errors).amax() / (8 * eps + 1e-4))

    def _stream(self, index: int, rows: int, slots: SlotOutputs) -> Tensor | None:
        """The layer's input, (N, D) float32, on the experts' device; None if its space is not that of the outputs."""
        stream, size = self.streams.get(index), slots.size
        same = stream is not None and stream.shape[-1] == size and stream.numel() == rows * size
        if stream is None or not same or is_latent(self.routers[index]):
            self.shares_space[index] = False
            return None
        return stream.reshape(rows, size).to(
            slots.weights.device, torch.float32
        )  # a layer's first GPU is given it later

    def at(
        self, where: np.ndarray, order: Sequence[int], experts: np.ndarray, weights: np.ndarray, read: Sequence[Tensor]
    ) -> ExpertOutputs:
        """Return the figures of a trace's slots, from all rows that were read.

        where    (T,) places of its tokens among the rows of all forwards.
        order    indices of routers, in the order in which a forward calls them: the L layers of the trace.
        experts  (L, T, K), and weights (L, T, K): the trace's own.

        Raises `CaptureError` if the experts were not given what the routers decided, or do not add up.
        """
        sizes = [ids.numel() for ids in read]
        layers = []
        for place, index in enumerate(order):
            calls = slice(order[:place].count(index), None, order.count(index))
            self._check(index, calls, sizes)
            ids, figures = (torch.cat(part[index][calls]).cpu().numpy()[where] for part in (self.ids, self.figures))
            layers.append(self._of_slots(self.routers[index], experts[place], ids, figures))
        scale_inputs = np.array([_kind(self.routers[index]) == "Llama4TextExperts" for index in order])
        factors = np.where(scale_inputs[:, None, None], weights != 0, weights)  # those are in the outputs already
        return outputs_from_figures(layers, factors, all(self.shares_space[index] for index in order))

    def _check(self, index: int, calls: slice, sizes: list[int]) -> None:
        router = self.routers[index]
        if [len(ids) for ids in self.ids[index][calls]] != sizes:
            raise CaptureError(
                f"{_name(router)} of {router.block_path} did not run once for every token, so moeviz cannot tell their "
                "outputs. Record without outputs."
            )
        if bool(torch.stack(self.errors[index][calls]).amax() > 1):
            raise CaptureError(
                f"The weighted outputs of {_name(router)} of {router.block_path} do not add up to what they give "
                "together, so moeviz cannot tell them apart. Record without outputs."
            )

    def _of_slots(self, router: Router, experts: np.ndarray, given: np.ndarray, figures: np.ndarray) -> np.ndarray:
        """Return the figures (T, K, FIGURES) of each filled slot; experts that compute nothing have none."""
        was_run = (experts[:, :, None] == given[:, None, :]).any(-1)
        idle = experts >= router.num_experts - router.zero_experts
        if ((experts >= 0) & ~was_run & ~idle).any():
            raise CaptureError(
                f"{_name(router)} of {router.block_path} were given other experts than their router chose, so moeviz "
                "cannot tell whose outputs they are. Record without outputs."
            )
        return find_figures(experts, given, figures)


def _figures(outputs: Tensor, whole: Tensor, stream: Tensor | None) -> Tensor:
    """(n, K, FIGURES) of outputs (n, K, D), their sum (n, D) and the residual stream (n, D); added is left 0."""
    norm = torch.linalg.vector_norm(outputs, dim=-1)
    greatest = outputs.abs().amax(-1)
    beside = torch.stack([whole, torch.zeros_like(whole) if stream is None else stream], dim=1)
    lengths = torch.linalg.vector_norm(beside, dim=-1)[:, None] * norm[..., None]
    cosines = torch.bmm(outputs, beside.transpose(1, 2)) / lengths.clamp(min=TINY)
    return torch.cat([torch.stack([norm, torch.zeros_like(norm), greatest], -1), cosines], -1)


@contextmanager
def outputs_recorded(model: nn.Module, site: str | None, also: OutputReader | None = None) -> Iterator[OutputRecord]:
    """Record in a block the outputs of experts for the tokens that this thread reads.

    also   gets the vectors themselves.

    Raises `CaptureError` if the model's experts do not allow it.
    """
    routers = find_routers(model, site)
    for router in routers:
        if why_not := REFUSED.get(_kind(router)):
            raise CaptureError(
                f"The outputs of {_name(router)} cannot be recorded: they {why_not}. Record without outputs."
            )
    record = OutputRecord(routers, also)
    from moeviz.capture.record.private_names import (  # not needed for recording with hooks only
        own_forward,
        with_forward,
    )

    with ExitStack() as stack:
        for index, router in enumerate(routers):
            experts = [*router.experts.values()]
            if len(experts) == 1 and _kind(router) not in _READERS:  # they may sum weighted outputs slot by slot
                stack.enter_context(with_forward(experts[0], _record_sums(own_forward(experts[0]), record, index)))
            for put, hook in _hooks(model, record, index, router):
                mine = in_this_thread(hook)
                stack.enter_context(patched(lambda put=put, mine=mine: put(mine, with_kwargs=True).remove))
        yield record


class _RecordSums(TorchFunctionMode):
    """Inside the block, keep whatever is summed over the middle of its three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.sum and args[0].dim() == 3 and (kwargs or {}).get("dim", args[-1]) == 1:
            self.parts.append(args[0])
        return func(*args, **(kwargs or {}))


def _record_sums(own: Callable[..., Tensor], record: OutputRecord, index: int) -> Callable[..., Tensor]:
    """Return the experts' own forward, with its sums recorded."""

    def forward(*given: Any, **named: Any) -> Tensor:
        with _RecordSums() as sums:
            answer = own(*given, **named)
        record.summed[index] = sums.parts
        return answer

    return forward


def _hooks(
    model: nn.Module, record: OutputRecord, index: int, router: Router
) -> Iterator[tuple[Callable[..., Any], Callable[..., None]]]:
    """Return the hooks for one router: its layer, which reads the residual stream, and its experts."""
    found = LAYER_INDEX.search(router.path)
    layer = model.get_submodule(router.path[: found.end(1)]) if found else router.block

    def keep_stream(_layer: nn.Module, given: tuple, named: dict) -> None:
        stream = given[0] if given else named.get("hidden_states")
        record.streams[index] = stream if isinstance(stream, Tensor) else torch.empty(0)

    def keep_answer(_router: nn.Module, _given: tuple, _named: dict, answer: Any) -> None:
        record.answers[index] = answer

    last = [*router.experts.values()][-1]
    read = _READERS.get(_kind(router), _plain)

    def note_outputs(_experts: nn.Module, given: tuple, named: dict, answer: Tensor) -> None:
        summed = record.summed.pop(index, []) if index not in record.otherwise else []
        beside = summed if read is _plain else record.answers.get(index)
        slots = read(last, [*given, *named.values()], answer, beside, router)
        first = slice(SEEN_AGAIN)
        if (
            slots.again is not None
            and not record.ids[index]
            and not _are_close(slots.outputs(first), slots.again(first))
        ):
            record.otherwise.add(index)
        if slots.again is not None and index in record.otherwise:
            slots = slots._replace(outputs=slots.again)
        record.note(index, slots)
        record.summed.pop(index, None)  # of what ran again

    yield layer.register_forward_pre_hook, keep_stream
    if read is _sorted_rows:  # before the recorder's own hook, which must be the last
        yield partial(router.module.register_forward_hook, prepend=True), keep_answer
    yield last.register_forward_hook, note_outputs


def is_latent(router: Router) -> bool:
    """True where experts give vectors of another space than the residual stream, into which their block projects."""
    parts = dict(router.block.named_children())
    return any(not isinstance(parts.get(name, nn.Identity()), nn.Identity) for name in PROJECTIONS)


def are_given_weights(router: Router) -> bool:
    """True if a router's experts are one module that is given hidden states, expert ids and weights."""
    return len(router.experts) == 1 and _kind(router) not in {*_READERS, *REFUSED}


def _kind(router: Router) -> str:
    """Return the class of a router's experts; of their container if they are not one module."""
    if len(router.experts) == 1:
        return type(unwrapped_module(*router.experts.values())).__name__
    holds_them = next(iter(router.experts)).startswith(f"{router.path}.")
    return type(router.module if holds_them else router.block).__name__


def _name(router: Router) -> str:
    return f"the experts ({_kind(router)})"


def _plain(experts: nn.Module, given: list, answer: Tensor, summed: Any, router: Router) -> SlotOutputs:
    """Experts that are given hidden states, expert ids and weights, and give the weighted sum of their outputs."""
    tensors = [part for part in given if isinstance(part, Tensor)]
    ids = [part for part in tensors if not part.is_floating_point() and part.dim() == 2]
    weights = [part for part in tensors if part.is_floating_point() and ids and part.shape == ids[0].shape]
    hidden = next((part for part in tensors if part.is_floating_point()), None)
    if len(given) != 3 or len(ids) != 1 or not weights or hidden is None or not isinstance(answer, Tensor):
        raise CaptureError(
            f"{_name(router)} of {router.block_path} are not given hidden states, expert ids and weights, so moeviz "
            "cannot tell their outputs. Record without outputs."
        )
    rows, size = hidden.reshape(-1, hidden.shape[-1]), answer.shape[-1]
    outer = hidden.dim() - 2  # some are given sequences of rows

    def run_each(of: slice, chosen: Tensor) -> Tensor:
        repeated = rows[of].repeat_interleave(chosen.shape[-1], dim=0)[(None,) * outer]
        one, factor = chosen.reshape(-1, 1), weights[0].new_ones(chosen.numel(), 1)
        found = experts.forward(repeated, one, factor)
        return found.reshape(*chosen.shape, size)

    def of_all(of: slice) -> Tensor:
        every = torch.arange(router.num_experts - router.zero_experts, device=ids[0].device, dtype=ids[0].dtype)
        return run_each(of, every.expand(len(rows[of]), -1))

    def outputs(of: slice) -> Tensor:
        return run_each(of, ids[0][of])

    whole = answer.reshape(-1, size)
    if (recorded := _unweighted(summed, weights[0], size)) is not None:
        return SlotOutputs(ids[0], weights[0], whole, recorded.__getitem__, size, of_all, outputs)
    return SlotOutputs(ids[0], weights[0], whole, outputs, size, of_all)


def _unweighted(summed: list[Tensor], weights: Tensor, size: int) -> Tensor | None:
    """Return (N, K, D) outputs from the recorded weighted sum; None if weights are too small to divide by."""
    if len(summed) != 1 or summed[0].shape != (*weights.shape, size):
        return None
    least = SMALLEST[summed[0].dtype == torch.float32]
    return summed[0] / weights.unsqueeze(-1) if bool((weights.abs() > least).all()) else None


def _are_close(one: Tensor, other: Tensor) -> bool:
    near = 8 * max(torch.finfo(part.dtype).eps for part in (one, other)) + 1e-4
    return bool(((one.float() - other.float()).abs() <= near * other.float().abs().amax(-1, keepdim=True)).all())


def _masked(experts: nn.Module, given: list, answer: Tensor, _answer: Any, _router: Router) -> SlotOutputs:
    """Read a dictionary of experts, called with a mask (N, 1, E) of the one expert that took a row."""
    hidden, mask, weights = given
    ids = mask.argmax(-1).masked_fill(mask.sum(-1) == 0, NO_EXPERT)

    def outputs(of: slice) -> Tensor:
        return experts.forward(hidden[of], mask[of], torch.ones_like(weights[of])).unsqueeze(1)

    return SlotOutputs(ids, weights, answer, outputs, answer.shape[-1])


def _scaled_inputs(experts: nn.Module, given: list, answer: Tensor, _answer: Any, router: Router) -> SlotOutputs:
    """Experts that are given every row E times, scaled by its weight: by 0 where it was not sent to them."""
    E = router.num_experts
    scaled, every = (part.view(E, -1, part.shape[-1]).transpose(0, 1) for part in (given[0], answer))
    ids = (scaled != 0).any(-1).float().topk(router.top_k, dim=-1).indices  # (N, K)

    def outputs(of: slice) -> Tensor:
        return every[of].gather(1, ids[of].unsqueeze(-1).expand(-1, -1, every.shape[-1]))

    return SlotOutputs(ids, torch.ones_like(ids, dtype=answer.dtype), every.sum(1), outputs, answer.shape[-1])


def _sorted_rows(_experts: nn.Module, given: list, answer: Tensor, of_router: Any, router: Router) -> SlotOutputs:
    """Experts that are given the rows of expert 0, then those of 1, and how many each has; and give each output."""
    order, sizes = of_router[0], torch.tensor(given[1], device=answer.device)
    back = order.argsort()
    shape = (-1, router.top_k)
    ids = torch.arange(len(sizes), device=answer.device).repeat_interleave(sizes)[back].view(shape)
    every = answer[back].view(*shape, answer.shape[-1])
    return SlotOutputs(ids, of_router[2][back].view(shape), None, lambda of: every[of], answer.shape[-1])


_READERS: dict[str, Callable[[nn.Module, list, Tensor, Any, Router], SlotOutputs]] = {
    "SwitchTransformersExperts": _masked,
    "Llama4TextExperts": _scaled_inputs,
    "JetMoeMoE": _sorted_rows,
    "JetMoeMoA": _sorted_rows,
}
