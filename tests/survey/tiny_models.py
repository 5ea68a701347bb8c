"""A tiny random model of every MoE architecture that the installed transformers has, and tokens for it to read."""

import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.routers.discovery import find_routers, router_sites
from moeviz.capture.run.prompts import Batch, decoder_start
from moeviz.embedded import embedded_path

ROUTED = re.compile(r"^class \w*(?:Experts|Router|Moe\w*MLP)\(|\"router_logits\"", re.MULTILINE)
# What a search for experts and routers finds besides: name of the architecture, and why it is none of ours.
NOT_ROUTED = {
    "granite_docling": "its router weighs resolutions of an image, not experts",
    "vitpose_backbone": "its experts are chosen by the name of a dataset, not by a router",
}
# The class that reads text, where there are several: the first of these that the architecture has.
TEXT_MODELS = (
    r"ForCausalLM$",
    r"(?<!Encoder)TextModel$",
    r"ForConditionalGeneration$",
    r"ForTokenClassification$",
    r"Model$",
)
OTHER_SENSES = re.compile("PreTrained|Vision|Audio|Talker")

WIDE = {"head_dim": 8}  # of multi-head latent attention: the rotary part alone
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}


def _rope(**more: object) -> dict:
    return {"rope_parameters": PLAIN_ROPE["rope_parameters"] | more}


# Every size that a configuration may have; each model takes those that its configuration knows.
SIZES: dict[str, object] = {
    "vocab_size": 8192,  # the tokens of the embedded model
    **dict.fromkeys(("vocab_size_per_layer_input", "unpadded_vocab_size"), 8192),
    "hidden_size_per_layer_input": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 256,
    "max_seq_len": 256,
    # depth
    **dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"), 4),
    "num_layers": 2,
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("encoder_sparse_step", "decoder_sparse_step"), 2),
    **dict.fromkeys(("num_sparse_encoder_layers", "num_sparse_decoder_layers"), 2),
    "mlp_only_layers": [],
    "num_nextn_predict_layers": 0,
    "num_mtp_modules": 0,
    # width
    **dict.fromkeys(("hidden_size", "d_model"), 64),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "dense_intermediate_size", "ffn_hidden_size"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 96),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_hidden_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 48),
    # attention
    **dict.fromkeys(("num_attention_heads", "n_heads", "num_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "global_head_dim", "swa_head_dim", "swa_v_head_dim"), 16),
    **dict.fromkeys(("v_head_dim", "qk_nope_head_dim", "kv_lora_rank", "kv_channels", "d_kv"), 16),
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_head_dim": 24,
    "sliding_window": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 16,
    # recurrent layers
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "linear_head_dim"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "linear_num_key_heads": 2,
    # routing
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    "n_group": 2,
    "topk_group": 1,
    **dict.fromkeys(("routed_scaling_factor", "route_scale", "router_scaling_factor"), 2.5),
    "zero_expert_num": 2,
    "expert_capacity": 2,
    "router_hidden_size": 16,
}
LATENT = {"num_key_value_heads": 4}  # multi-head latent attention has a key for every head
# What else an architecture needs, or needs otherwise. None: leave its default.
EXCEPTIONS: dict[str, dict[str, object]] = {
    **dict.fromkeys(("axk2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), LATENT),
    "deepseek_v2": LATENT | {"topk_method": "group_limited_greedy"},
    **dict.fromkeys(("mistral_large4", "unlimited_ocr"), LATENT),
    **dict.fromkeys(("axk1", "deepseek_v3", "longcat_flash"), LATENT | WIDE | PLAIN_ROPE),
    "deepseek_ocr2": LATENT | {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "glm5_next": LATENT | {"qk_rope_head_dim": 0, "index_kpool": 4},
    "hy_v4_vl": LATENT | _rope(mrope_section=[2, 1, 1]),
    "mistral4": LATENT | WIDE | _rope(llama_4_scaling_beta=0.1, original_max_position_embeddings=256),
    "glm4v_moe": _rope(mrope_section=[2, 1, 1], partial_rotary_factor=0.5),
    "ernie4_5_vl_moe": {"head_dim": 64, "moe_intermediate_size": [32, 16]} | _rope(mrope_section=[11, 11, 10]),
    "inkling2_loop": {"loop_layer_index_start": 1, "loop_layer_index_end": 3, "n_layers_per_attn_res_block": 1},
    "gemma4": {"enable_moe_block": True, "head_dim": None},
    "diffusion_gemma": {"head_dim": None},
    "dots3_note": {"num_attention_heads": None, "num_key_value_heads": None, "head_dim": None},
    "kolibri1_1": {
        "layer_types": ["sliding_attention", "indexed_attention", "sliding_attention", "sliding_attention"],
        "index_layers": [1],
        "index_num_heads": 2,
        "index_compression": 4,
        "index_num_local_tokens": 4,
        "index_num_sink_tokens": 2,
    },
    "switch_transformers": {"num_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "qwen4_exp": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "doge": {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4},
}


@cache
def architectures() -> tuple[str, ...]:
    """Every architecture of the installed transformers that has experts and routers, by name."""
    models = Path(transformers.__file__).parent / "models"
    files = {file.parent.name: file for file in sorted(models.glob("*/modeling_*.py"))}
    found = {name for name, file in files.items() if ROUTED.search(file.read_text(encoding="utf-8"))}
    return tuple(sorted(found - set(NOT_ROUTED)))


def text_model(architecture: str) -> type[PreTrainedModel]:
    """The class of an architecture that reads text."""
    module = importlib.import_module(f"transformers.models.{architecture}.modeling_{architecture}")
    classes = [
        part
        for name, part in vars(module).items()
        if inspect.isclass(part) and issubclass(part, PreTrainedModel) and part.__module__ == module.__name__
        if not OTHER_SENSES.search(name)
    ]
    ranked = (part for pattern in TEXT_MODELS for part in classes if re.search(pattern, part.__name__))
    return next(ranked)


def tiny_config(architecture: str) -> PreTrainedConfig:
    """A configuration with the sizes above, as far as the architecture knows them."""
    make = text_model(architecture).config_class
    default, exceptions = make(), EXCEPTIONS.get(architecture, {})
    plain = {name: size for name, size in SIZES.items() if name not in exceptions and _knows(default, name, size)}
    sizes = plain | exceptions
    names = make.attribute_map or {}
    sizes = {name: size for name, size in sizes.items() if size is not None and names.get(name) not in sizes}
    return make(**sizes, attn_implementation="eager")


def _knows(config: PreTrainedConfig, name: str, size: object) -> bool:
    if name not in dir(config):
        return False
    value = vars(config).get(name)  # asking for one that differs between layers raises
    return isinstance(value, list | tuple) == isinstance(size, list | tuple) or value is None


SEQUENCES, POSITIONS = 2, 16


SELECTION_BIAS = re.compile(r"(correction_bias|balancing_biases|expert_bias|router\.bias)$")


UNSEEN = "images"  # a site that no text reaches


CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums in another order


def random_model(architecture: str) -> PreTrainedModel:
    """A tiny model whose routers spread their choices, with selection biases that change them."""
    torch.manual_seed(0)
    model = text_model(architecture)(tiny_config(architecture)).float().eval()
    if model.config.is_encoder_decoder:
        model.generation_config.decoder_start_token_id = 2
    fill_randomly(model)
    return model


@torch.no_grad()
def fill_randomly(model: PreTrainedModel) -> None:
    """Give a tiny model routers that spread their choices, and selection biases that change them."""
    routers = [router.module for site in router_sites(model) for router in find_routers(model, site)]
    for values in model.parameters():
        if not values.isfinite().all():
            values.normal_(0, 0.02)
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if SELECTION_BIAS.search(name):
            values.normal_(0, 0.3)
        if name.endswith("tid2eid"):  # which experts a token id has
            values.random_(0, 8)
    for weight in (weight for router in routers for weight in router.parameters()):
        if weight.dim() == 2 and len(weight) > 1:
            weight.normal_(0, 0.3)


def some_tokens() -> Batch:
    """Two sequences without padding."""
    ids = torch.randint(3, 120, (SEQUENCES, POSITIONS), generator=torch.Generator().manual_seed(3))
    return Batch(ids, torch.ones_like(ids))


@torch.no_grad()
def read(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """One forward; the logits, or the last hidden states of a model without a head."""
    start = {}
    torch.manual_seed(0)  # a model that writes by diffusion begins with noise
    if model.config.is_encoder_decoder:
        start = {"decoder_input_ids": decoder_start(model, len(batch.input_ids)).input_ids}
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **start)
    return output.logits if getattr(output, "logits", None) is not None else output.last_hidden_state


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Any tokenizer with as many tokens: texts are of no interest here."""
    return AutoTokenizer.from_pretrained(embedded_path())
