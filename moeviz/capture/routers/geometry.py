"""How the rows of a router lie to each other: each expert has one, and a token's score is its product with that row."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from moeviz.capture.routers.discovery import Router, find_routers
from moeviz.errors import CaptureError

COLUMNS = {"layer": "int32", "expert": "int16", "other": "int16", "cosine": "float64", "norm": "float64"}


def router_geometry(model: nn.Module, layers: Collection[int] | None = None) -> pd.DataFrame:
    """Cosines and norms of the rows of a model's routers, layer by layer.

    layers   the model's own indices; default: all that have experts. Pairs are many: E x E a layer.

    One row per layer and ordered pair of experts, an expert beside itself too. Columns: layer int32 · expert int16 ·
    other int16 · cosine float64 (of the two experts' rows; NaN where one of them is 0) · norm float64 (Euclidean, of
    the other's row).

    Raises `CaptureError` for a router that does not hold one row of weights for each expert, or not in this process,
    for a layer that has no experts, and what `find_routers` raises.

    Source: a router's logit is the product of its row with the token's state, Shazeer et al. (arXiv 1701.06538), eq. 3;
    rows as centroids of what experts take, Chi et al. (arXiv 2204.09179), section 3.
    """
    routers = {router.layer: router for router in find_routers(model)}
    if missing := set(layers or ()) - set(routers):
        raise CaptureError(f"{type(model).__name__} has no router in layer {min(missing)}; it has {sorted(routers)}.")
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
    """The one matrix of a router that has a row for each expert, and the bias beside it, where there is one.

    Raises `CaptureError` where there is no such matrix, or not in this process.
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
