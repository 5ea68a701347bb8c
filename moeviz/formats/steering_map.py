"""Maps of experts to turn up and down, for engines that steer by them: JSON with the shape, and a file of numbers.

{
  "format":  "ds4-expert-steering-v1",
  "shape":   [43, 256],              all layers of the model, dense ones too, and the experts of a layer
  "model":   "deepseek-ai/…",
  "layers":  [3, 4, …]               with an expert that is turned
}

The numbers are in a file of the same name with the suffix `.f32`: float32, little endian, a row per layer; above 0 an
expert is turned up, and below it down. DwarfStar 4 reads only that file (antirez/ds4, pull request 168).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_ALL_EXPERTS, shown
from moeviz.formats.trace_facts import parse_json
from moeviz.model_info import ModelInfo
from moeviz.text import quoted
from moeviz.whole_files import write_file

STEERING_FORMAT = "ds4-expert-steering-v1"
FACTS, NUMBERS = ".json", ".f32"
MAX_FACTS = 2**24  # bytes: others add a report of each layer
Amounts = dict[int, dict[int, float]]  # by layer and expert, as `moeviz.Bias` takes them


def write_steering_map(amounts: Mapping[int, Mapping[int, float]], model: ModelInfo, path: str | Path) -> None:
    """Write amounts by layer and expert to a `.json` file and a `.f32` file of the same name.

    Raises `InvalidTrace` for another suffix, and `OSError` if the files cannot be written.
    """
    _check_suffix(path)
    facts, numbers = to_steering_map(amounts, model)
    write_file(Path(path).with_suffix(NUMBERS), numbers)
    write_file(path, facts)


def to_steering_map(amounts: Mapping[int, Mapping[int, float]], model: ModelInfo) -> tuple[bytes, bytes]:
    """Write amounts by layer and expert as the bytes of the `.json` file and of the `.f32` file."""
    layers = model.num_layers or max(model.layers) + 1
    table = np.zeros((layers, max(model.num_experts)), "<f4")
    for layer, of in amounts.items():
        for expert, amount in of.items():
            table[layer, expert] = amount
    facts = {"format": STEERING_FORMAT, "shape": list(table.shape), "model": model.name, "layers": sorted(amounts)}
    return (json.dumps(facts, ensure_ascii=False, indent=2) + "\n").encode(), table.tobytes()


def read_steering_map(path: str | Path) -> Amounts:
    """Read amounts by layer and expert, those that are not 0, from a `.json` file and the `.f32` file of the same name.

    Raises `InvalidTrace` for anything else, and `OSError` if the files cannot be read.
    """
    _check_suffix(path)
    numbers = Path(path).with_suffix(NUMBERS)
    with Path(path).open("rb") as file:
        data = file.read(MAX_FACTS + 1)
    facts = parse_json(data, "map") if len(data) <= MAX_FACTS else {}
    shape = facts.get("shape")
    if facts.get("format") != STEERING_FORMAT or not _is_shape(shape):
        raise InvalidTrace(
            f"{quoted(Path(path).name)} is no map of experts to turn up and down: its format is "
            f"{shown(facts.get('format'))} and its shape {shown(shape)}. Write it with `moeviz contrast --steering`."
        )
    size = 4 * shape[0] * shape[1]
    with numbers.open("rb") as file:
        data = file.read(size + 1)
    table = np.frombuffer(data, "<f4").reshape(shape) if len(data) == size else np.array([np.nan])
    if not np.isfinite(table).all():
        raise InvalidTrace(
            f"{quoted(numbers.name)} is damaged: {shape[0]:,} layers of {shape[1]:,} experts are {size:,} bytes of "
            "finite numbers. Write the map again."
        )
    amounts: Amounts = {}
    for layer, expert in np.argwhere(table).tolist():
        amounts.setdefault(layer, {})[expert] = float(table[layer, expert])
    return amounts


def _check_suffix(path: str | Path) -> None:
    if Path(path).suffix.lower() != FACTS:
        raise InvalidTrace(
            f"A map of experts has the suffix {FACTS}, and its numbers lie beside it. {quoted(Path(path).name)} has "
            "another suffix."
        )


def _is_shape(shape: object) -> TypeGuard[list[int]]:
    return (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(part) is int and part > 0 for part in shape)
        and shape[0] * shape[1] <= MAX_ALL_EXPERTS
    )
