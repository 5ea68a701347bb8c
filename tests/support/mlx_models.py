"""Folders of mlx-lm, written from tiny models of transformers: with the configs that mlx-lm reads, and its names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, SHAPE, tiny_model, tiny_tokenizer
from transformers import DeepseekV2Config, Glm4MoeConfig, GptOssConfig, MixtralForCausalLM, PreTrainedConfig

from moeviz.embedded import EMBEDDED, embedded_path
from moeviz.examples import read_by_mlx, write_packed

MOE = {"first_k_dense_replace": 1, "moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 3}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
FAMILIES: dict[str, PreTrainedConfig] = {
    name: CONFIGS[name] for name in ("mixtral", "qwen3_moe", "olmoe", "deepseek_v3")
} | {
    "gpt_oss": GptOssConfig(
        **SHAPE,
        num_hidden_layers=2,
        head_dim=8,
        num_local_experts=8,
        num_experts_per_tok=4,
        sliding_window=16,
        rope_parameters={"rope_type": "default", "rope_theta": 150000.0},  # YaRN is rounded differently in mlx-lm
    ),
    "deepseek_v2": DeepseekV2Config(
        **SHAPE | {"num_key_value_heads": 4}, **MOE, **LATENT, num_hidden_layers=3, n_shared_experts=2, n_group=1
    ),
    "glm4_moe": Glm4MoeConfig(
        **SHAPE,
        **MOE,
        num_hidden_layers=3,
        head_dim=8,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        use_qk_norm=True,
        routed_scaling_factor=1.5,
    ),
}
# mlx-lm takes it for granted that DeepSeek-V2 scales its positions; a factor of 1 scales none.
NO_YARN = {"type": "yarn", "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0, "original_max_position_embeddings": 128}
SAID: dict[str, dict[str, Any]] = {"deepseek_v2": {"rope_scaling": NO_YARN}}


def model_of(family: str):
    """A model of transformers in float32: the embedded one, or a tiny random one."""
    if family == EMBEDDED:
        return MixtralForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32).eval()
    return tiny_model(FAMILIES[family])


def write_folder(folder: Path, model: Any, tokenizer: Any = None, as_mlx_reads: bool = True) -> Path:
    """Save a model as mlx-lm takes it; or with its config as transformers 5 writes it."""
    model.save_pretrained(folder)
    (tiny_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    if as_mlx_reads:
        config = json.loads((folder / "config.json").read_text())
        change_config(folder, read_by_mlx(config) | SAID.get(config["model_type"], {}))
        if config["model_type"] == "gpt_oss":
            weights = folder / "model.safetensors"
            save_file(_as_mlx_names_them(load_file(weights)), weights, metadata={"format": "mlx"})
    return folder


def change_config(folder: Path, fields: Mapping[str, Any], without: tuple[str, ...] = ()) -> None:
    """Write fields into a folder's config.json, and take some out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in without}))


def write_quantised(source: Path, folder: Path, bits: int, group_size: int = 64) -> Path:
    """Copy the model with packed weights, and its tokenizer."""
    write_packed(source, folder, bits, group_size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _as_mlx_names_them(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """gpt-oss: transformers has gate and up in turns in one tensor, and inputs before outputs."""
    found = {}
    for name, value in weights.items():
        if ".experts." not in name:
            found[name] = value
            continue
        is_bias = name.endswith("_bias")
        home, own = name.removesuffix("_bias").rsplit(".", 1)
        value, end = (value, "bias") if is_bias else (value.transpose(1, 2), "weight")
        parts = {own: value} if own == "down_proj" else {"gate_proj": value[:, ::2], "up_proj": value[:, 1::2]}
        found |= {f"{home}.{part}.{end}": tensor.contiguous() for part, tensor in parts.items()}
    return found
