"""Which box of an image each image token reads, by family of models.

A box is in pixels of the image as a person sees it. Where a processor pads an image, boxes end at its edge; a token
that reads padding alone has no box. Each family's boxes are held against its vision tower by painting over 8 x 8 pixels
and looking which token's features change most (`make survey`).
"""

from collections.abc import Callable, Iterator, Mapping
from math import isqrt
from typing import Any

from moeviz.image_tokens import OVERVIEW, TILE, WHOLE

Number = int | float
Pair = tuple[Number, Number]
Box = tuple[Number, Number, Number, Number]
Places = list[tuple[str, Box | None]]  # view and box of each image token of one image, in the order of the tokens
Size = tuple[int, int]  # width and height
Tensors = Mapping[str, Any]  # what the processor made of the prompt


def _grid(rows: int, columns: int, field: Pair, seen: Size, start: Pair = (0, 0)) -> list[Box | None]:
    """Lay a grid over a field of an image that begins at `start`; what lies outside `seen` is padding."""
    width, height = field[0] / columns, field[1] / rows
    corners = ((start[0] + c * width, start[1] + r * height) for r in range(rows) for c in range(columns))
    return [_cut((x, y, x + width, y + height), seen) for x, y in corners]


def _cut(box: Box, seen: Size) -> Box | None:
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], seen[0]), min(box[3], seen[1])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _of(view: str, boxes: list[Box | None]) -> Places:
    return [(view, box) for box in boxes]


def _merged_patches(processor: Any, inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Qwen, GLM, Ernie: the image is resized to whole patches, and each token reads `merge_size` x `merge_size`."""
    merge = processor.image_processor.merge_size
    for (_, rows, columns), size in zip(inputs["image_grid_thw"].tolist(), sizes, strict=True):
        yield _of(WHOLE, _grid(rows // merge, columns // merge, size, size))


def _padded_patches(processor: Any, inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Kimi: resized without distortion, never up, then padded on the right and below."""
    from transformers.models.kimi_k25.image_processing_kimi_k25 import navit_resize

    made = processor.image_processor
    for (_, rows, columns), (width, height) in zip(inputs["image_grid_thw"].tolist(), sizes, strict=True):
        limits = made.patch_size, made.merge_size, made.max_patches, made.size["max_height"]
        (resized_height, resized_width), (padded_height, padded_width) = navit_resize(height, width, *limits)
        field = width * padded_width / resized_width, height * padded_height / resized_height
        yield _of(WHOLE, _grid(rows // made.merge_size, columns // made.merge_size, field, (width, height)))


def _pixtral(processor: Any, inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Pixtral: a row of tokens for each row of merged patches, with a mark after it."""
    side = processor.patch_size * processor.spatial_merge_size
    for (height, width), size in zip(inputs["image_sizes"].tolist(), sizes, strict=True):
        yield _of(WHOLE, _grid(height // side, width // side, size, size))


def _pooled_patches(processor: Any, inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Gemma: patches, pooled `pooling_kernel_size` x `pooling_kernel_size`."""
    pooled = processor.image_processor.pooling_kernel_size
    for positions, size in zip(inputs["image_position_ids"], sizes, strict=True):
        columns, rows = (int(positions[:, axis].max()) + 1 for axis in (0, 1))
        yield _of(WHOLE, _grid(rows // pooled, columns // pooled, size, size))


def _convolved_tiles(processor: Any, inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Step: local tiles, then an overview. Two 3 x 3 convolutions of stride 2: token c reads patches 4c-3 to 4c+3."""
    made = processor.image_processor
    size, tile = made.size["height"], made.patch_size
    for tiles, (width, height) in zip(inputs["num_local_patches"], sizes, strict=True):
        _, (cropped_width, cropped_height), window, across, _, pads = made._plan_patches(width, height, size, tile)
        places: Places = []
        for number in range(int(tiles)):
            field = window * width / cropped_width, window * height / cropped_height
            start = number % across * field[0], number // across * field[1]
            places += _of(TILE, _shifted(tile // 14 // 4, field, (width, height), start))
        field = (max(width, height),) * 2 if pads else (width, height)
        yield places + _of(OVERVIEW if tiles else WHOLE, _shifted(size // 14 // 4, field, (width, height)))


def _padded_tiles(processor: Any, _inputs: Tensors, sizes: list[Size]) -> Iterator[Places]:
    """Llama 4: tiles of an image that is padded on the right and below; then the whole, distorted, as one tile more."""
    from torch import tensor
    from transformers.models.llama4 import image_processing_llama4 as llama

    made, side = processor.image_processor, processor.image_processor.size["height"]
    canvases = tensor(llama.find_supported_resolutions(made.max_patches, made.size))
    tokens = isqrt((side // processor.patch_size) ** 2 // processor.downsample_ratio)  # of a row of a tile
    for width, height in sizes:
        canvas = llama.get_best_fit((height, width), canvases, made.resize_to_max_canvas)
        down, across = (canvas // side).tolist()
        target = down * side, across * side
        if not made.resize_to_max_canvas:  # no image grows over the side of a tile
            target = min(max(height, side), target[0]), min(max(width, side), target[1])
        resized_height, resized_width = llama.get_max_res_without_distortion((height, width), target)
        field, seen = (side * width / resized_width, side * height / resized_height), (width, height)
        if down * across == 1:
            yield _of(WHOLE, _grid(tokens, tokens, field, seen))
            continue
        starts = [(column * field[0], row * field[1]) for row in range(down) for column in range(across)]
        tiles = [box for start in starts for box in _grid(tokens, tokens, field, seen, start)]
        yield _of(TILE, tiles) + _of(OVERVIEW, _grid(tokens, tokens, seen, seen))


def _shifted(side: int, field: Pair, seen: Size, start: Pair = (0, 0)) -> list[Box | None]:
    """Lay Step's grid: 1.5 patches, of 4 a token, further left and up than a plain one."""
    left, up = (extent / side / 4 * 1.5 for extent in field)
    width, height = field[0] / side, field[1] / side
    corners = ((start[0] + c * width - left, start[1] + r * height - up) for r in range(side) for c in range(side))
    return [_cut((x, y, x + width, y + height), seen) for x, y in corners]


PLACES: dict[str, Callable[[Any, Tensors, list[Size]], Iterator[Places]]] = {
    **dict.fromkeys(("qwen3_vl_moe", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker"), _merged_patches),
    **dict.fromkeys(("glm4v_moe", "ernie4_5_vl_moe"), _merged_patches),
    "kimi_k25": _padded_patches,
    "llama4": _padded_tiles,
    "mistral_large4": _pixtral,
    "gemma4": _pooled_patches,
    "step3p7": _convolved_tiles,
}
# What stands around an image in a prompt of the family; other processors write it themselves.
AROUND: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("qwen3_vl_moe", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker"),
        ("<|vision_start|>", "<|vision_end|>"),
    ),
    "glm4v_moe": ("<|begin_of_image|>", "<|end_of_image|>"),
    "ernie4_5_vl_moe": ("<|IMAGE_START|>", "<|IMAGE_END|>"),
    "kimi_k25": ("<|media_begin|>image<|media_content|>", "<|media_end|>"),
}


def places_of(family: str, processor: Any, inputs: Tensors, sizes: list[Size]) -> list[Places] | None:
    """Return view and box of each image token of each image; None for a family whose boxes are not known."""
    return [*PLACES[family](processor, inputs, sizes)] if family in PLACES else None
