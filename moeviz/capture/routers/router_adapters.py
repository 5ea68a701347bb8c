"""Routers that answer differently from most routers of transformers: a row each, with a small reader and a writer.

Most routers of transformers return (logits, weights, expert ids) from their forward, have a sibling module `experts`,
and are declared by the model. Others have a row here, by the class of the router in transformers 5.25; the survey
(`tests/survey`) compares each of them with what the experts received.

A reader gets the router, the arguments that it was called with, and its answer; it returns (logits, weights, expert
ids): logits (T, E) or None, weights and ids (T, K), NO_EXPERT if a token was dropped. A writer gets the router, its
answer, and another decision, weights and ids (T, K); it returns an answer in the router's own form that has this
decision, so that an intervention reaches the experts. A router that has a reader of its own and no writer can be
recorded but not changed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moeviz.errors import CaptureError
from moeviz.routing_trace import NO_EXPERT

Answer = tuple  # (logits or None, weights, expert ids), and what else a router answers with
Reader = Callable[[nn.Module, tuple, tuple], Answer]
LEAST_LOGARITHM = -104.0  # below the logarithm of every float32 above 0
Writer = Callable[[nn.Module, tuple, Tensor, Tensor], tuple]  # (router, its answer, weights, expert ids)


def identity(_router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Read an answer that is (logits, weights, expert ids) already."""
    return answer


def _in_its_place(_router: nn.Module, answer: tuple, weights: Tensor, experts: Tensor) -> tuple:
    shape = (*answer[2].shape[:-1], -1)
    return answer[0], weights.view(shape), experts.view(shape), *answer[3:]


def _decided_by_the_block(_router: nn.Module, given: tuple, answer: tuple) -> Answer:
    weights, experts = answer
    return given[0], weights, experts


def _decision_alone(_block: nn.Module, _answer: tuple, weights: Tensor, experts: Tensor) -> tuple:
    return weights, experts


def _probabilities(_router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Return logarithms of probabilities as logits: they differ by one number for all experts of a token.

    A probability too small for its dtype is 0, and -inf would mean that this expert does not exist.
    """
    return answer[0].log().clamp(min=LEAST_LOGARITHM), *answer[1:3]


def _scores_of_all(router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Scores of experts that were not chosen are 0. A chosen one may be rounded to 0: its logit is then the highest."""
    scores, logits = answer
    experts = logits.masked_fill(scores != 0, torch.inf).topk(router.top_k, dim=-1).indices
    return logits, scores.gather(-1, experts), experts


def _into_scores_of_all(_router: nn.Module, answer: tuple, weights: Tensor, experts: Tensor) -> tuple:
    scores, logits = answer
    return torch.zeros_like(scores).scatter(-1, experts, weights), logits


def _sorted_by_expert(router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Assignments in order of their experts: which they were, their weights, and how many each expert has."""
    order, _tokens, sorted_weights, counts, logits = answer
    sorted_experts = torch.arange(len(counts), device=order.device).repeat_interleave(order.new_tensor(counts))
    experts, weights = torch.empty_like(order), torch.empty_like(sorted_weights)
    experts[order], weights[order] = sorted_experts, sorted_weights
    return logits, weights.view(-1, router.top_k), experts.view(-1, router.top_k)


def _into_order_of_experts(router: nn.Module, answer: tuple, weights: Tensor, experts: Tensor) -> tuple:
    order = experts.flatten().argsort(stable=True)
    counts = experts.flatten().bincount(minlength=router.num_experts).tolist()
    return order, order // experts.shape[-1], weights.flatten()[order], counts, answer[4]


def _one_with_capacity(_router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Return a mask of the expert that took the token, empty where it was full."""
    mask, weights, logits = answer
    dropped = mask.sum(-1, keepdim=True) == 0
    return logits, weights.masked_fill(dropped, 0), mask.argmax(-1, keepdim=True).masked_fill(dropped, NO_EXPERT)


def _two_with_capacity(_router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Return the weights of all experts: 0 where one was not chosen, was full, or has a weight that was rounded to 0.

    The answer does not show which of these it is. What adds nothing is recorded as dropped, and the trace warns of it.
    """
    _mask, weights_of_all, logits = answer
    weights, experts = weights_of_all.topk(2, dim=-1)
    return logits, weights, experts.masked_fill(weights == 0, NO_EXPERT)


def _with_a_class_for_skipping(router: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Return the class of each token too: one that skips the experts has expert 0, weight 0 and the last class.

    So does one that its bias sends to expert 0 while the probability of 0 is rounded to 0: the choice distinguishes
    them.
    """
    logits, weights, experts, *_states = answer
    scores = logits.softmax(dim=-1)
    chosen = (scores.float() + router.balancing_biases).argmax(dim=-1, keepdim=True)
    skips = (weights == 0) & (experts == 0) & ((chosen != 0) | (scores[..., :1] != 0))
    return logits, weights, experts.masked_fill(skips, logits.shape[-1] - 1)


def _with_expert_0_for_skipping(router: nn.Module, answer: tuple, weights: Tensor, experts: Tensor) -> tuple:
    skips = experts == router.num_experts
    if (skips & (weights != 0)).any() or ((experts == 0) & (weights == 0)).any():
        raise CaptureError(
            f"{type(router).__name__} marks a token that skips the experts by expert 0 with weight 0, so expert 0 "
            "cannot have weight 0 otherwise, nor skipping another weight. Change other experts."
        )
    return _in_its_place(router, answer, weights, experts.masked_fill(skips, 0))


def _product_keys(block: nn.Module, _given: tuple, answer: tuple) -> Answer:
    """Return the experts of a block that answers with the scores of two sets of keys: the best pairs of these."""
    scores, places = answer[1].topk(block.num_keys, dim=-1)
    pairs = (scores[0].unsqueeze(-1) + scores[1].unsqueeze(-2)).flatten(-2)
    experts_of_pairs = (places[0].unsqueeze(-1) * block.num_keys + places[1].unsqueeze(-2)).flatten(-2)
    best, position = pairs.topk(block.top_k, dim=-1)
    weights = best.softmax(dim=-1)
    if block.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return None, weights, experts_of_pairs.gather(-1, position)


# For routers without a row.
PLAIN_WRITER: Writer = _in_its_place


class RouterAdapter(NamedTuple):
    """The differences of a router from those that answer with (logits, weights, expert ids)."""

    remark: str  # in a few words, for the table of families
    read: Reader = identity
    write: Writer | None = None  # for a reader of its own; None if no other decision can be put in the answer
    method: str = ""  # of the block, if that decides and not the router module
    experts: tuple[str, ...] = ("experts",)  # next to the router, or in it
    top_k: Callable[[nn.Module], int | None] = lambda router: getattr(router, "top_k", None)
    num_experts: Callable[[nn.Module], int | None] = lambda router: getattr(router, "num_experts", None)
    zero_experts: Callable[[nn.Module], int] = lambda _router: 0  # the last ids: experts that compute nothing
    factor: Callable[[nn.Module], float] | None = None  # block -> what it multiplies the sum of its experts by
    caution: str = ""  # what a person must know before trusting the trace; with {layers}, of which layers
    by_token_id: bool = False  # whether it looks experts up by token id

    @property
    def writer(self) -> Writer | None:
        """The function that puts another decision in the router's answer; None if there is not any."""
        return _in_its_place if self.read is identity else self.write

    @property
    def keeps_top_k(self) -> bool:
        """True if the form of the answer fixes the number of experts per token."""
        return self.read is not identity


def _averaged(block: nn.Module) -> float:
    return 0.5 if block.num_shared_experts and block.shared_expert_combination_strategy == "average" else 1.0


_SCALED_BY_THE_BLOCK = RouterAdapter(
    "its block scales the sum of the experts", factor=lambda block: block.routed_scaling_factor
)
_GEMMA = RouterAdapter(
    "returns probabilities", _probabilities, _in_its_place, top_k=lambda router: router.config.top_k_experts
)

ROUTER_ADAPTERS: dict[str, RouterAdapter] = {
    "BeamTopKRouter": _SCALED_BY_THE_BLOCK,
    "LagunaTopKRouter": _SCALED_BY_THE_BLOCK,
    "MiniMaxM3VLTopKRouter": _SCALED_BY_THE_BLOCK,
    "Step3p7TopKRouter": _SCALED_BY_THE_BLOCK,
    "OpenAIPrivacyFilterTopKRouter": RouterAdapter(
        "divides by top-k, and its block multiplies by it", factor=lambda block: block.num_experts
    ),
    "Cohere2MoeTopKRouter": RouterAdapter("its block averages routed and shared experts", factor=_averaged),
    "DbrxRouter": RouterAdapter(
        "its block decides", _decided_by_the_block, _decision_alone, method="route_tokens_to_experts"
    ),
    "DeepseekV4HashRouter": RouterAdapter(
        "the first layers look experts up by token id; not declared",
        caution=(
            "Layers with a hash router ({layers}) look experts up by token id: their loads are those of the words, and "
            "no training balances them."
        ),
        by_token_id=True,
    ),
    "Dots3NoteVisionTopKRouter": RouterAdapter("of the vision tower, with more experts in later layers; not declared"),
    "DogeCDMoE": RouterAdapter(
        "no router module; pairs of product keys",
        _product_keys,
        experts=("down_embed", "up_embed"),
        caution=(
            "DogeCDMoE mixes the routing of different tokens when it reads several at once (transformers says so in a "
            "comment in its code), so an expert is not chosen by its token alone. Only the scores of its keys can be "
            "recorded; moeviz works out the experts from them as the block does."
        ),
    ),
    "DiffusionGemmaTextRouter": _GEMMA,
    "Gemma4TextRouter": _GEMMA,
    "Ernie4_5_VLMoeMoeTopKRouter": RouterAdapter("one router for text, one for images; the block is declared"),
    "JetMoeTopKGating": RouterAdapter(
        "sorted by expert; a second router in attention",
        _sorted_by_expert,
        _into_order_of_experts,
        experts=("input_linear", "output_linear"),
    ),
    "Llama4Router": RouterAdapter(
        "scores of all experts, which scale the experts' input", _scores_of_all, _into_scores_of_all
    ),
    "LongcatFlashTopkRouter": RouterAdapter(
        "some experts compute nothing", zero_experts=lambda router: router.n_routed_experts - router.num_experts
    ),
    "NllbMoeTop2Router": RouterAdapter(
        "weights of all experts, capacity",
        _two_with_capacity,
        top_k=lambda _router: 2,
        caution=(
            "The experts of NllbMoe in transformers 5.25 read the router's mask as expert ids, so experts 0 and 1 run "
            "whatever the router decides; the trace holds what the router decides. A second expert whose weight is "
            "rounded to 0, which half precision does, is shown as dropped."
        ),
    ),
    "SwitchTransformersTop1Router": RouterAdapter(
        "a mask of experts, capacity", _one_with_capacity, top_k=lambda _router: 1
    ),
    "ZayaRouter": RouterAdapter(
        "a class for skipping the experts",
        _with_a_class_for_skipping,
        _with_expert_0_for_skipping,
        zero_experts=lambda _router: 1,
    ),
}
BUILT_IN = frozenset(ROUTER_ADAPTERS)  # `moeviz.adapters` adds those of a user
