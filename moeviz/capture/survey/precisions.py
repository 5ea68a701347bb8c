"""Ways of running on every architecture: half precision with ever sharper routers, autocast, float64, and noise.

Rounding and noise make another run of a second one, so the witness hears the very run that is traced.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moeviz.capture.routers.declared import Router, find_routers, router_sites
from moeviz.capture.survey.held import ONE, WRONG, as_it_runs, listened, not_running
from moeviz.capture.survey.survey import random_model, tokenizer
from moeviz.capture.trace import stream

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SHARPER = (1, 20, 100)  # what router logits are multiplied by
NOISE = ("jitter_noise", "router_jitter_noise", "input_jitter_noise")
OWN_SCORES = "router_gate.weight"  # of a router whose scores are not one an expert


def sharpened(model: PreTrainedModel, by: int) -> PreTrainedModel:
    """The model with router logits so many times as large."""
    for site in router_sites(model):
        for weight in {id(w): w for w in map(scores, find_routers(model, site)) if w is not None}.values():
            weight.data.mul_(by)
    return model


def scores(router: Router) -> Tensor | None:
    """The weight whose rows give the logits; None where experts are looked up."""
    named = [(name, part) for name, part in router.module.named_parameters() if part.dim() == 2]
    return next((p for n, p in reversed(named) if len(p) == router.num_experts or n == OWN_SCORES), None)


def _in_precision(architecture: str, dtype: torch.dtype, by: int = 1, kernels: bool = False) -> str:
    model = sharpened(random_model(architecture), by).to(dtype)
    if dtype == torch.float64:
        model.set_experts_implementation("eager")  # the one that knows it
    return as_it_runs(model, kernels=kernels)


def _under_autocast(architecture: str, kernels: bool = False) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        return as_it_runs(random_model(architecture), kernels=kernels)


def _streamed_under_autocast(architecture: str) -> str:
    """The model runs in a thread of the stream's own, where the caller's autocast must hold too."""
    model, seen = random_model(architecture), []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16), listened(model) as hearing:
        if trouble := not_running(model):
            return trouble
        made = list(stream(model, ONE, tokenizer=tokenizer(), max_new_tokens=0))[-1]
        verdict = hearing.verdict(made)
    hook.remove()
    return verdict if all(seen) else f"{WRONG}: the stream forgets the caller's autocast"


def _with_noise(architecture: str, kernels: bool = False) -> str:
    """In train mode, with jitter before routers and dropout."""
    model = random_model(architecture).train()
    for part in model.modules():
        for name in NOISE:
            if hasattr(part, name):
                setattr(part, name, 0.3)
        if isinstance(part, nn.Dropout):
            part.p = 0.2
    return as_it_runs(model, kernels=kernels)


EVERYWHERE: dict[str, Callable[[str], str]] = {
    f"{name}, logits x{by}{', kernels' if kernels else ''}": partial(_in_precision, dtype=dtype, by=by, kernels=kernels)
    for name, dtype in HALVES.items()
    for by in SHARPER
    for kernels in (False, True)
} | {
    "float64": partial(_in_precision, dtype=torch.float64),
    "float64, kernels": partial(_in_precision, dtype=torch.float64, kernels=True),
    "autocast": _under_autocast,
    "autocast, kernels": partial(_under_autocast, kernels=True),
    "autocast, streamed": _streamed_under_autocast,
    "train mode, jitter and dropout": _with_noise,
    "train mode, kernels": partial(_with_noise, kernels=True),
}
