"""Untrained routers: how well a model's experts would tell image tokens from text if no router had learned anything.

A router at random reads the same tokens, and similar ones go to the same experts, so it parts images from text too.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import in_this_thread
from moeviz.capture.routers.discovery import Router, find_routers
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import capture
from moeviz.errors import CaptureError
from moeviz.metrics.images import kind_information
from moeviz.routing_trace import RoutingTrace


def next_to_untrained(model: LoadedModel, request: CaptureRequest, *, draws: int = 5, seed: int = 0) -> pd.DataFrame:
    """Compare how well each layer's experts tell image tokens from text with routers of random weights.

    What the model's own routers read in one forward of the prompt is given to routers of normally distributed weights,
    which choose as many experts. They change nothing in the model.

    Columns: those of `kind_information`, and least, mean, most float64 (the same of `draws` untrained routers).

    Raises what `capture` raises, `MissingField` for a prompt without an image or text, and `CaptureError` for routers
    that do not read every token of the prompt.
    """
    inputs: dict[int, Tensor] = {}
    routers = find_routers(model.model, request.site)
    hooks = [
        router.module.register_forward_pre_hook(in_this_thread(partial(_keep, inputs, router))) for router in routers
    ]
    try:
        read = replace(request, max_new_tokens=0, kernels=False, next_tokens=False, outputs=False)
        trace = capture(model, read)
    finally:
        for hook in hooks:
            hook.remove()
    for router in routers:
        if len(inputs.get(router.layer, ())) != len(trace.tokens):
            raise CaptureError(
                f"The router of layer {router.layer} does not read one vector for each token of the prompt, so there "
                "is nothing to give to an untrained one."
            )
    generator = torch.Generator().manual_seed(seed)
    drawn = [kind_information(_untrained(trace, inputs, generator))["information"] for _ in range(draws)]
    bits = np.stack(drawn)
    return kind_information(trace).assign(least=bits.min(axis=0), mean=bits.mean(axis=0), most=bits.max(axis=0))


def _keep(inputs: dict[int, Tensor], router: Router, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
    if given:
        inputs[router.layer] = given[0].detach().flatten(0, -2).float().cpu()


def _untrained(trace: RoutingTrace, inputs: dict[int, Tensor], generator: torch.Generator) -> RoutingTrace:
    """Return the trace as routers of random weights would have decided it: only expert ids."""
    experts = np.full_like(trace.experts, -1)
    for row, (layer, count) in enumerate(zip(trace.model.layers, trace.model.num_experts, strict=True)):
        hidden = inputs[layer]
        logits = hidden @ torch.randn(hidden.shape[1], count, generator=generator)
        chosen = logits.topk(min(trace.model.top_k, count)).indices.numpy()
        experts[row, :, : chosen.shape[1]] = chosen
    return replace(trace, experts=experts, weights=None, logits=None, outputs=None, next_tokens=None)
