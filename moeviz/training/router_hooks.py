"""Hooks on the routers of a model, which count each real token once in training and in evaluation.

Hooks on the routers count; hooks on the model say in which phase it is, and which rows are tokens. A forward that
gradient checkpointing computes anew lies outside of every forward of the model, or in one that autograd runs: both are
left out. With reentrant checkpoints gradients are off inside the first pass, so whether a forward is of training is
asked when the model is entered.

Each thread is in a forward of its own: an evaluator may run the model during the training, and DataParallel runs its
replicas in threads. Replicas and deep copies carry the hooks of their model: a replica trains it, so it counts, and a
copy (a reference, an average of weights) does not. What goes wrong in a hook is noted, and the forward goes on.

Letters: E experts, T rows that a router answers for, K slots.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from inspect import signature
from itertools import count
from threading import Lock, local
from typing import Any, Literal

import torch
from torch import Tensor, nn

from moeviz.capture.models.patching import patched_attribute
from moeviz.capture.record.forwards import check_nobody_is_later
from moeviz.capture.record.hooks import check_layout, sample_rows
from moeviz.capture.routers.discovery import Router, order_of, unrolled_layers
from moeviz.capture.routers.score_function import score_function
from moeviz.errors import CaptureError
from moeviz.training.layer_metrics import SUMS

Phase = Literal["train", "eval"] | None
Tokens = Literal["real", "trained"]
CACHES = ("past_key_values", "cache", "cache_params")  # a forward that is given one generates
# Reasons why a step counted nothing, by the kind of its forwards: the surest first.
INSTEAD = {
    "by hand": "routers ran outside of a forward of the model, so their tokens and their phase are not known. Call the "
    "model itself, not its layers.",
    "cache": "its forwards were given a cache, as in generation. Train without past_key_values.",
    "eval": "its forwards had gradients, but the model was in evaluation mode. Call model.train() before training it.",
    "no gradient": "the model ran only without gradients. Watch the model that is trained.",
}
DID_NOT_RUN = "the model did not run. Watch the model that is trained."
BYPASSED = (
    "the routers that moeviz watches answered in none of its forwards: something runs instead of them, as another "
    "adapter or fused kernels. Watch it anew."
)
_RECORDERS: dict[int, "RouterRecorder"] = {}  # by a number that a compiled graph keeps
_NUMBERS = count()
MOST_FAILED = 8  # messages that are kept


class Forward(local):
    """The forward of the model that the asking thread is in."""

    outer: nn.Module | None = None  # what was called: the model, a part of it, or a replica
    phase: Phase = None
    mask: Tensor | None = None
    calls: list[int]  # of each router in it so far
    muted = False  # True while this thread runs the model for something else, such as a snapshot


class Counters:
    """Counts of each expert's tokens, and sums of the router's figures.

    counts   (L, E + 1) int64: assignments of each expert, and tokens.
    sums     (L, E + columns) float64: probabilities of each expert, and SUMS.
    """

    def __init__(self, num_experts: Sequence[int], device: torch.device) -> None:
        L, E = len(num_experts), max(num_experts)
        self.num_experts = num_experts
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.counts = torch.zeros(L, E + 1, dtype=torch.int64, device=device)
        self.sums = torch.zeros(L, E + len(SUMS), dtype=exact, device=device)

    @torch.no_grad()
    def add(self, row: int, experts: Tensor, logits: Tensor | None, keep: Tensor | None, function: str) -> None:
        """Add one answer of a router: experts (T, K), logits (T, E), and which rows are tokens (T,); None: all.

        function   how the router makes probabilities of logits; with "unknown" gives none.
        """
        size, device = self.num_experts[row], self.counts.device
        filled = experts >= 0
        keep = torch.ones_like(filled[:, 0]) if keep is None else keep.to(experts.device)
        chosen = experts.clamp(min=0)  # an empty slot has no expert
        counted = (filled & keep[:, None]).to(device, torch.int64)
        self.counts[row].scatter_add_(0, chosen.to(device).flatten(), counted.flatten())
        self.counts[row, -1] += keep.sum()
        if logits is None:
            return
        with torch.autocast(logits.device.type, enabled=False):
            columns = _columns(logits.float(), chosen, filled, function)
            kept = torch.where(keep[:, None], columns, 0).sum(0, dtype=self.sums.dtype).to(device)
        self.sums[row, :size] += kept[:size]
        self.sums[row, -len(SUMS) :] += kept[size:]

    def take(self) -> tuple[Tensor, Tensor]:
        """Counts and sums so far; they begin anew."""
        taken = self.counts.clone(), self.sums.clone()
        self.counts.zero_()
        self.sums.zero_()
        return taken


def _columns(logits: Tensor, chosen: Tensor, filled: Tensor, function: str) -> Tensor:
    """Return (T, E + columns): probabilities, then SUMS."""
    normaliser, one = logits.logsumexp(-1), torch.ones_like(logits[:, 0])
    square = torch.where(logits.isfinite(), logits, 0).square().mean(-1)  # -inf: no such expert
    if function == "unknown":
        nothing = torch.zeros_like(one)
        return torch.cat(
            [torch.zeros_like(logits), torch.stack([nothing, normaliser**2, square, nothing, one, nothing], 1)], 1
        )
    p = _probabilities(logits, normaliser, function)
    mass = torch.where(filled, p.gather(1, chosen), 0).sum(-1)
    entropy = torch.special.entr(p).sum(-1)
    return torch.cat([p, torch.stack([entropy, normaliser**2, square, mass, one, one], 1)], 1)


def _probabilities(logits: Tensor, normaliser: Tensor, function: str) -> Tensor:
    """Return probabilities, as `normalised_scores` of a trace."""
    if function == "softmax":
        return (logits - normaliser[:, None]).exp()
    scores = logits.sigmoid() if function == "sigmoid" else torch.nn.functional.softplus(logits).sqrt()
    return scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@torch.library.custom_op("moeviz::count_routing", mutates_args=("ticket",))
def count_routing(
    ticket: Tensor, logits: Tensor | None, weights: Tensor, experts: Tensor, recorder: int, router: int
) -> None:
    """In compiled graphs: opaque to Dynamo, so that phase and mask are read when it runs and not when it is traced.

    The ticket that it changes keeps it from being left out or moved.
    """
    if (own := _RECORDERS.get(recorder)) is not None:  # it may be closed, and the graph still there
        own.safely(own.count)(router, (logits, weights, experts))
    ticket.add_(1)


count_routing.register_fake(lambda *_: None)


def backwards() -> bool:
    """Return True while autograd runs, as torch's own checkpoints ask: a forward in it computes something anew."""
    return bool(torch._C._current_graph_task_id() != -1)


class RouterRecorder:
    """Counts the answers of the routers of `model` until it is closed.

    model    what is called in training: a transformers model, or the PeftModel around it.
    base     the transformers model.

    counters   by phase, a row per layer; a layer that runs in a loop has one for each pass.
    aux        (2,) sum of the aux losses that forwards of training returned, and of how many.
    now        the forward that the asking thread is in.
    unmasked   times that an attention mask did not say which of a router's rows are tokens, so that all counted.
    lossless   forwards of training that returned an aux loss, and no loss that it is a part of.
    failed     errors in hooks and in a trainer's events.
    """

    def __init__(self, model: Any, base: Any, routers: Sequence[Router], tokens: str) -> None:
        order = order_of(base, routers)
        self.routers, self.tokens, self.base = routers, tokens, base
        self.layers = tuple(unrolled_layers([router.layer for router in routers], order))
        self.num_experts = tuple(routers[index].num_experts for index in order)
        self._rows = [[row for row, at in enumerate(order) if at == index] for index in range(len(routers))]
        device = next(base.parameters()).device
        self.counters = {phase: Counters(self.num_experts, device) for phase in ("train", "eval")}
        self.aux = torch.zeros(2, dtype=self.counters["train"].sums.dtype, device=device)
        self.unmasked = self.unlabelled = self.lossless = 0
        self.low_precision, self.failed = False, list[str]()
        self._ran = Counter[str]()  # since `why_nothing` was asked: forwards, by phase or as in INSTEAD; and answers
        self._functions: dict[str, str] = {}  # by class of router
        self._checked: set[int] = set()
        self.now, self._lock = Forward(), Lock()
        self._ticket = torch.zeros((), dtype=torch.int64, device=device)
        self._hooks = ExitStack()
        self._number = next(_NUMBERS)
        _RECORDERS[self._number] = self
        self._hooks.callback(_RECORDERS.pop, self._number, None)
        self._hook_model(model)
        self.close = self._hooks.close

    def first_row(self, router: int) -> int:
        """Return the row of a router; of its first pass, if it is in a loop."""
        return self._rows[router][0]

    @property
    def function(self) -> str:
        """Name of the score function; "unknown" before routers answered, or if they differ."""
        known = set(self._functions.values())
        return known.pop() if len(known) == 1 else "unknown"

    def take(self, phase: Literal["train", "eval"]) -> tuple[Tensor, ...]:
        """Counts and sums of a phase so far, and `aux` with those of training; they begin anew."""
        with self._lock:
            taken = self.counters[phase].take()
            if phase == "eval":
                return taken
            aux = self.aux.clone()
            self.aux.zero_()
            return *taken, aux

    def why_nothing(self) -> str:
        """Return why no router answered in training since the last call; "" if one did."""
        with self._lock:
            ran, self._ran = self._ran, Counter()
        if ran["answers"] or ran["train"]:
            return "" if ran["answers"] else BYPASSED
        return next((why for kind, why in INSTEAD.items() if ran[kind]), DID_NOT_RUN)

    def safely(self, hook: Callable[..., None]) -> Callable[..., None]:
        """Wrap a hook: an error in it is noted in `failed`, and not raised into the forward that calls it."""

        @wraps(hook)
        def safe(*given: Any) -> None:
            try:
                hook(*given)
            except Exception as error:
                self.fail(error)

        return safe

    def fail(self, error: Exception) -> None:
        """Note an error, for the next log."""
        what = f"{type(error).__name__}: {error}"[:300]
        if what not in self.failed and len(self.failed) < MOST_FAILED:
            self.failed.append(what)

    def retry_score_function(self) -> None:
        """Ask the next answer for the score function if it was unclear. Sums must be empty then."""
        self._functions = {kind: name for kind, name in self._functions.items() if name != "unknown"}

    def check_hooks(self) -> None:
        """Raise `CaptureError` if a hook of others runs after ours, and may change a router's answer."""
        for router, handle in zip(self.routers, self._handles, strict=True):
            if handle is not None:
                check_nobody_is_later(router.module, handle.id)

    def _hook_model(self, model: Any) -> None:
        """Hook the model itself, and the parts of it that some trainers call directly."""
        parts = {id(part): part for part in (model, self.base, self.base.base_model)}
        for place, part in enumerate(parts.values()):
            enter, leave = self.safely(self._entering(part)), self.safely(self._leave)
            if place == 0:  # a compiled model is left to do these; what it calls runs in its graph
                enter, leave = torch.compiler.disable(enter), torch.compiler.disable(leave)
            else:
                enter, leave = _unless_compiling(enter), _unless_compiling(leave)
            self._hooks.callback(part.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
            self._hooks.callback(part.register_forward_hook(leave, always_call=True).remove)
        self._handles = [self._hook_router(index, router) for index, router in enumerate(self.routers)]

    def _hook_router(self, index: int, router: Router) -> Any:
        @self.safely
        def count_answer(module: nn.Module, given: tuple[Any, ...], answer: tuple[Any, ...]) -> None:
            mine = module is router.module
            if self.now.phase is not None and not backwards():
                reader = router if mine else replace(router, module=module)  # of a replica, with its parameters
                with torch.no_grad():  # what is saved for backward would be missed when a checkpoint computes anew
                    self.count(index, reader.read(given, answer)[:3])
                return
            inside = self.now.outer is not None or self.now.muted or backwards()
            if mine and not inside and module.training and torch.is_grad_enabled():
                self._note("by hand")

        def record(module: nn.Module, given: tuple[Any, ...], answer: tuple[Any, ...]) -> None:
            if not torch.compiler.is_compiling():
                count_answer(module, given, answer)
                return
            parts = router.read(given, answer)[:3]
            logits, weights, experts = (None if part is None else part.detach() for part in parts)
            count_routing(self._ticket, logits, weights, experts, self._number, index)

        if router.adapter is not None and router.adapter.method:
            own = getattr(router.block, router.adapter.method)

            def wrapped(*given: Tensor) -> tuple[Any, ...]:
                answer: tuple[Any, ...] = own(*given)
                record(router.module, given, answer)
                return answer

            self._hooks.enter_context(patched_attribute(router.block, router.adapter.method, wrapped))
            return None
        handle = router.module.register_forward_hook(record)
        self._hooks.callback(handle.remove)
        return handle

    def _note(self, ran: str) -> None:
        with self._lock:
            self._ran[ran] += 1

    def _entering(self, part: nn.Module) -> Callable[..., None]:
        names = [*signature(part.forward).parameters]

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            now, copied = self.now, module is not part and not getattr(module, "_is_replica", False)
            if copied or now.muted or backwards() or now.outer not in (None, module):
                return
            given = dict(zip(names, args, strict=False)) | kwargs
            now.outer, now.phase, now.calls = module, None, [0] * len(self.routers)
            cached, gradients = any(given.get(name) is not None for name in CACHES), torch.is_grad_enabled()
            if cached or not (module.training and gradients):
                self._note("no gradient" if not gradients else "cache" if cached else "eval")
                if cached or module.training:  # generation; or reference log-probabilities
                    return
            now.mask = self._mask_of_tokens(given)
            now.phase = "train" if module.training else "eval"
            self._note(now.phase)

        return enter

    def _mask_of_tokens(self, given: dict[str, Any]) -> Tensor | None:
        """Mark the rows that are tokens, as a flat mask; None: all."""
        decoder = self.routers[0].site == "decoder"
        mask = given.get("decoder_attention_mask" if decoder else "attention_mask")
        labels = given.get("labels")
        if self.tokens == "trained" and not (self.base.config.is_encoder_decoder and not decoder):
            if torch.is_tensor(given.get("shift_labels")):
                mask = given["shift_labels"] != -100
            elif torch.is_tensor(labels) and labels.dim() == 2:
                # Position t is trained by the label of t + 1; the decoder of an encoder-decoder is given tokens one
                # later.
                mask = labels != -100 if decoder else nn.functional.pad(labels[:, 1:] != -100, (0, 1))
            else:
                self.unlabelled += 1
        if torch.is_tensor(mask) and mask.dim() == 2:
            return mask.reshape(-1) != 0
        self.unmasked += mask is not None  # such as one of four dimensions, for attention and not for padding
        return None

    def _leave(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        now = self.now
        if now.outer is not module or backwards():
            return
        phase, now.outer, now.phase, now.mask = now.phase, None, None, None
        aux = output.get("aux_loss") if hasattr(output, "get") else None
        if phase == "train" and torch.is_tensor(aux):
            with self._lock:
                self.aux += torch.stack([aux.detach().to(self.aux), torch.ones_like(self.aux[0])])
                self.lossless += not torch.is_tensor(output.get("loss"))

    @torch.no_grad()
    def count(self, index: int, answer: tuple[Any, ...]) -> None:
        """Take one answer of a router: logits (…, E) or None, weights and experts (…, K)."""
        now, router, rows = self.now, self.routers[index], self._rows[index]
        if now.phase is None or backwards():
            return
        if index not in self._checked:
            check_layout(router, answer)
            self._checked.add(index)
        row = rows[now.calls[index] % len(rows)]
        now.calls[index] += 1
        logits, _weights, experts = answer
        experts, keep = experts.reshape(-1, experts.shape[-1]).long(), now.mask
        if keep is not None and len(keep) != len(experts):  # not one row per token of the batch, so not guessed at
            self.unmasked, keep = self.unmasked + 1, None
        if logits is not None:
            logits = logits.detach().reshape(-1, logits.shape[-1])
            self.low_precision |= logits.dtype in (torch.bfloat16, torch.float16)
        with self._lock:
            function = self._function(router, answer) if logits is not None else "unknown"
            self.counters[now.phase].add(row, experts, logits, keep, function)
            self._ran["answers"] += now.phase == "train"

    def _function(self, router: Router, answer: tuple[Any, ...]) -> str:
        """Read the score function of a class of routers off its first answer, the only wait for a GPU."""
        if router.kind not in self._functions:
            parts: list[Any] = [part for part in sample_rows(answer) if part is not None]
            logits, weights, experts = (part.cpu().numpy() for part in (*(p.float() for p in parts[:2]), parts[2]))
            self._functions[router.kind] = score_function([(logits, weights, experts)])
        return self._functions[router.kind]


def _unless_compiling(hook: Callable[..., None]) -> Callable[..., None]:
    def hooked(*given: Any) -> None:
        if not torch.compiler.is_compiling():
            hook(*given)

    return hooked


def later_hook(recorder: RouterRecorder) -> str:
    """Return the error of `check_hooks` as text, or ""."""
    try:
        recorder.check_hooks()
    except CaptureError as error:
        return str(error)
    return ""
