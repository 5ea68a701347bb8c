"""The embedded model's experts, and children made of them on purpose."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from moeviz.embedded import embedded_path

LAYERS, EXPERTS, MATRICES = 6, 8, ("w1", "w2", "w3")
Expert = dict[str, torch.Tensor]


def of_the_model() -> list[list[Expert]]:
    """The experts by layer and number."""
    weights = load_file(embedded_path() / "model.safetensors")
    name = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
    return [
        [{part: weights[name.format(layer, one, part)].float() for part in MATRICES} for one in range(EXPERTS)]
        for layer in range(LAYERS)
    ]


def saved(path: Path, layers: list[list[Expert]], dtype: torch.dtype = torch.bfloat16, config: dict | None = None):
    """A checkpoint with these experts and nothing else."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config or {}))
    name = "model.layers.{}.mlp.experts.{}.{}.weight"
    tensors = {
        name.format(layer, number, part): values.to(dtype, copy=True).contiguous()
        for layer, experts in enumerate(layers)
        for number, expert in enumerate(experts)
        for part, values in expert.items()
    }
    save_file(tensors, path / "model.safetensors")
    return str(path)


def mixed(*parts: tuple[float, Expert]) -> Expert:
    return {name: sum(part * expert[name] for part, expert in parts) for name in parts[0][1]}


def noisy(expert: Expert, share: float, seed: int = 0) -> Expert:
    """With noise of this share of each matrix's norm."""
    made = torch.Generator().manual_seed(seed)
    return {
        name: values + share * values.std() * torch.randn(values.shape, generator=made)
        for name, values in expert.items()
    }


def in_another_order(expert: Expert, seed: int) -> Expert:
    """The same function: neurons are put in another order."""
    order = torch.randperm(len(expert["w1"]), generator=torch.Generator().manual_seed(seed))
    return {"w1": expert["w1"][order], "w2": expert["w2"][:, order], "w3": expert["w3"][order]}
