"""Choices of experts as files of other programs: bits for llama.cpp and LLM Compressor, targets for ESFT and PEFT."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moeviz.errors import InvalidTrace

Bits = Mapping[tuple[int, int], int]  # by layer and expert; -1: all experts of the layer
LLAMA_CPP = {2: "q2_K", 3: "q3_K", 4: "q4_K", 5: "q5_K", 6: "q6_K", 8: "q8_0"}
GROUP = 32  # weights that share a step


def to_llama_cpp(plan: Bits) -> str:
    """Write a line per layer for `llama-quantize --tensor-type-file`: a pattern of tensors, and their type.

    Raises `InvalidTrace` for a plan by expert, which a tensor of all experts cannot have, and for bits without a type.
    """
    if any(expert >= 0 for _, expert in plan):
        raise InvalidTrace("A tensor of a .gguf file holds all experts of a layer. Make a plan by layers.")
    if odd := {*plan.values()} - {*LLAMA_CPP}:
        raise InvalidTrace(f"llama.cpp has no type of {min(odd)} bits. Choose among {', '.join(map(str, LLAMA_CPP))}.")
    return "".join(rf"blk\.{layer}\.ffn_.*_exps={LLAMA_CPP[bits]}" + "\n" for (layer, _), bits in sorted(plan.items()))


def to_llm_compressor(plan: Bits, blocks: Mapping[int, str]) -> str:
    """Write a recipe of LLM Compressor, as JSON, which is YAML too: one group of targets for each number of bits.

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


def to_esft(found: pd.DataFrame) -> dict[str, Any]:
    """Return the expert config of ESFT's training: the targets of each layer, and nothing else to train.

    found   of `moeviz.metrics.tune_targets.tune_targets`.
    """
    experts = {
        str(layer): [int(one) for one in of_layer.loc[of_layer["target"], "expert"]]
        for layer, of_layer in found.groupby("layer")
    }
    return {"experts": experts, "shared_experts": False, "non_expert_modules": False}


def to_peft(found: pd.DataFrame, parameters: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Return `target_parameters` for `peft.LoraConfig`: the expert tensors of every layer that has a target.

    A tensor holds all experts of a layer, and PEFT adapts it whole: so layers are chosen.

    found        of `moeviz.metrics.tune_targets.tune_targets`.
    parameters   by layer: the names of its expert tensors in the model.

    Raises `InvalidTrace` without a target, or if its layer has no such tensors.
    """
    layers = sorted(set(found.loc[found["target"], "layer"].tolist()))
    if not layers:
        raise InvalidTrace("No expert is a target, so there is nothing for PEFT to adapt. Give other texts.")
    if missing := [layer for layer in layers if not parameters.get(layer)]:
        raise InvalidTrace(
            f"The experts of layer {missing[0]} are modules of their own and no tensors that PEFT could adapt by "
            "target_parameters. Write ESFT's form."
        )
    return {"target_parameters": [name for layer in layers for name in parameters[layer]]}
