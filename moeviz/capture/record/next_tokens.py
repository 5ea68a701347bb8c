"""Record the likeliest next tokens in the forward whose routing is recorded, and as they would be after each layer.

Hidden states go to the model's head a few rows at a time, through the model's own forward, so that its scale or cap of
logits applies, and logits of a whole text are never in memory at once. The routers do not run again. The result for the
last row is compared with the model's own answer.

Letters: B sequences of a forward, S its positions, n rows at a time, D hidden, V vocabulary, N likeliest tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.patching import in_this_thread, patched
from moeviz.capture.routers.discovery import LAYER_INDEX, Router, find_routers, order_of
from moeviz.capture.run.prompts import ModelInput
from moeviz.capture.run.request import AUTO, CaptureRequest
from moeviz.capture.run.token_texts import texts_of_tokens
from moeviz.errors import CaptureError
from moeviz.next_tokens import NEXT, NextTokens

PART = 64  # probabilities of which the largest is looked at first
MOST_LOGITS = 2**24  # float32 numbers at once: 64 MB
MOST_ROWS = 256  # at once: more take more memory, and no less time
SOFTMAX_ROWS = 32  # at once: more have no place in a CPU's cache, and in memory that is allocated anew
LENS_BY_ITSELF = 2**33  # multiplications of a run, half a second of a CPU: beyond that a lens must be asked for
NORMS = ("norm", "final_layernorm", "final_norm", "norm_f", "ln_f", "embedding_norm")  # the last before the head
Top = tuple[Tensor, Tensor]  # ids (n, N) int32 and probabilities (n, N) float32


class _StackAnswer:
    """Hidden states as the answer of the stack below a head, without anything else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, _name: str) -> None:
        return None

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]


class Head:
    """A model's own computation from hidden states to logits, for a few rows at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.base, self.busy = model, stack_of(model), False
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.most_rows = min(max(MOST_LOGITS // self.vocabulary, 1), MOST_ROWS)

    def top(self, hidden: Tensor) -> tuple[Top, Tensor]:
        """Return the likeliest tokens of each row of (B, S, D), and the logits (V,) of the last row."""
        parts: list[tuple[Tensor, Tensor]] = []
        for rows in hidden.reshape(-1, hidden.shape[-1]).split(self.most_rows):
            last = self._add_top(rows, parts)
        ids, p = (torch.cat(part) for part in zip(*parts, strict=True))
        return (ids, p), last

    def _add_top(self, rows: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Add the likeliest tokens of these rows. No logits outlive this: room for two lots is made anew each time."""
        logits = self._logits(rows)
        for some in logits.split(SOFTMAX_ROWS):
            p, ids = _largest(some.float().softmax(-1))
            parts.append((ids.int(), p))
        return logits[-1].clone()

    def _logits(self, rows: Tensor) -> Tensor:
        from moeviz.capture.record.private_names import with_forward  # recording with hooks alone does not need it

        ids = torch.zeros((1, len(rows)), dtype=torch.long, device=rows.device)
        self.busy = True
        try:
            with with_forward(self.base, lambda *_given, **_how: _StackAnswer(rows[None])):
                logits: Tensor = self.model.forward(input_ids=ids, use_cache=False).logits[0]
        finally:
            self.busy = False
        return logits


@dataclass(slots=True, eq=False)
class NextTokenRecord:
    """The likeliest next tokens of all rows that were read, forward after forward."""

    head: Head
    required: bool
    norm: nn.Module | None  # None: no lens
    layers: list[nn.Module]  # of each router
    last_layer: nn.Module | None = None  # of their stack
    rows: list[Top] = field(default_factory=list)  # after the whole model, (B·S, N) of each forward
    lens: list[list[Top]] = field(init=False)  # the same after the layer of each router
    waiting: list[tuple[list[Top], Tensor]] = field(default_factory=list)  # rows for the head, and where they belong
    normed: Tensor | None = None  # what the last layer answered, after the final norm
    last: Tensor | None = None  # logits of the last row
    why_not: str = ""

    def __post_init__(self) -> None:
        self.lens = [[] for _ in self.layers]

    def blank(self) -> "NextTokenRecord":
        """Return an empty record of the same kind, for the forwards of a batch."""
        lens = (None, []) if self.norm is None else (self.norm, self.layers, self.last_layer)
        return NextTokenRecord(self.head, self.required, *lens)

    def shares_of_rows(self, rows: "Sequence[NextTokenRecord]") -> list[tuple[list, Top]]:
        """Return the part of a forward for each row's record, if each row of a batch read one token."""
        for record in rows:
            record.why_not = record.why_not or self.why_not
            if self.norm is None:
                record.norm, record.lens = None, []
        places = zip(*((record.rows, *record.lens) for record in rows), strict=True)
        return [
            (place, (row_ids, row_p))
            for parts, of_rows in zip((self.rows, *self.lens), places, strict=True)
            for ids, p in parts
            for place, row_ids, row_p in zip(of_rows, ids.split(1), p.split(1), strict=True)
        ]

    def layer_ended(self, index: int, hidden: Tensor) -> None:
        """Pass the output of one router's layer to the head."""
        if self.norm is not None:
            self._add(self.lens[index], self.norm(hidden))

    def last_layer_ended(self, hidden: Tensor) -> None:
        """Keep what the final norm makes of the last layer."""
        self.normed = None if self.norm is None else self.norm(hidden)

    def stack_ended(self, hidden: Tensor) -> None:
        """Keep the head's output for the whole stack, which must end in the final norm: otherwise there is no lens."""
        if self.norm is not None and (self.normed is None or not torch.equal(self.normed, hidden)):
            self.norm, self.lens, self.waiting = None, [], []
        self.normed = None
        self._add(self.rows, hidden)
        self._ask_head()

    def _add(self, place: list[Top], hidden: Tensor) -> None:
        """Queue rows for the head: those of all layers go there at once, and those of a long text in parts."""
        self.waiting.append((place, hidden.reshape(-1, hidden.shape[-1])))
        if sum(len(rows) for _, rows in self.waiting) >= self.head.most_rows:
            self._ask_head()

    def _ask_head(self) -> None:
        if not self.waiting:
            return
        (ids, p), self.last = self.head.top(torch.cat([rows for _, rows in self.waiting]))
        lengths = [len(rows) for _, rows in self.waiting]
        for (place, _), *top in zip(self.waiting, ids.split(lengths), p.split(lengths), strict=True):
            place.append((top[0], top[1]))
        self.waiting = []

    def model_ended(self, logits: Tensor | None) -> None:
        """Compare the last row with the model's own answer."""
        if self.last is None or logits is None or not _are_close(logits.reshape(-1, logits.shape[-1])[-1], self.last):
            self.why_not = (
                f"The head of {type(self.head.model).__name__} answers differently from its forward as a whole, so "
                "moeviz does not know its next tokens. Leave next_tokens out."
            )
        self.last = None

    def at(self, where: np.ndarray, read: Sequence[Tensor], tokenizer: PreTrainedTokenizerBase) -> NextTokens | None:
        """Return the next tokens after those at these places among all rows read.

        Raises `CaptureError` if they were requested and are unavailable.
        """
        why_not = self.why_not
        if [len(ids) for ids, _ in self.rows] != [ids.numel() for ids in read]:
            why_not = why_not or (
                f"{type(self.head.model).__name__} does not read tokens by its stack and head, so moeviz does not know "
                "its next tokens. Leave next_tokens out."
            )
        if not why_not:
            (ids, p), *lens = [_at(parts, where) for parts in (self.rows, *self.lens)]
            if np.isfinite(p).all() and all(np.isfinite(part).all() for _, part in lens):
                return self._name_tokens(ids, p, lens, tokenizer)
            why_not = (
                "The model's logits are not all numbers, so it has no likeliest next tokens. Load it in a wider dtype, "
                "or leave next_tokens out."
            )
        if self.required:
            raise CaptureError(why_not)
        return None

    def _name_tokens(
        self, ids: np.ndarray, p: np.ndarray, lens: list[tuple[np.ndarray, np.ndarray]], tokenizer: Any
    ) -> NextTokens:
        """Name each token that is among the likeliest once."""
        every = np.stack([ids, *(part for part, _ in lens)])
        tokens, rows = np.unique(every, return_inverse=True)
        texts, rows = tuple(texts_of_tokens(tokenizer, tokens.tolist())), rows.reshape(every.shape).astype(np.int32)
        of_lens = (rows[1:], np.stack([part for _, part in lens])) if lens else (None, None)
        return NextTokens(texts, rows[0], p, *of_lens, tokens.astype(np.int32))


@contextmanager
def next_tokens_recorded(run: ModelInput, request: CaptureRequest) -> Iterator[NextTokenRecord | None]:
    """Record the likeliest next tokens of what this thread reads inside the block, if the request asks for them.

    Raises `CaptureError` if it asks for them and the model has none.
    """
    why_not = why_no_next_tokens(run.model) if request.next_tokens else ""
    if why_not and request.next_tokens != AUTO:
        raise CaptureError(why_not)
    if why_not or not request.next_tokens:
        yield None
        return
    head, routers = Head(run.model), find_routers(run.model, request.site)
    of_lens = (
        lens_of(run.model, routers)
        if request.intervention is None and _is_cheap(head, len(routers), run, request)
        else None
    )
    record = NextTokenRecord(head, request.next_tokens is True, *((None, []) if of_lens is None else of_lens))
    with next_tokens_hooks(record):
        yield record


@contextmanager
def next_tokens_hooks(record: NextTokenRecord) -> Iterator[None]:
    """Inside the block the next tokens of a record are recorded."""
    head = record.head
    with ExitStack() as stack:
        for index in range(len(record.lens)):
            note = partial(record.layer_ended, index)
            stack.enter_context(_output_hook(record.layers[index], note, head))
        if record.last_layer is not None:
            stack.enter_context(_output_hook(record.last_layer, record.last_layer_ended, head))
        stack.enter_context(_output_hook(head.base, record.stack_ended, head))
        stack.enter_context(_output_hook(head.model, record.model_ended, head, of=lambda output: output.logits))
        yield


def stack_of(model: PreTrainedModel) -> nn.Module:
    """Return the stack below a model's head; the model itself if it has no name for that."""
    found = model.base_model
    return found if found is not model else getattr(model, "model", model)


def why_no_next_tokens(model: PreTrainedModel) -> str:
    """Return why a model has no next tokens to record, in a sentence; "" if it has."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        return f"{name} has an encoder and a decoder; next tokens are recorded of decoder-only models. Leave them out."
    if model.get_output_embeddings() is None or stack_of(model) is model:
        return (
            f"{name} predicts no token: it has no language head. Load the checkpoint with one (…ForCausalLM), or leave "
            "next_tokens out."
        )
    return ""


def _is_cheap(head: Head, layers: int, run: ModelInput, request: CaptureRequest) -> bool:
    """Return True if the lens (the head, for every layer) is worth its cost although nobody asked for it by name."""
    if request.next_tokens is True or head.model.device.type != "cpu":
        return True
    sequences, width = run.batch.input_ids.shape
    tokens = sequences * (width + request.max_new_tokens)
    hidden: int = run.model.config.get_text_config().hidden_size
    return layers * tokens * head.vocabulary * hidden <= LENS_BY_ITSELF


def lens_of(model: PreTrainedModel, routers: Sequence[Router]) -> tuple[nn.Module, list[nn.Module], nn.Module] | None:
    """Return the final norm, each router's layer, and the last layer of their stack; None if the model has none."""
    layers = layers_of(model, routers)
    if layers is None or len(order_of(model, routers)) != len(routers):
        return None
    (path,) = (path for path, part in model.named_modules() if part is layers)
    parent = model.get_submodule(path.rpartition(".")[0])
    norm = next((getattr(parent, name) for name in NORMS if isinstance(getattr(parent, name, None), nn.Module)), None)
    return None if norm is None else (norm, [layers[router.layer] for router in routers], layers[-1])


def layers_of(model: nn.Module, routers: Sequence[Router]) -> nn.ModuleList | None:
    """Return the one stack of layers that all routers are in; None if they are not in one."""
    found = [LAYER_INDEX.search(router.path) for router in routers]
    stacks = {router.path[: at.start(1) - 1] for router, at in zip(routers, found, strict=True) if at is not None}
    layers = model.get_submodule(*stacks) if len(stacks) == 1 else None
    return layers if isinstance(layers, nn.ModuleList) else None


@contextmanager
def _output_hook(
    module: nn.Module, note: Callable[[Any], None], head: Head, of: Callable[[Any], Any] | None = None
) -> Iterator[None]:
    """Inside the block `note` gets what a module answers to this thread, first of several, but not for the head."""

    def hook(_module: nn.Module, _given: tuple, answer: Any) -> None:
        if not head.busy:
            note(of(answer) if of is not None else answer if isinstance(answer, Tensor) else answer[0])

    ours = in_this_thread(hook)
    with patched(lambda: module.register_forward_hook(ours).remove):
        yield


def _largest(p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the NEXT largest of each row (n, V) like `topk`, which needs four times as long on a CPU.

    They are in the NEXT parts whose own largest are the largest.
    """
    parts = p.shape[1] // PART
    if parts < NEXT or p.shape[1] % PART:
        return p.topk(NEXT)
    of_parts = p.view(len(p), parts, PART)
    which = of_parts.amax(-1).topk(NEXT).indices
    largest, at = of_parts.gather(1, which[..., None].expand(-1, -1, PART)).flatten(1).topk(NEXT)
    return largest, which.gather(1, at // PART) * PART + at % PART


def _are_close(own: Tensor, ours: Tensor) -> bool:
    """Return True for equal logits, except for the rounding of a product with another number of rows."""
    near = 8 * torch.finfo(own.dtype).eps + 1e-4
    return bool((own - ours.to(own)).abs().max() <= near * own.abs().max())


def _at(parts: list[Top], where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, p = (torch.cat(part).cpu().numpy()[where] for part in zip(*parts, strict=True))
    return ids, p
