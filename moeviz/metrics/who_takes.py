"""The places of a word in the texts, and the experts that have more weight on its tokens than on all."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.tokens import PART_OF_CHARACTER
from moeviz.metrics.vocabulary import DIGITS, PUNCTUATION, SPECIAL, kind_of
from moeviz.metrics.words import one_row
from moeviz.routing_trace import RoutingTrace

FEW = 8  # tokens of a word below which experts are not compared
CLEARLY = 0.05  # more of the weight than usual, at the lower end of the interval
LOWER = 1.64  # standard errors: the lower end of a 90 % interval
LONGEST_WORD, LONGEST_TOKEN = 100, 200  # characters that are searched for, and of a token that are searched
BETWEEN = "\0"  # texts, and instead of special tokens
CLASSES = (DIGITS, PUNCTUATION)  # of tokens that can be asked for by name


@dataclass(frozen=True, slots=True, eq=False)
class WordTokens:
    """The tokens of a word."""

    word: str
    tokens: Bool[np.ndarray, " T"]  # which of the trace's
    what: str  # they are, after "tokens": "of “SELECT”"

    @property
    def count(self) -> int:
        """Number of tokens of the word."""
        return int(self.tokens.sum())


def tokens_of_word(trace: RoutingTrace, word: str) -> WordTokens:
    """Find a word in the texts as they are written, so that it may be of several tokens.

    Whole words count first; if there are none, parts of words; then both, ignoring case. A single digit is looked for
    in numbers too, and `digits` and `punctuation` are classes of tokens. The first 200 characters of a token are
    searched; special tokens are not. Raises `MoevizError` for an empty word, or one of more than 100 characters.
    """
    word = word.replace(BETWEEN, "").strip()
    if not word or len(word) > LONGEST_WORD:
        what = "nothing" if not word else f"{len(word):,} characters"
        raise MoevizError(f"A search takes a word of 1 to {LONGEST_WORD} characters, and this has {what}.")
    codes, texts = pd.factorize(trace.tokens["text"])
    kinds = np.array([kind_of(text) for text in texts], object)
    if word in CLASSES:
        return WordTokens(word, (kinds == word)[codes], f"that are {word}")
    pieces = [BETWEEN if kind == SPECIAL else _as_written(text) for text, kind in zip(texts, kinds, strict=True)]
    whole, starts, ends = _join_texts(trace, codes, pieces)
    hit = np.zeros(len(codes) + 1, np.int64)
    what = ""
    for pattern, flags, what in _ways(word):  # noqa: B007, of the last one that is tried
        for match in re.finditer(pattern, whole, flags):
            hit[np.searchsorted(ends, match.start(), "right")] += 1
            hit[np.searchsorted(starts, match.end(), "left")] -= 1
        if hit.any():
            break
    return WordTokens(word, np.cumsum(hit)[:-1] > 0, what)


def _ways(word: str) -> Iterator[tuple[str, int, str]]:
    """List patterns in the order in which they are tried, each with words for the tokens that it finds."""
    exact = re.escape(word)
    is_word = bool(re.fullmatch(r"\w(.*\w)?", word, re.DOTALL)) and not re.fullmatch(r"\d", word)
    for flags, case in ((0, ""), (re.IGNORECASE, " in any case")):
        if is_word:
            yield rf"(?<!\w){exact}(?!\w)", flags, f"of “{word}”{case}"
        yield exact, flags, f"of “{word}”{' inside words' * is_word}{case}"


def _as_written(text: str) -> str:
    """Return a token as it stands in the text; for a part of a character, the whole character."""
    part = PART_OF_CHARACTER.fullmatch(text)
    return (part[1] if part else text)[:LONGEST_TOKEN]


def _join_texts(trace: RoutingTrace, codes: np.ndarray, pieces: list[str]) -> tuple[str, np.ndarray, np.ndarray]:
    """Join all texts, and return where each token begins and ends: parts of a character at the same place."""
    texts = trace.tokens["text"].to_numpy(object)
    sequence = trace.tokens["sequence"].to_numpy()
    starts: list[int] = []
    ends: list[int] = []
    written, at = [], 0
    for row, code in enumerate(codes.tolist()):
        if row and sequence[row] != sequence[row - 1]:
            written.append(BETWEEN)
            at += 1
        part = PART_OF_CHARACTER.fullmatch(texts[row]) if texts[row].startswith("⟨") else None
        if part is not None and part[2] != "1" and starts and sequence[row] == sequence[row - 1]:
            starts.append(starts[-1])
            ends.append(ends[-1])
            continue
        starts.append(at)
        written.append(pieces[code])
        at += len(pieces[code])
        ends.append(at)
    return "".join(written), np.array(starts, np.int64), np.array(ends, np.int64)


@needs_tokens
def who_takes(trace: RoutingTrace, tokens: Bool[np.ndarray, " T"]) -> pd.DataFrame:
    """Find the experts that take some tokens clearly more than others.

    `share` is an expert's part of these tokens' weight (a token's weights at a layer sum to 1 here), or without weights
    its share of the tokens themselves. Ranked by the lower end of a 90 % interval (Wilson) of `share` less `usual`,
    its share of all tokens, and left out if that is at most 0.05: at 2 experts of 8 a token, some expert of each
    layer has nearly all of any word, often as a faint second choice.

    tokens   which of the trace's; see `tokens_of_word`.

    One row per layer and expert, highest first. Columns: layer int32 (the model's own index) · expert int16 · tokens
    int64 (of these, that it has) · of int64 (of these, recorded at the layer) · share, usual, low float64. Raises
    `MissingField` where nothing is recorded.

    Source: Wilson (1927), Journal of the American Statistical Association 22(158).
    """
    frames = [_takers(trace, row, tokens) for row in range(len(trace.model.layers))]
    found = pd.concat(frames, ignore_index=True)
    found = found[(found["low"] - found["usual"] > CLEARLY) & (found["tokens"] > 0)]
    order = np.argsort(-(found["low"] - found["usual"]).to_numpy(), kind="stable")
    return found.iloc[order].reset_index(drop=True).astype({"layer": np.int32, "expert": np.int16})


def _takers(trace: RoutingTrace, row: int, tokens: Bool[np.ndarray, " T"]) -> pd.DataFrame:
    experts, E = trace.experts[row], trace.model.num_experts[row]
    recorded = trace.recorded[row]
    token, slot = np.nonzero(experts >= 0)
    expert, of_these = experts[token, slot], tokens[token]
    part = np.ones(len(token))
    if trace.weights is not None:
        weights = np.abs(trace.weights[row].astype(np.float64)) * (experts >= 0)
        part = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))[token, slot]
    these, everyone = int((recorded & tokens).sum()), int(recorded.sum())
    share = np.bincount(expert[of_these], part[of_these], E) / max(these, 1)
    return pd.DataFrame(
        {
            "layer": trace.model.layers[row],
            "expert": np.arange(E),
            "tokens": np.bincount(expert[of_these], minlength=E).astype(np.int64),
            "of": np.int64(these),
            "share": share,
            "usual": np.bincount(expert, part, E) / max(everyone, 1),
            "low": _lower_end(np.minimum(share, 1), these),
        }
    )


def _lower_end(share: np.ndarray, of: int) -> np.ndarray:
    """Return the lower end of Wilson's interval of a share; 0 without tokens."""
    if not of:
        return np.zeros_like(share)
    z = LOWER
    middle = share + z * z / (2 * of)
    half = z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low: np.ndarray = (middle - half) / (1 + z * z / of)
    return low


def who_takes_sentence(found: WordTokens, takers: pd.DataFrame, weighed: bool) -> Claim:
    """Claim who takes the tokens of a word most, from the rows of `who_takes`; or that none does, or that they are few.

    weighed   whether the trace has weights: see `RoutingTrace.weights`.
    """
    count = found.count
    if not count:
        return captions.word_not_found(found.word)
    if count < FEW:
        return captions.word_is_rare(count, found.what)
    if takers.empty:
        return captions.nobody_takes(count, found.what)
    best = one_row(takers, takers.index[0])
    weight = best.share if weighed else None
    return captions.taker(best.layer, best.expert, best.tokens, best.of, found.what, weight, best.usual)
