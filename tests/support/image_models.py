"""Tiny random models that read images, one of each family with known boxes, with processors made of their classes.

Each has the architecture of transformers and a tokenizer with the family's special tokens; nothing is downloaded.
"""

import importlib
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from survey.checkpoints import checkpoint_config
from survey.tiny_models import fill_randomly
from transformers import AutoModelForMultimodalLM, AutoTokenizer, PreTrainedModel, ProcessorMixin

from moeviz.capture.models.parameters import text_reader
from moeviz.embedded import embedded_path

SPECIAL = [
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_pad|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|begin_of_image|>",
    "<|image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|video|>",
    "<|end_of_video|>",
    "<|IMAGE_START|>",
    "<|IMAGE_END|>",
    "<|IMAGE_PLACEHOLDER|>",
    "<|VIDEO_START|>",
    "<|VIDEO_END|>",
    "<|media_begin|>",
    "<|media_content|>",
    "<|media_pad|>",
    "<|media_end|>",
    "<|kimi_k25_video_placeholder|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_image>",
    "<|audio|>",
    "<image>",
    "<im_patch>",
    "<im_start>",
    "<im_end>",
    "<patch_start>",
    "<patch_end>",
    "<patch_newline>",
]
QWEN = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
QWEN |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
# family: token ids of its config by their texts, names of the tokenizer, and its processor: class, then its parts
IDS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("qwen3_vl_moe", "qwen3_5_moe"), QWEN),
    "qwen3_omni_moe": QWEN | {"audio_token_id": "<|audio_pad|>"},
    "glm4v_moe": {
        **{"image_token_id": "<|image|>", "image_start_token_id": "<|begin_of_image|>"},
        **{"image_end_token_id": "<|end_of_image|>", "video_token_id": "<|video|>"},
        **{"video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>"},
    },
    "ernie4_5_vl_moe": {
        **{"image_token_id": "<|IMAGE_PLACEHOLDER|>", "image_start_token_id": "<|IMAGE_START|>"},
        **{"image_end_token_id": "<|IMAGE_END|>", "video_token_id": "<|video_pad|>"},
        **{"video_start_token_id": "<|VIDEO_START|>", "video_end_token_id": "<|VIDEO_END|>"},
    },
    "kimi_k25": {"image_token_id": "<|media_pad|>", "video_token_id": "<|kimi_k25_video_placeholder|>"},
    "llama4": {"image_token_id": "<|patch|>", "image_token_index": "<|patch|>"},
    "mistral_large4": {"image_token_id": "[IMG]", "image_token_index": "[IMG]"},
    "gemma4": {"image_token_id": "<image_soft_token>"},
    "step3p7": {"image_token_id": "<im_patch>"},
    "aria": {"image_token_id": "<image>", "image_token_index": "<image>"},
}
NAMES: dict[str, dict[str, str]] = {
    "qwen3_omni_moe": {
        **{"image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>"},
        **{"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"},
        **{"audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"},
    },
    "ernie4_5_vl_moe": {name.removesuffix("_id"): text for name, text in IDS["ernie4_5_vl_moe"].items()},
    "kimi_k25": {"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"},
    "gemma4": {
        **{"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        **{"audio_token": "<|audio|>", "boa_token": "<|audio_start|>", "eoa_token": "<|audio_end|>"},
    },
    "aria": {"image_token": "<image>"},
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
# What the text model needs besides, with images: three positions of a token.
TEXT: dict[str, dict[str, Any]] = {
    "qwen3_vl_moe": {"rope_parameters": MROPE},
    "qwen3_5_moe": {
        "rope_parameters": MROPE,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
    },
    "qwen3_omni_moe": {"rope_parameters": MROPE},
}
TOWER = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "gemma4": TOWER | {"model_type": "gemma4_vision", "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16},
    "aria": {"image_size": 490, "patch_size": 14},
    "llama4": {"image_size": 336, "patch_size": 14, "intermediate_size": 128},
}
FAMILIES = (*(family for family in IDS if family != "aria"),)


def _named(path: str, *given: Any, **named: Any) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)(*given, **named)


def _tokenizer(family: str) -> Any:
    made = AutoTokenizer.from_pretrained(embedded_path())
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    for name, text in NAMES.get(family, {}).items():
        setattr(made, name, text)
        setattr(made, f"{name}_id", made.convert_tokens_to_ids(text))
    return made


def _processor(family: str, words: Any) -> ProcessorMixin:
    if family.startswith("qwen3"):
        pixels = _named("qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil", patch_size=16, merge_size=2)
        if family == "qwen3_omni_moe":
            from transformers import WhisperFeatureExtractor

            video = _named("qwen2_vl.video_processing_qwen2_vl.Qwen2VLVideoProcessor")
            sound = WhisperFeatureExtractor(feature_size=128)
            return _named("qwen3_omni_moe.processing_qwen3_omni_moe.Qwen3OmniMoeProcessor", pixels, video, sound, words)
        video = _named("qwen3_vl.video_processing_qwen3_vl.Qwen3VLVideoProcessor")
        return _named("qwen3_vl.processing_qwen3_vl.Qwen3VLProcessor", pixels, words, video)
    if family == "glm4v_moe":
        pixels = _named("glm4v.image_processing_pil_glm4v.Glm4vImageProcessorPil")
        video = _named("glm4v.video_processing_glm4v.Glm4vVideoProcessor")
        return _named("glm4v.processing_glm4v.Glm4vProcessor", pixels, words, video)
    if family == "ernie4_5_vl_moe":
        part = "ernie4_5_vl_moe.{}_ernie4_5_vl_moe.Ernie4_5_VLMoe{}"
        pixels = _named(part.format("image_processing_pil", "ImageProcessorPil"))
        video = _named(part.format("video_processing", "VideoProcessor"))
        return _named(part.format("processing", "Processor"), pixels, words, video)
    if family == "kimi_k25":
        part = "kimi_k25.{}_kimi_k25.Kimi_K25{}"
        parts = (_named(part.format(f"{kind}_processing", f"{kind.title()}Processor")) for kind in ("image", "video"))
        pixels, video = parts
        return _named(part.format("processing", "Processor"), pixels, words, video)
    if family == "llama4":
        pixels = _named("llama4.image_processing_llama4.Llama4ImageProcessor")
        return _named("llama4.processing_llama4.Llama4Processor", pixels, words)
    if family == "mistral_large4":
        sizes = {"size": {"longest_edge": 448}, "patch_size": {"height": 14, "width": 14}}
        pixels = _named("pixtral.image_processing_pil_pixtral.PixtralImageProcessorPil", **sizes)
        whole = {"image_processor": pixels, "tokenizer": words, "patch_size": 14, "spatial_merge_size": 2}
        return _named("pixtral.processing_pixtral.PixtralProcessor", **whole)
    if family == "gemma4":
        parts = {
            "feature_extractor": _named("gemma4.feature_extraction_gemma4.Gemma4AudioFeatureExtractor"),
            "image_processor": _named("gemma4.image_processing_pil_gemma4.Gemma4ImageProcessorPil"),
            "video_processor": _named("gemma4.video_processing_gemma4.Gemma4VideoProcessor"),
        }
        return _named("gemma4.processing_gemma4.Gemma4Processor", tokenizer=words, **parts)
    if family == "step3p7":
        pixels = _named("step3p7.image_processing_step3p7.Step3p7ImageProcessor")
        return _named("step3p7.processing_step3p7.Step3p7Processor", pixels, words)
    assert family == "aria"
    pixels = _named("aria.image_processing_pil_aria.AriaImageProcessorPil", max_image_size=490, min_image_size=336)
    sizes = {"image_processor": pixels, "tokenizer": words, "size_conversion": {490: 128, 980: 256}}
    return _named("aria.processing_aria.AriaProcessor", **sizes)


@cache
def image_model(family: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return a tiny random model of a family that takes images, and its processor."""
    words = _tokenizer(family)
    whole = checkpoint_config(family)
    config = text_reader(whole)
    config.update({name: words.convert_tokens_to_ids(text) for name, text in IDS[family].items()})
    text = config.get_text_config().to_dict()
    sizes = {"vocab_size": len(words) + 64, "max_position_embeddings": 4096}
    sizes |= {"vocab_size_per_layer_input": sizes["vocab_size"]} if "vocab_size_per_layer_input" in text else {}
    parts = {"text_config": text | sizes | TEXT.get(family, {})}
    if family in TOWERS:
        parts["vision_config"] = (config.to_dict()["vision_config"] or {}) | TOWERS[family]
    config = type(config).from_dict(config.to_dict() | parts)
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = AutoModelForMultimodalLM.from_config(config).float().eval()
    fill_randomly(model)
    with torch.no_grad():
        for path, values in model.named_parameters():
            if values.abs().sum() == 0:
                values.normal_(0, 0.05)
            elif values.dim() >= 2 and ("visual" in path or "vision" in path or "proj" in path):
                values.mul_(2)
    return model, _processor(family, words)


def picture(width: int = 420, height: int = 280) -> Image.Image:
    """Return an image in which no two places are alike."""
    y, x = np.mgrid[0:height, 0:width]
    parts = x * 255 // max(width, 1), y * 255 // max(height, 1), 128 + 60 * np.sin(x / 9) * np.cos(y / 7)
    return Image.fromarray(np.stack(parts, -1).astype("uint8"))
