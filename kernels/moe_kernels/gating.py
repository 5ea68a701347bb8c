"""Steps of a router between its logits and its choice: the same few in every family, each on or off."""

from dataclasses import dataclass
from typing import Literal

Score = Literal["softmax", "sigmoid", "sqrtsoftplus"]
GroupScore = Literal["max", "top2_sum"]
SCORES: tuple[Score, ...] = ("softmax", "sigmoid", "sqrtsoftplus")
GROUP_SCORES: tuple[GroupScore, ...] = ("max", "top2_sum")
MAX_EXPERTS = 512
MAX_TOP_K = 16


@dataclass(frozen=True, slots=True)
class Gating:
    """Score -> + selection bias -> group limit -> top-k -> renormalise -> scale.

    Experts are ranked by score + bias and weighted by score. Ties go to the lower expert id; NaN ranks above
    everything, as in `torch.sort`. Without a bias, and unless groups are ranked by a sum, logits rank as their scores
    do, and more finely: two logits that round to one score stay distinct. Selected experts come highest rank first.

    Renormalised weights are divided by max(sum of the chosen scores + `added`, `floor`).

    Groups: the experts in order, in `groups` of equal size; the `groups_kept` best groups are candidates, each judged
    by its best expert ("max") or by the sum of its two best ("top2_sum").

    Source: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2, of which the others are special cases.
    """

    experts: int
    top_k: int
    score: Score = "softmax"
    renormalise: bool = True
    scale: float = 1.0
    added: float = 0.0
    floor: float = 0.0
    groups: int = 1
    groups_kept: int = 1
    group_score: GroupScore = "max"

    def __post_init__(self) -> None:
        wrong = [sentence for is_so, sentence in self._conditions() if not is_so]
        if wrong:
            raise ValueError(f"{self} cannot be routed: {wrong[0]}.")

    @property
    def group_size(self) -> int:
        """Experts in a group."""
        return self.experts // self.groups

    @property
    def is_softmax_over_winners(self) -> bool:
        """True if weights are a softmax over the chosen experts only, as renormalising a softmax gives them."""
        return self.score == "softmax" and self.renormalise and not self.added and not self.floor

    def ranks_logits(self, has_bias: bool) -> bool:
        """True if the logits themselves give the ranking."""
        return not has_bias and (self.groups == 1 or self.group_score == "max")

    def _conditions(self) -> list[tuple[bool, str]]:
        return [
            (1 <= self.experts <= MAX_EXPERTS, f"experts must be 1 to {MAX_EXPERTS}"),
            (1 <= self.top_k <= MAX_TOP_K, f"top_k must be 1 to {MAX_TOP_K}"),
            (self.score in SCORES, f"score must be one of {', '.join(SCORES)}"),
            (self.group_score in GROUP_SCORES, f"group_score must be one of {', '.join(GROUP_SCORES)}"),
            (1 <= self.groups_kept <= self.groups, "groups_kept must be 1 to groups"),
            (self.groups >= 1 and self.experts % self.groups == 0, "groups must be of equal size"),
            (self.group_score == "max" or self.group_size >= 2, "top2_sum needs two experts in a group"),
            (self.top_k <= self.groups_kept * self.group_size, "top_k needs as many candidates"),
        ]
