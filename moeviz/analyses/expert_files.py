"""The weights of experts in the files of a checkpoint, read a few rows at a time: safetensors and GGUF, and no model.

Files are read, and not mapped into memory: the pages of a map stay in it and count as this process's.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.analyses.number_formats import FORMATS, NumberFormat
from moeviz.capture.engines.llama_cpp.files import TYPES, open_files
from moeviz.capture.models.folder import check_inside, check_regular, indexed_files, tensors_of
from moeviz.embedded.own_models import OWN_MODELS, model_folder
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.file_limits import MAX_ALL_EXPERTS, MAX_EXPERTS
from moeviz.text import quoted, why_no_file

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8",
    "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
# One of a layer's tensors, by the parts of its name before and after the layer's number.
IN_LAYER = re.compile(r"(.*?(?:^|(?<=\.))(?:layers|layer|blocks|block|blk|h)\.)(\d{1,5})\.(.+)")
# The ending of a tensor's name gives how it is stored, or what it is to another tensor.
SUFFIX = re.compile(
    r"(?:\.(weight|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|weight_shape|SCB|qweight|bias)"
    r"|_(scale_inv|blocks|scales|bias))$"
)
ALONE = re.compile(r"(?:.*\.)?experts\.(?:expert_)?(\d{1,5})\.(?:\w+\.)*?(\w+)")
FUSED = re.compile(r"(?:(?:.*\.)?experts\.|(?:block_sparse_moe|mlp|moe)\.(?=(?:in|out)put_linear$))(?:\w+\.)*?(\w+)")
DENSE = re.compile(r"(?:mlp|feed_forward|ffn)\.(\w+)")
GGUF = re.compile(r"ffn_(gate|up|down|gate_up)(_exps)?(?:\.(\d{1,5}))?")
# The role of an expert's matrix, by its name. A gated expert is down(act(gate(x)) * up(x)).
ROLES = {
    "gate_proj": "gate", "w1": "gate", "wi_0": "gate",
    "up_proj": "up", "w3": "up", "v1": "up", "wi_1": "up", "wi": "up", "fc1": "up",
    "down_proj": "down", "w2": "down", "wo": "down", "fc2": "down", "output_linear": "down",
    "gate_up_proj": "gate_up", "input_linear": "gate_up",
}  # fmt: skip
DENSE_MLP = -1  # the expert's number of a dense layer's MLP


@dataclass(frozen=True)
class StoredTensor:
    """A tensor where it lies: its file, first byte, number format and shape; the scales of a quantised one."""

    path: Path
    start: int
    format: str
    shape: tuple[int, ...]
    scale: "StoredTensor | None" = None
    zero: "StoredTensor | None" = None  # taken away before scaling
    factor: float = 1.0  # of the scales
    block: tuple[int, int] | None = None  # rows and columns with one scale; None: as the shapes divide

    @property
    def kind(self) -> NumberFormat:
        """The format in which its numbers are stored."""
        return FORMATS[self.format]

    def rows(self, first: int, count: int) -> np.ndarray:
        """(count, last axis) numbers in float32; all axes but the last one count as rows.

        Raises `ModelNotFound` if the file is shorter than it was.
        """
        width = self.shape[-1] if self.shape else 1
        size = width // self.kind.block * self.kind.block_bytes
        data = np.fromfile(self.path, np.uint8, count * size, offset=self.start + first * size)
        if len(data) != count * size:
            raise ModelNotFound(
                f"{quoted(self.path.name)} ended while it was being read. Is it being written? Try again."
            )
        values = self.kind.decode(data.reshape(-1, self.kind.block_bytes)).reshape(count, width)
        if self.zero is not None:
            values = values - self._spread(self.zero, first, count)
        return values if self.scale is None else values * (self._spread(self.scale, first, count) * self.factor)

    def block_of(self, scale: "StoredTensor") -> tuple[int, int]:
        """Rows and columns that have one scale together."""
        (height, width), (tall, wide) = self.shape[-2:], scale.shape[-2:]
        return self.block or (-(-height // tall), -(-width // wide))

    def _spread(self, scale: "StoredTensor", first: int, count: int) -> np.ndarray:
        """Return (count, width) or (count, 1): the scale of each number of these rows."""
        shape = scale.shape
        if prod(shape) == 1:
            return scale.rows(0, 1)
        if len(shape) == 1:
            shape = (*shape, 1)
        height, width = self.shape[-2:]
        tall, wide = self.block_of(replace(scale, shape=shape))
        row = np.arange(first, first + count)
        at = row // height * shape[-2] + row % height // tall
        whole = replace(scale, shape=shape).rows(int(at[0]), int(at[-1] - at[0]) + 1)[at - at[0]]
        return whole if shape[-1] == 1 else np.asarray(np.repeat(whole, wide, axis=1)[:, :width])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of an expert (out, in), which may be a part of a tensor that holds several, or lie on its side there."""

    tensor: StoredTensor
    shape: tuple[int, int]
    first: int = 0  # row of the tensor, all axes but the last counting as rows
    turned: bool = False  # its rows are columns there
    offset: int = 0  # of its first row, beyond `first`
    every: int = 1  # its rows are so far apart

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, in) rows in float32."""
        if not self.turned:
            at = self.first + self.offset + start * self.every
            return self.tensor.rows(at, (stop - start - 1) * self.every + 1)[:: self.every]
        whole = self.tensor.rows(self.first, self.shape[1])
        return whole[:, self.offset + start * self.every :: self.every][:, : stop - start].T

    def pick(self, rows: np.ndarray) -> np.ndarray:
        """(n, in) these rows in float32."""
        if self.turned:
            return np.asarray(self.read(0, self.shape[0])[rows])
        return np.concatenate([self.read(row, row + 1) for row in rows.tolist()])


Expert = dict[str, Matrix]  # by role: gate, up, down
Shapes = tuple[tuple[str, tuple[int, int]], ...]


@dataclass(frozen=True)
class ExpertFiles:
    """The experts of a checkpoint: each layer's by their numbers, each a few matrices that nothing is read of yet."""

    name: str
    layers: dict[int, dict[int, Expert]]
    hidden_size: int
    stack: str  # what stands before the number of each of these layers: "model.layers."
    left_out: tuple[str, ...]  # other stacks of layers with experts

    @property
    def is_dense(self) -> bool:
        """True if its experts are the MLPs of a dense model."""
        return all(list(experts) == [DENSE_MLP] for experts in self.layers.values())

    @cached_property
    def format(self) -> str:
        """The number format of most of its experts' weights: "bfloat16", "Q8_0"."""
        sizes = Counter[str]()
        for experts in self.layers.values():
            for expert in experts.values():
                for matrix in expert.values():
                    sizes[matrix.tensor.format] += prod(matrix.shape)
        return sizes.most_common(1)[0][0]


def open_experts(name: str, stack: str | None = None) -> ExpertFiles:
    """Find the experts in the weights of a checkpoint: one of our own models' name, a folder, or a file.

    In a dense model, each layer's MLP is one expert, number -1. Among several stacks of layers, the one named
    `stack` is taken, or else the one with most experts.

    Raises `ModelNotFound` if there is none, or it is damaged or pickled; `CaptureError` if it has neither experts
    nor MLPs under known names, or stores them in a format that is not read.
    """
    tensors = _tensors(name)
    stacks, dense = _find_experts(name, tensors)
    if not (stacks := stacks or dense):
        raise CaptureError(
            f"{quoted(name)} has neither experts nor MLPs by any name that moeviz knows, among {len(tensors):,} "
            "tensors. Give the checkpoint of a mixture of experts, as transformers saves it or llama.cpp converts it."
        )
    if stack not in stacks:
        stack = max(sorted(stacks), key=lambda one: sum(map(len, stacks[one].values())))
    layers = {layer: dict(sorted(stacks[stack][layer].items())) for layer in sorted(stacks[stack])}
    for layer, experts in layers.items():
        if len({shapes_of(expert) for expert in experts.values()}) > 1:
            raise CaptureError(
                f"The experts of layer {layer} of {quoted(name)} have matrices of different shapes, and only experts "
                "of one shape are compared."
            )
    count = sum(map(len, layers.values()))
    if count > MAX_ALL_EXPERTS:
        raise CaptureError(f"{quoted(name)} has {count:,} experts, and at most {MAX_ALL_EXPERTS:,} are compared.")
    if max(max(experts) for experts in layers.values()) > MAX_EXPERTS:
        raise CaptureError(f"{quoted(name)} numbers experts beyond {MAX_EXPERTS:,}, and no layer has that many.")
    hidden = {expert["down"].shape[0] for experts in layers.values() for expert in experts.values()}
    if len(hidden) > 1:
        raise CaptureError(f"The experts of {quoted(name)} write vectors of different sizes: {sorted(hidden)}.")
    return ExpertFiles(name, layers, hidden.pop(), stack, tuple(sorted(set(stacks) - {stack})))


def shapes_of(expert: Expert) -> Shapes:
    """Return the shapes of an expert's matrices, by what they do."""
    return tuple(sorted((role, matrix.shape) for role, matrix in expert.items()))


def _tensors(name: str) -> dict[str, StoredTensor]:
    if why := why_no_file(name):
        raise ModelNotFound(f"There is no checkpoint at {quoted(name)}: the name {why}.")
    path = model_folder(name) if name in OWN_MODELS else Path(name).expanduser()
    try:
        if path.is_dir():
            check_inside(name, path)
            return _of_folder(name, path)
        check_regular(path)
        there = path.is_file()
    except OSError as error:
        raise ModelNotFound(f"{quoted(name)} cannot be opened: {error.strerror}.") from error
    if path.suffix.lower() in PICKLED:
        raise _pickle_error(name)
    if not there:
        raise ModelNotFound(
            f"There is no checkpoint at {quoted(name)} on this machine. Give a folder with .safetensors files, one "
            "such file, or a .gguf file. A model of the hub is downloaded first: hf download."
        )
    if path.suffix.lower() == ".gguf":
        return _of_gguf(name)
    return _resolve_scales(_of_file(path), {})


def _pickle_error(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"{quoted(name)} holds pickled weights, which can run code when they are read, so moeviz does not. Save the "
        "model as safetensors (save_pretrained does)."
    )


def _of_folder(name: str, folder: Path) -> dict[str, StoredTensor]:
    names = indexed_files(name, folder) or sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        if any(path.suffix.lower() in PICKLED for path in folder.iterdir()):
            raise _pickle_error(name)
        raise ModelNotFound(
            f"The folder {quoted(name)} has no .safetensors file. Give the folder that save_pretrained wrote, or the "
            "path of a .gguf file."
        )
    found: dict[str, StoredTensor] = {}
    for file in names:
        if not (folder / file).is_file():
            raise ModelNotFound(f"{quoted(name)} lacks {quoted(file)}, which its index names. Download it again.")
        found |= _of_file(folder / file)
    return _resolve_scales(found, _config(folder))


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # what it would say is how blocks are scaled, where that is unusual
    return found if isinstance(found, dict) else {}


def _of_file(path: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(path, tensor.start, SAFETENSORS.get(tensor.dtype, tensor.dtype), tensor.shape)
        for name, tensor in tensors_of(path)[0].items()
    }


def _of_gguf(name: str) -> dict[str, StoredTensor]:
    files = open_files(name)
    return {
        tensor.removesuffix(".weight"): StoredTensor(
            *files.places[tensor], TYPES[kind][0] if kind in TYPES else f"type {kind}", shape[::-1]
        )
        for tensor, (kind, shape) in files.tensors.items()
        if tensor.endswith(".weight")
    }


def _resolve_scales(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Map each weight, with its scales, by the name of its module; biases are next to them, as NAME_bias."""
    modules: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = SUFFIX.search(name)
        modules[name[: match.start()] if match else name][(match[1] or match[2]) if match else "weight"] = tensor
    found = {}
    for module, parts in modules.items():
        if "bias" in parts:
            found[f"{module}_bias"] = parts["bias"]
        if weight := parts.get("weight"):
            found[module] = _apply_scale(weight, parts, config)
        elif stored := parts.get("weight_packed") or parts.get("qweight") or parts.get("blocks"):
            packing = next(iter({"weight_packed", "qweight", "blocks"} & set(parts)))
            found[module] = replace(stored, format=f"packed {packing}")
    return found


def _apply_scale(weight: StoredTensor, parts: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> StoredTensor:
    if inverse := parts.get("weight_scale_inv") or parts.get("scale_inv"):
        said = config.get("quantization_config")
        block = said.get("weight_block_size") if isinstance(said, dict) else None
        if not isinstance(block, list) or len(block) != 2 or not all(isinstance(one, int) and one > 0 for one in block):
            block = [128, 128]
        return replace(weight, scale=inverse, block=(block[0], block[1]))
    if scale := parts.get("weight_scale"):  # compressed-tensors
        return replace(weight, scale=scale, zero=parts.get("weight_zero_point"))
    if scale := parts.get("SCB"):  # bitsandbytes: the greatest of each row
        return replace(weight, scale=scale, factor=1 / 127)
    return replace(weight, format=f"{weight.format} without scales") if weight.format in ("int8", "uint8") else weight


Stacks = dict[str, dict[int, dict[int, Expert]]]


def _find_experts(name: str, tensors: Mapping[str, StoredTensor]) -> tuple[Stacks, Stacks]:
    """Find experts and dense MLPs by the stack of layers, layer and number."""
    alone, fused, in_turns = _by_place(tensors)
    experts: Stacks = defaultdict(lambda: defaultdict(dict))
    dense: Stacks = defaultdict(lambda: defaultdict(dict))
    for (stack, layer, number), parts in alone.items():
        if "down" in parts and len(parts) > 1:
            one = {role: _check_tensor(name, tensor, 2) for role, tensor in parts.items()}
            (dense if number == DENSE_MLP else experts)[stack][layer][number] = dict(_matrices(name, one, 0, False))
    for (stack, layer), parts in fused.items():
        if "down" in parts and len(parts) > 1:
            all_of_them = {role: _check_tensor(name, tensor, 3) for role, tensor in parts.items()}
            if len({tensor.shape[0] for tensor in parts.values()}) > 1:
                raise ModelNotFound(f"{quoted(name)} says different numbers of experts of layer {layer}.")
            for number in range(parts["down"].shape[0]):
                of = dict(_matrices(name, all_of_them, number, (stack, layer) in in_turns))
                experts[stack][layer][number] = of
    return dict(experts), dict(dense)


def _by_place(
    tensors: Mapping[str, StoredTensor],
) -> tuple[
    dict[tuple[str, int, int], dict[str, StoredTensor]],
    dict[tuple[str, int], dict[str, StoredTensor]],
    set[tuple[str, int]],
]:
    """Sort matrices by their names: those of one expert each, those of a layer's experts in one, by their roles.

    The third: stacks and layers whose gate and up are one matrix, a row of the one after a row of the other.
    """
    alone: dict[tuple[str, int, int], dict[str, StoredTensor]] = defaultdict(dict)
    fused: dict[tuple[str, int], dict[str, StoredTensor]] = defaultdict(dict)
    in_turns = set()
    for full, tensor in tensors.items():
        if (place := IN_LAYER.fullmatch(full)) is None:
            continue
        stack, layer, rest = place[1], int(place[2]), place[3]
        if rest.endswith("experts.gate_up_proj_bias"):
            in_turns.add((stack, layer))  # gpt-oss
        elif match := GGUF.fullmatch(rest):
            if match[2]:
                fused[stack, layer][match[1]] = tensor
            else:
                alone[stack, layer, int(match[3] or DENSE_MLP)][match[1]] = tensor
        elif (match := ALONE.fullmatch(rest)) and match[2] in ROLES:
            alone[stack, layer, int(match[1])][ROLES[match[2]]] = tensor
        elif (match := FUSED.fullmatch(rest)) and match[1] in ROLES:
            fused[stack, layer][ROLES[match[1]]] = tensor
        elif (match := DENSE.fullmatch(rest)) and match[1] in ROLES:
            alone[stack, layer, DENSE_MLP][ROLES[match[1]]] = tensor
    return alone, fused, in_turns


def _check_tensor(name: str, tensor: StoredTensor, axes: int) -> StoredTensor:
    """Return the tensor, if its format is read and its shape can be an expert's."""
    if tensor.format not in FORMATS:
        raise CaptureError(
            f"The experts of {quoted(name)} are stored as {tensor.format}, which moeviz does not read. Read are "
            f"{', '.join(FORMATS)}; and int8 with the scales of compressed-tensors or bitsandbytes. Give the model as "
            "one of these."
        )
    if len(tensor.shape) != axes or not prod(tensor.shape) or tensor.shape[-1] % tensor.kind.block:
        raise CaptureError(
            f"A tensor of the experts of {quoted(name)} has the shape {' x '.join(map(str, tensor.shape))}, and "
            f"{axes} axes of one number at least are needed. The file may be damaged: make it again."
        )
    if not all(_fits(scale, tensor) for scale in (tensor.scale, tensor.zero) if scale is not None):
        raise CaptureError(f"The scales of the experts of {quoted(name)} do not fit their weights. Save it again.")
    return tensor


def _fits(scale: StoredTensor, tensor: StoredTensor) -> bool:
    """Return whether every number has a scale: one for all, one per row, or one per block of a matrix."""
    if scale.format not in FORMATS or not prod(scale.shape):
        return False
    if prod(scale.shape) == 1 or scale.shape == tensor.shape[:-1] == tensor.shape[:1]:
        return True
    if len(scale.shape) != len(tensor.shape) or scale.shape[:-2] != tensor.shape[:-2]:
        return False
    sizes = tensor.shape[-2:], scale.shape[-2:], tensor.block_of(scale)
    if tensor.block is None and any(size % count for size, count, _ in zip(*sizes, strict=True)):
        return False
    return all(-(-size // block) == count for size, count, block in zip(*sizes, strict=True))


def _matrices(
    name: str, parts: Mapping[str, StoredTensor], number: int, in_turns: bool
) -> Iterator[tuple[str, Matrix]]:
    """Return the matrices of one expert (out, in), whichever way they lie in the file."""
    down = parts["down"].shape[-2:]
    for role, tensor in sorted(parts.items()):
        rows, columns = tensor.shape[-2:]
        if role == "gate_up":
            turned = rows == down[1] and columns == 2 * down[0]
            inner, outer = (down[0], rows) if turned else (down[1], columns)
            if not turned and (rows != 2 * down[1] or columns != down[0]):
                raise CaptureError(f"The matrices of an expert of {quoted(name)} do not fit each other.")
            for half, part in enumerate(("gate", "up")):
                offset, every = (half, 2) if in_turns else (half * inner, 1)
                yield part, Matrix(tensor, (inner, outer), number * rows, turned, offset, every)
        else:
            turned = role == "down" and "gate_up" in parts and parts["gate_up"].shape[-2:] == (columns, 2 * rows)
            shape = (columns, rows) if turned else (rows, columns)
            yield role, Matrix(tensor, shape, number * rows, turned)
