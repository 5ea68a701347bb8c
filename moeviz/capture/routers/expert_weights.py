"""How the weights of a layer's experts lie to each other: copies of one expert are nearly parallel."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from moeviz.capture.routers.discovery import Router, find_routers, unwrapped_module
from moeviz.errors import CaptureError

TRANSPOSED = ("Llama4TextExperts",)  # (E, in, out), and they do not say so themselves
AT_ONCE = 2**22  # numbers of each expert


@torch.no_grad()
def nearest_by_weights(model: nn.Module, site: str | None = None) -> pd.DataFrame:
    """For each expert, the other one of its layer whose weights are nearest, all of an expert's matrices as one vector.

    Experts whose rows were put in another order compute the same and are not found here; by their outputs they are.

    One row per layer and expert. Columns: layer int32 · expert int16 · twin int16 (-1 where weights cannot be compared:
    they are packed, or not in this process) · cosine float64 (NaN there).

    Raises what `find_routers` raises.

    Source: cosine of concatenated weights as in MC-SMoE (arXiv 2310.01334), section 3.1.
    """
    parts = []
    for router in find_routers(model, site):
        E = router.num_experts - router.zero_experts
        parts.append(nearest(_cosines(router, E), router.layer, router.num_experts))
    return pd.concat(parts, ignore_index=True)


def nearest(cosines: np.ndarray, layer: int, experts: int) -> pd.DataFrame:
    """The rows of one layer from cosines (E, E), NaN where they are not known; more experts have no twin."""
    E = len(cosines)
    others = np.where(np.eye(E, dtype=bool) | np.isnan(cosines), -np.inf, cosines)
    twin, cosine = np.full(experts, -1), np.full(experts, np.nan)
    if E > 1:
        best = others.argmax(1)
        known = np.isfinite(others[np.arange(E), best])
        twin[:E][known], cosine[:E][known] = best[known], others[np.arange(E), best][known]
    columns = {"layer": layer, "expert": np.arange(experts), "twin": twin, "cosine": cosine}
    return pd.DataFrame(columns).astype({"layer": "int32", "expert": "int16", "twin": "int16"})


def _cosines(router: Router, experts: int) -> np.ndarray:
    gram = torch.zeros(experts, experts, dtype=torch.float64)
    found = 0
    for part in _vectors(router, experts):
        for piece in part.split(AT_ONCE, dim=1):
            piece = piece.float()
            gram += (piece @ piece.T).double().cpu()
        found += 1
    lengths = gram.diagonal().sqrt()
    cosines: np.ndarray = (gram / (lengths[:, None] * lengths)).clamp(-1, 1).numpy()
    return cosines if found else np.full_like(cosines, np.nan)


def _vectors(router: Router, experts: int) -> Iterator[Tensor]:
    """(E, n) each: the experts' parameters, in one tensor or in modules of their own."""
    for module in map(unwrapped_module, router.experts.values()):
        if any(map(_is_packed, module.parameters())):
            continue
        if isinstance(module, nn.ModuleDict | nn.ModuleList):
            every = [list(part.parameters()) for part in module.children()][:experts]
            for same in zip(*every, strict=True):
                yield torch.stack([part.detach().flatten() for part in same])
            continue
        for values in module.parameters():
            if rows := _rows(router, values):
                yield values.detach().reshape(rows, -1)[:experts]


def _is_packed(values: Tensor) -> bool:
    """True of numbers that mean nothing without their scales, or that are not in this process."""
    return values.is_meta or not values.is_floating_point() or values.dtype.itemsize < 2


def _rows(router: Router, values: Tensor) -> int:
    """How many experts a tensor has, those that compute nothing too where it has them; 0 if it is not of experts."""
    experts = router.num_experts - router.zero_experts
    if values.dim() < 2 or len(values) < experts:
        return 0
    if router.zero_experts and len(values) == router.num_experts:
        return router.num_experts
    return 0 if len(values) % experts else experts


def expert_matrices(router: Router) -> list[list[Tensor]]:
    """Of each expert that computes, its weights as matrices (out, in): parts of the model's own tensors, to be written.

    Raises `CaptureError` where weights are packed or on disk, or an adapter changes them.
    """
    E = router.num_experts - router.zero_experts
    found: list[list[Tensor]] = [[] for _ in range(E)]
    for path, module in router.experts.items():
        if unwrapped_module(module) is not module or any("base_layer" in name for name, _ in module.named_modules()):
            raise CaptureError(f"An adapter changes the experts at {path}. Merge it into the model, and save that.")
        single = [*module.children()][:E] if isinstance(module, nn.ModuleDict | nn.ModuleList) else None
        for expert, part in enumerate(single or [module]):
            for name, values in part.named_parameters():
                if name.endswith("bias") or (single and values.dim() < 2):
                    continue
                if _is_packed(values):
                    raise CaptureError(
                        f"The experts' weights at {path} are packed, or on disk, so they cannot be rounded in memory. "
                        "Load the model in 16 or 32 bits on a machine that holds it."
                    )
                if single:
                    found[expert].append(values.detach())
                elif rows := _rows(router, values):
                    of_all = values.detach().view(rows, -1, values.shape[-1])[:E]
                    turned = getattr(module, "is_transposed", False) or type(module).__name__ in TRANSPOSED
                    for own, matrix in zip(found, of_all.mT if turned else of_all, strict=True):
                        own.append(matrix)
    if not all(found):
        raise CaptureError(
            f"moeviz does not know how the experts of {router.block_path} lie in their tensors, so it cannot round one "
            "of them. Please report this model."
        )
    return found
