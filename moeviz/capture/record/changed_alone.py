"""Read rows of one text in which every token is changed at one layer, each as if it were the only one.

Above the changed layer, the token at a position attends to the keys and values that the tokens before it have in the
text as it is, and to its own changed ones. So no token sees another one's change, and a row of a batch is exact for
all of its tokens at once: one attention function, for every family that goes through transformers' registry. The
model's own code does all else. Layers below the changed one give what they gave.

A rows, P positions, T tokens, H heads, V tokens of the vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moeviz.capture.record.private_names import own_forward, with_attention, with_forward
from moeviz.capture.routers.discovery import LAYER_INDEX, Router
from moeviz.errors import CaptureError

ATTENTION = "moeviz_changed_alone"
_reading: dict[int, "TextAsItIs"] = {}  # by thread


@dataclass(slots=True, eq=False)
class TextAsItIs:
    """One text as a model reads it, and what its tokens need when one of them is changed."""

    model: PreTrainedModel
    ids: Tensor  # (1, T)
    layers: nn.ModuleList
    logits: Tensor  # (T, V)
    inputs: dict[int, Tensor] = field(default_factory=dict)  # of each layer, (1, T, …)
    answers: dict[int, Any] = field(default_factory=dict)
    past: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # keys and values (1, H, T, …) of each layer
    positions: Tensor | None = None  # (P,) of the rows being read; None: the text itself is

    @torch.no_grad()
    def changed(self, layer: int, positions: Tensor, rows: int) -> Tensor:
        """Return logits (A, P, V) of rows of these positions, whose layers from this one on run again.

        To be called in `reading`, with something that changes the layer's routing.
        """
        with ExitStack() as stack:
            for below in range(layer):
                stack.enter_context(with_forward(self.layers[below], self._passing_on(below)))
            again = _replace_rows(own_forward(self.layers[layer]), self.inputs[layer], positions, rows)
            stack.enter_context(with_forward(self.layers[layer], again))
            self.positions = positions
            of_rows = {"input_ids": self.ids[:, positions], "position_ids": positions[None]}
            given = {name: part.expand(rows, -1) for name, part in of_rows.items()}
            try:
                logits: Tensor = self.model(**given, use_cache=False).logits
            finally:
                self.positions = None
        return logits

    def _passing_on(self, layer: int) -> Callable[..., Any]:
        answer = self.answers[layer]

        def forward(hidden_states: Tensor, *_given: Any, **_named: Any) -> Any:
            return (hidden_states, *answer[1:]) if isinstance(answer, tuple) else hidden_states

        return forward


@contextmanager
def reading(model: PreTrainedModel, ids: Tensor, router: Router) -> Iterator[TextAsItIs]:
    """Read a text (1, T) once; inside the block, rows of it can be read. The caller has the model to itself.

    router   any of the model's, in whose path its layers are found.

    Raises `CaptureError` for a model whose attention moeviz cannot give the keys of the text as it is.
    """
    found = LAYER_INDEX.search(router.path)
    assert found is not None  # or it would be no router
    layers = cast(nn.ModuleList, model.get_submodule(router.path[: found.start(1) - 1]))
    text = TextAsItIs(model, ids, layers, torch.empty(0))
    with ExitStack() as stack:
        stack.enter_context(with_attention(model, ATTENTION, attend))
        _reading[get_ident()] = text
        stack.callback(_reading.pop, get_ident())
        with ExitStack() as hearing, torch.no_grad():
            for layer, part in enumerate(text.layers):
                hearing.enter_context(with_forward(part, _hearing(own_forward(part), text, layer)))
            text.logits = model(input_ids=ids, use_cache=False).logits[0]
        if len(text.past) < len(text.layers):
            raise CaptureError(
                f"{len(text.layers) - len(text.past)} of {len(text.layers)} layers of {type(model).__name__} mix "
                "tokens in a way of their own, so a token cannot be changed there without the others seeing it. Choose "
                "a model whose layers all have attention."
            )
        yield text


def _hearing(own: Callable[..., Any], text: TextAsItIs, layer: int) -> Callable[..., Any]:
    def forward(*given: Any, **named: Any) -> Any:
        text.inputs[layer] = given[0] if given else named["hidden_states"]
        text.answers[layer] = own(*given, **named)
        return text.answers[layer]

    return forward


def _replace_rows(own: Callable[..., Any], hidden: Tensor, positions: Tensor, rows: int) -> Callable[..., Any]:
    def forward(*given: Any, **named: Any) -> Any:
        instead = hidden[:, positions].expand(rows, *(-1,) * (hidden.dim() - 1))
        return own(instead, *given[1:], **{name: part for name, part in named.items() if name != "hidden_states"})

    return forward


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,  # not needed: there is no padding
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,  # the logit of a sink for each head
    **_others: Any,
) -> tuple[Tensor, None]:
    """Attend to the plain keys and values of the tokens before, and to a token's own: transformers' interface."""
    text = _reading[get_ident()]
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if text.positions is None:
        text.past[module.layer_idx] = (key, value)
        at = torch.arange(query.shape[2], device=query.device)
    else:
        at = text.positions.to(query.device)
    keys, values = (part[0] for part in text.past[module.layer_idx])
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    place = torch.arange(keys.shape[1], device=query.device)[None]
    seen = place < at[:, None]
    if sliding_window is not None:
        seen &= place > at[:, None] - sliding_window
    before = torch.einsum("ahqd,htd->ahqt", query, keys).mul_(scaling).masked_fill_(~seen, -math.inf)
    parts = [before, (query * key).sum(-1, keepdim=True) * scaling]
    if s_aux is not None:
        parts.append(s_aux.reshape(1, -1, 1, 1).expand(*query.shape[:3], 1))
    weights = torch.cat(parts, -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    T = keys.shape[1]
    out = torch.einsum("ahqt,htd->ahqd", weights[..., :T], values) + weights[..., T : T + 1] * value
    return out.transpose(1, 2).contiguous(), None
