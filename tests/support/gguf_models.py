"""GGUF files, written by hand: a model of transformers with its tokenizer, in float32, float16 or quantised.

Layout and names: `moeviz.examples.gguf`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from moeviz.embedded import embedded_path
from moeviz.examples import gguf
from moeviz.examples.gguf import TYPES, tokenizer_facts

BLOCKS = {"Q8_0": (32, 34), "Q4_K": (256, 144)}  # weights, bytes
Arrays = dict[str, tuple[np.ndarray, str]]  # the array, and its type

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = 16
LATENT = {
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 2,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
}
HEADS = {"num_key_value_heads": 2, "head_dim": 64}
MODELS = {
    "qwen3moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SHAPE, **HEADS, intermediate_size=512, moe_intermediate_size=256, num_experts=EXPERTS, norm_topk_prob=True
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(**SHAPE, num_key_value_heads=4, intermediate_size=256, num_experts=EXPERTS, norm_topk_prob=False)
    ),
    "deepseek-v2": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **SHAPE,
            **LATENT,
            topk_method="greedy",
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
        )
    ),
    "deepseek-v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**SHAPE, **LATENT, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5)
    ),
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **SHAPE,
            **HEADS,
            intermediate_size=256,
            num_local_experts=EXPERTS,
            sliding_window=128,
            rope_parameters={"rope_type": "default", "rope_theta": 150000.0},
        )
    ),
    "glm4moe": lambda: Glm4MoeForCausalLM(
        Glm4MoeConfig(
            **SHAPE,
            **HEADS,
            intermediate_size=512,
            moe_intermediate_size=256,
            n_routed_experts=EXPERTS,
            n_shared_experts=1,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            use_qk_norm=True,
            attention_bias=False,
            routed_scaling_factor=1.5,
            norm_topk_prob=True,
        )
    ),
}
# As llama.cpp calls a model type of transformers.
ARCHITECTURES = {
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "olmoe": "olmoe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "gpt_oss": "gpt-oss",
    "glm4_moe": "glm4moe",
}
NAMES = {
    **gguf.NAMES,
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
}


def random_model(name: str) -> PreTrainedModel:
    """A tiny model in float32, whose routers have larger weights than their first ones, so that choices are clear."""
    torch.manual_seed(1)
    model = MODELS[name]()
    spread = {"mlp.gate.weight": 0.3, "mlp.router.weight": 0.3, "router.bias": 0.1, "e_score_correction_bias": 0.1}
    with torch.no_grad():
        for key, values in model.state_dict().items():
            of_router = next((size for end, size in spread.items() if key.endswith(end)), None)
            if of_router is not None:
                values.normal_(0, of_router)
            elif key.endswith(("bias", "sinks")):
                values.normal_(0, 0.05)
            elif "norm" in key:
                values.normal_(1, 0.1)
            elif values.ndim > 1:
                values.normal_(0, 0.06)
    return model.float().eval()


def write_model(model: PreTrainedModel, path: Path, kind: str = "F32", **more: Any) -> Path:
    """Write a model with the tokenizer that ships; weights of that kind, but routers in float32, as llama.cpp does."""
    arrays = {name: _stored(name, values, kind) for name, values in tensors(model)}
    return write_gguf(path, {**facts(model), **tokenizer_facts(), **more}, arrays)


def facts(model: PreTrainedModel) -> dict[str, Any]:
    """What llama.cpp wants to know of a model."""
    config, kind = model.config, model.config.model_type
    architecture, rope = ARCHITECTURES[kind], config.rope_parameters
    found = gguf.facts_of(config.to_dict())
    head = found["rope.dimension_count"]
    if kind in ("qwen3_moe", "gpt_oss", "glm4_moe"):
        width = config.intermediate_size if kind == "gpt_oss" else config.moe_intermediate_size
        found |= {"attention.key_length": head, "attention.value_length": head, "expert_feed_forward_length": width}
    if kind == "gpt_oss":
        found["attention.sliding_window"] = config.sliding_window
    if kind in ("deepseek_v2", "deepseek_v3", "glm4_moe"):
        found |= {
            "leading_dense_block_count": config.first_k_dense_replace,
            "expert_shared_count": config.n_shared_experts,
            "expert_weights_scale": float(config.routed_scaling_factor),
            "expert_weights_norm": bool(config.norm_topk_prob),
            "expert_gating_func": 1 if kind == "deepseek_v2" else 2,  # softmax, sigmoid
            "expert_group_count": config.n_group,
            "expert_group_used_count": config.topk_group,
        }
    if kind in ("deepseek_v2", "deepseek_v3"):
        found |= {
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": config.q_lora_rank,
            "attention.kv_lora_rank": config.kv_lora_rank,
            "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
            "attention.value_length": config.kv_lora_rank,
            "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
            "attention.value_length_mla": config.v_head_dim,
            "expert_feed_forward_length": config.moe_intermediate_size,
            "rope.dimension_count": config.qk_rope_head_dim,
        }
    if kind == "glm4_moe":
        found["rope.dimension_count"] = int(head * rope.get("partial_rotary_factor", 0.5))
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in found.items()}


def tensors(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """GGUF's name and the values of each tensor, in float32."""
    state = {name: values.float() for name, values in model.state_dict().items()}
    yield "token_embd.weight", state["model.embed_tokens.weight"].numpy()
    yield "output_norm.weight", state["model.norm.weight"].numpy()
    if not model.config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"].numpy()
    for name, values in state.items():
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            for new, part in _of_layer(model, rest, values):
                yield f"blk.{layer}.{new}", np.ascontiguousarray(part.numpy())


def _of_layer(model: PreTrainedModel, name: str, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    config, kind = model.config, model.config.model_type
    if kind == "mixtral" and name in ("self_attn.q_proj.weight", "self_attn.k_proj.weight"):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        yield NAMES[name], gguf.by_neighbours(values, heads)
    elif name == "mlp.experts.gate_up_proj":  # (E, 2I, H), halves; of gpt-oss (E, H, 2I), in turns
        parts = (values.mT[:, ::2], values.mT[:, 1::2]) if kind == "gpt_oss" else values.chunk(2, 1)
        yield from zip(("ffn_gate_exps.weight", "ffn_up_exps.weight"), parts, strict=True)
    elif name == "mlp.experts.gate_up_proj_bias":
        yield from (("ffn_gate_exps.bias", values[:, ::2]), ("ffn_up_exps.bias", values[:, 1::2]))
    elif name == "mlp.experts.down_proj":
        yield "ffn_down_exps.weight", values.mT if kind == "gpt_oss" else values
    elif name == "self_attn.kv_b_proj.weight":
        heads = values.view(config.num_attention_heads, -1, config.kv_lora_rank)
        yield "attn_k_b.weight", heads[:, : config.qk_nope_head_dim].mT
        yield "attn_v_b.weight", heads[:, config.qk_nope_head_dim :]
    elif name == "post_attention_layernorm.weight" and kind in ("gpt_oss", "glm4_moe"):
        yield "post_attention_norm.weight", values
    else:
        yield NAMES[name], values


def _stored(name: str, values: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    wide = values.ndim > 1 and "ffn_gate_inp" not in name and not name.endswith(".bias")
    if not wide or values.shape[-1] % BLOCKS.get(kind, (1, 0))[0]:
        return values, "F32"
    return values.astype(np.float16) if kind == "F16" else values, kind


def write_gguf(path: Path, facts: Mapping[str, Any], arrays: Arrays) -> Path:
    """A GGUF file. A quantised tensor is given in float32."""
    stored = {name: (values.shape, kind, _data(values, kind)) for name, (values, kind) in arrays.items()}
    return gguf.write_gguf(path, facts, stored)


def _data(values: np.ndarray, kind: str) -> bytes:
    return quantised(values, kind) if kind in BLOCKS else values.tobytes()


def quantised(values: np.ndarray, kind: str) -> bytes:
    """The bytes that llama.cpp makes of these values, as `llama-quantize` does without an importance matrix."""
    from cffi import FFI

    from moeviz.capture.engines.llama_cpp.library import library

    ffi = FFI()
    ffi.cdef(
        "size_t ggml_quantize_chunk(int type, const float * source, void * target, int64_t start, int64_t rows,"
        "int64_t width, const float * imatrix);"
    )
    values = np.ascontiguousarray(values, np.float32)
    block, size = BLOCKS[kind]
    rows, width = values.reshape(-1, values.shape[-1]).shape
    room = np.empty(rows * width // block * size, np.uint8)
    source, target = ffi.cast("float *", values.ctypes.data), ffi.cast("void *", room.ctypes.data)
    wrote = ffi.dlopen(str(library().ggml_path)).ggml_quantize_chunk(
        TYPES[kind], source, target, 0, rows, width, ffi.NULL
    )
    assert wrote == room.nbytes
    return room.tobytes()


RECORDED = Path(__file__).parents[1] / "data" / "llama_cpp.npz"


def of_transformers(name: str):
    if name == "embedded":
        return MixtralForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32).eval()
    return random_model(name)
