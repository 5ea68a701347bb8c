"""Well-known MoEs by their configs, so that their parameters are counted without a network, and what their makers say.

The sizes were written down here, not downloaded; that they are the checkpoints' own is borne out by published counts,
which they give (tests). What is left out is the default of the class. `published` is what the maker (a paper or a model
card) says, in billions, and `convention` the way of counting active parameters that gives the maker's figure
(`moeviz.parameters.CONVENTIONS`).
"""

from typing import NamedTuple

import pandas as pd
from transformers import AutoConfig, PreTrainedConfig

from moeviz.capture.models.parameters import parameters_of_config
from moeviz.parameters import active_parameters

ALL, NO_INPUT, LAYERS = "all", "without input embedding", "without both embeddings"


class KnownModel(NamedTuple):
    """A model's config, and its published figures in billions of parameters."""

    model_type: str
    sizes: dict[str, object]
    total: float
    active: float | None  # where its maker says
    convention: str = ALL
    remark: str = ""

    def config(self) -> PreTrainedConfig:
        """The config, as transformers has it."""
        return AutoConfig.for_model(self.model_type, **self.sizes)


def _mixtral(hidden: int, width: int, layers: int, heads: int, vocabulary: int) -> dict[str, object]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }


def _qwen3(hidden: int, width: int, expert_width: int, layers: int, heads: int) -> dict[str, object]:
    return {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": width,
        "moe_intermediate_size": expert_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
    }


def _gpt_oss(layers: int, experts: int) -> dict[str, object]:
    return {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": experts,
        "num_experts_per_tok": 4,
    }


def _glm(hidden: int, width: int, expert_width: int, layers: int, experts: int, dense: int) -> dict[str, object]:
    return {
        "vocab_size": 151552,
        "hidden_size": hidden,
        "intermediate_size": width,
        "moe_intermediate_size": expert_width,
        "num_hidden_layers": layers,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": dense,
        "attention_bias": True,
    }


def _llama4(experts: int, every: int) -> dict[str, object]:
    return {"num_local_experts": experts, "num_experts_per_tok": 1, "interleave_moe_layer_step": every}


KNOWN_MODELS: dict[str, KnownModel] = {
    "mistralai/Mixtral-8x7B-v0.1": KnownModel("mixtral", _mixtral(4096, 14336, 32, 32, 32000), 46.7, 12.9),
    "mistralai/Mixtral-8x22B-v0.1": KnownModel("mixtral", _mixtral(6144, 16384, 56, 48, 32768), 141, 39),
    "allenai/OLMoE-1B-7B-0924": KnownModel(
        "olmoe",
        {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
        6.9,
        1.3,
    ),
    "Qwen/Qwen3-30B-A3B": KnownModel("qwen3_moe", _qwen3(2048, 6144, 768, 48, 32), 30.5, 3.3),
    "Qwen/Qwen3-235B-A22B": KnownModel("qwen3_moe", _qwen3(4096, 12288, 1536, 94, 64), 235, 22),
    "Qwen/Qwen1.5-MoE-A2.7B": KnownModel(
        "qwen2_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "decoder_sparse_step": 1,
            "tie_word_embeddings": False,
        },
        14.3,
        2.7,
    ),
    "deepseek-ai/DeepSeek-V3": KnownModel(
        "deepseek_v3", {}, 671, 37, NO_INPUT, "without the multi-token prediction module"
    ),
    "deepseek-ai/DeepSeek-V2-Lite": KnownModel(
        "deepseek_v2",
        {
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        15.7,
        2.4,
        NO_INPUT,
    ),
    "openai/gpt-oss-20b": KnownModel("gpt_oss", _gpt_oss(24, 32), 20.9, 3.6, NO_INPUT),
    "openai/gpt-oss-120b": KnownModel("gpt_oss", _gpt_oss(36, 128), 116.8, 5.1, NO_INPUT),
    "databricks/dbrx-base": KnownModel(
        "dbrx",
        {
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "vocab_size": 100352,
            "max_seq_len": 32768,
            "attn_config": {"kv_n_heads": 8, "rope_theta": 5e5, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
            "tie_word_embeddings": False,
        },
        132,
        36,
    ),
    "microsoft/Phi-3.5-MoE-instruct": KnownModel(
        "phimoe",
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 6400,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
        },
        42,
        6.6,
    ),
    "zai-org/GLM-4.5": KnownModel(
        "glm4_moe",
        _glm(5120, 12288, 1536, 92, 160, 3) | {"use_qk_norm": True},
        355,
        32,
        LAYERS,
        "the maker's total has the multi-token prediction layer too",
    ),
    "zai-org/GLM-4.5-Air": KnownModel("glm4_moe", _glm(4096, 10944, 1408, 46, 128, 1), 106, 12, LAYERS),
    "ai21labs/Jamba-v0.1": KnownModel(
        "jamba",
        {
            "vocab_size": 65536,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
        },
        52,
        12,
    ),
    "google/switch-c-2048": KnownModel(
        "switch_transformers",
        {
            "vocab_size": 32128,
            "d_model": 2080,
            "d_kv": 64,
            "d_ff": 6144,
            "num_heads": 32,
            "num_layers": 15,
            "num_decoder_layers": 15,
            "num_sparse_encoder_layers": 15,
            "num_sparse_decoder_layers": 15,
            "num_experts": 2048,
        },
        1571,
        None,
        remark="a token of the text runs through the encoder alone, one that is written through the decoder alone",
    ),
    "meta-llama/Llama-4-Scout-17B-16E": KnownModel(
        "llama4_text", _llama4(16, 1), 109, 17, remark="text alone; the maker's total has a vision encoder too"
    ),
    "meta-llama/Llama-4-Maverick-17B-128E": KnownModel(
        "llama4_text", _llama4(128, 2), 400, 17, remark="text alone; the maker's total has a vision encoder too"
    ),
}


def known_counts() -> pd.DataFrame:
    """Our counts next to the makers' figures, in billions, with active ones by the convention that each maker uses.

    One row per model of `KNOWN_MODELS`, each laid out on the meta device. Columns: model str · total, active float64
    (ours) · published_total, published_active float64 (the maker's; NaN if it does not say) · convention, remark str.
    """
    rows = []
    for name, known in KNOWN_MODELS.items():
        model = parameters_of_config(known.config(), name)
        counts = model.parameters
        assert counts is not None  # a config tells them all
        active = active_parameters(counts, model.top_k, known.convention)
        ours = {"total": counts.total / 1e9, "active": active / 1e9}
        published = {"published_total": known.total, "published_active": known.active}
        rows.append({"model": name} | ours | published | {"convention": known.convention, "remark": known.remark})
    return pd.DataFrame(rows)
