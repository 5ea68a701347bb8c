"""Active and touched parameters: arithmetic on the counts that `moeviz.capture.models.parameters` takes from a model.

Active parameters are those that one token runs through: top_k of the routed experts in each MoE layer, and everything
else. Model makers publish them by three conventions, so moeviz always names the one it uses:

    all                           everything counts          (Mixtral's 12.9B, Qwen3's 3.3B)
    without input embedding       a look-up, not a product   (gpt-oss's 3.6B, DeepSeek-V3's 37B)
    without both embeddings       the layers alone           (GLM-4.5's 32B)

Touched parameters are those that a whole prompt runs through: each expert that at least one token chose, once.
"""

from collections.abc import Sequence

from moeviz.model_info import ParameterCounts

CONVENTIONS = ("all", "without input embedding", "without both embeddings")


def active_parameters(counts: ParameterCounts, top_k: int, convention: str = "all") -> int:
    """Parameters that one token runs through, by one of CONVENTIONS.

    A tied matrix is an input embedding and an output head at once, so it stays until both embeddings are left out.

    >>> tiny = ParameterCounts(100, 0, 40, 8, 60, 0, 0, 2, per_expert=(15,))
    >>> [active_parameters(tiny, 2, convention) for convention in CONVENTIONS]
    [180, 180, 80]

    Source: Mixtral of Experts (arXiv 2401.04088), section 2.1, 'active parameter count'.
    """
    return touched_parameters(counts, [top_k] * len(counts.per_expert)) - _left_out(counts, convention)


def touched_parameters(counts: ParameterCounts, distinct: Sequence[int]) -> int:
    """Parameters that a set of tokens runs through, if they use `distinct[l]` different experts in MoE layer l."""
    experts = sum(used * size for used, size in zip(distinct, counts.per_expert, strict=True))
    return counts.total - counts.routed_experts + experts


def _left_out(counts: ParameterCounts, convention: str) -> int:
    return {
        "all": 0,
        "without input embedding": 0 if counts.tied else counts.input_embedding,
        "without both embeddings": counts.input_embedding + counts.output_embedding,
    }[convention]
