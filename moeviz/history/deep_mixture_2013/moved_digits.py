"""Digits that are moved about on a larger picture, so that where they are has nothing to do with what they are.

N digits, K of them moved.

Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013): MNIST on 36 × 36 pixels, moved by up to 4 in each direction.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from moeviz.history.shared.datasets import Digits

SIDE, SHIFT = 36, 4  # pixels: of the picture, and by how much a digit may be moved to either side, and up or down
MOVES = 2 * SHIFT + 1
PLACES = MOVES**2


def windows(data: Digits) -> Float[Tensor, "N 9 9 36 36"]:
    """Every digit at all places, row by row: views of one picture with a wide margin, so nothing is copied yet."""
    images = torch.from_numpy(data.images) / 255
    margin = (SIDE + 2 * SHIFT - images.shape[1]) // 2
    wide = torch.nn.functional.pad(images, [margin] * 4)
    return wide.unfold(1, SIDE, 1).unfold(2, SIDE, 1)


def moved(views: Float[Tensor, "N 9 9 36 36"], rows: Int64[Tensor, " K"], place: Int64[Tensor, " K"]) -> Tensor:
    """These rows, each at its place, as K rows of pixels. A picture cut out further up shows its digit further down."""
    right, down = moves(place)
    return views[rows, SHIFT - down, SHIFT - right].flatten(1)


def moves(place: Int[Tensor, " K"] | Int[np.ndarray, " K"]) -> tuple:
    """How far right and how far down of the middle a place is, in pixels. Place 0 is upper left; then row by row."""
    return place % MOVES - SHIFT, place // MOVES - SHIFT
