"""Hand the trained weights to transformers: `python -m models.training.export WEIGHTS TOKENIZER OUT`.

WEIGHTS is a checkpoint or a snapshot of a training run; OUT becomes a folder that `from_pretrained` opens.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from models.training.model import Shape
from models.training.tokenizer import CONTEXT

# Their name in transformers, in a layer; experts are fused there.
NAMES = {
    "attention_norm": "input_layernorm.weight",
    "expert_norm": "post_attention_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "attention_out": "self_attn.o_proj.weight",
    "router": "mlp.gate.weight",
}
FINE_GRAINED_NAMES = NAMES | {
    "bias": "mlp.gate.e_score_correction_bias",
    "shared_gate": "mlp.shared_experts.gate_proj.weight",
    "shared_up": "mlp.shared_experts.up_proj.weight",
    "shared_down": "mlp.shared_experts.down_proj.weight",
}
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 40}  # what reads best of a model this small


def read_trained(file: Path) -> tuple[Shape, dict[str, Tensor]]:
    """The shape and the weights in a checkpoint or a snapshot, these by their names in `TrainingMixture`."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    return Shape(**state["shape"]), state["model"]


def to_transformers(shape: Shape, weights: dict[str, Tensor]) -> PreTrainedModel:
    """The same model in transformers, in float32."""
    fine_grained = shape.scores == "sigmoid"
    model = (Glm4MoeForCausalLM(_fine_grained(shape)) if fine_grained else MixtralForCausalLM(_mixtral(shape))).float()
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    state["lm_head.weight"] = weights["embedding"]
    for number in range(shape.layers):
        ours, theirs = f"layers.{number}.", f"model.layers.{number}."
        names = FINE_GRAINED_NAMES if fine_grained else NAMES
        state |= {theirs + name: weights[ours + key] for key, name in names.items()}
        gate, up, down = (
            [weights[f"{ours}{part}.{e}"] for e in range(shape.experts)] for part in ("gate", "up", "down")
        )
        state[theirs + "mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(gate, up, strict=True)]
        )
        state[theirs + "mlp.experts.down_proj"] = torch.stack(down)
    model.load_state_dict(state)
    return model.eval()


def _mixtral(shape: Shape) -> MixtralConfig:
    return MixtralConfig(intermediate_size=shape.expert_width, num_local_experts=shape.experts, **_common(shape))


def _fine_grained(shape: Shape) -> Glm4MoeConfig:
    return Glm4MoeConfig(
        moe_intermediate_size=shape.expert_width,
        n_routed_experts=shape.experts,
        n_shared_experts=shape.shared,
        first_k_dense_replace=0,
        num_nextn_predict_layers=0,
        **_common(shape) | {"rope_parameters": _rope(shape) | {"partial_rotary_factor": 1.0}},
    )


def _common(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "num_experts_per_tok": shape.top_k,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": shape.epsilon,
        "rope_parameters": _rope(shape),
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _rope(shape: Shape) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": shape.rope_theta}


def to_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Weights in bfloat16; the bias of a choice stays in float32, where its steps are not rounded away."""
    exact = {name: bias.clone() for name, bias in model.named_buffers() if name.endswith("e_score_correction_bias")}
    model = model.bfloat16()
    for name, bias in exact.items():
        owner, attribute = name.rsplit(".", 1)
        setattr(model.get_submodule(owner), attribute, bias)
    return model


def export_model(weights: Path, tokenizer: Path, out: Path) -> None:
    """Write a folder that `from_pretrained` opens, weights in bfloat16."""
    model = to_bfloat16(to_transformers(*read_trained(weights)))
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **SAMPLING)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    for file in out.iterdir():  # safetensors are written for their owner alone
        file.chmod(0o644)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m models.training.export", description=__doc__)
    for name in ("weights", "tokenizer", "out"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    arguments = parser.parse_args()
    export_model(arguments.weights, arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
