"""Compare the rows of a router with each other, and the weights of a layer's experts.

Each expert has a row, and a token's score is its product with that row. The weights of copies of one expert are nearly
parallel.
"""

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from moeviz.capture.routers.discovery import Router, find_routers, unwrapped_module
from moeviz.errors import CaptureError
from moeviz.text import no_layer

COLUMNS = {"layer": "int32", "expert": "int16", "other": "int16", "cosine": "float64", "norm": "float64"}


def router_geometry(model: nn.Module, layers: Collection[int] | None = None) -> pd.DataFrame:
    """Compute cosines and norms of the rows of a model's routers, layer by layer.

    layers   the model's own indices; default: all that have experts. Pairs are many: E x E per layer.

    One row per layer and ordered pair of experts, an expert with itself too. Columns: layer int32 · expert int16 ·
    other int16 · cosine float64 (of the two experts' rows; NaN where one of them is 0) · norm float64 (Euclidean, of
    the other's row).

    Raises `CaptureError` for a router that does not hold one row of weights for each expert, or not in this process,
    for a layer that has no experts, and what `find_routers` raises.

    Source: a router's logit is the product of its row with the token's state, Shazeer et al. (arXiv 1701.06538), eq. 3;
    rows as centroids of what experts take, Chi et al. (arXiv 2204.09179), section 3.
    """
    routers = {router.layer: router for router in find_routers(model)}
    if missing := set(layers or ()) - set(routers):
        raise CaptureError(no_layer(type(model).__name__, min(missing), sorted(routers)))
    parts = [_pairs(router) for layer, router in routers.items() if layers is None or layer in layers]
    return pd.concat(parts, ignore_index=True).astype(COLUMNS)


def _pairs(router: Router) -> pd.DataFrame:
    rows = router_rows(router)[0].detach().to("cpu", torch.float64).numpy()
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(norms > 0, norms, np.nan)[:, None]
    expert, other = np.indices((len(rows), len(rows))).reshape(2, -1)
    cosine = np.clip(unit @ unit.T, -1, 1).ravel()
    return pd.DataFrame(
        {"layer": router.layer, "expert": expert, "other": other, "cosine": cosine, "norm": norms[other]}
    )


def router_rows(router: Router) -> tuple[Tensor, Tensor | None]:
    """Return the one matrix of a router that has a row for each expert, and its bias; None without a bias.

    Raises `CaptureError` if that matrix does not exist, or is not in this process.
    """
    of_experts = {id(values) for part in router.experts.values() for values in part.parameters()}
    matrices = {
        name: values
        for name, values in router.module.named_parameters()
        if values.ndim == 2 and len(values) == router.num_experts and id(values) not in of_experts
    }
    if len(matrices) != 1 or not all(values.is_floating_point() and not values.is_meta for values in matrices.values()):
        raise CaptureError(
            f"The router at {router.path} ({router.kind}) does not hold its weights as one matrix with a row for each "
            f"of its {router.num_experts} experts, so there are no rows to read."
        )
    ((name, rows),) = matrices.items()
    bias = getattr(router.module.get_submodule(name.rpartition(".")[0]), "bias", None)
    return rows, bias if isinstance(bias, Tensor) and bias.shape == rows.shape[:1] else None


TRANSPOSED = ("Llama4TextExperts",)  # (E, in, out), and they do not say so themselves
AT_ONCE = 2**22  # numbers of each expert


@torch.no_grad()
def nearest_by_weights(model: nn.Module, site: str | None = None) -> pd.DataFrame:
    """Find for each expert the one of its layer with the nearest weights, all of an expert's matrices as one vector.

    Experts whose rows were put in another order compute the same and are not found here; by their outputs they are.

    One row per layer and expert. Columns: layer int32 · expert int16 · twin int16 (-1 if weights cannot be compared:
    they are packed, or not in this process) · cosine float64 (NaN then).

    Raises what `find_routers` raises.

    Source: cosine of concatenated weights as in MC-SMoE (arXiv 2310.01334), section 3.1.
    """
    parts = []
    for router in find_routers(model, site):
        E = router.num_experts - router.zero_experts
        parts.append(nearest(_cosines(router, E), router.layer, router.num_experts))
    return pd.concat(parts, ignore_index=True)


def nearest(cosines: np.ndarray, layer: int, experts: int) -> pd.DataFrame:
    """Make the rows of one layer from cosines (E, E), NaN if unknown; experts beyond E have no twin."""
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
    """Yield the experts' parameters, (E, n) each, from one tensor or from modules of their own."""
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
    """Return True for numbers that mean nothing without their scales, or that are not in this process."""
    return values.is_meta or not values.is_floating_point() or values.dtype.itemsize < 2


def _rows(router: Router, values: Tensor) -> int:
    """Count the experts of a tensor, with those that compute nothing if it has them; 0 if it is not of experts."""
    experts = router.num_experts - router.zero_experts
    if values.dim() < 2 or len(values) < experts:
        return 0
    if router.zero_experts and len(values) == router.num_experts:
        return router.num_experts
    return 0 if len(values) % experts else experts


def expert_matrices(router: Router) -> list[list[Tensor]]:
    """Return the weights of each expert that computes as matrices (out, in): parts of the model's own tensors.

    Writing to them changes the model. Raises `CaptureError` if weights are packed or on disk, or an adapter changes
    them.
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
