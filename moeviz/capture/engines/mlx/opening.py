"""Open an MLX model, or say what it is. MLX itself is imported only then, once the folder has been looked through."""

from typing import Any

from moeviz.capture.engines.engine import BeforeOpening
from moeviz.capture.engines.mlx.facts import weights_bytes
from moeviz.capture.engines.mlx.folder import read_folder
from moeviz.capture.engines.mlx.installed import need_mlx
from moeviz.capture.engines.mlx.loading import facts_of, load, with_weights
from moeviz.capture.engines.mlx.model import MlxModel
from moeviz.capture.models.identity import weights_identity
from moeviz.capture.models.memory import ROOM, check_bytes
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.text import quoted

DTYPES = ("float32", "bfloat16", "float16")
WAY_AROUND = " To load it all the same: `check_memory=False`, or `--ignore-memory` on the command line."


def open_model(name: str, *, dtype: str | None = None, check_memory: bool = True, **transformers_only: Any) -> MlxModel:
    """Open a folder of mlx-lm, on the device that MLX takes by default.

    dtype         in which what is not quantised is computed; default ("auto"): as the folder has it.
    check_memory  compare the size of the weights with the memory that is free, before any of them is read.

    Raises
    ------
    ModelNotFound: there is no such folder, its files are damaged, or code came with it. CaptureError: MLX is missing; a
    dense model, or one whose routing moeviz cannot tell; a config that mlx-lm would take for another model; or weights
    that do not fit into memory.

    Before the model is returned, eight tokens are run through it, and every MoE block must add up its experts' answers
    as moeviz says that it does.
    """
    if given := [option for option, value in transformers_only.items() if value is not None]:
        raise CaptureError(
            f"{quoted(name)} runs in MLX, on the device that MLX takes by default: it takes no {given[0]}. Leave that "
            "out, or load the transformers checkpoint."
        )
    if dtype not in (None, "auto", *DTYPES):
        raise CaptureError(f"dtype is {dtype!r}; for MLX it must be one of {', '.join(DTYPES)}, or None.")
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    if check_memory:
        check_bytes(quoted(name), int(weights_bytes(lazy) * ROOM), "as it is", None, WAY_AROUND)
    return MlxModel(folder, with_weights(folder, lazy, None if dtype == "auto" else dtype))


def model_facts(name: str) -> ModelInfo:
    """What the files of a folder say of a model: layers, experts, parameters. No weights are read.

    Raises what `open_model` raises before it reads them.
    """
    folder = read_folder(name)
    need_mlx()
    return facts_of(folder, load(folder))


def before_opening(name: str) -> BeforeOpening:
    """The same, with the bytes that its weights take and what a run takes besides, its context, and which weights."""
    folder = read_folder(name)
    need_mlx()
    lazy = load(folder)
    size = int(weights_bytes(lazy) * ROOM)
    return BeforeOpening(facts_of(folder, lazy), size, folder.max_tokens, weights_identity(str(folder.path)))
