"""Images in a prompt: what is read, which tokens stand for it, which part of it each reads, and what is refused."""

import json
import shutil
import struct
import zlib
from copy import copy, deepcopy
from dataclasses import replace
from hashlib import sha256
from io import BytesIO

import numpy as np
import pytest
import torch
from image_models import FAMILIES, image_model, picture
from PIL import Image
from survey.checkpoints import checkpoint_config
from survey.tiny_models import tokenizer
from transformers import AutoModelForMultimodalLM

import moeviz
from moeviz.analyses import untrained
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.images import PromptImage, pictures_of, read_images, sizes_before_run
from moeviz.capture.run.request import CaptureRequest
from moeviz.cli.main import main
from moeviz.errors import CaptureError, InvalidPrompt, InvalidTrace, MissingField, ModelNotFound
from moeviz.formats.exports import read_trace, write_trace
from moeviz.image_tokens import BOX, IMAGE_COLUMNS, image_runs
from moeviz.metrics.images import kind_information

MERGED, BROKEN = "qwen3_vl_moe", "mistral_large4"  # a plain grid; marks after each row
pytestmark = pytest.mark.filterwarnings("ignore")
SPOTS, SPOT, GRACE = 10, 4, 4  # places that are painted over, half their side, and how far from its box a hit may be


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint that takes images, in a folder, as people have them."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = image_model(MERGED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _traced(family=MERGED, images=None, text="What is here?", **how):
    model, processor = image_model(family)
    return moeviz.trace(model, text, images=[picture()] if images is None else images, processor=processor, **how)


def _png(image, kind="PNG", **how):
    file = BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def test_a_checkpoint_is_opened_with_its_processor_and_its_images_are_tokens(saved, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(data := _png(picture()))
    target = str(tmp_path / "out.npz")
    given = ["trace", "What is here?", "--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "a.png")]
    assert main([*given, "--model", str(saved), "-o", target, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    trace = read_trace(target)
    assert [one.sha256 for one in trace.images] == [sha256(data).hexdigest()] * 2
    assert printed["images"] == [{"width": 420, "height": 280, "tokens": 117, "note": ""}] * 2
    assert trace.tokens["kind"].value_counts().to_dict() == {"image": 234, "mark": 4, "text": 6}
    assert image_runs(trace.tokens).max() == 1
    assert sizes_before_run(str(saved), pictures_of([data])) == "image 0 of 420 × 280 pixels: 117 tokens"
    loaded = moeviz.load_model(str(saved))
    again = moeviz.trace(loaded, "What is here?", images=[data, picture()])
    assert np.array_equal(again.experts, trace.experts)  # the same pixels, from a file and from memory
    text = moeviz.trace(loaded, "What is here?")
    assert not text.images and not set(IMAGE_COLUMNS) & set(text.tokens)


def test_boxes_tile_the_image_and_marks_stand_between_them():
    trace = _traced(BROKEN, [picture(420, 280), picture(60, 40)], max_new_tokens=2)
    tokens = trace.tokens
    for number, image in enumerate(trace.images):
        boxes = tokens.loc[(tokens["image"] == number) & (tokens["kind"] == "image"), [*BOX]].to_numpy(float)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum()
        assert area == pytest.approx(image.width * image.height, rel=1e-4)
    assert (tokens.loc[tokens["kind"] == "mark", "text"].isin(["[IMG_BREAK]", "[IMG_END]"])).all()
    assert tokens.loc[tokens["kind"] != "image", [*BOX]].isna().all(axis=None)
    assert (tokens.loc[tokens["phase"] == "generated", "kind"] == "text").all()


def test_the_model_gets_what_the_processor_made():
    """What is recorded is what the model decides when it is called by hand, positions in images included."""
    model, processor = image_model(MERGED)
    text = "<|vision_start|><|image_pad|><|vision_end|>What is here?"
    inputs = processor(text=[text], images=[picture()], return_tensors="pt")
    routers = [part for part in model.modules() if type(part).__name__.endswith("TopKRouter")]
    heard = []
    hooks = [router.register_forward_hook(lambda _m, _i, answer: heard.append(answer[2])) for router in routers]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    trace = _traced()
    assert np.array_equal(np.sort(torch.stack(heard).numpy()), np.sort(trace.experts))
    assert trace.equals(_traced(text=text))  # the placeholder in the text says where the image stands
    *_, last = moeviz.stream(model, "What is here?", images=[picture()], processor=processor, max_new_tokens=2)
    assert last.equals(_traced(max_new_tokens=2))


def test_two_routers_of_a_layer_that_divide_the_tokens_are_recorded_as_one():
    """Ernie's experts for images have the ids after those for text; each token has those of its own router."""
    family = "ernie4_5_vl_moe"
    model, processor = image_model(family)
    layer = next(part for part in model.modules() if type(part).__name__ == "Ernie4_5_VLMoeMoeBlock")
    heard = {}
    hooks = [
        getattr(layer, name).gate.register_forward_hook(
            lambda _module, _given, answer, name=name: heard.update({name: answer})
        )
        for name in ("text_moe", "vision_moe")
    ]
    trace = _traced(family, max_new_tokens=2)
    heard.clear()
    inputs = processor(
        text=["<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>What is here?"], images=[picture()], return_tensors="pt"
    )
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    of_text = (trace.tokens["kind"] == "text").to_numpy() & (trace.tokens["phase"] == "prompt").to_numpy()
    of_image = (trace.tokens["kind"] != "text").to_numpy()
    found, experts = trace.experts[0], trace.model.num_experts[0] // 2
    assert np.array_equal(np.sort(found[of_text]), np.sort(heard["text_moe"][2].numpy()))
    assert np.array_equal(np.sort(found[of_image]) - experts, np.sort(heard["vision_moe"][2].numpy()))
    assert (found[(trace.tokens["phase"] == "generated").to_numpy()] < experts).all()
    assert np.isneginf(trace.logits[0][of_image, :experts]).all() and trace.model.site == "text and images"
    for how in ({"outputs": True}, {"site": "images"}, {"intervention": moeviz.Mute({1: (0,)})}):
        with pytest.raises(CaptureError):
            _traced(family, **how)


@pytest.mark.parametrize("name", ["t.npz", "t.json", "t.csv", "t.parquet"])
def test_every_file_keeps_kinds_boxes_and_images(name, tmp_path):
    trace = _traced(BROKEN, [picture(100, 60), _png(picture(60, 40))])
    trace = trace if name.endswith(("npz", "json")) else replace(trace, logits=None)
    write_trace(trace, tmp_path / name)
    assert read_trace(tmp_path / name).equals(trace)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sound"},
        {"image": 7},
        {"x0": -1.0},
        {"x1": 1e6},
        {"x1": None},
        {"view": "here"},
        {"kind": "text"},
    ],
    ids=str,
)
def test_image_columns_that_contradict_the_images_are_refused(change, tmp_path):
    write_trace(_traced(images=[picture(60, 40)]), tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    for name, value in change.items():
        content["tokens"][name][2] = value
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(InvalidTrace):
        read_trace(tmp_path / "t.json")


@pytest.mark.parametrize("images", [None, [], [{"width": 1}], [{"width": 0, "height": 1, "sha256": "", "note": ""}]])
def test_files_whose_images_are_missing_or_odd_are_refused(images, tmp_path):
    write_trace(_traced(images=[picture(60, 40)]), tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(content | {"images": images}))
    with pytest.raises(InvalidTrace):
        read_trace(tmp_path / "t.json")


def test_images_are_turned_laid_on_white_and_made_rgb():
    turned = picture(60, 40)
    exif = turned.getexif()
    exif[274] = 6  # to be turned by a quarter
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    deep = Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16))
    frames = _png(picture(8, 8), "GIF", save_all=True, append_images=[picture(8, 8).rotate(turn) for turn in (90, 180)])
    found = pictures_of([_png(turned, "JPEG", exif=exif), half, deep, frames, picture(8, 8).convert("CMYK")])
    assert (found[0].facts.width, found[0].facts.height) == (40, 60) == found[0].pixels.size
    assert found[1].pixels.getpixel((0, 0)) == (255, 255, 255)
    assert found[2].pixels.getpixel((0, 0)) == (127, 127, 127)
    assert [one.facts.note for one in found] == ["", "", "", "the first of several frames", ""]
    assert {one.pixels.mode for one in found} == {"RGB"}

    assert pictures_of([frames]) == pictures_of([frames]) and isinstance(found[0], PromptImage)


def _claims(width, height):
    """A file that says it has so many pixels: its first chunk, with the checksum of what it says."""
    whole = _png(Image.new("1", (30, 9)))
    size = whole[12:16] + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + size + struct.pack(">I", zlib.crc32(size)) + whole[33:]


BOMBS = [_claims(10_000, 6_000), _claims(30_000, 9_000)]  # the first is refused by us alone, the second by Pillow too


@pytest.mark.parametrize(
    "images",
    [
        [b""],
        [b"no image"],
        [_png(picture())[:300]],
        *([bomb] for bomb in BOMBS),
        [Image.new("RGB", (0, 0))],
        [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
        ["/dev/zero"],
        ["missing.png"],
        ["\0"],
        [7],
        "a.png",
        [picture(8, 8)] * 17,
        [picture(1, 4000)],
    ],
    ids=lambda images: str(images)[:30],
)
def test_what_is_no_image_or_too_large_is_refused_in_a_sentence(images):
    with pytest.raises(InvalidPrompt) as refused:
        _traced(images=images)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize("bomb", BOMBS, ids=["60 million", "270 million"])
def test_a_bomb_is_refused_before_it_is_unpacked(bomb, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were made"))
    with pytest.raises(InvalidPrompt):
        pictures_of([bomb])


def test_an_image_of_one_pixel_is_read():
    assert (_traced(images=[picture(1, 1)]).tokens["kind"] == "image").sum() == 4


def test_images_go_with_one_text_for_a_model_that_takes_them(saved):
    model, processor = image_model(MERGED)
    with pytest.raises(CaptureError):
        moeviz.trace("embedded", "What is here?", images=[picture()])
    with pytest.raises(CaptureError):
        moeviz.trace(model, "What is here?", images=[picture()], tokenizer=processor.tokenizer)
    with pytest.raises(InvalidPrompt):
        moeviz.trace(model, ["One.", "Two."], images=[picture()], processor=processor)
    for how in ({}, {"images": [picture(), picture()]}):
        with pytest.raises(InvalidPrompt):
            moeviz.trace(model, "See <|image_pad|> here.", processor=processor, **how)
    with pytest.raises(InvalidPrompt):
        _traced(images=[picture(900, 900)] * 6)  # more tokens than the context holds
    assert main(["trace", "See <|image_pad|>.", "--model", str(saved)]) == 3


def test_a_chat_has_its_images_in_the_users_turn():
    model, processor = image_model(MERGED)
    one = "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    turn = "user:{% for part in message.content %}" + one + "{% endfor %}"
    with pytest.raises(CaptureError):
        _traced(chat=True)
    processor = copy(processor)
    processor.chat_template = "{% for message in messages %}" + turn + "{% endfor %}model:"
    trace = moeviz.trace(model, "What?", images=[picture(60, 40)], processor=processor, chat=True)
    assert "".join(trace.tokens["text"][trace.tokens["kind"] == "text"]) == "user:What?model:"
    assert (trace.tokens["kind"] == "mark").sum() == 2
    with pytest.raises(InvalidPrompt):
        moeviz.trace(model, "<|image_pad|>", images=[picture()], processor=processor, chat=True)


def test_the_first_trace_of_a_model_may_have_an_image_of_few_tokens():
    model, processor = image_model(MERGED)
    trace = moeviz.trace(deepcopy(model), "?", images=[picture(60, 40)], processor=processor)
    assert len(trace.tokens) < 16 and trace.model.witness and trace.images


def test_a_trace_with_images_is_not_read_again():
    from moeviz.capture.run.request import CaptureRequest
    from moeviz.capture.trace import again_request

    with pytest.raises(CaptureError):
        again_request(_traced(images=[picture(60, 40)]), CaptureRequest(("-",)))


def test_a_family_without_boxes_says_so():
    trace = _traced("aria")
    assert "boxes" in trace.model.caution
    assert set(trace.tokens.loc[trace.tokens["image"] == 0, "kind"]) == {"image"}
    assert trace.tokens[[*BOX]].isna().all(axis=None)


def test_without_torchvision_one_sentence_names_the_extra(saved, monkeypatch):
    loaded = replace(moeviz.load_model(str(saved)), processor=None)
    monkeypatch.setattr("moeviz.capture.run.images.find_spec", lambda name: None if name == "torchvision" else name)
    with pytest.raises(CaptureError) as refused:
        moeviz.trace(loaded, "What is here?", images=[picture()])
    assert "moeviz[images]" in str(refused.value)


class _Embedded(Exception):
    """The decoder is about to read."""


def _features(model, processor, image):
    """What stands in the places of the prompt when the decoder begins: for image tokens, what the tower made."""
    prompt = read_images(model, processor, "x", pictures_of([image]))
    decoder = next(part for path, part in model.named_modules() if path.endswith("language_model"))
    kept = []

    def stop(_module, _given, named):
        kept.append(named["inputs_embeds"][0].clone())
        raise _Embedded

    hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
    ids = torch.tensor([prompt.ids])
    try:
        with torch.no_grad(), pytest.raises(_Embedded):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.tensors)
    finally:
        hook.remove()
    return kept[0], prompt.columns


def _hits(family, size, shift=0.0):
    """Paint over spots of an image: in how many is the most changed token one whose box holds the spot."""
    model, processor = image_model(family)
    image = picture(*size)
    plain, columns = _features(model, processor, image)
    draws, found = np.random.default_rng(0), 0
    for _ in range(SPOTS):
        x, y = (int(draws.integers(2 * SPOT, side - 2 * SPOT)) for side in size)
        pixels = np.array(image)
        part = pixels[y - SPOT : y + SPOT, x - SPOT : x + SPOT]
        part[:] = np.where(255 - part > 127, 255, 0)
        painted, _ = _features(model, processor, Image.fromarray(pixels))
        change = (painted - plain).norm(dim=-1).numpy()
        top = (
            columns.loc[int(np.where(columns["kind"] == "image", change, -1).argmax()), [*BOX]].to_numpy(float) + shift
        )
        found += bool((top[:2] - GRACE <= (x, y)).all() and ((x, y) <= top[2:] + GRACE).all())
    return found


def test_a_box_is_where_the_token_looks():
    assert _hits(MERGED, (420, 280)) == SPOTS
    assert _hits(MERGED, (420, 280), shift=40.0) < SPOTS / 2  # boxes a patch further would be found out


@pytest.mark.survey
@pytest.mark.parametrize("size", [(420, 280), (437, 291), (200, 333)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_of_every_family(family, size):
    assert _hits(family, size) == SPOTS


def test_a_class_that_transformers_cannot_run_is_named_in_a_sentence(monkeypatch):
    """As Llama 4 with its vision tower until transformers 5.24: its decoder did not return what it asked for."""
    model = AutoModelForMultimodalLM.from_config(checkpoint_config("llama4")).float().eval()

    def forward(*_given, **_named):
        return object().image_outputs

    monkeypatch.setattr(type(model), "forward", forward)
    for how in ({}, {"max_new_tokens": 2}):
        with pytest.raises(CaptureError) as refused:
            moeviz.trace(model, "To be.", tokenizer=tokenizer(), **how)
        assert type(model).__name__ in str(refused.value)


def test_why_a_processor_does_not_open_is_said_to_who_gives_it_an_image(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").write_text('{"processor_class": 7')
    with pytest.raises(ModelNotFound, match="processor"):
        sizes_before_run(str(tmp_path / "model"), pictures_of([_png(picture())]))
    assert moeviz.load_model(str(tmp_path / "model")).processor is None, "its texts are read all the same"


def test_untrained_routers_read_what_the_models_own_read(saved, monkeypatch):
    """With the model's own weights in place of random ones, they choose as the model does."""
    model, image = moeviz.load_model(str(saved)), _png(picture())
    request = CaptureRequest(("What is here?",), images=pictures_of([image]))
    found = untrained.next_to_untrained(model, request)
    own = kind_information(moeviz.trace(model, "What is here?", images=[image]))
    assert found[["layer", "information"]].equals(own) and found.equals(untrained.next_to_untrained(model, request))
    assert ((found["least"] <= found["mean"]) & (found["mean"] <= found["most"]) & (found["most"] <= 1)).all()
    assert not any(router.module._forward_pre_hooks for router in find_routers(model.model))
    weights = iter([router.module.weight.detach().float().T for router in find_routers(model.model)])
    monkeypatch.setattr(untrained.torch, "randn", lambda *_shape, **_how: next(weights))
    assert untrained.next_to_untrained(model, request, draws=1)["mean"].tolist() == own["information"].tolist()


def test_a_prompt_without_an_image_has_nothing_to_compare(saved):
    with pytest.raises(MissingField):
        untrained.next_to_untrained(moeviz.load_model(str(saved)), CaptureRequest(("What is here?",)))


def test_a_whole_checkpoint_is_opened_with_what_reads_its_images(tmp_path):
    model, processor = image_model("qwen3_5_moe")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    by_name = moeviz.trace(moeviz.load_model(str(tmp_path)), "What is here?", images=[picture()])
    by_hand = moeviz.trace(model, "What is here?", images=[picture()], processor=processor)
    assert (by_name.experts == by_hand.experts).all() and (by_name.tokens["kind"] == "image").any()
