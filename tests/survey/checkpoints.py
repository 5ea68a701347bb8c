"""Checkpoints as people have them: tiny and random, in a folder, of the class that transformers maps the config to.

A model that also reads images or sound is saved whole, with its tower; not the text part that the survey of routers
reads.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES, model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from moeviz.capture.models.parameters import auto_class
from survey.tiny_models import SIZES, architectures, fill_randomly, tiny_config, tokenizer

# Architectures whose routers are those of another one, so that a search for routers in their own code finds none; the
# value is the architecture whose text model they hold.
BORROWED = {
    "kimi_k25": "deepseek_v3",
    "nemotron_h_omni": "nemotron_h",
    "sarvam_moe": "glm4_moe",
    "nemotron3_5_transcribe": "nemotron_h",
}
TOWER: dict[str, Any] = {
    **dict.fromkeys(("depth", "num_hidden_layers", "encoder_layers", "n_layers"), 2),
    **dict.fromkeys(("hidden_size", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "moe_intermediate_size"), 48),
    "downsample_hidden_size": 8,
    **dict.fromkeys(("num_heads", "num_attention_heads", "num_key_value_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("out_hidden_size", "output_dim", "projection_dim", "vision_output_dim", "text_hidden_size"), 64),
    **dict.fromkeys(("mlp_dim", "projector_input_dim", "projector_output_dim", "adapter_out_dim"), 64),
    **dict.fromkeys(("head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("projector_hidden_size", "projection_hidden_size", "projection_hidden_dim"), 32),
    **dict.fromkeys(("projection_intermediate_size", "decoder_dim"), 32),
    "position_embedding_size": 64,
    "max_image_size": 64,
    "adapter_in_dim": 32,
    "adapter_input_size": 32,
    "merged_hidden_size": 128,
    "vision_hidden_size": 32,
    "num_local_experts": 4,
}
TOWER_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "qwen3_vl_moe": {"vision_config": {"deepstack_visual_indexes": [0]}},
    "dots3_note": {
        "vision_config": {"mlp_layer_types": ["dense", "sparse"]},
        "audio_config": {"conv_output_size": 512},
    },
    "llama4": {"vision_config": {"image_size": 112, "vision_output_dim": 64}},
    "muse_spark": {"audio_config": {"num_hidden_layers": 4, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}},
    "qwen3_omni_moe": {
        "thinker_config": {"vision_start_token_id": 151652},
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 48}},
    },
    "nemotron3_5_transcribe": {"audio_config": {"diarization_config": {"head_config": {"audio_hidden_size": 32}}}},
}
DERIVED = {
    "per_layer_config",
    "layer_types",
    "mlp_layer_types",
    "transformers_version",
    "architectures",
}  # from the sizes above


def every_architecture() -> tuple[str, ...]:
    """List the architectures with routers of their own, and those that hold another's."""
    return tuple(sorted([*architectures(), *BORROWED]))


def checkpoint_config(architecture: str) -> PreTrainedConfig:
    """Make the config of a tiny checkpoint: the whole model's if transformers has one, else the text model's."""
    types = [name for name in CONFIG_MAPPING_NAMES if model_type_to_module_name(name) == architecture]
    whole = [name for name in types if name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES]
    text = tiny_config(BORROWED.get(architecture, architecture))
    if not whole and architecture not in BORROWED:
        return text
    make = CONFIG_MAPPING[(whole or types)[0]]
    if not make.sub_configs:
        return make(**_shrunk(make().to_dict(), SIZES, text, {})) if architecture in BORROWED else text
    return make.from_dict(_shrunk(make().to_dict(), TOWER, text, TOWER_EXCEPTIONS.get(architecture, {})))


def _shrunk(config: dict, sizes: dict, text: PreTrainedConfig, exceptions: dict) -> dict:
    """Shrink a config and all those in it; the text model's is put in as it is."""
    small: dict[str, Any] = {}
    for name, value in config.items():
        if name in DERIVED:
            continue
        if name in ("text_config", "code_predictor_config") and value.get("model_type") != text.model_type:
            value = _shrunk(value, SIZES, text, exceptions.get(name, {}))
        elif name == "text_config":
            value = text.to_dict()
        elif isinstance(value, dict) and name.endswith("config"):
            value = _shrunk(value, TOWER, text, exceptions.get(name, {}))
        elif name in sizes and value is not None and not isinstance(value, list | tuple):
            value = sizes[name]
        small[name] = value
    return small | {name: value for name, value in exceptions.items() if not isinstance(value, dict)}


def write_checkpoint(architecture: str, folder: Path) -> PreTrainedModel:
    """Save a tiny random checkpoint of an architecture with a tokenizer, and return the model that was saved."""
    config = checkpoint_config(architecture)
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    opener = (
        AutoModelForMultimodalLM if config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES else auto_class(config)
    )
    model = opener.from_config(config).float().eval()
    if config.is_encoder_decoder:
        model.generation_config.decoder_start_token_id = 2
    fill_randomly(model)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model
