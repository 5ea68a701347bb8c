"""Tokens that keep to an expert, the places in the text where it has them, and a summary in words."""

import re
from collections.abc import Iterable
from math import exp, lgamma, log

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.expert import LUCK, has_token, row_of
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace

KEEPS = 1.2  # times its usual share, from which on a token keeps to an expert at all
NOTHING = 1e-18  # of a sum
REACH = 40  # tokens before and after that a context is taken from
LEFT, RIGHT = 60, 60  # and characters
PART = re.compile(r"⟨(.) (\d)/\d⟩")  # of a character that is split over tokens


def enough_occurrences(tokens: int) -> int:
    """Return how often one of `tokens` must occur for its share to mean something: 2 in a text, 10 in a corpus."""
    return int(np.clip(tokens // 200, 2, 10))


def keeping_tokens(
    trace: RoutingTrace, layer: int, expert: int, at_least: int | None = None, most: int = 14
) -> pd.DataFrame:
    """Find the tokens of the vocabulary that keep to an expert: it has more of their occurrences than of all tokens.

    `luck` is how likely any token of the trace would keep to the expert like this if it took its usual share of every
    token's occurrences at random: the binomial tail, times the number of tokens that occur often enough (at most 1).
    Occurrences in one text are not independent, so `texts` says in how many the token occurs.

    at_least   occurrences below which a token is left out; default: 2, and up to 10 in a trace of 2,000 tokens or more.

    One row per token with at least 1.2 times the usual share, highest share first (ties: the more frequent token, then
    the one that came first), at most `most`. Columns: rank int16 (from 1) · code int64 (which token: see `token_codes`)
    · token_id int32 (-1 if not known) · text str (exact) · tokens int64 (that the expert has) · occurrences int64 ·
    texts int64 · share float64 (tokens / occurrences) · usual float64 (the expert's share of all tokens) · lift float64
    (share / usual) · luck float64. Raises as `row_of`.

    Source: OLMoE (arXiv 2409.02060), section 5.4, eq. 8, for input ids; lift as in Brin et al. (1997), 'interest'.
    """
    has, recorded = has_token(trace, layer, expert), trace.recorded[row_of(trace, layer, expert)]
    codes, usual = token_codes(trace), float(has.sum() / max(recorded.sum(), 1))
    size = int(codes.max(initial=-1)) + 1
    times, tokens = (np.bincount(codes[rows], minlength=size) for rows in (recorded, has))
    least = enough_occurrences(int(recorded.sum())) if at_least is None else at_least
    found = which_keep(times, tokens, usual, least, most)
    sequences = trace.tokens["sequence"]
    texts = np.array([sequences[recorded & (codes == code)].nunique() for code in found], np.int64)
    first = np.flatnonzero(~pd.Series(codes).duplicated())  # codes count up in the order of first appearance
    rows = trace.tokens.iloc[first[found]]
    words = found, rows["token_id"].to_numpy(), rows["text"].to_numpy(object)
    usuals = np.full(len(found), usual)
    return keeping_rows(words, tokens[found], times[found], texts, usuals, int((times >= least).sum()))


def which_keep(
    times: Int64[np.ndarray, " V"], tokens: Int64[np.ndarray, " V"], usual: float, least: int, most: int
) -> Int64[np.ndarray, " N"]:
    """Find the tokens of a vocabulary that keep to an expert, best first: of their `times`, it has `tokens`."""
    share = tokens / np.maximum(times, 1)
    found = np.flatnonzero((times >= least) & (tokens > 0) & (share >= KEEPS * usual))
    best: np.ndarray = found[np.lexsort((-times[found], -share[found]))][:most]
    return best


def keeping_rows(
    words: tuple[np.ndarray, np.ndarray, np.ndarray],
    tokens: np.ndarray,
    times: np.ndarray,
    texts: np.ndarray,
    usual: np.ndarray,
    tested: int,
) -> pd.DataFrame:
    """Return the rows of `keeping_tokens` for one expert: words are codes, ids and texts of the N tokens.

    tokens (N,) and times (N,) are the occurrences that it has and all of them, `texts` the texts they are in, and usual
    (N,) its share of all tokens; `tested` is how many tokens of the vocabulary occur often enough.
    """
    share = tokens / np.maximum(times, 1)
    luck = [tested * _tail(*each) for each in zip(tokens.tolist(), times.tolist(), usual.tolist(), strict=True)]
    columns = {
        "rank": np.arange(1, len(tokens) + 1, dtype=np.int16),
        "code": words[0],
        "token_id": words[1],
        "text": pd.Series(words[2], dtype="str"),
        "tokens": tokens,
        "occurrences": times,
        "texts": texts,
        "share": share,
        "usual": usual,
        "lift": share / np.maximum(usual, 1e-12),
        "luck": np.minimum(luck, 1.0),
    }
    return pd.DataFrame(columns).astype({"code": np.int64, "texts": np.int64, "luck": np.float64})


def token_codes(trace: RoutingTrace) -> Int64[np.ndarray, " T"]:
    """Number the tokens of the vocabulary in the order in which they first appear: by id, or else by text."""
    unknown = trace.tokens["token_id"] == NO_TOKEN_ID
    if not unknown.any():
        ids: np.ndarray = pd.factorize(trace.tokens["token_id"])[0].astype(np.int64)
        return ids
    keys = pd.MultiIndex.from_arrays([trace.tokens["token_id"], trace.tokens["text"].where(unknown, "")])
    codes: np.ndarray = pd.factorize(keys)[0].astype(np.int64)
    return codes


def _tail(hits: int, tries: int, chance: float) -> float:
    """Return the probability of at least this many hits."""
    if chance >= 1 or hits <= 0:
        return 1.0
    total, odds = 0.0, log(chance) - log(1 - chance)
    term = lgamma(tries + 1) - lgamma(hits + 1) - lgamma(tries - hits + 1) + hits * log(chance)
    term += (tries - hits) * log(1 - chance)
    for n in range(hits, tries + 1):
        total += (part := exp(term))
        if n > tries * chance and part <= total * NOTHING:
            break  # those that follow are smaller still
        term += odds + (log(tries - n) - log(n + 1) if n < tries else 0)
    return min(1.0, total)


def contexts(
    trace: RoutingTrace, layer: int, expert: int, code: int | None = None, most: int = 14, seed: int = 0
) -> pd.DataFrame:
    """Draw the tokens of an expert in their text, drawn at random, in the order of the trace.

    code   one token of the vocabulary (of `token_codes`); None for all.

    One row per place, at most `most`. Columns: token int32 (row of `trace.tokens`) · before str, text str, after str
    (characters that would vanish or reorder the line are made visible in `text`, and spaces elsewhere) · label str (""
    without labels) · sequence int32 · weight float64 (NaN without weights). Raises as `row_of`.

    Source: keyword in context, Luhn (1960).
    """
    row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    rows = np.flatnonzero(has if code is None else has & (token_codes(trace) == code))
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    weights = _weights(trace, row, expert, chosen)
    lines = [(at, *_around(trace, at), weight) for at, weight in zip(chosen.tolist(), weights, strict=True)]
    columns = ["token", "before", "text", "after", "label", "sequence", "weight"]
    kinds = {"token": "int32", "sequence": "int32", "weight": "float64"}
    strings = dict.fromkeys(("before", "text", "after", "label"), "str")
    return pd.DataFrame(lines, columns=columns).astype(kinds | strings)


def _weights(trace: RoutingTrace, row: int, expert: int, rows: np.ndarray) -> np.ndarray:
    if trace.weights is None:
        return np.full(len(rows), np.nan)
    own = trace.experts[row, rows] == expert
    weights: np.ndarray = trace.weights[row, rows][own].astype(np.float64)
    return weights


def _around(trace: RoutingTrace, at: int) -> tuple[str, str, str, str, int]:
    """Return (before, text, after, label, sequence) of a token."""
    tokens = trace.tokens
    sequence = int(tokens["sequence"].to_numpy()[at])
    near = slice(max(at - REACH, 0), at + 1 + REACH)
    same: Bool[np.ndarray, " N"] = (tokens["sequence"].iloc[near] == sequence).to_numpy()
    here, texts = at - near.start, tokens["text"].iloc[near].tolist()
    before = line_of(text for text, kept in zip(texts[:here], same[:here], strict=True) if kept)
    after = line_of(text for text, kept in zip(texts[here + 1 :], same[here + 1 :], strict=True) if kept)
    label = str(tokens["label"].iat[at]) if "label" in tokens else ""
    return before[-LEFT:], visible(texts[here]), after[:RIGHT], label, sequence


def line_of(texts: Iterable[str]) -> str:
    """These tokens as text of one line: what would break it or reorder it is a space."""
    whole = PART.sub(lambda part: part[1] if part[2] == "1" else "", "".join(texts))
    return "".join(character if character.isprintable() else " " for character in whole)


NEARLY_ALL = 0.9  # of a token's occurrences
TWICE = 2.0  # the usual share, at least, for a token to be named
MOST_KINDS, MOST_TOKENS = 3, 4
SECOND_TO_FIRST = 1.6  # a kind is named next to the first if its share is at least this fraction of the first's


def expert_summary(
    trace: RoutingTrace, layer: int, expert: int, tokens: pd.DataFrame, kinds: pd.DataFrame | None = None
) -> Claim:
    """Claim which kinds of text the expert takes, and which tokens keep to it, with counts.

    Kinds are named where shuffling whole texts does not explain their share, and tokens where chance does not: of
    routing that is shuffled, something is claimed of at most 5% of the experts for each of the two. Otherwise the claim
    is that nothing stands out.

    tokens   of `keeping_tokens`.
    kinds    of `expert_kinds`; None if the trace has no labels.
    """
    row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    return expert_summary_of_counts(int(has.sum()), int(trace.recorded[row].sum()), tokens, kinds)


def expert_summary_of_counts(has: int, recorded: int, tokens: pd.DataFrame, kinds: pd.DataFrame | None = None) -> Claim:
    """Claim what an expert does that `has` of the tokens `recorded` at its layer; see `expert_summary`."""
    if not recorded:
        return captions.not_recorded_here()
    if recorded < HANDFUL:
        return captions.too_short(has, recorded)
    if not has:
        return captions.takes_nothing(recorded)
    if has == recorded:
        return captions.takes_everything(recorded)
    taken, keeping = _kinds_taken(kinds), _keeping(tokens)
    if not taken and not keeping:
        return captions.nothing_stands_out(kinds is not None, kinds is not None and bool(kinds["luck"].notna().any()))
    return captions.stands_out(taken, kinds["uniform"].iloc[0] if kinds is not None else np.nan, keeping)


def _kinds_taken(kinds: pd.DataFrame | None) -> tuple[captions.Taken, ...]:
    if kinds is None or not kinds["stands_out"].any():
        return ()
    clear = kinds[kinds["stands_out"] & (kinds["share"] >= kinds["share"].iloc[0] / SECOND_TO_FIRST)].head(MOST_KINDS)
    return tuple(captions.Taken(str(kind.label), kind.share, kind.tokens, kind.texts) for kind in clear.itertuples())


def _keeping(tokens: pd.DataFrame) -> tuple[captions.Keeping, ...]:
    clear = tokens[(tokens["share"] >= NEARLY_ALL) & (tokens["lift"] >= TWICE) & (tokens["luck"] <= LUCK)]
    clear = clear[clear["text"].map(kind_of) != SPECIAL].head(MOST_TOKENS)
    rows = zip(clear["text"], clear["tokens"], clear["occurrences"], strict=True)
    return tuple(captions.Keeping(str(text), int(tokens), int(of)) for text, tokens, of in rows)
