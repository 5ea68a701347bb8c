"""Decode sequences in one batch: each joins after its prompt was read, and can leave at any token.

transformers' own continuous batching draws with one generator for all, runs in a thread of its own, reserves its memory
beforehand, and changes the model's attention. Here the rows of one cache are aligned on the right: what is left of a
shorter one is masked, and each has its own positions. A single row is computed as `generate` computes it.

B rows, W columns, V tokens of the vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

MERGED = (DynamicLayer, DynamicSlidingWindowLayer)  # keys and values (B, heads, W, dim): of all tokens, or of the last
OWN_INPUTS = ("prepare_inputs_for_generation", "_prepare_position_ids_for_generation")  # of `generate`
TAKEN = {"attention_mask", "position_ids", "cache"}  # arguments of a forward


def why_no_batch(model: PreTrainedModel) -> str:
    """Say why sequences of a model cannot be decoded in one batch; "" if nothing is known against it.

    A trial decides whether a row then gives what it gives by itself.
    """
    name = type(model).__name__
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"{name} is in {str(model.dtype).removeprefix('torch.')} on {model.device}, not in float32 on a CPU."
    if model.config.is_encoder_decoder:
        return f"{name} has an encoder."
    if any(getattr(type(model), method, None) is not getattr(GenerationMixin, method) for method in OWN_INPUTS):
        return f"{name} prepares what it reads in its own way."
    if not _arguments(type(model).forward) >= TAKEN:
        return f"{name} takes no mask, positions or cache."
    if not all(type(layer) in MERGED for layer in _empty_cache(model).layers):
        return f"{name} keeps other things of a text than keys and values."
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class DecodingBatch:
    """The cache of sequences that are decoded together. Each operation returns a new one."""

    model: PreTrainedModel
    cache: Cache
    mask: Tensor  # (B, W), 0 = padding

    @classmethod
    def empty(cls, model: PreTrainedModel) -> "DecodingBatch":
        """Return a batch of one row without any token."""
        return cls(model, _empty_cache(model), torch.ones((1, 0), dtype=torch.long, device=model.device))

    @torch.no_grad()
    def read(self, ids: Tensor) -> tuple["DecodingBatch", Tensor]:
        """Read more tokens (B, S) of each row; return the batch with them, and logits (B, V) of what follows."""
        mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        positions = (mask.cumsum(-1) - 1)[:, -ids.shape[1] :]
        how: dict[str, Any] = {} if bool(mask.all()) else {"attention_mask": mask}  # as `generate` does
        if "logits_to_keep" in _arguments(type(self.model).forward):
            how["logits_to_keep"] = 1
        cache = _with_layers(self.cache, map(copy, self.cache.layers))
        output = self.model(input_ids=ids, position_ids=positions, cache=cache, use_cache=True, return_dict=True, **how)
        return DecodingBatch(self.model, cache, mask), output.logits[:, -1]

    @property
    def takes_others(self) -> bool:
        """True if rows can join: the cache holds keys and values, and one column for each token that was read."""
        length = self.mask.shape[1]
        return all(type(layer) in MERGED for layer in self.cache.layers) and self.cache.get_seq_length() == length

    def bytes_of(self, rows: int, columns: int) -> int:
        """Return the bytes of keys and values for this many rows and columns."""
        of_layers = (_bytes_of_a_column(layer) * _columns(layer, columns) for layer in self.cache.layers)
        return rows * sum(of_layers)

    def joined(self, other: "DecodingBatch") -> "DecodingBatch":
        """Return the rows of both, these first."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        mask = torch.cat([pad(part.mask, (width - part.mask.shape[1], 0)) for part in (self, other)])
        pairs = zip(self.cache.layers, other.cache.layers, strict=True)
        return DecodingBatch(
            self.model, _with_layers(self.cache, (_merge_layers(one, two, width) for one, two in pairs)), mask
        )

    def only(self, rows: Sequence[int]) -> "DecodingBatch":
        """Keep some of the rows, without the columns that are padding in all of them."""
        which = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[which]
        width = int(mask.sum(1).max())
        layers = (_of_rows(layer, which, width) for layer in self.cache.layers)
        return DecodingBatch(self.model, _with_layers(self.cache, layers), mask[:, mask.shape[1] - width :])


@lru_cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    """Return the arguments of a class's forward: what wraps it in a model takes the same."""
    return frozenset(signature(forward).parameters)


def _empty_cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def _with_layers(cache: Cache, layers: Iterable[Any]) -> Cache:
    other = copy(cache)
    other.layers = list(layers)
    return other


def _columns(layer: Any, width: int) -> int:
    """Return the number of `width` columns that a layer keeps: those within its window."""
    window = getattr(layer, "sliding_window", None)
    return width if window is None else min(width, window - 1)


def _bytes_of_a_column(layer: Any) -> int:
    if not layer.is_initialized:  # it shares what another layer keeps
        return 0
    return sum(part.shape[1] * part.shape[3] * part.element_size() for part in (layer.keys, layer.values))


def _merge_layers(one: Any, two: Any, width: int) -> Any:
    if not one.is_initialized:
        return copy(one)
    columns = _columns(one, width)
    pairs = ((one.keys, two.keys), (one.values, two.values))
    padded = ([pad(part, (0, 0, columns - part.shape[-2], 0)) for part in pair] for pair in pairs)
    return _layer(one, width, *map(torch.cat, padded))


def _of_rows(layer: Any, which: Tensor, width: int) -> Any:
    if not layer.is_initialized:
        return copy(layer)
    left = layer.keys.shape[-2] - _columns(layer, width)
    return _layer(layer, width, *(part[:, :, left:].index_select(0, which) for part in (layer.keys, layer.values)))


def _layer(like: Any, width: int, keys: Tensor, values: Tensor) -> Any:
    layer = copy(like)
    layer.keys, layer.values = keys, values
    if layer.is_sliding:
        layer.cumulative_length = width
    return layer
