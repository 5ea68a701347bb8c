"""Let routers decide otherwise while a model runs: what `interventions.py` says, in place of what they decided."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import Tensor

from moe_kernels.reference import choose_torch
from moeviz.capture.change.kinds import Choice, Decision, Intervention, Replay
from moeviz.capture.record.locks import alone
from moeviz.capture.record.private_names import own_forward, with_forward
from moeviz.capture.record.probe import Probed, probe, router_inputs
from moeviz.capture.run.prompts import Run
from moeviz.errors import CaptureError


def ready(run: Run) -> tuple[Probed, ...]:
    """The routers of a model, and which of them can choose again: checked on a forward."""
    check_can_change(run)
    with alone(run.model):
        return probe(run.model).routers


def check_can_change(run: Run) -> None:
    """Raise `CaptureError` for a model that no intervention reaches."""
    if run.model.config.is_encoder_decoder:
        raise CaptureError(
            f"{type(run.model).__name__} has an encoder and a decoder; what-if reads decoder-only models."
        )


@contextmanager
def intervening(
    run: Run, routers: tuple[Probed, ...], intervention: Intervention | None, max_new_tokens: int = 0
) -> Iterator[None]:
    """Inside the block the routers decide what the intervention makes of their decisions.

    Raises `CaptureError` where the model cannot be given it.
    """
    with ExitStack() as stack:
        if isinstance(intervention, Replay) and max_new_tokens:
            raise CaptureError("A trace is replayed while a prompt is read; generate no tokens (max_new_tokens=0).")
        if intervention is not None:
            kept = run.batch.attention_mask.flatten() == 1
            experts = dict(zip(run.info.layers, run.info.num_experts, strict=True))
            intervention.check(experts, run.info.top_k, run.batch.input_ids.flatten()[kept].cpu().numpy())
            for index, probed in enumerate(routers):
                change = _changed(probed, index, kept, intervention)
                stack.enter_context(with_forward(probed.router.module, change))
        yield


def _changed(probed: Probed, index: int, kept: Tensor, intervention: Intervention) -> Callable[..., tuple]:
    router = probed.router
    own = own_forward(router.module)

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple:
        output = own(*args, **kwargs)
        flat = [part.reshape(-1, part.shape[-1]) for part in output[:3]]

        def again(bias: Tensor | None, top_k: int | None) -> Choice:
            weights, experts = _choose_again(probed, flat[0], args, kwargs, bias, top_k)
            return weights.to(flat[1].dtype), experts.to(flat[2].dtype)

        real = kept.to(flat[2].device) if len(kept) == len(flat[2]) else flat[2].new_ones(len(flat[2])).bool()
        facts = (router.layer, index, router.num_experts, *flat[1:], real, router.factor)
        weights, experts = intervention.change(Decision(*facts, again))
        shape = (*output[2].shape[:-1], -1)
        return output[0], weights.view(shape), experts.view(shape), *output[3:]

    return forward


def _choose_again(
    probed: Probed, logits: Tensor, args: tuple, kwargs: dict, bias: Tensor | None, top_k: int | None
) -> Choice:
    if probed.trouble:
        raise CaptureError(
            f"{probed.trouble}, so moeviz cannot let it choose again. Mute with reroute=False, exchange experts, or "
            "replay a trace."
        )
    _, own_bias = router_inputs(probed.family, probed.router.module, args, kwargs)
    gating = probed.family.gating(probed.router.module)
    if top_k is not None:
        gating = replace(gating, top_k=top_k)
    biases = [part.float() for part in (own_bias, bias) if part is not None]
    return choose_torch(logits, gating, sum(biases) if biases else None)
