"""Figures of what experts put out for the tokens of a trace: an optional part of it. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from moeviz.errors import CaptureError, InvalidTrace

FIGURES = ("norm", "added", "greatest", "cosine", "residual")  # as trace files name them, in this order


@dataclass(frozen=True, slots=True, eq=False)
class ExpertOutputs:
    """The outputs of a trace's experts in figures, for every filled slot; 0 in an empty one.

    L layers, T tokens and K slots as in the trace. An output is the vector that an expert gives for a token.

    norm      [l, t, k]: Euclidean norm of the output, before its weight. 0 for an expert that computes nothing, unless
              it passes its input on.
    added     [l, t, k]: norm of what the output adds to the layer, with its weight: gate x norm, the saliency of REAP.
    greatest  [l, t, k]: largest absolute value in the output, the activation that identifies Super Experts.
    cosine    [l, t, k]: cosine of the output to the sum of the token's weighted outputs, from -1 to 1; of routed
    experts only, without shared ones. With one expert per token it is 1 or -1.
    residual  [l, t, k]: cosine of the output to the residual stream as the layer reads it. None if outputs are in
    another space than the stream, such as a latent one.

    An expert may add much and not be needed: later layers may ignore it, or make up for it.

    Raises `InvalidTrace` for figures that cannot be.

    Source: REAP (arXiv 2510.13999), equation 9, for `added`; Super Experts (arXiv 2507.23279), section 3, for
    `greatest`.
    """

    norm: Float32[np.ndarray, "L T K"]
    added: Float32[np.ndarray, "L T K"]
    greatest: Float32[np.ndarray, "L T K"]
    cosine: Float32[np.ndarray, "L T K"]
    residual: Float32[np.ndarray, "L T K"] | None = None

    def __post_init__(self) -> None:
        for name, values in self.arrays().items():
            low, high = (-1.001, 1.001) if name in ("cosine", "residual") else (0, np.inf)
            if values.shape != self.norm.shape or not np.isfinite(values).all():
                raise InvalidTrace(
                    f"The {name} of the experts' outputs has another shape than their norm, or is not a number "
                    "somewhere. Record the trace again."
                )
            if ((values < low) | (values > high)).any():
                raise InvalidTrace(
                    f"The {name} of the experts' outputs is {values.min():g} to {values.max():g}, which cannot be. "
                    "Record the trace again."
                )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the figures that are there, by name."""
        return {name: part for name in FIGURES if (part := getattr(self, name)) is not None}

    def select(self, layers: Sequence[int], tokens: np.ndarray | slice) -> "ExpertOutputs":
        """Return the outputs of some layers (by their index in the trace) and of some of its tokens."""
        return replace(self, **{name: part[list(layers)][:, tokens] for name, part in self.arrays().items()})

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays take."""
        return sum(part.nbytes for part in self.arrays().values())

    def equals(self, other: "ExpertOutputs") -> bool:
        """True if the last bit of every figure is the same."""
        mine, others = self.arrays(), other.arrays()
        return mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)


def find_figures(experts: np.ndarray, given: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """Return the figures (T, K, FIGURES) of the slots in `experts` (T, K), found by expert; 0 in an empty slot.

    given   (T, K): the experts that the rows of `figures` (T, K, FIGURES) belong to.
    """
    same = (experts[:, :, None] == given[:, None, :]) & (experts >= 0)[:, :, None]
    own = np.take_along_axis(figures, same.argmax(-1)[:, :, None], axis=1)
    return np.where(same.any(-1)[..., None], own, np.float32(0))


def outputs_from_figures(layers: Sequence[np.ndarray], factors: np.ndarray, has_stream: bool) -> ExpertOutputs:
    """Make the outputs of a trace from each layer's figures (T, K, FIGURES), in which `added` is not computed yet.

    factors     (L, T, K): what each output is multiplied by.
    has_stream  whether every layer's residual stream is of the outputs' space.

    Raises `CaptureError` for outputs that are not all numbers.
    """
    every = np.stack(layers)
    if not np.isfinite(every).all():
        raise CaptureError(
            "The outputs of the model's experts are not all numbers, so they have no norms. Load it in a wider dtype, "
            "or leave outputs out."
        )
    parts = dict(zip(FIGURES, np.moveaxis(every, -1, 0), strict=True))
    parts["added"] = parts["norm"] * np.abs(factors)
    if not has_stream:
        del parts["residual"]
    return ExpertOutputs(**{name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()})


def joined_outputs(parts: Sequence[ExpertOutputs]) -> ExpertOutputs:
    """Join the outputs of several traces, token after token; with cosines to the residual stream if all have them."""
    names = [name for name in FIGURES if all(getattr(part, name) is not None for part in parts)]
    return ExpertOutputs(**{name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names})
