"""The embedded model as a folder of mlx-lm, packed by mlx-lm itself in four bits."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moeviz.examples.gguf import EXPERTS

OF_A_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_packed_copy(source: Path, folder: Path, bits: int = 4) -> None:
    """Write a Mixtral of transformers, a folder, as mlx-lm packs it. Raises `CaptureError` where MLX is missing."""
    from moeviz.capture.engines.mlx.installed import need_mlx

    need_mlx()
    with TemporaryDirectory() as place:
        read = Path(place)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (read / "config.json").write_text(json.dumps({**config, **read_by_mlx(config)}), encoding="utf-8")
        shutil.copyfile(source / "model.safetensors", read / "model.safetensors")
        write_packed(read, folder, bits)
    for name in OF_A_TOKENIZER:
        shutil.copyfile(source / name, folder / name)


def write_packed(source: Path, folder: Path, bits: int, group_size: int = 64) -> Path:
    """Write the model of a folder with packed weights, as `mlx_lm.convert -q` does, and without a tokenizer."""
    from mlx_lm import utils

    model, config = utils.load_model(source)
    model, config = utils.quantize_model(model, config, group_size, bits)
    utils.save_model(folder, model)
    utils.save_config(config, folder / "config.json")
    return folder


def read_by_mlx(config: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the fields that mlx-lm looks for under other names than transformers 5 writes."""
    rope = config["rope_parameters"]
    return {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
        "num_experts": next(config[name] for name in EXPERTS if name in config),
    }
