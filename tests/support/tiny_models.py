"""Tiny random models of several MoE families, with routers that decide: weights and biases are spread out, not 0.02."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from moeviz.capture.run.decoding import Decoding
from moeviz.embedded import embedded_path

SHAPE = {
    "vocab_size": 8192,  # of the embedded model's tokenizer
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SHAPE, num_hidden_layers=3, num_local_experts=8, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**SHAPE, num_hidden_layers=2, num_experts=16, num_experts_per_tok=4),
    "qwen3_moe": Qwen3MoeConfig(
        **SHAPE,
        num_hidden_layers=3,
        head_dim=8,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_tok=2,
        mlp_only_layers=[1],
    ),
    "deepseek_v3": DeepseekV3Config(
        **SHAPE | {"num_key_value_heads": 4},
        num_hidden_layers=3,
        first_k_dense_replace=1,
        moe_intermediate_size=16,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "gpt_oss": GptOssConfig(
        **SHAPE, num_hidden_layers=2, head_dim=8, num_local_experts=8, num_experts_per_tok=4, sliding_window=16
    ),
}
DENSE = LlamaConfig(**SHAPE, num_hidden_layers=2)
# Ways to generate in which rows of a forward are not simply the next tokens.
every_decoding = pytest.mark.parametrize(
    "decoding",
    [Decoding(num_beams=3), Decoding(prompt_lookup_num_tokens=3), Decoding(prefill_chunk_size=4)],
    ids=["beams", "drafts", "chunks"],
)


def tiny_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32):
    """A random model of `config`, with routers that spread their choices and biases that change them."""
    torch.manual_seed(0)
    own = copy.deepcopy(config)  # a test may choose how this model's experts run, and the config remembers it
    model = AutoModelForCausalLM.from_config(own).to(dtype).eval()
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("gate.weight", "router.weight")):
                values.normal_(0, 0.5)
            if name.endswith(("router.bias", "e_score_correction_bias")):
                values.normal_(0, 0.3)
            if "embed_tokens" in name:
                values.normal_(0, 1)
    return model


def tiny_tokenizer():
    """The embedded model's tokenizer."""
    return AutoTokenizer.from_pretrained(embedded_path())


TEMPLATE = (
    "<s>{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tokenizer_with(template: str | None):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer
