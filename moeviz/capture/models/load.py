"""Open a model: the one that ships with moeviz, a local folder, or an id on the Hugging Face hub.

Only safetensors weights are read, and code that comes with a checkpoint is never run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.parameters import auto_class, describe, empty_model, parameters_of_config
from moeviz.capture.routers.declared import find_routers
from moeviz.embedded import EMBEDDED, embedded_path
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.model_info import ModelInfo

SAFE = {"trust_remote_code": False}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to be traced, with its tokenizer and the facts that are known before it runs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo

    @property
    def name(self) -> str:
        """The name it was asked for by."""
        return self.info.name

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, prompt and generated ones together; None where it says none."""
        return context_length(self.model.config)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` as a prompt, special ones included."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def load_model(
    name: str = EMBEDDED,
    *,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """Open a transformers MoE by the name "embedded", by the path of a folder, or by its id on the hub.

    device_map   as accelerate takes it: "auto", "cpu", "cuda:1", a dict. Default: "auto" with a CUDA GPU, else the CPU.
    dtype        default: float32 for the embedded model, else what the checkpoint says.

    Raises
    ------
    ModelNotFound: no model there. CaptureError: a dense model, or one that moeviz cannot read; known from its config,
    before any weights are loaded.
    """
    source = model_source(name)
    config = _config(name, source, revision)
    find_routers(_on_meta(name, config))
    if dtype is None:
        dtype = torch.float32 if name == EMBEDDED else "auto"
    if device_map is None and torch.cuda.is_available():
        device_map = "auto"
    where = {"revision": revision} if revision else {}
    try:
        model = auto_class(config).from_pretrained(
            source, config=config, dtype=dtype, device_map=device_map, use_safetensors=True, **where, **SAFE
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **where, **SAFE)
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"The model {name!r} has a config, but it did not load: {_first_line(error)}") from error
    return LoadedModel(model.eval(), tokenizer, describe(model, name, getattr(config, "_commit_hash", None)))


def model_facts(name: str, revision: str | None = None) -> ModelInfo:
    """What a model's config alone says of it: layers, experts, parameters. No weights are loaded.

    Well-known models (`known_models.py`) need no network, unless a revision is asked for.
    """
    config = model_config(name, revision)
    try:
        return parameters_of_config(config, name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaptureError(f"The config of {name!r} does not build a model: {_first_line(error)}") from error


def model_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The config of a model, by the same names as `load_model`; of well-known models without a network."""
    if name in KNOWN_MODELS and revision is None and not Path(name).is_dir():
        return KNOWN_MODELS[name].config()
    return _config(name, model_source(name), revision)


def model_source(name: str) -> str:
    """Where transformers finds the model of this name: a folder on this machine, or a hub id as it is."""
    if name == EMBEDDED:
        return str(embedded_path())
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.is_dir():
        raise ModelNotFound(f"The folder {name!r} holds no config.json. Give the folder that save_pretrained wrote.")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name or not name.strip():
        raise ModelNotFound(
            f"There is no model at {name!r}. Give the folder of a transformers checkpoint, a hub id such as "
            f"'allenai/OLMoE-1B-7B-0924', or {EMBEDDED!r} for the model that ships with moeviz."
        )
    return name


def context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that fit into the context of a model with this config, or None where it sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _config(name: str, source: str, revision: str | None) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, **({"revision": revision} if revision else {}), **SAFE
        )
        return config
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(
            f"{name!r} is neither a folder of a transformers model here nor a model that the hub gives us: "
            f"{_first_line(error)}"
        ) from error


def _on_meta(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return empty_model(config)
    except ValueError as error:
        raise CaptureError(
            f"{name!r} is a {config.model_type} model, and transformers has no text-generating form of it: "
            f"{_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
