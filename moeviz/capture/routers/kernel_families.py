"""The steps by which routers of each family decide, so that our kernels can decide the same.

A row has how the logits are made, and reads the steps of gating from the router module's own attributes. It is checked
on the model itself before any router is replaced (`kernel_recording.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from moe_kernels.gating import Gating, GroupScore, Score


def _plain(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden.to(router.weight.dtype), router.weight)


def _in_float32(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden.float(), router.weight.float())


def _to_float32(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden, router.weight).float()


def _laguna_logits(router: nn.Module, hidden: Tensor) -> Tensor:
    logits, cap = _to_float32(router, hidden), router.router_logit_softcapping
    return torch.tanh(logits / cap) * cap if cap > 0 else logits


def _gating(router: nn.Module, score: Score = "softmax", **steps: object) -> Gating:
    return Gating(router.num_experts, router.top_k, score, **steps)


def _softmax(router: nn.Module) -> Gating:
    return _gating(router, renormalise=getattr(router, "norm_topk_prob", True))


def _sigmoid(router: nn.Module) -> Gating:
    return _gating(router, "sigmoid", renormalise=getattr(router, "norm_topk_prob", True))


def _groups(router: nn.Module, judged_by: GroupScore) -> dict[str, object]:
    if (router.num_group or 1) == 1:
        return {}
    return {"groups": router.num_group, "groups_kept": router.topk_group, "group_score": judged_by}


def _deepseek_v2(router: nn.Module) -> Gating:
    groups = _groups(router, "max") if router.topk_method == "group_limited_greedy" else {}
    return _gating(router, renormalise=False, scale=router.routed_scaling_factor, **groups)


def _deepseek_v3(router: nn.Module) -> Gating:
    scale, renormalise = router.routed_scaling_factor, router.norm_topk_prob
    return _gating(router, "sigmoid", renormalise=renormalise, scale=scale, added=1e-20, **_groups(router, "top2_sum"))


def _deepseek_v4(router: nn.Module) -> Gating:
    score = "sigmoid" if isinstance(router.score_fn, nn.Sigmoid) else "sqrtsoftplus"
    return _gating(router, score, scale=router.routed_scaling_factor, added=1e-20)


def _mistral(router: nn.Module) -> Gating:
    scale, renormalise = router.routed_scaling_factor, getattr(router, "norm_topk_prob", True)
    return _gating(router, renormalise=renormalise, scale=scale, added=1e-20, **_groups(router, "top2_sum"))


class Family(NamedTuple):
    """A row: how a router of this family makes logits and gates, and which dtype its weights have."""

    logits: Callable[[nn.Module, Tensor], Tensor]
    gating: Callable[[nn.Module], Gating]
    bias: Callable[[nn.Module], Tensor | None] = lambda _router: None  # unless the block passes it along
    weights_like: str = "float32"  # or "hidden", or "logits"
    rounds_scores: bool = False  # it scores in the dtype of its logits, where ours are float32

    def weight_dtype(self, hidden: Tensor, logits: Tensor) -> torch.dtype:
        """Return the dtype of the router's weights."""
        return {"float32": torch.float32, "hidden": hidden.dtype, "logits": logits.dtype}[self.weights_like]


def _correction(router: nn.Module) -> Tensor:
    return router.e_score_correction_bias


_V2 = Family(_in_float32, _deepseek_v2)
_V3 = Family(_in_float32, _deepseek_v3, _correction)
_V4 = Family(_in_float32, _deepseek_v4, _correction)
_SOFTMAX = Family(_plain, _softmax, weights_like="logits")
_GRANITE = Family(_to_float32, _softmax, weights_like="hidden")
_ERNIE = Family(
    _in_float32,
    lambda router: _gating(router, floor=router.norm_min),
    lambda router: router.moe_statics.e_score_correction_bias.squeeze(),
    "hidden",
)
_MIXTRAL = Family(_plain, _softmax)
_MINIMAX_M3 = Family(_plain, _sigmoid, _correction)

# The class of the router, in transformers 5.25: those that decide alike in one word, and then each of its own.
_ALIKE = {
    "AriaTextTopKRouter FlexOlmoTopKRouter MellumTopKRouter OlmoeTopKRouter Qwen2MoeTopKRouter "
    "Qwen3MoeTopKRouter Qwen3NextTopKRouter Qwen3OmniMoeTextTopKRouter Qwen3OmniMoeThinkerTextTopKRouter "
    "Qwen3VLMoeTextTopKRouter Qwen3_5MoeTopKRouter Qwen4ExpTextTopKRouter": _SOFTMAX,
    "AXK1TopkRouter BailingHybridTopkRouter DeepseekV3TopkRouter DeepseekV32TopkRouter Dots1TopkRouter "
    "Dots3NoteTextTopkRouter ExaoneMoeTopkRouter Glm4MoeTopkRouter Glm4MoeLiteTopkRouter "
    "Glm4vMoeTextTopkRouter Glm5NextTextTopkRouter GlmMoeDsaTopkRouter HYV4TopkRouter HYV4VLTopkRouter "
    "KimiLinearTopkRouter MiMoV2FlashTopkRouter MiniCPM5MoeTopkRouter NemotronHTopkRouter SolarOpenTopkRouter": _V3,
    "DeepseekOcr2TextTopkRouter DeepseekV2TopkRouter UnlimitedOcrTextTopkRouter": _V2,
    "Ernie4_5_MoeTopKRouter Ernie4_5_VLMoeMoeTopKRouter": _ERNIE,
    "GraniteMoeTopKRouter GraniteMoeHybridTopKRouter GraniteMoeSharedTopKRouter GraniteMoeSWATopKRouter": _GRANITE,
    "Inkling2TopKRouter Inkling2LoopTopKRouter": _V4,
    "MiniMaxTopKRouter MixtralTopKRouter": _MIXTRAL,
    "MiniMaxM3VLTopKRouter Step3p7TopKRouter": _MINIMAX_M3,
}
FAMILIES: dict[str, Family] = {
    **{name: family for names, family in _ALIKE.items() for name in names.split()},
    "AfmoeTokenChoiceRouter": Family(
        lambda router, hidden: router.gate(hidden).float(),
        lambda router: _gating(router, "sigmoid", scale=router.route_scale, added=1e-20),
    ),
    "BeamTopKRouter": Family(
        _in_float32,
        lambda router: _gating(
            router, "sigmoid", renormalise=router.norm_topk_prob, added=1e-20, **_groups(router, "top2_sum")
        ),
        _correction,
    ),
    "Cohere2MoeTopKRouter": Family(
        _plain,
        lambda router: _sigmoid(router) if router.expert_selection_fn == "sigmoid" else _gating(router),
        weights_like="hidden",
    ),
    "DeepseekV4TopKRouter": Family(_plain, _deepseek_v4, _correction, "logits", rounds_scores=True),
    "ErgoTopkRouter": Family(
        lambda router, hidden: linear(hidden.float(), router.linear.weight.to(hidden.dtype).float()),
        lambda router: Gating(
            len(router.e_score_correction_bias),
            router.top_k,
            "sigmoid",
            scale=router.routed_scaling_factor,
            added=1e-20,
        ),
        _correction,
        "hidden",
    ),
    "FlintTopKRouter": Family(_in_float32, _sigmoid),
    "GptOssTopKRouter": Family(
        lambda router, hidden: linear(hidden, router.weight, router.bias), _softmax, weights_like="logits"
    ),
    "HunYuanMoEV1Gate": Family(
        lambda router, hidden: router.wg(hidden.to(router.wg.weight.dtype)), _softmax, weights_like="logits"
    ),
    "HYV3TopKRouter": Family(
        _in_float32, lambda router: _gating(router, "sigmoid", scale=router.router_scaling_factor, added=1e-20)
    ),
    "JambaTopKRouter": Family(_plain, lambda router: _gating(router, renormalise=False), weights_like="hidden"),
    "LagunaTopKRouter": Family(_laguna_logits, _sigmoid, _correction, "hidden"),
    "LaraMiniTopKRouter": Family(_in_float32, _softmax, weights_like="hidden"),
    "Lfm2MoeTopKRouter": Family(
        _plain,
        lambda router: _gating(
            router, "sigmoid", renormalise=router.norm_topk_prob, scale=router.routed_scaling_factor, added=1e-6
        ),
        weights_like="logits",
        rounds_scores=True,
    ),
    "LongcatFlashTopkRouter": Family(
        lambda router, hidden: linear(hidden.float(), router.classifier.weight.float()),
        lambda router: Gating(
            router.n_routed_experts, router.top_k, renormalise=False, scale=router.routed_scaling_factor
        ),
        _correction,
    ),
    "MiniMaxM2TopKRouter": Family(_plain, _sigmoid),
    "Mistral4TopkRouter": Family(_plain, _mistral, weights_like="logits", rounds_scores=True),
    "MistralLarge4TextTopkRouter": Family(_in_float32, _mistral),
    "MuseSparkTopkRouter": Family(
        lambda router, hidden: _in_float32(router, hidden) * router.output_multiplier,
        lambda router: _gating(router, "sigmoid", scale=router.routed_scaling_factor, added=router.norm_topk_prob_eps),
        _correction,
    ),
    "OpenAIPrivacyFilterTopKRouter": Family(
        lambda router, hidden: linear(hidden.float(), router.weight.float(), router.bias.float()),
        lambda router: _gating(router, scale=1 / router.top_k),
    ),
}

# Why the routers of other families cannot be run by our kernels.
OTHERS: dict[str, str] = {
    "AXK2TopkRouter": "masks groups with 0, which can beat a negative rank",
    "DbrxRouter": "leaves the choice to its block",
    "DeepseekV4HashRouter": "looks experts up by token id",
    "DiffusionGemmaTextRouter": "normalises what it reads, and scales each expert",
    "DogeCDMoE": "ranks pairs of keys",
    "Gemma4TextRouter": "normalises what it reads, and scales each expert",
    "InklingTopkRouter": "renormalises together with the shared experts",
    "JetMoeTopKGating": "sorts its choices by expert",
    "Kolibri1TopKRouter": "ranks by logit + bias",
    "Kolibri1_1TopKRouter": "ranks by logit + bias",
    "Llama4Router": "answers with the scores of all experts",
    "NllbMoeTop2Router": "has a capacity, and drops tokens",
    "PhimoeTopKRouter": "takes a softmax for each of its choices (SparseMixer)",
    "SwitchTransformersTop1Router": "has a capacity, and drops tokens",
    "ZayaRouter": "is an MLP that reads the router of the layer before",
}


def why_triton_is_too_old() -> str:
    """Return why the installed Triton cannot compile the kernels, as a sentence; "" if it can."""
    from moe_kernels.tiles import why_too_old  # Triton is not there on every system

    return why_too_old()
