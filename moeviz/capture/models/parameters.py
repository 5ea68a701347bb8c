"""Count a model's parameters by what they do, from its modules; a config is enough, no weights are loaded."""

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from moeviz.capture.models.checkpoint import explained
from moeviz.capture.routers.discovery import Router, find_routers, modules_in_use, router_sites
from moeviz.errors import CaptureError
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts
from moeviz.text import quoted

# The first pattern found in a parameter's path says what it does. Routers and routed experts are known by their
# modules, and come before these.
PART_OF_PATH = {
    "shared_experts": re.compile(r"\bshared_"),
    "attention": re.compile(r"\b(self_?|linear_|encdec)?(attn|attention)\b", re.IGNORECASE),
    "dense_layers": re.compile(r"\b(mlp|ffn|feed_forward)\b"),
}
# Their experts are modules of their own: building thousands takes minutes. Counts are linear in the number of experts.
ONE_MODULE_AN_EXPERT = ("switch_transformers", "nllb-moe")
FEW = 2
IS_LAYER = re.compile(r"\.\d+$")  # a router that is in the layer itself, next to its dense block


def count_parameters(model: PreTrainedModel, routers: Sequence[Router] | None = None) -> ParameterCounts:
    """Count the parameters of `model` by part, each tensor once. Works on the meta device too.

    If an adapter has copies of a module, only the copy that runs counts.
    """
    routers = find_routers(model) if routers is None else routers
    running = modules_in_use(model)
    homes = {id(home.weight): part for part, home in _embeddings(model).items()}
    counts = dict.fromkeys(PARTS, 0)
    again = _tied_again(model)
    for path, parameter in model.named_parameters(remove_duplicate=True):
        if path.rpartition(".")[0] not in running or path in again:
            continue
        counts[homes.get(id(parameter)) or _part(path, routers)] += parameter.numel()
    per_expert = tuple(_size_of_experts(r) // (r.num_experts - r.zero_experts) for r in routers)
    return ParameterCounts(**counts, per_expert=per_expert)


def _tied_again(model: PreTrainedModel) -> set[str]:
    """Return the paths at which a tied matrix is a tensor of its own: offloading leaves an empty one at each."""
    places = dict(model.named_parameters(remove_duplicate=False))
    tied = ((path, places.get(path), places.get(first)) for path, first in model.all_tied_weights_keys.items())
    pairs = ((path, one, other) for path, one, other in tied if one is not None and other is not None)
    return {path for path, one, other in pairs if one is not other and (one.is_meta or other.is_meta)}


def describe(model: PreTrainedModel, name: str, revision: str | None = None, site: str | None = None) -> ModelInfo:
    """Return the facts about `model` that are known before it runs; for one site of its routers, if it has several."""
    routers = find_routers(model, site)
    config = model.config.get_text_config()
    return ModelInfo(
        name=name,
        backend="transformers",
        layers=tuple(router.layer for router in routers),
        num_experts=tuple(router.num_experts for router in routers),
        top_k=max(router.top_k for router in routers),
        num_layers=getattr(config, "num_hidden_layers", None),
        dtype=str(model.dtype).removeprefix("torch."),
        revision=revision,
        parameters=None if routers[0].site else _count_unpacked(model, routers),  # half of the experts are elsewhere
        site=routers[0].site,
        zero_experts=max(router.zero_experts for router in routers),
    )


def _count_unpacked(model: PreTrainedModel, routers: Sequence[Router]) -> ParameterCounts:
    """Count the parameters of a model; a quantised one by its config, since packed weights have other shapes.

    Adapters on a quantised model are not counted.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return count_parameters(model, routers)
    return count_parameters(empty_model(model.config))


def packed_in_few_bits(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Count the parameters that transformers packs with bitsandbytes, and those of them in routed experts.

    It replaces only `nn.Linear`, and leaves the head: experts that are fused into one tensor stay as they are. None for
    models whose experts are thousands of modules, which are not built to be counted.
    """
    if config.model_type in ONE_MODULE_AN_EXPERT:
        return None
    return packed_of(empty_model(config))


def packed_of(model: PreTrainedModel) -> tuple[int, int]:
    """Count the parameters of a model that bitsandbytes would pack, and those of them in routed experts."""
    head = model.get_output_embeddings()
    routers = [router for site in router_sites(model) for router in find_routers(model, site)]
    linear = {path: part for path, part in model.named_modules() if type(part) is nn.Linear and part is not head}
    sizes = {path: part.weight.numel() for path, part in linear.items()}
    experts = sum(size for path, size in sizes.items() if _part(f"{path}.weight", routers) == "routed_experts")
    return sum(sizes.values()), experts


# transformers' openers, the first of which that knows a config opens its checkpoint: what writes text comes first, then
# models that read images or sound too, then those that label tokens, and last what has no head at all.
OPENERS: tuple[type[Any], ...] = (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForMultimodalLM,
    AutoModelForTokenClassification,
    AutoModel,
)


# Models in which one part reads and writes text, by model type: the name of that part, in the config and in the names
# of weights. The other parts speak, and the whole has no forward.
TEXT_PART = {"qwen3_omni_moe": "thinker"}


def text_reader(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the part of a model that reads text; `config` itself for most models."""
    part = TEXT_PART.get(config.model_type)
    if part is None:
        return config
    reader: PreTrainedConfig = getattr(config, f"{part}_config")
    reader._commit_hash = getattr(config, "_commit_hash", None)
    return reader


# Whole checkpoints that transformers has a class for the text of as well: they are opened with what reads their images.
READ_IMAGES = ("llama4", "qwen3_5_moe", "qwen4_exp")


def auto_class(config: PreTrainedConfig) -> type[Any]:
    """Return the one of transformers' openers that has a class for `config`; the first if none has."""
    if config.model_type in READ_IMAGES:
        return AutoModelForMultimodalLM
    return next((opener for opener in OPENERS if type(config) in opener._model_mapping), OPENERS[0])


def class_of(config: PreTrainedConfig) -> type[Any]:
    """Return the class that transformers opens a checkpoint with this config as."""
    found: Any = auto_class(config)._model_mapping[type(config)]
    model: type[Any] = found[0] if isinstance(found, tuple) else found
    return model


def empty_model(config: PreTrainedConfig, name: str | None = None) -> PreTrainedModel:
    """Return the model that `config` describes, on the meta device: every shape, no memory.

    Raises `CaptureError`, with the model's `name`, for a config that makes no sense or that is of no such model.
    """
    what = f"{quoted(name or config.model_type)} is a {config.model_type} model"
    with explained(f"{what}, and transformers builds no model from its config", CaptureError):
        with init_empty_weights(include_buffers=False), torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=False)
        model.tie_weights()  # moving to the meta device takes shared matrices apart
    return model


def parameters_of_config(config: PreTrainedConfig, name: str | None = None) -> ModelInfo:
    """Return all facts about a model that its config gives.

    >>> from transformers import MixtralConfig
    >>> from moeviz.parameters import active_parameters
    >>> mixtral_8x7b = MixtralConfig(vocab_size=32000)
    >>> info = parameters_of_config(mixtral_8x7b, "mistralai/Mixtral-8x7B-v0.1")
    >>> f"{info.parameters.total:,} {active_parameters(info.parameters, info.top_k):,}"
    '46,702,792,704 12,879,925,248'
    """
    name = name or config.model_type
    if config.model_type not in ONE_MODULE_AN_EXPERT:
        return whole(empty_model(config, name), name)
    few, one_more = (whole(empty_model(_with_experts(config, n), name), name) for n in (FEW, FEW + 1))
    assert few.parameters is not None  # `whole` counts them
    parts = {part: getattr(few.parameters, part) for part in PARTS}
    added = {part: getattr(one_more.parameters, part) - count for part, count in parts.items()}
    counts = {part: count + (config.num_experts - FEW) * added[part] for part, count in parts.items()}
    num_experts = (config.num_experts,) * len(few.layers)
    return replace(few, parameters=replace(few.parameters, **counts), num_experts=num_experts)


def whole(model: PreTrainedModel, name: str) -> ModelInfo:
    """Return the facts of all MoE layers of a model, of all sites, one after the other."""
    sites = router_sites(model)
    if len(sites) == 1:
        return describe(model, name)
    routers = [router for site in sites for router in find_routers(model, site)]
    return replace(
        describe(model, name),
        layers=tuple(router.layer for router in routers),
        num_experts=tuple(router.num_experts for router in routers),
        parameters=count_parameters(model, routers),
        site=" and ".join(sites),
    )


def _with_experts(config: PreTrainedConfig, number: int) -> PreTrainedConfig:
    other = copy.deepcopy(config)
    other.num_experts = number
    return other


def _embeddings(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the embeddings by part; the input embedding last, so that it owns a matrix that serves as both."""
    found = {"output_embedding": model.get_output_embeddings(), "input_embedding": model.get_input_embeddings()}
    return {part: home for part, home in found.items() if home is not None}


def _part(path: str, routers: Sequence[Router]) -> str:
    for router in routers:
        if path.startswith(router.path + "."):
            return "routers"
        if any(path.startswith(experts + ".") for experts in router.experts):
            return "routed_experts"
    part = next((part for part, pattern in PART_OF_PATH.items() if pattern.search(path)), "other")
    blocks = (router.block_path + "." for router in routers if not IS_LAYER.search(router.block_path))
    in_moe_block = part == "dense_layers" and any(path.startswith(block) for block in blocks)
    return "routers" if in_moe_block else part  # e.g. a selection bias next to the router


def _size_of_experts(router: Router) -> int:
    return sum(parameter.numel() for experts in router.experts.values() for parameter in experts.parameters())
