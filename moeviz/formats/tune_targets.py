"""Experts to fine-tune as files: the config of ESFT, and the part of a LoRA config of PEFT's that says where."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moeviz.errors import InvalidTrace


def to_esft(found: pd.DataFrame) -> dict[str, Any]:
    """The expert config of ESFT's training: the targets of each layer, and nothing else to train.

    found   of `moeviz.metrics.tune_targets.tune_targets`.
    """
    experts = {
        str(layer): [int(one) for one in of_layer.loc[of_layer["target"], "expert"]]
        for layer, of_layer in found.groupby("layer")
    }
    return {"experts": experts, "shared_experts": False, "non_expert_modules": False}


def to_peft(found: pd.DataFrame, parameters: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """`target_parameters` for `peft.LoraConfig`: the expert tensors of every layer that has a target.

    A tensor holds all experts of a layer, and PEFT adapts it whole: the choice is one of layers.

    found        of `moeviz.metrics.tune_targets.tune_targets`.
    parameters   by layer: the names of its expert tensors in the model.

    Raises `InvalidTrace` where there is no target, or its layer has no such tensors.
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
