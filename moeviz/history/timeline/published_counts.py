"""Parameter counts that papers print, counted again from the sizes that they print."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pandas as pd

UNITS = {"million": 10**6, "billion": 10**9}
COUNTED = {"Shazeer 2017": "without embedding and softmax", "Switch": "everything but norms and position biases"}
# Name, experts, groups of the first level (0: flat), printed millions. Shazeer 2017, Tables 7 and 8.
SPARSELY_GATED = (
    ("MoE-4", 4, 0, "8.4"),
    ("MoE-32", 32, 0, "37.8"),
    ("MoE-256", 256, 0, "272.9"),
    ("MoE-256-h", 256, 16, "272.9"),
    ("MoE-1024-h", 1024, 16, "1079.0"),
    ("MoE-4096-h", 4096, 16, "4303.4"),
    ("MoE-16384-h", 16384, 128, "17201.0"),
    ("MoE-65536-h", 65536, 256, "68791.0"),
    ("MoE-131072-h", 131072, 256, "137577.6"),
)
LSTM = {"model": 512, "hidden": 1024}
DEFAULTS = {"every": 2, "gated": True, "vocabulary": 32_128}
BASE = {"model": 768, "heads": 12, "head": 64, "layers": 12, "experts": 128}
LARGE = {"model": 1024, "heads": 16, "head": 64, "layers": 24, "experts": 128}
XXL = {"model": 4096, "hidden": 10240, "heads": 64, "head": 64, "layers": 24}
C = {"model": 2080, "hidden": 6144, "heads": 32, "head": 64, "layers": 15, "experts": 2048, "every": 1, "gated": False}
NOT_READ = "hidden size and layers are those of T5-Large, from memory"
# Name, sizes, printed billions, remark. Switch, Table 9.
SWITCH = (
    ("Switch-Base", BASE | {"hidden": 2048}, "7", "gated experts, as Table 9 says"),
    ("Switch-Base", BASE | {"hidden": 2048, "gated": False}, "7", "the same hidden size without gates"),
    ("Switch-Base", BASE | {"hidden": 3072, "gated": False}, "7", "the hidden size of the first T5, without gates"),
    ("Switch-Large", LARGE | {"hidden": 2816}, "26", f"gated experts; {NOT_READ}"),
    ("Switch-Large", LARGE | {"hidden": 4096, "gated": False}, "26", f"without gates; {NOT_READ}"),
    ("Switch-XXL", XXL | {"experts": 64}, "395", "64 experts, as Table 9 says: half of the printed count"),
    ("Switch-XXL", XXL | {"experts": 128}, "395", "128 experts give the printed count: the 64 looks like a misprint"),
    ("Switch-C", C, "1571", "an MoE in every layer, experts without gates"),
)


def sparsely_gated_parameters(experts: int, groups: int = 0, model: int = 512, hidden: int = 1024) -> int:
    """Parameters of the language models of Shazeer 2017, without embedding and softmax.

    Two LSTMs around one MoE layer, all without biases, where E is `experts`, d is `model`, h is `hidden`:

        E · 2dh            experts, two matrices each
        2dE                router and its noise (W_g and W_noise); with `groups`, of the second level
        2d · groups        router and noise of the first level, if it exists
        2 · 4d(d + d)      two LSTMs: four gates, each of input and state

    >>> sparsely_gated_parameters(4)
    8392704

    Source: Shazeer et al. (arXiv 1701.06538), section 2.1 and Appendix C; the experts' size in C.1.
    """
    return experts * 2 * model * hidden + 2 * model * (experts + groups) + 2 * 4 * model * 2 * model


def switch_parameters(
    *,
    model: int,
    hidden: int,
    heads: int,
    head: int,
    layers: int,
    experts: int,
    every: int = 2,
    gated: bool = True,
    vocabulary: int = 32_128,
) -> int:
    """Count the parameters of a Switch Transformer: a T5 in which every n-th feed-forward layer is an MoE layer.

    L `layers` in the encoder and as many in the decoder; d is `model`, f is `hidden`, of the E experts too:

        Vd, or 2Vd where gated        embedding, and the output head that T5 with gated layers does not tie to it
        3L · 4d · heads · head        attention: one in each layer of the encoder, two in the decoder's
        2(L - M) · F                  dense feed-forward layers, F = 2df, or 3df where gated (GEGLU)
        2M · (E · F + dE)             MoE layers, M = L // every: experts and router

    Norms and relative position biases are left out: they change no printed digit.

    >>> switch_parameters(model=2, hidden=3, heads=1, head=2, layers=2, experts=4, gated=False, vocabulary=10)
    252

    Source: Fedus et al. (arXiv 2101.03961), Table 9; T5's layers, Raffel et al. (arXiv 1910.10683), section 2.1.
    """
    feed_forward = (3 if gated else 2) * model * hidden
    moe_layers = layers // every
    attention = 3 * layers * 4 * model * heads * head
    moe = 2 * moe_layers * (experts * feed_forward + model * experts)
    embeddings = (2 if gated else 1) * vocabulary * model
    return embeddings + attention + 2 * (layers - moe_layers) * feed_forward + moe


def readings() -> dict[str, tuple[Callable[..., int], dict[str, object]]]:
    """Functions that count parameters, by name, each with the sizes that its paper prints."""
    flat = {name: {"experts": experts, "groups": groups} for name, experts, groups, _ in SPARSELY_GATED}
    found = {f"Sparsely gated {name}": (sparsely_gated_parameters, sizes | LSTM) for name, sizes in flat.items()}
    return found | {f"{name}, {remark}": (switch_parameters, DEFAULTS | sizes) for name, sizes, _, remark in SWITCH}


def published_counts() -> pd.DataFrame:
    """Parameter counts printed in two papers, and those that follow from the printed sizes.

    A count agrees if ours, rounded to as many digits as the paper prints, is the printed one. If a paper leaves a size
    open or contradicts itself, there is a row for each reading.

    One row per system and reading. Columns: system str · counted str (what the count includes) · ours int64 (exact
    parameters) · printed float64 (in `unit`) · unit str ("million", "billion") · agrees bool · remark str.

    Source: Shazeer et al. (arXiv 1701.06538), Tables 7 and 8; Fedus et al. (arXiv 2101.03961), Table 9.
    """
    rows = [
        ("Shazeer 2017", name, sparsely_gated_parameters(experts, groups), printed, "million", _levels(groups))
        for name, experts, groups, printed in SPARSELY_GATED
    ]
    rows += [
        ("Switch", name, switch_parameters(**sizes), printed, "billion", remark)
        for name, sizes, printed, remark in SWITCH
    ]
    kinds = {"system": "str", "counted": "str", "ours": np.int64, "printed": np.float64, "unit": "str"}
    kinds |= {"agrees": bool, "remark": "str"}
    made = [
        (system, COUNTED[paper], ours, printed, unit, _rounds_to(ours, printed, unit), remark)
        for paper, system, ours, printed, unit, remark in rows
    ]
    return pd.DataFrame(made, columns=list(kinds)).astype(kinds)


def _rounds_to(ours: int, printed: str, unit: str) -> bool:
    """Compare in whole numbers and fractions: a float could fall to the wrong side of a half."""
    step = Fraction(1, 10 ** len(printed.partition(".")[2]))
    return abs(Fraction(ours, UNITS[unit]) - Fraction(printed)) <= step / 2


def _levels(groups: int) -> str:
    return f"two levels: {groups} groups, 2 chosen, and 2 experts in each" if groups else "one level, top 4"
