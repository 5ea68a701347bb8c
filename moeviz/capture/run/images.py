"""Read images of any origin within limits, and put them into a prompt with the processor of the checkpoint.

A file is looked at before its pixels are made: 11 kB of PNG can be 263 MB of pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.checkpoint import explained
from moeviz.capture.models.load import model_config, model_source, open_processor, takes_images
from moeviz.capture.models.parameters import class_of
from moeviz.capture.run.image_boxes import AROUND, Places, places_of
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.image_tokens import BOX, IMAGE, IMAGE_COLUMNS, MARK, MOST_IMAGES, NO_IMAGE, NO_VIEW, TEXT, TraceImage
from moeviz.text import cut, quoted, why_no_file

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("moeviz.capture")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow's readers of others run programs, or nobody needs them
LARGEST_FILE = 2**25  # bytes
MOST_PIXELS = 50_000_000  # of one image: those of the largest cameras of phones
EXTRA = "Images need Pillow and torchvision: pip install 'moeviz[images]'."


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image as a person sees it, ready for a processor. Pictures of the same file are equal."""

    facts: TraceImage
    pixels: Image.Image = field(compare=False, repr=False)  # RGB


def pictures_of(
    images: Sequence[object], largest: int = LARGEST_FILE, most: int = MOST_PIXELS
) -> tuple[PromptImage, ...]:
    """Read images: paths, bytes of a file, or PIL images. EXIF turns them, and transparent parts become white.

    largest  bytes of a file.
    most     pixels of an image.

    Raises `InvalidPrompt` for what is no image, or too large or too small, and `CaptureError` without Pillow.
    """
    if isinstance(images, str | bytes | Path) or not isinstance(images, Sequence):
        raise InvalidPrompt("images is a list: of paths, of the bytes of files, or of PIL images. Put it in brackets.")
    if len(images) > MOST_IMAGES:
        raise InvalidPrompt(f"There are {len(images):,} images, and a prompt can have {MOST_IMAGES}. Give fewer.")
    return tuple(_picture(image, number, largest, most) for number, image in enumerate(images))


def _picture(given: object, number: int, largest: int, most: int) -> PromptImage:
    if find_spec("PIL") is None:
        raise CaptureError(EXTRA)
    from PIL import Image, ImageOps

    what = f"Image {number}"
    if isinstance(given, Image.Image):
        with _reading(what):
            _check_pixels(what, given.size, most)
            pixels = _on_white(ImageOps.exif_transpose(given))
        return PromptImage(TraceImage(*pixels.size, sha256(pixels.tobytes()).hexdigest(), _note(given)), pixels)
    if isinstance(given, str | Path):
        what = f"The image {quoted(cut(Path(given).name if not why_no_file(str(given)) else str(given), 100))}"
        given = _bytes_of(Path(given), what, largest)
    if not isinstance(given, bytes):
        raise InvalidPrompt(f"{what} is a {type(given).__name__}; give a path, the bytes of a file, or a PIL image.")
    _check_bytes(what, len(given), largest)
    with _reading(what), Image.open(BytesIO(given), formats=FORMATS) as opened:
        _check_pixels(what, opened.size, most)
        note = _note(opened)
        pixels = _on_white(ImageOps.exif_transpose(opened))
    return PromptImage(TraceImage(*pixels.size, sha256(given).hexdigest(), note), pixels)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what Pillow raises, for files that a stranger made, into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InvalidPrompt:
        raise
    except MemoryError as error:
        raise InvalidPrompt(f"{what} does not fit into memory. Give a smaller one.") from error
    except Exception as error:
        raise InvalidPrompt(
            f"{what} cannot be read as an image ({type(error).__name__}). Give a whole file of one of these kinds: "
            f"{', '.join(FORMATS)}."
        ) from error


def _bytes_of(path: Path, what: str, largest: int) -> bytes:
    try:
        if not path.is_file():
            raise InvalidPrompt(f"{what} is not a file on this machine. Give the path of an image.")
        _check_bytes(what, path.stat().st_size, largest)
        with path.open("rb") as file:
            return file.read(largest + 1)
    except (OSError, ValueError) as error:
        raise InvalidPrompt(f"{what} cannot be opened ({type(error).__name__}). Give the path of an image.") from error


def _check_bytes(what: str, size: int, largest: int) -> None:
    if size > largest:
        raise InvalidPrompt(f"{what} has more than the {largest:,} bytes that are read. Give a smaller one.")


def _check_pixels(what: str, size: tuple[int, int], most: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidPrompt(f"{what} is {width:,} x {height:,} pixels: there is nothing in it. Give another one.")
    if width * height > most:
        raise InvalidPrompt(
            f"{what} is {width:,} x {height:,} pixels, and at most {most:,} are read. Make it smaller first."
        )


def _note(image: Image.Image) -> str:
    try:
        image.seek(1)  # counting all frames can take minutes
    except EOFError:
        return ""
    image.seek(0)
    return "the first of several frames"


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB: 16 bits as 8, and transparent parts on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # Pillow's own conversion cuts off what is brighter than 255
        values = np.asarray(image).astype(np.float64)
        limit = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((values.clip(0, limit) * (255 / limit)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class ReadImages:
    """A prompt with images, as a processor makes it."""

    ids: list[int]
    tensors: dict[str, torch.Tensor]  # what the model is given besides ids and mask: pixels, grids, kinds of tokens
    columns: pd.DataFrame  # `IMAGE_COLUMNS` of each token of the prompt
    caution: str  # why there are no boxes; "" if there are


def image_token_id(config: PreTrainedConfig) -> int | None:
    """Return the id that stands for a part of an image; None if the config names none."""
    ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((number for number in ids if isinstance(number, int)), None)


def check_no_placeholder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> None:
    """Raise `InvalidPrompt` for a text that has the token of an image: without an image it is read as an odd word."""
    token = image_token_id(model.config)
    if token is None or token not in getattr(tokenizer, "added_tokens_decoder", {}):
        return
    if any(token in row for row in rows):
        raise InvalidPrompt(
            f"The text has {tokenizer.convert_ids_to_tokens(token)}, which stands for a part of an image, and no image "
            "came with it. Give the image (images=[…], or --image FILE), or leave it out."
        )


def check_takes_images(model: type[PreTrainedModel], processor: transformers.ProcessorMixin | None) -> None:
    """Raise `CaptureError` if models of a class have no way in for images."""
    name = model.__name__
    if not takes_images(model):
        raise CaptureError(f"{name} reads text alone. Leave the images out, or open a model that takes them.")
    if processor is None:
        if find_spec("torchvision") is None:
            raise CaptureError(EXTRA)
        raise CaptureError(
            f"{name} takes images, and no processor that opens was found with it. Save the checkpoint's "
            "processor into the same folder (save_pretrained), or give processor=."
        )


def read_images(
    model: PreTrainedModel,
    processor: transformers.ProcessorMixin,
    text: str,
    pictures: Sequence[PromptImage],
    chat: bool = False,
    system: str | None = None,
) -> ReadImages:
    """Prepare a prompt with images. They come before the text, unless it has the processor's placeholder for each.

    Raises `InvalidPrompt` for what the processor refuses, and `CaptureError` if it is unknown which token is of which
    image.
    """
    made, columns, caution = _prepared(model.config, processor, text, pictures, chat, system)
    log.info("%s", _sizes_in_words(pictures, columns))
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    tensors = {
        name: part.to(device, model.dtype if part.is_floating_point() else part.dtype)
        for name, part in made.items()
        if name not in ("input_ids", "attention_mask") and isinstance(part, torch.Tensor)
    }
    return ReadImages(made["input_ids"][0].tolist(), tensors, columns, caution)


def _prepared(
    config: PreTrainedConfig,
    processor: transformers.ProcessorMixin,
    text: str,
    pictures: Sequence[PromptImage],
    chat: bool = False,
    system: str | None = None,
) -> tuple[transformers.BatchFeature, pd.DataFrame, str]:
    """Return what the processor made of a prompt, `IMAGE_COLUMNS` of its tokens, and why there are no boxes."""
    asked = _with_placeholders(config, processor, text, len(pictures), chat, system)
    made, marks = _processed(processor, asked, pictures, add_special_tokens=not chat)
    ids = made["input_ids"][0].tolist()
    token = image_token_id(config)
    token = getattr(processor, "image_token_id", None) if token is None else token
    at = np.flatnonzero(np.array(ids) == token)
    if not len(at):
        raise CaptureError(f"{type(processor).__name__} put no image token into the prompt, so nothing can be shown.")
    family, sizes = config.model_type, [(one.facts.width, one.facts.height) for one in pictures]
    try:
        places = places_of(family, processor, made, sizes)
    except Exception as error:  # a stranger's processor may lack, or mean, anything
        log.debug("the boxes of %s cannot be computed: %s", family, error)
        places = None
    return made, *_columns(ids, at, marks, places, len(pictures), family)


def sizes_before_run(name: str, pictures: Sequence[PromptImage]) -> str:
    """Return how many tokens each image will be for a model of this name; its processor is opened, and no weights."""
    config = model_config(name)
    installed = find_spec("torchvision") is not None  # else the next line names what to install
    processor = open_processor(name, model_source(name), class_of(config), needed=installed)
    check_takes_images(class_of(config), processor)
    assert processor is not None  # what was just checked
    return _sizes_in_words(pictures, _prepared(config, processor, "", pictures)[1])


def _sizes_in_words(pictures: Sequence[PromptImage], columns: pd.DataFrame) -> str:
    tokens = columns["image"][columns["kind"] == IMAGE].value_counts()
    facts = [(number, one.facts, f", {one.facts.note}" * bool(one.facts.note)) for number, one in enumerate(pictures)]
    return "; ".join(
        f"image {number} of {image.width:,} × {image.height:,} pixels{note}: {tokens.get(number, 0):,} tokens"
        for number, image, note in facts
    )


def _with_placeholders(
    config: PreTrainedConfig,
    processor: transformers.ProcessorMixin,
    text: str,
    images: int,
    chat: bool,
    system: str | None,
) -> str:
    placeholder = str(getattr(processor, "image_token", "<image>"))
    written = text.count(placeholder)
    if written not in (0, images) or (chat and written):
        raise InvalidPrompt(
            f"The text has {placeholder} {written} times, and there are {images} images. Leave it out: images come "
            "before the text."
        )
    if chat:
        return _as_turn(processor, text, images, system)
    before, after = AROUND.get(config.model_type, ("", ""))
    if after not in processor.tokenizer.get_added_vocab():
        before = after = ""
    return text if written else f"{before}{placeholder}{after}" * images + text


def _as_turn(processor: transformers.ProcessorMixin, text: str, images: int, system: str | None) -> str:
    if not processor.chat_template:
        raise CaptureError(
            f"{type(processor).__name__} has no chat template, so this text cannot be sent as a turn of a chat. Leave "
            "chat out: the model then reads the text as it is."
        )
    turn: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    messages: list[Any] = [{"role": "system", "content": [{"type": "text", "text": system}]}] * bool(system)
    messages.append({"role": "user", "content": turn})
    with explained("The processor's chat template does not take this", InvalidPrompt):
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _processed(
    processor: transformers.ProcessorMixin, text: str, pictures: Sequence[PromptImage], add_special_tokens: bool
) -> tuple[transformers.BatchFeature, list[int] | None]:
    """Run the processor. Returns its tensors, and for each token the image that it was written for (-1: none).

    None instead of the latter if the processor or its tokenizer does not say which token is which.
    """
    ask: dict[str, Any] = {"text": [text], "images": [picture.pixels for picture in pictures], "return_tensors": "pt"}
    ask["add_special_tokens"] = add_special_tokens
    tells = (
        processor.tokenizer.is_fast
        and type(processor).replace_image_token is not transformers.ProcessorMixin.replace_image_token
    )
    if tells:
        ask |= {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
    with explained(f"{type(processor).__name__} does not take these images", InvalidPrompt), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = processor(**ask)
    offsets, spans = made.pop("offset_mapping", None), made.pop("text_replacement_offsets", None)
    if offsets is None or not spans or len(spans[0]) != len(pictures):
        return made, None
    whole = [*enumerate(_whole_span(text, *one["span"], *one["new_span"]) for one in spans[0])]
    return made, [
        next((number for number, (first, last) in whole if start < end and first <= start < last), NO_IMAGE)
        for start, end in offsets[0].tolist()
    ]


def _whole_span(text: str, start: int, end: int, first: int, last: int) -> tuple[int, int]:
    """Return from `first` to `last`, the characters of an image in what was read, with what stands around it."""
    fits = [(b, a) for b, a in set(AROUND.values()) if text[:start].endswith(b) and text[end:].startswith(a)]
    before, after = max(fits, key=lambda pair: len(pair[0]), default=("", ""))
    return first - len(before), last + len(after)


def _columns(
    ids: list[int], at: np.ndarray, marks: list[int] | None, places: list[Places] | None, images: int, family: str
) -> tuple[pd.DataFrame, str]:
    """Return `IMAGE_COLUMNS` of the prompt, and a sentence if there are no boxes."""
    number = np.full(len(ids), NO_IMAGE, np.int32) if marks is None else np.array(marks, np.int32)
    kind = np.where(number == NO_IMAGE, TEXT, MARK).astype(object)
    kind[at] = IMAGE
    view, box = np.full(len(ids), NO_VIEW, object), np.full((len(ids), len(BOX)), np.nan, np.float32)
    caution = ""
    flat = None if places is None else [(n, *place) for n, of_image in enumerate(places) for place in of_image]
    if flat is None or len(flat) != len(at):
        caution = (
            f"moeviz does not know which part of an image each image token of {family} reads, so it shows no boxes."
        )
        if marks is None and images > 1:
            raise CaptureError(f"{caution} Nor can it tell which token is of which image. Give one image.")
        number[at] = number[at].clip(min=0)
    else:
        number[at], view[at] = [n for n, _, _ in flat], [name for _, name, _ in flat]
        box[at] = [(np.nan,) * 4 if place is None else place for _, _, place in flat]
    columns = {"kind": kind, "image": number, "view": view, **dict(zip(BOX, box.T, strict=True))}
    return pd.DataFrame(columns).astype(IMAGE_COLUMNS), caution
