"""Hand the trained weights to transformers: `python -m moeviz.embedded.training.export WEIGHTS TOKENIZER OUT`.

WEIGHTS is a checkpoint or a snapshot of a training run; OUT becomes a folder that `from_pretrained` opens.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, MixtralConfig, MixtralForCausalLM

from moeviz.embedded.training.model import Shape
from moeviz.embedded.training.tokenizer import CONTEXT

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
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 40}  # what reads best of a model this small


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint or a snapshot, by their names in `TrainingMixtral`."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    return state.get("model", state)


def shape_of(weights: dict[str, Tensor]) -> Shape:
    """The size of the model that these weights are of. Heads are of the width that `Shape` has by default."""
    vocabulary, hidden = weights["embedding"].shape
    head_size = Shape().head_size
    return Shape(
        vocabulary=vocabulary,
        hidden=hidden,
        expert_width=len(weights["layers.0.gate.0"]),
        layers=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers.")),
        heads=len(weights["layers.0.query"]) // head_size,
        key_value_heads=len(weights["layers.0.key"]) // head_size,
        experts=len(weights["layers.0.router"]),
    )


def to_transformers(weights: dict[str, Tensor]) -> MixtralForCausalLM:
    """The same model in transformers, in float32."""
    shape = shape_of(weights)
    model = MixtralForCausalLM(_config(shape)).float()
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    state["lm_head.weight"] = weights["embedding"]
    for number in range(shape.layers):
        ours, theirs = f"layers.{number}.", f"model.layers.{number}."
        state |= {theirs + name: weights[ours + key] for key, name in NAMES.items()}
        gate, up, down = (
            [weights[f"{ours}{part}.{e}"] for e in range(shape.experts)] for part in ("gate", "up", "down")
        )
        state[theirs + "mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(gate, up, strict=True)]
        )
        state[theirs + "mlp.experts.down_proj"] = torch.stack(down)
    model.load_state_dict(state)
    return model.eval()


def _config(shape: Shape) -> MixtralConfig:
    return MixtralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.expert_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def export_model(weights: Path, tokenizer: Path, out: Path) -> None:
    """Write a folder that `from_pretrained` opens, weights in bfloat16."""
    model = to_transformers(read_weights(weights)).bfloat16()
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **SAMPLING)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    for file in out.iterdir():  # safetensors are written for their owner alone
        file.chmod(0o644)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m moeviz.embedded.training.export", description=__doc__)
    for name in ("weights", "tokenizer", "out"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    arguments = parser.parse_args()
    export_model(arguments.weights, arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
