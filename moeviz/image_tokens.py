"""The image tokens of a trace: which tokens stand for a part of an image, and where in it. No torch, no pixels.

A trace of a prompt with images has the columns of `IMAGE_COLUMNS`; other traces have none of them.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace

TEXT, IMAGE, MARK = KINDS = ("text", "image", "mark")
NO_VIEW, WHOLE, TILE, OVERVIEW = VIEWS = ("", "whole", "tile", "overview")
BOX = ("x0", "y0", "x1", "y1")
NO_IMAGE = -1  # in column image: the token belongs to no image
IMAGE_COLUMNS: dict[str, str] = {"kind": "str", "image": "int32", "view": "str", **dict.fromkeys(BOX, "float32")}
MOST_IMAGES = 16  # of one prompt
LARGEST_SIDE = 2**20  # pixels: more than any file declares that is read
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TraceImage:
    """An image that was part of the prompt. Its pixels are not in the trace.

    >>> TraceImage(420, 280, "0" * 64).width
    420
    """

    width: int  # pixels, after the turn that EXIF asks for
    height: int
    sha256: str  # of the file as it was given, or of the RGB pixels of an image that came without a file
    note: str = ""  # what was done to it before the model saw it: "the first of several frames"


def written_tokens(tokens: pd.DataFrame) -> pd.DataFrame:
    """Return only the tokens of text: nobody wrote those of images, nor the marks around them."""
    return tokens[tokens["kind"] == TEXT] if "kind" in tokens else tokens


def check_image_tokens(tokens: pd.DataFrame, images: tuple[TraceImage, ...]) -> None:
    """Raise `InvalidTrace` unless the columns of image tokens are there with images, and fit them."""
    present = [name for name in IMAGE_COLUMNS if name in tokens]
    if not present and not images:
        return
    if len(present) != len(IMAGE_COLUMNS) or not images or len(images) > MOST_IMAGES:
        raise InvalidTrace(
            f"The trace has {len(images)} images and the columns {', '.join(present) or 'of none'} of image tokens; a "
            f"trace with 1 to {MOST_IMAGES} images has all of {', '.join(IMAGE_COLUMNS)}."
        )
    for image in images:
        sides = all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (image.width, image.height))
        if not sides or not isinstance(image.note, str) or not SHA256.fullmatch(str(image.sha256)):
            raise InvalidTrace("An image of the trace has no possible width and height, or no SHA-256.")
    for name, kind in IMAGE_COLUMNS.items():
        if tokens[name].dtype != kind:
            raise InvalidTrace(f"Token column {name!r} is {tokens[name].dtype}; it must be {kind}.")
    for name, allowed in (("kind", KINDS), ("view", VIEWS)):
        if other := set(tokens[name]) - set(allowed):
            raise InvalidTrace(f"A token has the {name} {min(map(repr, other))[:60]}; it must be one of {allowed}.")
    number, of_text = tokens["image"].to_numpy(), (tokens["kind"] == TEXT).to_numpy()
    if ((number == NO_IMAGE) != of_text).any() or (number < NO_IMAGE).any() or (number >= len(images)).any():
        raise InvalidTrace(
            f"A token belongs to an image that is not there. Tokens of text have image {NO_IMAGE}, others 0 to "
            f"{len(images) - 1}."
        )
    box = tokens[[*BOX]].to_numpy(np.float64)
    placed = ~np.isnan(box).any(axis=1)
    sides = np.array([(image.width, image.height) for image in images])[number.clip(min=0)]
    low, high = box[:, :2], box[:, 2:]
    inside = ((low >= 0) & (low <= high) & (high <= sides + 1)).all(axis=1)
    boxed = (tokens["kind"] == IMAGE).to_numpy() & (tokens["view"] != NO_VIEW).to_numpy()
    if (placed & ~(inside & boxed)).any() or (~placed & ~np.isnan(box).all(axis=1)).any():
        raise InvalidTrace(
            "A token's box is not inside its image, or only partly given, or of a token of another kind."
        )


def image_runs(tokens: pd.DataFrame) -> np.ndarray:
    """Return, for each token, the number of the run of tokens of one image that it is in; -1 for text. Shape (T,)."""
    if "image" not in tokens:
        return np.full(len(tokens), -1)
    number, sequence = tokens["image"].to_numpy(), tokens["sequence"].to_numpy()
    begins = np.append(True, (np.diff(number) != 0) | (np.diff(sequence) != 0))[: len(number)] & (number >= 0)
    return np.where(number >= 0, np.cumsum(begins) - 1, -1)


def images_as_json(images: tuple[TraceImage, ...]) -> list[dict[str, Any]]:
    """Return the images of a trace, ready for JSON."""
    return [{name: getattr(image, name) for name in TraceImage.__slots__} for image in images]


def images_of_json(found: Any) -> tuple[TraceImage, ...]:
    """Read `images_as_json` from a file of any origin. Raises `InvalidTrace`; values are checked with the tokens."""
    if found is None:
        return ()
    names = set(TraceImage.__slots__)
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.keys() == names for one in found):
        raise InvalidTrace(f"The images of the trace are not a list of {', '.join(names)}. Save the trace again.")
    return tuple(TraceImage(**one) for one in found)
