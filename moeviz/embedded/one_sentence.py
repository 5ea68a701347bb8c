"""One sentence in the small models of the story: the numbers of each token on its way through a layer of experts.

`python -m benchmarks.one_sentence` records them from the models. Nothing here needs torch.

L layers, T tokens, D width, E experts, K chosen of them, N tokens of other texts.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

FILE = Path(__file__).with_suffix(".npz")
SENTENCE = "You can create a list of different lists this way"  # in Python's documentation, which 2017's system reads
TOP_K = 2
SHOWN = (3, 5)  # layer and token that are shown first: "list", with a third expert that comes close


class SentenceExperts(NamedTuple):
    """The experts that a model has for the sentence."""

    experts: Int[np.ndarray, "L T K"]  # highest weight first
    weights: Float[np.ndarray, "L T K"]
    alone: Bool[np.ndarray, "L T K"]  # False if only the bias brought the expert in


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The sentence in the embedded model, which is built as Mixtral is, and what its siblings choose."""

    tokens: list[str]
    x: Float[np.ndarray, "L T D"]  # what the router and the experts of a layer read
    residual: Float[np.ndarray, "L T D"]  # what their answers are added to
    router: Float[np.ndarray, "L E D"]
    answers: Float[np.ndarray, "L T K D"]  # of the chosen experts, highest weight first
    others: Float[np.ndarray, "L N E"]  # the router's scores of tokens of other texts
    texts: list[str]  # those N tokens
    natural: SentenceExperts  # of the sibling whose load was balanced within each text
    fine: SentenceExperts  # of the sibling with many small experts and a bias

    @property
    def scores(self) -> Float[np.ndarray, "L T E"]:
        """The router's logits: each of its rows times x."""
        return np.einsum("led,ltd->lte", self.router, self.x)

    @property
    def chosen(self) -> SentenceExperts:
        """The experts of the two highest scores, and a softmax over these two."""
        scores = self.scores
        experts = np.argsort(-scores, axis=-1, kind="stable")[..., :TOP_K]
        powers = np.exp(np.take_along_axis(scores, experts, -1) - scores.max(-1, keepdims=True))
        return SentenceExperts(experts, powers / powers.sum(-1, keepdims=True), np.ones(experts.shape, bool))


@cache
def one_sentence() -> Recorded:
    """Read what ships."""
    with np.load(FILE, allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    whole = {name: parts[name].astype(np.float32) for name in ("x", "residual", "router", "answers")}
    siblings = {
        name: SentenceExperts(*(parts[f"{name}_{part}"] for part in SentenceExperts._fields))
        for name in ("natural", "fine")
    }
    return Recorded(
        tokens=parts["tokens"].tolist(),
        others=parts["scores"].astype(np.float32),
        texts=parts["texts"].tolist(),
        **whole,
        **siblings,
    )
