"""What if the routers decided otherwise: trace, next tokens and loss, beside those of the model as it is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_kernels.reference import choose_torch
from moeviz.capture.hf import assemble
from moeviz.capture.interventions import Choice, Decision, Intervention, Mute
from moeviz.capture.models import LoadedModel
from moeviz.capture.probe import Swap, check, own_forward, router_inputs, swap_of, with_forward
from moeviz.capture.prompts import Run, prepare
from moeviz.capture.recording import alone, listen
from moeviz.capture.routers import find_routers
from moeviz.errors import CaptureError
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """A prompt read twice: by the model as it is, and with an intervention."""

    plain: RoutingTrace
    changed: RoutingTrace
    effect: pd.DataFrame


def what_if(
    model: LoadedModel | PreTrainedModel | str,
    prompts: str | Sequence[str],
    intervention: Intervention,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> WhatIf:
    """Read prompts with and without an intervention (`moeviz.capture.interventions`) and compare.

    `effect` has one row per token of the traces. Columns: sequence int32 · position int32 · text str · loss float64
    (nats: of this token, given those before it; NaN for the first of a sequence) · loss_changed float64 · kl float64
    (nats: Kullback-Leibler divergence of the distribution of the next token, plain || changed) · next_token int32 (the
    likeliest as it is) · next_token_changed int32 · probability float64 (of `next_token`) · probability_changed float64
    (of the same token).

    Raises `CaptureError` for a change that this model cannot be given, and what `trace` raises.
    """
    run = prepare(model, prompts, tokenizer, 0)
    with _ready(run) as swaps:
        plain, logits = _read(run, swaps, None)
        changed, logits_changed = _read(run, swaps, intervention)
    return WhatIf(plain, changed, _effect(plain, logits, logits_changed))


def ablate(
    model: LoadedModel | PreTrainedModel | str,
    prompts: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    layers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Mute each expert that the prompts use, one at a time, and rank them by what that does.

    A muted expert's tokens go to the router's next best. One row per layer and expert, greatest effect first. Columns:
    layer int32 · expert int16 · load float64 (its share of the layer's assignments) · kl float64 (nats, mean over
    tokens: how far the distribution of the next token moves) · loss_change float64 (nats a token, mean: above 0 where
    the model predicts worse without it). Experts that no token uses change nothing: 0.

    layers     the model's own indices; default: all that have experts.
    progress   called with (done, total) after each expert. Raise in it to stop.

    Raises `CaptureError` for a router that moeviz cannot let choose again, and what `trace` raises.
    """
    run = prepare(model, prompts, tokenizer, 0)
    rows = []
    with _ready(run) as swaps:
        plain, logits = _read(run, swaps, None)
        shares = _shares(plain if layers is None else plain.select(layers=layers))
        for done, (layer, expert, share) in enumerate(shares, start=1):
            kl = change = 0.0
            if share > 0:
                _, changed = _read(run, swaps, Mute({layer: (expert,)}))
                effect = _effect(plain, logits, changed)
                kl, change = effect["kl"].mean(), (effect["loss_changed"] - effect["loss"]).mean()
            rows.append((layer, expert, share, kl, change))
            if progress is not None:
                progress(done, len(shares))
    frame = pd.DataFrame(rows, columns=["layer", "expert", "load", "kl", "loss_change"])
    frame = frame.astype({"layer": "int32", "expert": "int16"})
    return frame.sort_values("kl", ascending=False, kind="stable", ignore_index=True)


def _shares(trace: RoutingTrace) -> list[tuple[int, int, float]]:
    """(layer, expert, its share of the layer's assignments)."""
    shares = []
    for layer, count, experts in zip(trace.model.layers, trace.model.num_experts, trace.experts, strict=True):
        loads = np.bincount(experts[experts != NO_EXPERT], minlength=count)
        shares += [(layer, expert, float(load)) for expert, load in enumerate(loads / max(loads.sum(), 1))]
    return shares


@contextmanager
def _ready(run: Run) -> Iterator[tuple[Swap, ...]]:
    """Which routers can choose again: checked once."""
    if run.model.config.is_encoder_decoder:
        raise CaptureError(
            f"{type(run.model).__name__} has an encoder and a decoder; what-if reads decoder-only models."
        )
    swaps = tuple(swap_of(router) for router in find_routers(run.model))
    with alone(run.model):
        check(run.model, swaps)
    yield swaps


@torch.no_grad()
def _read(run: Run, swaps: tuple[Swap, ...], intervention: Intervention | None) -> tuple[RoutingTrace, Tensor]:
    """The trace, and the logits (T, V) after each of its tokens."""
    batch = run.batch
    kept = batch.attention_mask.flatten() == 1
    with ExitStack() as stack:
        recording = stack.enter_context(listen(run.model, keep_logits=True))
        if intervention is not None:
            experts = dict(zip(run.info.layers, run.info.num_experts, strict=True))
            intervention.check(experts, run.info.top_k, batch.input_ids.flatten()[kept].cpu().numpy())
            for index, swap in enumerate(swaps):
                stack.enter_context(with_forward(swap.router.module, _changed(swap, index, kept, intervention)))
        positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        output = run.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions, use_cache=False
        )
    trace = assemble(recording, run, batch.input_ids[:, :0])
    return trace, output.logits.flatten(0, 1)[kept.to(output.logits.device)]


def _changed(swap: Swap, index: int, kept: Tensor, intervention: Intervention) -> Callable[..., tuple]:
    router = swap.router
    own = own_forward(router.module)

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple:
        output = own(*args, **kwargs)
        flat = [part.reshape(-1, part.shape[-1]) for part in output[:3]]

        def again(bias: Tensor | None, top_k: int | None) -> Choice:
            weights, experts = _choose_again(swap, flat[0], args, kwargs, bias, top_k)
            return weights.to(flat[1].dtype), experts.to(flat[2].dtype)

        facts = (router.layer, index, router.num_experts, *flat[1:], kept.to(flat[2].device), router.factor)
        weights, experts = intervention.change(Decision(*facts, again))
        shape = (*output[2].shape[:-1], -1)
        return output[0], weights.view(shape), experts.view(shape), *output[3:]

    return forward


def _choose_again(
    swap: Swap, logits: Tensor, args: tuple, kwargs: dict, bias: Tensor | None, top_k: int | None
) -> Choice:
    if swap.trouble:
        raise CaptureError(
            f"{swap.trouble}, so moeviz cannot let it choose again. Mute with reroute=False, exchange experts, or "
            "replay a trace."
        )
    _, own_bias = router_inputs(swap.family, swap.router.module, args, kwargs)
    gating = swap.family.gating(swap.router.module)
    if top_k is not None:
        gating = replace(gating, top_k=top_k)
    biases = [part.float() for part in (own_bias, bias) if part is not None]
    return choose_torch(logits, gating, sum(biases) if biases else None)


def _effect(plain: RoutingTrace, logits: Tensor, changed: Tensor) -> pd.DataFrame:
    """One row per token; see `what_if`."""
    ids = torch.tensor(plain.tokens["token_id"].tolist(), device=logits.device)
    first = (plain.tokens["position"] == 0).to_numpy()
    rows = [_compare(*pair) for pair in zip(logits.split(256), changed.split(256), strict=True)]
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    losses = {name: _losses(part, ids, first) for name, part in {"loss": logits, "loss_changed": changed}.items()}
    tokens = plain.tokens[["sequence", "position", "text"]]
    return tokens.assign(**losses, **columns).astype({"next_token": "int32", "next_token_changed": "int32"})


def _losses(logits: Tensor, ids: Tensor, first: np.ndarray) -> np.ndarray:
    before = torch.nn.functional.cross_entropy(logits[:-1].float(), ids[1:], reduction="none").double().cpu().numpy()
    return np.where(first, np.nan, np.concatenate([[np.nan], before]))


def _compare(logits: Tensor, changed: Tensor) -> dict[str, np.ndarray]:
    plain, other = (part.double().log_softmax(dim=-1) for part in (logits, changed))
    likeliest, likeliest_changed = plain.argmax(dim=-1), other.argmax(dim=-1)
    columns = {
        "kl": (plain.exp() * (plain - other)).sum(dim=-1),
        "next_token": likeliest,
        "next_token_changed": likeliest_changed,
        "probability": plain.gather(-1, likeliest[:, None]).exp()[:, 0],
        "probability_changed": other.gather(-1, likeliest[:, None]).exp()[:, 0],
    }
    return {name: column.cpu().numpy() for name, column in columns.items()}
