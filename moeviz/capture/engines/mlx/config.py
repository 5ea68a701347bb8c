"""Configs that mlx-lm would take for another model than they describe, without a word: found before anything runs.

mlx-lm takes a config's fields by name, and its own default for one that is not there. transformers 5 writes some under
other names (`rope_parameters`), and leaves out what equals a default of its own.
"""

import json
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

from transformers import AutoConfig

from moeviz.capture.engines.mlx.folder import MlxFolder
from moeviz.errors import CaptureError
from moeviz.text import quoted

# How far a text may go changes no number that is computed, and nothing is left to chance.
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
    """Raise `CaptureError` where the config lacks a field without which mlx-lm builds nothing."""
    lacking = [
        name
        for name, field in signature(args_class).parameters.items()
        if field.default is Parameter.empty and name not in folder.config
    ]
    if lacking:
        says = f"does not say {', '.join(lacking)}, without which mlx-lm builds no {folder.model_type}"
        raise _refused(folder, says, {name: _by_transformers(folder, name) for name in lacking})


def check_means_the_same(folder: MlxFolder, args: Any) -> None:
    """Raise `CaptureError` where mlx-lm reads the config as another model. `args`: what it made of the config."""
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
            raise _refused(folder, says, {name: meant})


def caution_of(folder: MlxFolder) -> str:
    """A caution for a model whose positions mlx-lm scales a little differently; "" for others.

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
    """`rope_parameters`, which transformers 5 writes, against what mlx-lm took from `rope_theta` and others."""
    rope = folder.text.get("rope_parameters")
    if not isinstance(rope, dict) or not rope or hasattr(args, "rope_parameters"):
        return
    kind = f"mlx-lm's {folder.model_type}"
    if any(isinstance(value, dict) for value in rope.values()):
        says = f"gives its kinds of layers rope_parameters of their own, which {kind} does not read{WRONG}"
        raise _refused(folder, says, {})
    for name in ("rope_theta", "partial_rotary_factor"):
        meant, taken = rope.get(name, Missing), getattr(args, name, Missing)
        if Missing not in (meant, taken) and meant != taken:
            says = f"has {name} = {meant} in rope_parameters, where {kind} does not look: it takes {taken!r}{WRONG}"
            raise _refused(folder, says, {name: meant})
    scaled = rope.get("rope_type", rope.get("type"))
    if scaled not in PLAIN and not getattr(args, "rope_scaling", None):
        says = f"has {scaled!r} in rope_parameters, where {kind} does not look: it takes no scaling{WRONG}"
        raise _refused(folder, says, {"rope_scaling": rope})


def _refused(folder: MlxFolder, says: str, add: dict[str, Any]) -> CaptureError:
    """The sentence: what the config says, what mlx-lm makes of it, and which field to add."""
    known = {name: value for name, value in add.items() if value is not Missing}
    what = ", ".join(f"{json.dumps(name)}: {json.dumps(value, default=str)}" for name, value in known.items())
    do = f"Add {what} to config.json." if known else "Use a config.json that mlx_lm.convert takes as it is."
    return CaptureError(f"The config.json of {quoted(folder.name)} {says}. {do}")


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _by_transformers(folder: MlxFolder, name: str) -> Any:
    """A field of the config as transformers reads it; `Missing` where it knows neither field nor model."""
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
