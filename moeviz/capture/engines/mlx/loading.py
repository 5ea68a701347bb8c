"""A folder of mlx-lm as a model in memory: built lazily, compared with its config, and only then filled."""

from inspect import signature
from typing import Any

from moeviz.capture.engines.mlx.blocks import find_blocks
from moeviz.capture.engines.mlx.folder import (
    MlxFolder,
    caution_of,
    check_complete,
    check_means_the_same,
    why_no_experts,
)
from moeviz.capture.engines.mlx.hooks import BlockHooks
from moeviz.capture.engines.mlx.installed import caches, lm, mx
from moeviz.capture.engines.mlx.metadata import describe
from moeviz.capture.models.checkpoint import LONGEST_COMPLAINT, explained
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.model_info import ModelInfo
from moeviz.text import cut, quoted

ONLY_FLOAT32 = "only supports float32"
FIRST_TOKENS = tuple(range(1, 9))  # what a model is tried with; every vocabulary has them


def load(folder: MlxFolder) -> Any:
    """The model as mlx-lm builds it, no weight of it read. Raises what `opening.open_model` raises."""
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


def hooked(folder: MlxFolder, model: Any) -> tuple[BlockHooks, int]:
    """Ears in the model's MoE blocks, and how many experts a token is sent to at most. Nothing is computed yet.

    Raises `CaptureError` for a dense model, and for one that runs experts otherwise.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise why_no_experts(folder)
    ears = BlockHooks(blocks)
    try:
        with explained(f"{quoted(folder.name)} does not run in mlx-lm"):
            try_out(model)
    except ModelNotFound as error:
        if isinstance(error.__cause__, CaptureError):  # what an ear refused is a sentence by itself
            raise error.__cause__ from None
        raise
    return ears, max(int(heard.experts.shape[-1]) for heard in ears.heard.values())


def check_runs(folder: MlxFolder, model: Any, ears: BlockHooks) -> None:
    """Run a few tokens, and raise `CaptureError` where MLX cannot, or where the blocks were not heard rightly."""
    try:
        ears.check(lambda: try_out(model))
    except RuntimeError as error:
        why = cut(str(error), LONGEST_COMPLAINT)
        if ONLY_FLOAT32 in why:
            why = (
                "on a CPU it multiplies experts in float32 alone, unless they are quantised. Open it with "
                "dtype='float32' (--dtype float32), or take a quantised folder."
            )
        raise CaptureError(f"MLX does not run {quoted(folder.name)} here: {why}") from error


def try_out(model: Any) -> Any:
    """Run a few tokens, lazily."""
    return model(mx.array([FIRST_TOKENS]), cache=caches.make_prompt_cache(model))


def facts_of(folder: MlxFolder, model: Any) -> ModelInfo:
    """The facts about a model that `load` made, none of whose weights is read."""
    ears, top_k = hooked(folder, model)
    return describe(folder.name, model, ears.blocks, top_k, caution_of(folder))


def stops_of(folder: MlxFolder, own: int | None) -> frozenset[int]:
    """The tokens that end a text: those of the folder's config or generation_config, and the tokenizer's own."""
    said = lm.load_config(folder.path).get("eos_token_id")
    listed = said if isinstance(said, list) else [said]
    return frozenset(token for token in (*listed, own) if isinstance(token, int))
