"""Tiny models of the families whose routers our kernels can run, beyond those of `tiny_models.py`."""

from tiny_models import CONFIGS, SHAPE
from transformers import (
    DeepseekV2Config,
    Ernie4_5_MoeConfig,
    Glm4MoeConfig,
    GraniteMoeConfig,
    Lfm2MoeConfig,
    MiniMaxM2Config,
    PreTrainedConfig,
    Qwen2MoeConfig,
)

TWO = {"num_hidden_layers": 2}
FAMILIES: dict[str, PreTrainedConfig] = CONFIGS | {
    "qwen2_moe": Qwen2MoeConfig(
        **SHAPE,
        **TWO,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
    ),
    "deepseek_v2": DeepseekV2Config(
        **SHAPE | {"num_key_value_heads": 4},
        **TWO,
        first_k_dense_replace=0,
        moe_intermediate_size=16,
        n_routed_experts=16,
        num_experts_per_tok=4,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.0,
        n_shared_experts=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "glm4_moe": Glm4MoeConfig(
        **SHAPE,
        **TWO,
        head_dim=8,
        first_k_dense_replace=0,
        moe_intermediate_size=16,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
    ),
    "ernie4_5_moe": Ernie4_5_MoeConfig(
        **SHAPE, **TWO, moe_intermediate_size=16, moe_num_experts=8, moe_k=2, moe_layer_start_index=0
    ),
    "granitemoe": GraniteMoeConfig(**SHAPE, **TWO, num_local_experts=8, num_experts_per_tok=2),
    "lfm2_moe": Lfm2MoeConfig(
        **SHAPE,
        **TWO,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
        num_dense_layers=0,
        layer_types=["full_attention", "conv"],
    ),
    "minimax_m2": MiniMaxM2Config(**SHAPE, **TWO, head_dim=8, num_local_experts=8, num_experts_per_tok=2),
}
