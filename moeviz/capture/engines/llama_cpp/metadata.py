"""The facts in a GGUF file: layers, experts, and parameters counted from the shapes of its tensors."""

import re
from collections import Counter
from math import prod

from moeviz.capture.engines.llama_cpp.files import TYPES, GgufFiles, check_experts_called_once, open_files
from moeviz.errors import CaptureError, InvalidTrace, ModelNotFound
from moeviz.file_limits import check_experts
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts
from moeviz.parameters import LayerCache, ServedModel
from moeviz.text import quoted

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
# How llama.cpp calls a mixture of types: `general.file_type`, its enum llama_ftype.
FILE_TYPES = {
    0: "float32", 1: "float16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "bfloat16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


def model_facts(name: str) -> ModelInfo:
    """Read a GGUF file's facts: layers, experts, parameters, quantisation. llama.cpp is not needed for it.

    Raises `ModelNotFound` for a file that is not there, not whole or no model, and `CaptureError` for a dense model.
    """
    return describe(open_files(name))


def describe(files: GgufFiles) -> ModelInfo:
    """Read the facts of GGUF files that are open. Layers that predict further tokens (`nextn`) do not count."""
    check_experts_called_once(files)
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
    """Read what serving the model takes; None where its file does not say what a layer keeps of a text."""
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
    """The tokens that each layer keeps at most, as transformers counts them; None where a window has no pattern."""
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
    """By what they do. A matrix that is stored whole and in halves (`attn_kv_b`) counts once."""
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
