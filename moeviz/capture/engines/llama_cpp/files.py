"""The files of a GGUF model: whether all parts are there and whole, and their facts: layers, experts, parameters.

No weight is read, and llama.cpp is not needed. The sizes and counts that a file gives are not trusted: they are checked
against the file before llama.cpp sees it.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

from moeviz.errors import CaptureError, InvalidTrace, ModelNotFound
from moeviz.file_limits import check_experts, shown
from moeviz.gguf_file import MAGIC, Gguf, Value, from_gguf
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts
from moeviz.parameters import LayerCache, ServedModel
from moeviz.text import quoted, why_no_file

SUFFIX = ".gguf"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# The types of tensors by their number: name, weights of a block, bytes of a block (ggml's type_traits).
_ROWS = csv.reader(Path(__file__).with_name("tensor_types.csv").read_text("utf-8").splitlines()[1:])
TYPES = {int(number): (name, int(weights), int(size)) for number, name, weights, size in _ROWS}
Tensors = dict[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """A model in one file or several: what it says of itself, and the type and shape of each tensor."""

    name: str  # under which it was asked for
    paths: tuple[Path, ...]
    facts: Mapping[str, Value]  # of the first part
    tensors: Tensors
    places: Mapping[str, tuple[Path, int]]  # the file of each tensor, and its first byte
    size: int  # bytes of all parts

    @property
    def architecture(self) -> str:
        """The architecture as llama.cpp calls it, such as "qwen3moe"."""
        return str(self.facts.get("general.architecture", ""))

    @property
    def identity(self) -> str:
        """A text that is another for other weights: of names, sizes and times."""
        seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return sha256(repr(seen).encode()).hexdigest()

    def number(self, key: str) -> int | None:
        """Read one of the architecture's own facts; of one that differs from layer to layer, the largest."""
        value = self.facts.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and value:
            value = max(value)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def open_files(name: str) -> GgufFiles:
    """Open all parts of the GGUF model whose file, or first part, has this name.

    Raises `ModelNotFound` if a part is missing, damaged or cut off, or is not part of a model.
    """
    first = _path(name)
    paths = _parts(name, first)
    files = [_header(name, path) for path in paths]
    tensors: Tensors = {}
    places: dict[str, tuple[Path, int]] = {}
    for path, file in zip(paths, files, strict=True):
        _check_whole(name, path, file)
        tensors |= {tensor: (kind, shape) for tensor, (kind, shape, _) in file.tensors.items()}
        places |= {tensor: (path, start) for tensor, (_, _, start) in file.tensors.items()}
    facts = files[0].facts
    _check_is_a_model(name, facts, len(paths))
    return GgufFiles(name, paths, facts, tensors, places, sum(path.stat().st_size for path in paths))


def _path(name: str) -> Path:
    if why := why_no_file(name):
        raise ModelNotFound(f"There is no GGUF file at {quoted(name)}: the name {why}.")
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be opened: {error}.") from error
    raise ModelNotFound(f"There is no GGUF file at {quoted(name)}. Give the path of a .gguf file on this machine.")


def _parts(name: str, first: Path) -> tuple[Path, ...]:
    """Return the file, or all files of a model that was split: NAME-00001-of-00003.gguf and so on."""
    if (match := PART.fullmatch(first.name)) is None:
        return (first,)
    stem, number, count = match[1], int(match[2]), int(match[3])
    names = [f"{stem}-{part:05}-of-{count:05}{first.name[-len(SUFFIX) :]}" for part in range(1, count + 1)]
    if number != 1:
        raise ModelNotFound(f"{quoted(name)} is part {number} of {count} of a model. Give its first part: {names[0]}.")
    paths = tuple(first.with_name(part) for part in names)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelNotFound(
            f"{quoted(name)} is the first of {count} parts, and {len(missing)} of them are not next to it: {missing[0]}"
            f"{' and others' * (len(missing) > 1)}. Download all parts into one folder."
        )
    return paths


def _header(name: str, path: Path) -> Gguf:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelNotFound(f"{quoted(name)} is not a GGUF file: it does not begin with the letters GGUF.")
            with mmap(file.fileno(), size, access=ACCESS_READ) as data:
                found = from_gguf(data)
                return Gguf(bytes(0), found.facts, found.tensors)  # of the file, nothing is kept open
    except InvalidTrace as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be read: {error}") from error
    except OSError as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be opened: {error.strerror or error}.") from error


def _check_whole(name: str, path: Path, file: Gguf) -> None:
    """Raise `ModelNotFound` if the file ends before its last tensor does."""
    size, needed = path.stat().st_size, 0
    for tensor, (kind, shape, start) in file.tensors.items():
        if not shape or not all(shape) or prod(shape) > 2**48:
            raise ModelNotFound(
                f"The GGUF file {quoted(name)} says that its tensor {shown(tensor)} has the shape {shown(shape)}, "
                "which cannot be. It was damaged: download it again."
            )
        _, block, of_block = TYPES.get(kind, ("", prod(shape), 1))
        needed = max(needed, start + prod(shape) // block * of_block)
    if needed > size:
        raise ModelNotFound(
            f"The GGUF file {quoted(path.name)} was cut off: its tensors need {needed:,} bytes, and it has {size:,}. "
            "Download it again."
        )


def _check_is_a_model(name: str, facts: Mapping[str, Value], parts: int) -> None:
    kind = facts.get("general.type", "model")
    if kind != "model":
        raise ModelNotFound(
            f"The GGUF file {quoted(name)} holds no model; it holds: {shown(kind)}. Give a model's file."
        )
    if not isinstance(facts.get("general.architecture"), str):
        raise ModelNotFound(f"The GGUF file {quoted(name)} does not name its architecture. Convert the model again.")
    if (count := facts.get("split.count", 0)) not in (0, parts):
        raise ModelNotFound(
            f"The GGUF file {quoted(name)} is one of {shown(count)} parts, and its name does not say so. Give the "
            "parts the names that they had: NAME-00001-of-00003.gguf and so on."
        )


BACKEND = "llama.cpp"
LAYER = re.compile(r"blk\.(\d{1,6})\.")
EXPERTS = re.compile(r"blk\.(\d{1,6})\.ffn_(?:gate|up|down|gate_up)_exps\.weight")
# The first pattern found in a tensor's name says what it does; what fits none is "other".
PART_OF_NAME = {
    "input_embedding": re.compile(r"^token_embd\."),
    "output_embedding": re.compile(r"^output\."),
    "shared_experts": re.compile(r"_shexp\."),
    "routed_experts": re.compile(r"_exps\."),
    "routers": re.compile(r"\.ffn_gate_inp\b"),
    "attention": re.compile(r"\.attn_(?!(norm|norm_2|post_norm)\.)"),
    "dense_layers": re.compile(r"\.ffn_(gate|up|down)\b"),
}
# Tables that are computed, and the biases of balancing, which a rule sets and no gradient: transformers counts neither.
NO_PARAMETERS = re.compile(r"(^|\.)(rope_(freqs|factors_long|factors_short)|exp_probs_b)\b")
# The names of mixtures of types: `general.file_type`, llama.cpp's enum llama_ftype.
FILE_TYPES = {
    0: "float32", 1: "float16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "bfloat16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


def describe(files: GgufFiles) -> ModelInfo:
    """Read the facts of GGUF files that are open. Layers that predict further tokens (`nextn`) do not count."""
    if files.architecture == "grovemoe":
        raise CaptureError(
            f"{quoted(files.name)} is of the architecture grovemoe, which calls its experts twice in each layer, and "
            "llama.cpp gives both calls one name, so moeviz cannot tell their routing apart. Use its transformers "
            "checkpoint."
        )
    blocks = files.number("block_count") or 0
    num_layers = max(blocks - (files.number("nextn_predict_layers") or 0), 0)
    experts = {layer: count for layer, count in _experts(files).items() if layer < num_layers}
    if not experts:
        raise CaptureError(
            f"{quoted(files.name)} is a dense model of the architecture {quoted(files.architecture)}: no layer of it "
            "has experts, so there is no routing to record. Give the GGUF file of a mixture of experts."
        )
    info = ModelInfo(
        name=files.name,
        backend=BACKEND,
        layers=tuple(experts),
        num_experts=tuple(experts.values()),
        top_k=_top_k(files, min(experts.values())),
        num_layers=num_layers,
        dtype=quantisation(files),
        parameters=_parameters(files, experts, num_layers),
    )
    try:
        check_experts(info)
    except InvalidTrace as error:
        raise ModelNotFound(f"The GGUF file {quoted(files.name)} cannot be right: {error}") from error
    return info


def served_model(files: GgufFiles, info: ModelInfo) -> ServedModel | None:
    """Read what serving the model takes; None if its file does not say what a layer keeps of a text."""
    hidden, caches = files.number("embedding_length"), _caches(files, info.num_layers or 0)
    _, embedding = files.tensors.get("token_embd.weight", (0, ()))
    if not hidden or not embedding or caches is None or info.parameters is None:
        return None
    return ServedModel(info.name, info.parameters, max(info.num_experts), info.top_k, hidden, embedding[-1], caches)


def _caches(files: GgufFiles, num_layers: int) -> tuple[LayerCache, ...] | None:
    """Return the number of values that each layer keeps per token (keys and values, or latents), by weight shapes.

    None for layers that keep a state, or whose queries, keys and values are one matrix, and if a window is given
    without the layers that it applies to.
    """
    windows = _windows(files, num_layers)
    if windows is None:
        return None
    found = []
    for layer, window in enumerate(windows):
        shapes = [files.tensors.get(f"blk.{layer}.{name}.weight") for name in ("attn_kv_a_mqa", "attn_k", "attn_v")]
        latent, *parts = (None if tensor is None else tensor[1][-1] for tensor in shapes)
        if latent is None and None in parts:
            return None
        found.append(LayerCache(0, latent or sum(filter(None, parts)), window))
    return tuple(found)


def _windows(files: GgufFiles, num_layers: int) -> list[int | None] | None:
    """Return the tokens that each layer keeps at most, as in transformers; None for a window without a pattern."""
    if not (window := files.number("attention.sliding_window")):
        return [None] * num_layers
    pattern = files.facts.get(f"{files.architecture}.attention.sliding_window_pattern")
    if files.architecture == "gpt-oss":
        pattern = tuple(layer % 2 == 0 for layer in range(num_layers))
    if not isinstance(pattern, tuple) or len(pattern) < num_layers:
        return None
    return [window - 1 if slides else None for slides in pattern[:num_layers]]


def quantisation(files: GgufFiles) -> str:
    """Return how its weights are stored: the name in the file, or else the type of most of them."""
    said = files.facts.get("general.file_type")
    if isinstance(said, int) and said in FILE_TYPES:
        return FILE_TYPES[said]
    sizes: Counter[int] = Counter()
    for kind, shape in files.tensors.values():
        sizes[kind] += prod(shape)
    most = sizes.most_common(1)[0][0]
    return TYPES[most][0] if most in TYPES else f"type {most}"


def _experts(files: GgufFiles) -> dict[int, int]:
    """Return the number of experts per layer, from the last axis of their matrices."""
    found: dict[int, int] = {}
    for name, (_, shape) in sorted(files.tensors.items()):
        if match := EXPERTS.fullmatch(name):
            layer = int(match[1])
            if len(shape) != 3 or found.setdefault(layer, shape[-1]) != shape[-1]:
                raise ModelNotFound(
                    f"The GGUF file {quoted(files.name)} says different things of the experts of layer {layer}. It was "
                    "damaged: download it again."
                )
    return dict(sorted(found.items()))


def _top_k(files: GgufFiles, experts: int) -> int:
    top_k = files.number("expert_used_count")
    if top_k is None or not 1 <= top_k <= experts:
        raise ModelNotFound(
            f"The GGUF file {quoted(files.name)} says that a token goes to {top_k} of {experts} experts, which cannot "
            "be. Make it again."
        )
    return top_k


def _parameters(files: GgufFiles, experts: dict[int, int], num_layers: int) -> ParameterCounts:
    """Count parameters by their purpose. A matrix that is stored whole and in halves (`attn_kv_b`) counts once."""
    counts, of_experts = dict.fromkeys(PARTS, 0), dict.fromkeys(experts, 0)
    for name, (_, shape) in files.tensors.items():
        layer = int(match[1]) if (match := LAYER.match(name)) else None
        twice = name.replace("attn_kv_b.", "attn_k_b.") if "attn_kv_b." in name else None
        if NO_PARAMETERS.search(name) or twice in files.tensors or (layer is not None and layer >= num_layers):
            continue
        part = next((part for part, pattern in PART_OF_NAME.items() if pattern.search(name)), "other")
        counts[part] += prod(shape)
        if part == "routed_experts" and layer in of_experts:
            of_experts[layer] += prod(shape)
    return ParameterCounts(**counts, per_expert=tuple(of_experts[layer] // count for layer, count in experts.items()))
