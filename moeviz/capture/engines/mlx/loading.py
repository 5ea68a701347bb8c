"""A folder of mlx-lm as a model in memory: built lazily, compared with its config, and only then filled.

Its facts are read off the model: layers, experts, parameters by what they do, and the precision of its weights.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from moeviz.capture.engines.mlx.blocks import MoeBlock, find_blocks
from moeviz.capture.engines.mlx.folder import (
    MlxFolder,
    caution_of,
    check_complete,
    check_means_the_same,
    why_no_experts,
)
from moeviz.capture.engines.mlx.hooks import BlockHooks
from moeviz.capture.engines.mlx.installed import caches, lm, mx, nn, trees
from moeviz.capture.models.checkpoint import LONGEST_COMPLAINT, explained
from moeviz.capture.models.parameters import PART_OF_PATH
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts
from moeviz.text import cut, quoted

ONLY_FLOAT32 = "only supports float32"
FIRST_TOKENS = tuple(range(1, 9))  # what a model is tried with; every vocabulary has them


def load(folder: MlxFolder) -> Any:
    """Return the model as mlx-lm builds it, no weight of it read. Raises what `load_model` raises."""
    says = f"mlx-lm does not load the MLX model {quoted(folder.name)}"
    with explained(says):
        classes = signature(lm.load_model).parameters["get_model_classes"].default(folder.config)
    check_complete(folder, classes[1])
    with explained(says):
        args = classes[1].from_dict(folder.config)
    check_means_the_same(folder, args)
    with explained(says):
        model, _config = lm.load_model(folder.path, lazy=True, strict=True, get_model_classes=lambda config: classes)
    if hasattr(model, "language_model"):  # of a model that also sees; its config was a part of the whole
        check_means_the_same(folder, model.language_model.args)
    return model


def with_weights(folder: MlxFolder, model: Any, dtype: str | None) -> Any:
    """Read a model's weights into it, in `dtype` where one is asked for."""
    with explained(f"The weights of the MLX model {quoted(folder.name)} cannot be read"):
        if dtype is not None:
            model.set_dtype(getattr(mx, dtype))
        mx.eval(model.parameters())
    return model


def hook_model(folder: MlxFolder, model: Any) -> tuple[BlockHooks, int]:
    """Hook the model's MoE blocks, and return the hooks and the largest number of experts per token.

    Raises `CaptureError` for a dense model, and for one that runs experts in another way.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise why_no_experts(folder)
    hooks = BlockHooks(blocks)
    try:
        with explained(f"{quoted(folder.name)} does not run in mlx-lm"):
            try_out(model)
    except ModelNotFound as error:
        if isinstance(error.__cause__, CaptureError):  # what a hook refused is a sentence by itself
            raise error.__cause__ from None
        raise
    return hooks, max(int(routing.experts.shape[-1]) for routing in hooks.recorded.values())


def check_runs(folder: MlxFolder, model: Any, hooks: BlockHooks) -> None:
    """Run a few tokens, and raise `CaptureError` if MLX cannot, or if the blocks were not recorded correctly."""
    try:
        hooks.check(lambda: try_out(model))
    except RuntimeError as error:
        why = cut(str(error), LONGEST_COMPLAINT)
        if ONLY_FLOAT32 in why:
            why = (
                "on a CPU it multiplies experts only in float32, unless they are quantised. Open it with "
                "dtype='float32' (--dtype float32), or take a quantised folder."
            )
        raise CaptureError(f"MLX does not run {quoted(folder.name)} here: {why}") from error


def try_out(model: Any) -> Any:
    """Run a few tokens, lazily."""
    return model(mx.array([FIRST_TOKENS]), cache=caches.make_prompt_cache(model))


def facts_of(folder: MlxFolder, model: Any) -> ModelInfo:
    """Return the facts about a model that `load` made, none of whose weights is read."""
    hooks, top_k = hook_model(folder, model)
    return describe(folder.name, model, hooks.blocks, top_k, caution_of(folder))


def stops_of(folder: MlxFolder, own: int | None) -> frozenset[int]:
    """Return the tokens that end a text: those of the folder's config or generation_config, and the tokenizer's own."""
    said = lm.load_config(folder.path).get("eos_token_id")
    listed = said if isinstance(said, list) else [said]
    return frozenset(token for token in (*listed, own) if isinstance(token, int))


HEADS = ("lm_head", "output", "head")  # how models call what turns the last state into logits
# Next to a packed weight; and buffers of transformers, which no gradient moves.
NO_PARAMETERS = ("scales", "biases", "global_scale", "e_score_correction_bias")
UINT32 = 32  # bits, into which MLX packs quantised weights
LITTLE = 100  # norms and the like are less than one part in this many: their precision is not named


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of parameters, and the module that it is in."""

    path: str
    owner: Any
    size: int  # parameters: of a packed tensor those that are packed
    kind: str  # "bfloat16", "4 bit, groups of 64"


def describe(name: str, model: Any, blocks: Sequence[MoeBlock], top_k: int, caution: str = "") -> ModelInfo:
    """Return the facts about a model that are known before it runs. No weight is read."""
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
    """Return the precision of the largest parts: "bfloat16", "4 bit, groups of 64", "4 bit … and 8 bit …"."""
    found = Counter[str]()
    for tensor in tensors:
        found[tensor.kind] += tensor.size
    return " and ".join(kind for kind, size in found.most_common() if size * LITTLE >= found.total())


def _counts(model: Any, tensors: Sequence[Tensor], blocks: Sequence[MoeBlock]) -> ParameterCounts:
    """Count parameters by part; a matrix that serves as input and output embedding counts once, as in mlx-lm."""
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
