"""The likeliest next tokens after each token of a trace: an optional part of it. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from moeviz.errors import InvalidTrace

NEXT = 5  # tokens at each position


@dataclass(frozen=True, slots=True, eq=False)
class NextTokens:
    """The five likeliest tokens after each token of a trace, and how they would be if the model stopped at a layer.

    L layers and T tokens as in the trace; each row has the likeliest first.

    texts     of all tokens that are named, each text by itself.
    ids       [t, n]: rows of `texts`.
    p         [t, n]: probabilities, the softmax of the model's own logits after token t.
    lens_ids  [l, t, n]: the same after layer l alone, by the logit lens: the model's final norm and head on that
              layer's output. It is no prediction of the model, and poor in early layers. None where it was not taken.
    lens_p    [l, t, n].

    Raises `InvalidTrace` for ids without a text, and for p that are no probabilities or not in order.

    Source: the logit lens of nostalgebraist (2020), as in Belrose et al. (arXiv 2303.08112), section 2.
    """

    texts: tuple[str, ...]
    ids: Int32[np.ndarray, "T 5"]
    p: Float32[np.ndarray, "T 5"]
    lens_ids: Int32[np.ndarray, "L T 5"] | None = None
    lens_p: Float32[np.ndarray, "L T 5"] | None = None

    def __post_init__(self) -> None:
        if (self.lens_ids is None) != (self.lens_p is None):
            raise InvalidTrace("The logit lens needs ids and probabilities; got one of the two. Give both, or neither.")
        for ids, p in self._pairs():
            if ids.shape != p.shape or (ids < 0).any() or (ids >= len(self.texts)).any():
                raise InvalidTrace(
                    f"The next tokens have ids without a text, or of another shape than their probabilities; there are "
                    f"{len(self.texts):,} texts. Give each id a text."
                )
            if not ((p >= 0) & (p <= 1)).all() or (np.diff(p) > 0).any():
                raise InvalidTrace(
                    "The probabilities of next tokens must be from 0 to 1, the highest first. Save the trace again."
                )

    def after(self, token: int) -> list[tuple[str, float]]:
        """Text and probability of the likeliest tokens after a token of the trace, the likeliest first."""
        row = zip(self.ids[token].tolist(), self.p[token].tolist(), strict=True)
        return [(self.texts[at], p) for at, p in row]

    def select(self, layers: Sequence[int], tokens: np.ndarray | slice) -> "NextTokens":
        """Those of some layers (by their place in the trace) and of some of its tokens."""
        lens = (None if part is None else part[list(layers)][:, tokens] for part in (self.lens_ids, self.lens_p))
        return NextTokens(self.texts, self.ids[tokens], self.p[tokens], *lens)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays and texts take."""
        return sum(part.nbytes for pair in self._pairs() for part in pair) + 60 * len(self.texts)

    def equals(self, other: "NextTokens") -> bool:
        """True if every text, id and the last bit of every probability are the same."""
        mine, others = self._pairs(), other._pairs()
        same = len(mine) == len(others) and all(map(np.array_equal, sum(mine, ()), sum(others, ())))
        return self.texts == other.texts and same

    def _pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        lens = [] if self.lens_ids is None or self.lens_p is None else [(self.lens_ids, self.lens_p)]
        return [(self.ids, self.p), *lens]


def joined_next_tokens(parts: Sequence[NextTokens]) -> NextTokens:
    """Those of several traces as one, token after token; with a lens where all have one."""
    starts = np.cumsum([0, *(len(part.texts) for part in parts)])
    shifted = [
        (part.ids + start, None if part.lens_ids is None else part.lens_ids + start)
        for part, start in zip(parts, starts.astype(np.int32)[:-1], strict=True)
    ]
    lens_ids, lens_p = [ids for _, ids in shifted], [part.lens_p for part in parts]
    whole = [ids for ids in lens_ids if ids is not None], [p for p in lens_p if p is not None]
    lens = (np.concatenate(every, axis=1) if len(every) == len(parts) else None for every in whole)
    texts = tuple(text for part in parts for text in part.texts)
    ids, p = np.concatenate([ids for ids, _ in shifted]), np.concatenate([part.p for part in parts])
    return NextTokens(texts, ids, p, *lens)
