"""Figures of experts' outputs, of engines that show the outputs of each token's experts.

T tokens, L layers, K slots, D numbers of an output; the figures are those of `ExpertOutputs`, with `added` left 0.
"""

from collections.abc import Sequence

import numpy as np

from moeviz.capture.engines.decoding_loop import pad_layers
from moeviz.errors import CaptureError
from moeviz.expert_outputs import FIGURES, ExpertOutputs

ROUNDING = 1e-4  # of the largest numbers in a sum
TINY = np.finfo(np.float32).tiny


def figures_of(outputs: np.ndarray, whole: np.ndarray, stream: np.ndarray | None) -> np.ndarray:
    """(T, K, FIGURES) of outputs (T, K, D), their weighted sum (T, D) and the residual stream (T, D)."""
    norm = np.linalg.norm(outputs, axis=-1)
    beside = np.stack([whole, np.zeros_like(whole) if stream is None else stream], axis=1)
    lengths = np.linalg.norm(beside, axis=-1)[:, None] * norm[..., None]
    cosines = np.einsum("tkd,tsd->tks", outputs, beside) / np.maximum(lengths, TINY)
    plain = np.stack([norm, np.zeros_like(norm), np.abs(outputs).max(-1)], axis=-1)
    return np.concatenate([plain, cosines], axis=-1).astype(np.float32)


def add_up(outputs: np.ndarray, weights: np.ndarray, whole: np.ndarray) -> bool:
    """True if outputs (T, K, D) with weights (T, K) make what the layer's experts give together, (T, D)."""
    off = np.abs(np.einsum("tk,tkd->td", weights, outputs) - whole).max(-1)
    most = (np.abs(weights) * np.abs(outputs).max(-1)).sum(-1)
    return bool((off <= ROUNDING * np.maximum(most, TINY)).all())


def outputs_of(
    experts: np.ndarray, weights: np.ndarray, given: Sequence[np.ndarray], figures: Sequence[np.ndarray], stream: bool
) -> ExpertOutputs:
    """The outputs of a trace's slots.

    experts  (L, T, K), and weights (L, T, K): the trace's own.
    given    of each layer (T, K): whose figures (T, K, FIGURES) are in which slot.
    stream   whether every layer's residual stream was shown.

    Raises `CaptureError` for outputs that are no numbers.
    """
    layers = [_by_expert(ids, of, part) for ids, of, part in zip(experts, pad_layers(given, -1), figures, strict=True)]
    every = np.stack(layers)
    if not np.isfinite(every).all():
        raise CaptureError("The outputs of the model's experts are not all numbers, so they have no norms.")
    parts = dict(zip(FIGURES, np.moveaxis(every, -1, 0), strict=True))
    parts["added"] = parts["norm"] * np.abs(weights)
    if not stream:
        del parts["residual"]
    return ExpertOutputs(**{name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()})


def _by_expert(experts: np.ndarray, given: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """(T, K, FIGURES): those of each filled slot, found by its expert; 0 in an empty one."""
    same = (experts[:, :, None] == given[:, None, :]) & (experts >= 0)[:, :, None]
    own = np.take_along_axis(figures, same.argmax(-1)[:, :, None], axis=1)
    return np.where(same.any(-1)[..., None], own, np.float32(0))
