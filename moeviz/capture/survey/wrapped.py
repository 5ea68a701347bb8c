"""Models that something else has been done to: compiled for speed, trained with checkpoints, adapted by LoRA."""

import importlib.util
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from moeviz.capture.models.parameters import describe
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.listen import listen
from moeviz.capture.routers.declared import Router, find_routers
from moeviz.capture.run.prompts import Run, nothing_written
from moeviz.capture.survey.held import NOT_TRIED, ONE, as_it_runs, listened, told_apart
from moeviz.capture.survey.precisions import scores
from moeviz.capture.survey.survey import random_model, some_tokens, tokenizer
from moeviz.capture.trace import trace

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
    with listened(model) as hearing, listen(model) as recording:
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        forward = len(hearing.testimony.order)
        output[0].float().pow(2).mean().backward()
    del hearing.testimony.order[forward:]
    run = Run(model, tokenizer(), describe(model, architecture, site=recording.site), batch)
    return hearing.verdict(assemble(recording, run, nothing_written(batch)))


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
    """The same for every matrix of the experts."""
    parts = ((path, part) for router in find_routers(model) for path, part in router.experts.items())
    return _targets(
        model, (f"{path}.{name}" for path, part in parts for name, w in part.named_parameters() if w.dim() > 1)
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
