"""How the routers of each family decide, so that our kernels can decide the same.

A row says how the logits are made, and reads the way of gating from the router module's own attributes. A row is a
claim, and is checked on the model itself before any router is replaced (`fused.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from moe_kernels.gating import Gating


def _plain(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden.to(router.weight.dtype), router.weight)


def _with_bias(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden, router.weight, router.bias)


def _in_float32(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden.float(), router.weight.float())


def _to_float32(router: nn.Module, hidden: Tensor) -> Tensor:
    return linear(hidden, router.weight).float()


def _softmax(router: nn.Module) -> Gating:
    return Gating(router.num_experts, router.top_k, renormalise=getattr(router, "norm_topk_prob", True))


def _deepseek_v2(router: nn.Module) -> Gating:
    limited = router.topk_method == "group_limited_greedy"
    groups = {"groups": router.num_group, "groups_kept": router.topk_group} if limited else {}
    scale = router.routed_scaling_factor
    return Gating(router.num_experts, router.top_k, renormalise=False, scale=scale, **groups)


def _deepseek_v3(router: nn.Module) -> Gating:
    groups = {"groups": router.num_group, "groups_kept": router.topk_group, "group_score": "top2_sum"}
    return Gating(
        router.num_experts,
        router.top_k,
        "sigmoid",
        renormalise=router.norm_topk_prob,
        scale=router.routed_scaling_factor,
        added=1e-20,
        **(groups if router.num_group > 1 else {}),
    )


def _ernie(router: nn.Module) -> Gating:
    return Gating(router.num_experts, router.top_k, floor=router.norm_min)


def _lfm2(router: nn.Module) -> Gating:
    renormalise, scale = router.norm_topk_prob, router.routed_scaling_factor
    return Gating(router.num_experts, router.top_k, "sigmoid", renormalise=renormalise, scale=scale, added=1e-6)


def _minimax(router: nn.Module) -> Gating:
    return Gating(router.num_experts, router.top_k, "sigmoid")


class Family(NamedTuple):
    """A row: how a router of this family makes logits, gates, and which dtype its weights have."""

    logits: Callable[[nn.Module, Tensor], Tensor]
    gating: Callable[[nn.Module], Gating]
    bias: Callable[[nn.Module], Tensor | None] = lambda _router: None  # unless the block passes it along
    weights_like: str = "float32"  # or "hidden", or "logits"
    rounds_scores: bool = False  # it scores in the dtype of its logits, where ours are float32

    def weight_dtype(self, hidden: Tensor, logits: Tensor) -> torch.dtype:
        """The dtype of the router's weights."""
        return {"float32": torch.float32, "hidden": hidden.dtype, "logits": logits.dtype}[self.weights_like]


def _correction(router: nn.Module) -> Tensor:
    return router.e_score_correction_bias


_V3 = Family(_in_float32, _deepseek_v3, _correction)
_SOFTMAX = Family(_plain, _softmax, weights_like="logits")

# The class of the router, in transformers 5.24.
FAMILIES: dict[str, Family] = {
    "MixtralTopKRouter": Family(_plain, _softmax),
    "OlmoeTopKRouter": _SOFTMAX,
    "Qwen2MoeTopKRouter": _SOFTMAX,
    "Qwen3MoeTopKRouter": _SOFTMAX,
    "DeepseekV2TopkRouter": Family(_in_float32, _deepseek_v2),
    "DeepseekV3TopkRouter": _V3,
    "Glm4MoeTopkRouter": _V3,
    "GptOssTopKRouter": Family(_with_bias, _softmax, weights_like="logits"),
    "Ernie4_5_MoeTopKRouter": Family(
        _in_float32, _ernie, lambda router: router.moe_statics.e_score_correction_bias.squeeze(), "hidden"
    ),
    "GraniteMoeTopKRouter": Family(_to_float32, _softmax, weights_like="hidden"),
    "Lfm2MoeTopKRouter": Family(_plain, _lfm2, weights_like="logits", rounds_scores=True),
    "MiniMaxM2TopKRouter": Family(_plain, _minimax),
}
