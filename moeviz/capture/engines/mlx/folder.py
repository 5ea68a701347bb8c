"""A folder of mlx-lm: what is in it, refused in a sentence before mlx-lm reads any of it. Needs no MLX.

A config that mlx-lm would silently take for another model than it describes is found before anything runs: mlx-lm takes
a config's fields by name, and its own default for one that is missing. transformers 5 writes some under other names
(`rope_parameters`), and leaves out those that equal its own defaults.
"""

import json
import re
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from moeviz.capture.models.folder import check_inside
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.text import quoted, why_no_file

PREFIX = "mlx:"  # before a folder, where only a name can be given: in the app's settings
WEIGHTS = "model*.safetensors"  # what mlx-lm reads
LARGEST_CONFIG = 64 * 2**20  # bytes
MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # mlx-lm imports its module of that name
LEAST = 2  # experts: a single expert is not a choice
EXPERTS = re.compile(r"(^|_)(experts|moe)(_|$)")  # in the names of a config's fields


@dataclass(frozen=True, slots=True)
class MlxFolder:
    """A folder of mlx-lm, and its config.json as it stands."""

    name: str  # as it was asked for
    path: Path
    config: dict[str, Any]

    @property
    def text(self) -> dict[str, Any]:
        """The part of the config that is about the language model."""
        part = self.config.get("text_config")
        return part if isinstance(part, dict) else self.config

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context; None if the config does not say."""
        limit = self.text.get("max_position_embeddings")
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def model_type(self) -> str:
        """The architecture as mlx-lm names it."""
        return str(self.config["model_type"])


def is_of_mlx(name: str) -> bool:
    """True if a name can be of no other engine: it says so, or its config has mlx-lm's mark of quantised weights.

    transformers writes `quantization_config`, and its own readers stumble over the packed weights.
    """
    if name.startswith(PREFIX):
        return True
    try:
        config = Path(name).expanduser() / "config.json"
        if why_no_file(name) or not config.is_file():
            return False
        said = _config(name, config).get("quantization")
    except (OSError, RuntimeError, ModelNotFound):
        return False
    return isinstance(said, dict) and "group_size" in said


def read_folder(name: str) -> MlxFolder:
    """Return the folder of this name. Raises `ModelNotFound` if it is not one of mlx-lm, or would run code."""
    place = name.removeprefix(PREFIX)
    if why := why_no_file(place):
        raise ModelNotFound(f"There is no MLX model at {quoted(name)}: the name {why}.")
    try:
        path = Path(place).expanduser()
        is_folder, has_config = path.is_dir(), (path / "config.json").is_file()
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"The folder {quoted(name)} cannot be opened: {error}.") from error
    if not is_folder:
        raise ModelNotFound(
            f"There is no folder {quoted(name)}. For MLX give a folder that “mlx_lm.convert” wrote, or that “hf "
            "download” brought to this machine."
        )
    if not has_config:
        raise ModelNotFound(f"The folder {quoted(name)} contains no config.json. Give a folder of mlx-lm.")
    check_inside(name, path)
    config = _config(name, path / "config.json")
    _check_no_code(name, path, config)
    if not any(path.glob(WEIGHTS)):
        raise ModelNotFound(
            f"The folder {quoted(name)} holds no weights that mlx-lm reads: files named {WEIGHTS}. Convert the model "
            "with “mlx_lm.convert”."
        )
    return MlxFolder(name, path, config)


def why_no_experts(folder: MlxFolder) -> CaptureError:
    """Return the error for a model in which moeviz found no experts that it knows."""
    named = {key: value for key, value in folder.text.items() if EXPERTS.search(key) and "per_tok" not in key}
    counts = {key: value for key, value in named.items() if type(value) is int and value >= LEAST}
    if not counts:
        return CaptureError(
            f"{quoted(folder.name)} is a {folder.model_type} model, and no layer of it has experts, so there is no "
            "routing to record. Is it a dense model?"
        )
    key, value = next(iter(counts.items()))
    return CaptureError(
        f"The config.json of {quoted(folder.name)} says {key} = {value}, but mlx-lm's {folder.model_type} runs its "
        "experts in a way that moeviz does not know (neither SwitchGLU nor SwitchMLP). Record it from the "
        "transformers checkpoint."
    )


def _config(name: str, path: Path) -> dict[str, Any]:
    """Return the config, a JSON object with a model_type."""
    wrong = f"The config.json of {quoted(name)} is not one that mlx-lm reads"
    if path.stat().st_size > LARGEST_CONFIG:
        raise ModelNotFound(f"{wrong}: it has more than {LARGEST_CONFIG // 2**20} MB.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelNotFound(f"{wrong}: {type(error).__name__}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelNotFound(f"{wrong}: it is not a JSON object with a model_type.")
    if not MODEL_TYPE.fullmatch(config["model_type"]):
        raise ModelNotFound(f"{wrong}: its model_type is {quoted(config['model_type'])}.")
    return config


def _check_no_code(name: str, path: Path, config: dict[str, Any]) -> None:
    """Refuse a `model_file`: mlx-lm would run it as Python, in some releases without asking."""
    if config.get("model_file") is not None:
        raise ModelNotFound(
            f"The config.json of {quoted(name)} names a model_file, {quoted(config['model_file'])}: code that came "
            "with the weights, which moeviz never runs. Use a model that mlx-lm knows by itself."
        )


# Fields that change no computed number; attention_dropout is off, since nothing is trained.
DECIDES_NOTHING = {
    "model_type",
    "max_position_embeddings",
    "vocab_size",
    "pad_token_id",
    "bos_token_id",
    "attention_dropout",
    "use_cache",
    "initializer_range",
}
OF_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
PLAIN = (None, "default")
WRONG = ", so its routing would be another model's"
Missing = object()


def check_complete(folder: MlxFolder, args_class: type) -> None:
    """Raise `CaptureError` if the config lacks a field without which mlx-lm builds nothing."""
    lacking = [
        name
        for name, field in signature(args_class).parameters.items()
        if field.default is Parameter.empty and name not in folder.config
    ]
    if lacking:
        says = f"does not say {', '.join(lacking)}, without which mlx-lm builds no {folder.model_type}"
        raise _config_error(folder, says, {name: _by_transformers(folder, name) for name in lacking})


def check_means_the_same(folder: MlxFolder, args: Any) -> None:
    """Raise `CaptureError` if mlx-lm reads the config as another model. `args`: what it made of the config."""
    _check_rope(folder, args)
    for field in fields(args):
        name, taken = field.name, getattr(args, field.name)
        if name in folder.text or name in DECIDES_NOTHING or name in OF_ROPE or not _is_plain(taken):
            continue
        meant = _by_transformers(folder, name)
        if meant is not Missing and _is_plain(meant) and meant != taken:
            says = (
                f"does not say {name}: mlx-lm's {folder.model_type} takes {taken!r}, and transformers {meant!r}{WRONG}"
            )
            raise _config_error(folder, says, {name: meant})


def caution_of(folder: MlxFolder) -> str:
    """Return a caution for a model whose positions mlx-lm scales a little differently; "" for others.

    gpt-oss asks YaRN not to round the range of frequencies that it corrects; mlx-lm's YaRN always rounds it.
    """
    said = (folder.text.get(name) for name in ("rope_scaling", "rope_parameters"))
    if not any(isinstance(rope, dict) and rope.get("truncate") is False for rope in said):
        return ""
    return (
        "The config asks for YaRN with truncate = false, and mlx-lm rounds there all the same: the routing is "
        "mlx-lm's, and that of transformers differs."
    )


def _check_rope(folder: MlxFolder, args: Any) -> None:
    """Compare `rope_parameters`, which transformers 5 writes, with what mlx-lm read from `rope_theta` and others."""
    rope = folder.text.get("rope_parameters")
    if not isinstance(rope, dict) or not rope or hasattr(args, "rope_parameters"):
        return
    kind = f"mlx-lm's {folder.model_type}"
    if any(isinstance(value, dict) for value in rope.values()):
        says = f"gives its kinds of layers rope_parameters of their own, which {kind} does not read{WRONG}"
        raise _config_error(folder, says, {})
    for name in ("rope_theta", "partial_rotary_factor"):
        meant, taken = rope.get(name, Missing), getattr(args, name, Missing)
        if Missing not in (meant, taken) and meant != taken:
            says = f"has {name} = {meant} in rope_parameters, where {kind} does not look: it takes {taken!r}{WRONG}"
            raise _config_error(folder, says, {name: meant})
    scaled = rope.get("rope_type", rope.get("type"))
    if scaled not in PLAIN and not getattr(args, "rope_scaling", None):
        says = f"has {scaled!r} in rope_parameters, where {kind} does not look: it takes no scaling{WRONG}"
        raise _config_error(folder, says, {"rope_scaling": rope})


def _config_error(folder: MlxFolder, says: str, add: dict[str, Any]) -> CaptureError:
    """Return the sentence: what the config has, what mlx-lm makes of it, and which field to add."""
    known = {name: value for name, value in add.items() if value is not Missing}
    what = ", ".join(f"{json.dumps(name)}: {json.dumps(value, default=str)}" for name, value in known.items())
    do = f"Add {what} to config.json." if known else "Use a config.json that mlx_lm.convert takes as it is."
    return CaptureError(f"The config.json of {quoted(folder.name)} {says}. {do}")


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _by_transformers(folder: MlxFolder, name: str) -> Any:
    """Return a field of the config as transformers reads it; `Missing` if it knows neither field nor model."""
    from transformers import AutoConfig  # the menu asks whose a folder is, and brings no transformers

    try:
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
        text = config.get_text_config()
    except Exception:  # a stranger's config, and an architecture that transformers need not know
        return Missing
    rope = getattr(text, "rope_parameters", None) or {}
    if name in ("rope_theta", "partial_rotary_factor") and name in rope:
        return rope[name]
    if name == "rope_scaling":
        return None if rope.get("rope_type") in PLAIN else rope
    return getattr(text, name, Missing)
