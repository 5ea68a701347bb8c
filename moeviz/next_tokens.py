"""The likeliest next tokens after each token of a trace: an optional part of it. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from moeviz.errors import InvalidTrace, MissingField

NEXT = 5  # tokens at each position


@dataclass(frozen=True, slots=True, eq=False)
class NextTokens:
    """The five likeliest tokens after each token of a trace, and those if the model stopped after a layer.

    L layers and T tokens as in the trace, V different tokens among the likeliest; the likeliest is first.

    texts      V texts: each token decoded by itself.
    rows       [t, n]: rows of `texts` and `token_ids`; `ids` and `after` look them up.
    p          [t, n]: probabilities, the softmax of the model's own logits after token t.
    lens_rows  [l, t, n]: rows of the likeliest tokens after layer l by the logit lens, which applies the model's final
               norm and head to that layer's output. Not a prediction of the model, and poor in early layers. None if
               it was not taken.
    lens_p     [l, t, n]: their probabilities.
    token_ids  V ids of the tokens in the tokenizer; None if the source does not have them.

    Raises `InvalidTrace` for rows without a text, and for values of p that are not probabilities or not in order.

    Source: the logit lens of nostalgebraist (2020), as in Belrose et al. (arXiv 2303.08112), section 2.
    """

    texts: tuple[str, ...]
    rows: Int32[np.ndarray, "T 5"]
    p: Float32[np.ndarray, "T 5"]
    lens_rows: Int32[np.ndarray, "L T 5"] | None = None
    lens_p: Float32[np.ndarray, "L T 5"] | None = None
    token_ids: Int32[np.ndarray, " V"] | None = None

    def __repr__(self) -> str:
        lens = "without the logit lens" if self.lens_rows is None else f"and after each of {len(self.lens_rows)} layers"
        return f"<NextTokens: the five likeliest after each of {len(self.p):,} tokens, {lens}; after(token) lists them>"

    def __post_init__(self) -> None:
        if self.token_ids is not None and len(self.token_ids) != len(self.texts):
            raise InvalidTrace(
                f"There are {len(self.texts):,} texts and {len(self.token_ids):,} token ids. Give one id per text."
            )
        if (self.lens_rows is None) != (self.lens_p is None):
            raise InvalidTrace(
                "The logit lens needs rows and probabilities; got one of the two. Give both, or neither."
            )
        for rows, p in self._pairs():
            if rows.shape != p.shape or (rows < 0).any() or (rows >= len(self.texts)).any():
                raise InvalidTrace(
                    f"The next tokens have rows without a text, or in another shape than their probabilities; there "
                    f"are {len(self.texts):,} texts. Give each row a text."
                )
            if not ((p >= 0) & (p <= 1)).all() or (np.diff(p) > 0).any():
                raise InvalidTrace(
                    "The probabilities of next tokens must be from 0 to 1, the highest first. Save the trace again."
                )

    @property
    def ids(self) -> Int32[np.ndarray, "T 5"]:
        """Token ids of the likeliest tokens, [t, n]. Raises `MissingField` if the source does not have them."""
        found: np.ndarray = self._known_ids()[self.rows]
        return found

    @property
    def lens_ids(self) -> Int32[np.ndarray, "L T 5"] | None:
        """Token ids of the likeliest tokens after each layer, [l, t, n]; None if no lens was taken. Raises as `ids`."""
        return None if self.lens_rows is None else self._known_ids()[self.lens_rows]

    def after(self, token: int) -> list[tuple[str, float]]:
        """Return text and probability of the likeliest tokens after a token of the trace, the likeliest first."""
        row = zip(self.rows[token].tolist(), self.p[token].tolist(), strict=True)
        return [(self.texts[at], p) for at, p in row]

    def select(self, layers: Sequence[int], tokens: np.ndarray | slice) -> "NextTokens":
        """Return those after some tokens and, by the lens, after some layers (by their place in the trace)."""
        lens_rows, lens_p = (
            None if part is None else part[list(layers)][:, tokens] for part in (self.lens_rows, self.lens_p)
        )
        return NextTokens(self.texts, self.rows[tokens], self.p[tokens], lens_rows, lens_p, self.token_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its arrays and texts take."""
        return sum(part.nbytes for pair in self._pairs() for part in pair) + 60 * len(self.texts)

    def equals(self, other: "NextTokens") -> bool:
        """Return whether every text, id and the last bit of every probability are the same."""
        mine, others = self._pairs(), other._pairs()
        same = len(mine) == len(others) and all(map(np.array_equal, sum(mine, ()), sum(others, ())))
        ids, of_other = (np.array(-1) if one.token_ids is None else one.token_ids for one in (self, other))
        return self.texts == other.texts and same and np.array_equal(ids, of_other)

    def _known_ids(self) -> np.ndarray:
        if self.token_ids is None:
            raise MissingField(
                "The source of these next tokens has their texts and not their ids. Trace the text again."
            )
        return self.token_ids

    def _pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        lens = [] if self.lens_rows is None or self.lens_p is None else [(self.lens_rows, self.lens_p)]
        return [(self.rows, self.p), *lens]


def joined_next_tokens(parts: Sequence[NextTokens]) -> NextTokens:
    """Join those of several traces, token after token; with a lens, and with token ids, if all have them."""
    starts = np.cumsum([0, *(len(part.texts) for part in parts)])[:-1].astype(np.int32)
    rows = [part.lens_rows + start for part, start in zip(parts, starts, strict=True) if part.lens_rows is not None]
    p = [part.lens_p for part in parts if part.lens_p is not None]
    lens_rows, lens_p = (np.concatenate(every, axis=1) if len(every) == len(parts) else None for every in (rows, p))
    ids = [part.token_ids for part in parts if part.token_ids is not None]
    return NextTokens(
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.p for part in parts]),
        lens_rows,
        lens_p,
        np.concatenate(ids) if len(ids) == len(parts) else None,
    )
