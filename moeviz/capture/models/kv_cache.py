"""Measure the memory that keys and values of a text need on transformers' own cache; only the config is needed.

The model is built on the meta device, with experts that do nothing, and reads a few tokens: shapes without memory. Each
layer's share is then a constant (recurrent states) plus an amount per token, up to its window if it has one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from moeviz.capture.models.load import model_config
from moeviz.capture.models.parameters import empty_model, parameters_of_config
from moeviz.capture.models.patching import patched_attribute
from moeviz.capture.routers.discovery import find_routers, router_sites
from moeviz.errors import CaptureError
from moeviz.parameters import LayerCache, ServedModel

LENGTHS = (3, 6, 9)  # tokens read: the growth must be the same twice


def kv_cache(config: PreTrainedConfig) -> list[LayerCache] | None:
    """Count the values that each layer keeps during generation; None if moeviz cannot tell.

    Counted as in transformers: latents, if attention has them (DeepSeek's); windows, if layers have them. None for
    models with an encoder, and for caches that do not grow evenly (compressed ones).

    >>> from transformers import DeepseekV3Config
    >>> sum(layer.per_token for layer in kv_cache(DeepseekV3Config())) * 2  # bytes per token in bfloat16
    70272

    Source of that figure: Insights into DeepSeek-V3 (arXiv 2505.09343), table 1: 70.272 KB.
    """
    if config.is_encoder_decoder:
        return None
    model = empty_model(config).to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps `to` without its types
    try:
        sizes = [_measure_cache(model, length) for length in LENGTHS]
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # this model needs more than shapes to run
        return None
    layers = []
    for counts, window in zip(zip(*(counts for counts, _ in sizes), strict=True), sizes[0][1], strict=True):
        steps = {(later - earlier) / (LENGTHS[1] - LENGTHS[0]) for earlier, later in pairwise(counts)}
        per_token = steps.pop()
        if steps or not per_token.is_integer():
            return None
        layers.append(LayerCache(counts[0] - int(per_token) * LENGTHS[0], int(per_token), window))
    return layers


@torch.no_grad()
def _measure_cache(model: PreTrainedModel, tokens: int) -> tuple[list[int], list[int | None]]:
    """Count the values that each layer keeps of this many tokens, and find its window."""
    experts = [part for site in router_sites(model) for r in find_routers(model, site) for part in r.experts.values()]
    with ExitStack() as stack:
        for part in experts:
            stack.enter_context(patched_attribute(part, "forward", lambda hidden, *_args, **_kwargs: hidden))
        output = model(input_ids=torch.zeros(1, tokens, dtype=torch.long, device="meta"), use_cache=True)
    cache = getattr(output, "cache", None)
    if cache is None:
        raise ValueError("a model that writes no text keeps nothing of what it read")
    layers = cache.layers
    windows = (getattr(layer, "sliding_window", None) for layer in layers)
    counts = [sum(part.numel() for part in _tensors(vars(layer))) for layer in layers]
    return counts, [None if window is None else window - 1 for window in windows]  # the next token is not kept yet


def _tensors(holder: object) -> Iterator[Tensor]:
    if isinstance(holder, Tensor) and holder.is_floating_point():
        yield holder
    elif isinstance(holder, dict | list | tuple):
        for part in holder.values() if isinstance(holder, dict) else holder:
            yield from _tensors(part)


def served_model(name: str, revision: str | None = None) -> ServedModel:
    """Read a model's config, by the same names as `load_model`. No weights are loaded.

    Raises `CaptureError` if moeviz does not know what the model keeps of a text, and what `model_facts` raises.
    """
    return served_by_config(model_config(name, revision), name)


def served_by_config(config: PreTrainedConfig, name: str) -> ServedModel:
    """Describe a served model by its config. Raises `CaptureError` as `served_model` does."""
    facts, caches = parameters_of_config(config, name), kv_cache(config)
    if caches is None or facts.parameters is None:
        raise CaptureError(
            f"moeviz cannot tell how much memory {name!r} keeps of a text: it has an encoder, writes no text, or has "
            "a cache that does not grow evenly. “moeviz params” shows what its weights need."
        )
    text = config.get_text_config()
    return ServedModel(
        name=name,
        parameters=facts.parameters,
        num_experts=max(facts.num_experts),
        top_k=facts.top_k,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        caches=tuple(caches),
    )
