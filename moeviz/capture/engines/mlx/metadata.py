"""The facts of an MLX model: layers, experts, parameters by what they do, and the precision of its weights."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.capture.engines.mlx.blocks import MoeBlock
from moeviz.capture.engines.mlx.installed import mx, nn, trees
from moeviz.capture.models.parameters import PART_OF_PATH
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts

HEADS = ("lm_head", "output", "head")  # how models call what turns the last state into logits
# Beside a packed weight; and what transformers keeps as a buffer, since no gradient moves it.
NO_PARAMETERS = ("scales", "biases", "global_scale", "e_score_correction_bias")
UINT32 = 32  # bits, into which MLX packs quantised weights
LITTLE = 100  # norms and the like are less than one part of so many: their precision is not named


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of parameters, and the module that it is in."""

    path: str
    owner: Any
    size: int  # parameters: of a packed tensor those that are packed
    kind: str  # "bfloat16", "4 bit, groups of 64"


def describe(name: str, model: Any, blocks: Sequence[MoeBlock], top_k: int, caution: str = "") -> ModelInfo:
    """The facts about a model that are known before it runs. No weight is read."""
    tensors = list(_tensors(model))
    return ModelInfo(
        name=name,
        backend="mlx",
        layers=tuple(block.layer for block in blocks),
        num_experts=tuple(block.num_experts for block in blocks),
        top_k=top_k,
        num_layers=len(model.layers),
        dtype=_precision(tensors),
        parameters=_counts(model, tensors, blocks),
        caution=caution,
        recorded_by="hooks",
    )


def weights_bytes(model: Any) -> int:
    """Bytes that the weights take, scales included. None of them is read."""
    return sum(int(array.nbytes) for _, array in trees.tree_flatten(model.parameters()))


def _tensors(model: Any) -> Iterator[Tensor]:
    owners = dict(model.named_modules())
    for path, array in trees.tree_flatten(model.parameters()):
        home, _, own = path.rpartition(".")
        owner = owners[home]
        bits = getattr(owner, "bits", None)
        if bits is None or array.dtype != mx.uint32:
            if own not in NO_PARAMETERS:
                yield Tensor(path, owner, int(array.size), str(array.dtype).removeprefix("mlx.core."))
            continue
        mode = "" if owner.mode == "affine" else f" ({owner.mode})"
        size = int(array.size) * UINT32 // bits
        yield Tensor(path, owner, size, f"{bits} bit{mode}, groups of {owner.group_size}")


def _precision(tensors: Sequence[Tensor]) -> str:
    """Of most weights, and of others that are many: "bfloat16", "4 bit, groups of 64", "4 bit … and 8 bit …"."""
    found = Counter[str]()
    for tensor in tensors:
        found[tensor.kind] += tensor.size
    return " and ".join(kind for kind, size in found.most_common() if size * LITTLE >= found.total())


def _counts(model: Any, tensors: Sequence[Tensor], blocks: Sequence[MoeBlock]) -> ParameterCounts:
    """Parameters by part; a matrix that serves as input and output embedding counts once, since mlx-lm has it once."""
    homes = {id(module): path for path, module in model.named_modules()}
    part_of = {f"{homes[id(block.module)]}.": "routers" for block in blocks}  # and its selection bias, if it has one
    part_of |= {f"{homes[id(module)]}.": "shared_experts" for block in blocks for module in block.shared}
    experts = {f"{homes[id(block.experts)]}.": block for block in blocks}
    part_of |= dict.fromkeys(experts, "routed_experts")
    counts, per_expert = Counter[str](), Counter[int]()
    for tensor in tensors:
        starts = [start for start in part_of if tensor.path.startswith(start)]
        home = max(starts, key=len, default=None)
        counts[part_of[home] if home else _part(tensor)] += tensor.size
        if home in experts:
            per_expert[experts[home].layer] += tensor.size // experts[home].num_experts
    sizes = tuple(per_expert[block.layer] for block in blocks)
    return ParameterCounts(**{part: counts[part] for part in PARTS}, per_expert=sizes)


def _part(tensor: Tensor) -> str:
    if tensor.path.split(".")[-2:][0] in HEADS:
        return "output_embedding"
    if isinstance(tensor.owner, nn.Embedding | nn.QuantizedEmbedding):
        return "input_embedding"
    return next((part for part, pattern in PART_OF_PATH.items() if pattern.search(tensor.path)), "other")
