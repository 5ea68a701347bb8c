"""A folder of mlx-lm: what is in it, refused in a sentence before mlx-lm reads any of it. Needs no MLX."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeviz.capture.models.folder import check_inside
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.text import quoted, why_no_file

PREFIX = "mlx:"  # before a folder, where a name is all that can be said: in the app's settings
WEIGHTS = "model*.safetensors"  # what mlx-lm reads
LARGEST_CONFIG = 64 * 2**20  # bytes
MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # mlx-lm imports its module of that name
LEAST = 2  # experts: one expert is no choice
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
        """Tokens that fit into the model's context; None where the config does not say."""
        limit = self.text.get("max_position_embeddings")
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def model_type(self) -> str:
        """As mlx-lm names architectures."""
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
    """The folder of that name. Raises `ModelNotFound` where there is none of mlx-lm, or one that would run code."""
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
    """The error for a model in which moeviz found no experts that it knows."""
    counts = {
        key: value
        for key, value in folder.text.items()
        if EXPERTS.search(key) and "per_tok" not in key and _is_many(value)
    }
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


def _is_many(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= LEAST


def _config(name: str, path: Path) -> dict[str, Any]:
    """The config, a JSON object with a model_type."""
    wrong = f"The config.json of {quoted(name)} is not one that mlx-lm reads"
    if path.stat().st_size > LARGEST_CONFIG:
        raise ModelNotFound(f"{wrong}: it has more than {LARGEST_CONFIG // 2**20} MB.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelNotFound(f"{wrong}: {type(error).__name__}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelNotFound(f"{wrong}: it is no JSON object with a model_type.")
    if not MODEL_TYPE.fullmatch(config["model_type"]):
        raise ModelNotFound(f"{wrong}: its model_type is {quoted(config['model_type'])}.")
    return config


def _check_no_code(name: str, path: Path, config: dict[str, Any]) -> None:
    """mlx-lm would run a Python file that `model_file` names, some releases of it without asking."""
    if config.get("model_file") is not None:
        raise ModelNotFound(
            f"The config.json of {quoted(name)} names a model_file, {quoted(config['model_file'])}: code that came "
            "with the weights, which moeviz never runs. Use a model that mlx-lm knows by itself."
        )
