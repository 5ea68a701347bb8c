"""Bits for experts as files: what llama.cpp's quantiser and LLM Compressor read of a plan."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping

from moeviz.errors import InvalidTrace

Bits = Mapping[tuple[int, int], int]  # by layer and expert; -1: all experts of the layer
LLAMA_CPP = {2: "q2_K", 3: "q3_K", 4: "q4_K", 5: "q5_K", 6: "q6_K", 8: "q8_0"}
GROUP = 32  # weights that share a step


def to_llama_cpp(plan: Bits) -> str:
    """A line per layer for `llama-quantize --tensor-type-file`: which tensors, as a pattern, get which type.

    Raises `InvalidTrace` for a plan by expert, which a tensor of all experts cannot have, and for bits without a type.
    """
    if any(expert >= 0 for _, expert in plan):
        raise InvalidTrace("A tensor of a .gguf file holds all experts of a layer. Make a plan by layers.")
    if odd := {*plan.values()} - {*LLAMA_CPP}:
        raise InvalidTrace(f"llama.cpp has no type of {min(odd)} bits. Choose among {', '.join(map(str, LLAMA_CPP))}.")
    return "".join(rf"blk\.{layer}\.ffn_.*_exps={LLAMA_CPP[bits]}" + "\n" for (layer, _), bits in sorted(plan.items()))


def to_llm_compressor(plan: Bits, blocks: Mapping[int, str]) -> str:
    """A recipe of LLM Compressor, as JSON, which is YAML too: one group of targets for each number of bits.

    Its targets are the names that experts have there, one module each, as `model.layers.3.mlp.experts.5.up_proj`.

    blocks   the path of each layer's MoE block in the model.
    """
    experts: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # by bits, by layer
    for (layer, expert), bits in sorted(plan.items()):
        experts[bits][layer].append(expert)
    groups = {
        f"experts_{bits}_bits": {
            "targets": [_target(blocks[layer], ids) for layer, ids in of_layers.items()],
            "weights": {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP},
        }
        for bits, of_layers in sorted(experts.items())
    }
    modifier = {"QuantizationModifier": {"config_groups": groups}}
    return json.dumps({"quant_stage": {"quant_modifiers": modifier}}, indent=1) + "\n"


def _target(block: str, experts: list[int]) -> str:
    ids = r"\d+" if experts == [-1] else f"({'|'.join(map(str, experts))})"
    return rf"re:{re.escape(block)}\.experts\.{ids}\.\w+$"
