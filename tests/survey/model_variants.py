"""Models that something has been done to: other precisions, noise, compiled, trained with checkpoints, adapted by LoRA.

Rounding and noise make another run of a second one, so the oracle watches the very run that is traced.
"""

import importlib.util
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moeviz.capture.models.parameters import describe
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import listen
from moeviz.capture.routers.discovery import Router, find_routers, router_sites
from moeviz.capture.run.prompts import ModelInput, no_generated_tokens
from moeviz.capture.trace import stream, trace
from survey.compare import EQUAL, NOT_TRIED, ONE, WRONG, as_it_runs, oracle_recording, same, told_apart
from survey.tiny_models import random_model, some_tokens, tokenizer

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
    with torch.autocast("cpu", torch.bfloat16):
        if (verdict := as_it_runs(model)) == EQUAL:  # the oracle hears this thread only
            quiet = trace(model, ONE, tokenizer=tokenizer())
            verdict = same(list(stream(model, ONE, tokenizer=tokenizer(), max_new_tokens=0))[-1], quiet)
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


NEW = 3


def _compiled(architecture: str, mode: str) -> str:
    """Compiled by Inductor and run once before it is traced."""
    torch._dynamo.reset()
    model, ids = random_model(architecture), torch.tensor([[5, 6, 7]])
    model.compile(mode=mode)
    model(ids)
    made = trace(model, ONE, tokenizer=tokenizer(), max_new_tokens=NEW)
    return told_apart(made, random_model(architecture))


def _with_backward(architecture: str, checkpoints: bool) -> str:
    """A step of training inside `listen`: with checkpoints the backward pass runs every layer a second time."""
    model, batch = random_model(architecture).train(), some_tokens()
    if model.config.is_encoder_decoder:
        return f"{NOT_TRIED}: its two sites would need two batches"
    try:
        if checkpoints:
            model.gradient_checkpointing_enable()
    except ValueError as error:
        return f"{NOT_TRIED}: transformers has no checkpoints for it ({str(error).partition('.')[0]})"
    with oracle_recording(model) as hearing, listen(model) as recording:
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        forward = len(hearing.testimony.order)
        output[0].float().pow(2).mean().backward()
    del hearing.testimony.order[forward:]
    run = ModelInput(model, tokenizer(), describe(model, architecture, site=recording.site), batch)
    return hearing.verdict(assemble(recording, run, no_generated_tokens(batch)))


def _adapted(architecture: str, targets: Callable[[PreTrainedModel], dict], as_peft: bool, **options: object) -> str:
    """With LoRA of random weights, handed over as the PeftModel or as the model inside it."""
    if importlib.util.find_spec("peft") is None:
        return f"{NOT_TRIED}: peft is not installed"
    model = random_model(architecture)
    try:
        wrapped = with_lora(model, targets(model))
    except (ValueError, NotImplementedError) as error:
        return f"{NOT_TRIED}: PEFT does not adapt it ({str(error).splitlines()[0]})"
    return as_it_runs(wrapped.get_base_model(), handed=wrapped if as_peft else None, **options)


def with_lora(model: PreTrainedModel, targets: dict) -> nn.Module:
    """A PeftModel around it."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **targets)).eval()


def _generated(architecture: str, targets: Callable[[PreTrainedModel], dict]) -> str:
    """A PeftModel that generates."""
    if importlib.util.find_spec("peft") is None:
        return f"{NOT_TRIED}: peft is not installed"
    model = random_model(architecture)
    wrapped = with_lora(model, targets(model))
    made = trace(wrapped, ONE, tokenizer=tokenizer(), max_new_tokens=NEW)
    return told_apart(made, wrapped.get_base_model())


def lora_on_routers(model: PreTrainedModel) -> dict:
    """What LoraConfig is to be told: the weights that give the logits."""
    return _targets(model, (f"{router.path}.{name}" for router in find_routers(model) if (name := _name(router))))


def _name(router: Router) -> str:
    return next((name for name, part in router.module.named_parameters() if part is scores(router)), "")


def lora_on_experts(model: PreTrainedModel) -> dict:
    """The same for every matrix of the experts; a norm that has a row for each of them is none (Ergo)."""
    parts = ((path, part) for router in find_routers(model) for path, part in router.experts.items())
    return _targets(
        model,
        (
            f"{path}.{name}"
            for path, part in parts
            for name, weight in part.named_parameters()
            if weight.dim() > 1 and "norm" not in name
        ),
    )


def _targets(model: PreTrainedModel, names: Iterable[str]) -> dict:
    """Linear layers are modules to PEFT, and what else has a weight is a parameter."""
    modules, parameters = [], []
    for name in names:
        home = name.rpartition(".")[0]
        plain = type(model.get_submodule(home)) in (nn.Linear, nn.Embedding)
        (modules if plain else parameters).append(home if plain else name)
    return {"target_modules": modules or None, "target_parameters": parameters or None}


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
    "backward": partial(_with_backward, checkpoints=False),
    "gradient checkpointing, backward": partial(_with_backward, checkpoints=True),
    "LoRA on routers": partial(_adapted, targets=lora_on_routers, as_peft=False),
    "LoRA on routers, kernels": partial(_adapted, targets=lora_on_routers, as_peft=False, kernels=True),
    "LoRA on experts": partial(_adapted, targets=lora_on_experts, as_peft=False),
    "LoRA on experts, kernels": partial(_adapted, targets=lora_on_experts, as_peft=False, kernels=True),
    "a PeftModel": partial(_adapted, targets=lora_on_routers, as_peft=True),
}
WAYS: dict[str, Callable[[str], str]] = {
    "a PeftModel generates": partial(_generated, targets=lora_on_routers),
    "torch.compile, default": partial(_compiled, mode="default"),
    "torch.compile, reduce-overhead": partial(_compiled, mode="reduce-overhead"),
}
