"""Tokens of the vocabulary, and kinds of token text, by the expert that gets them.

A token of the vocabulary is an id or, if a trace has no ids, a text.
"""

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int16, Int64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.inputs import check_cells, per_layer
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.tokens import SPECIAL_TOKEN
from moeviz.metrics.words import one_row
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace

AT_LEAST = 10  # occurrences of a token; OLMoE's table 8 leaves out the others too
SHUFFLES = 20
SPACE, DIGITS, PUNCTUATION, WORD, INSIDE, SCRIPT, SPECIAL = KINDS = (
    "space or line break",
    "digits",
    "punctuation",
    "word, space before",
    "word, no space before",
    "other script",
    "special",
)
# Names of control tokens in common tokenizers, a byte that never became a character, and no text at all.
_SPECIAL = re.compile(rf"{SPECIAL_TOKEN.pattern}|⟨.+⟩|")
_PART = re.compile(r"⟨(.+) \d/\d⟩", re.DOTALL)  # of a character


@per_layer
def top_tokens(trace: RoutingTrace, at_least: int = AT_LEAST, most: int = 10) -> pd.DataFrame:
    """Find the tokens most specific to each expert: those that are routed to it nearly whenever they occur.

    The vocabulary specialization of expert i for token x is N_xi / N_x: the share of the occurrences of x, as input,
    for which the router chose i, in any slot. The shares of a token sum to k over a layer's experts. Few occurrences
    give high shares by chance, so tokens that occur fewer than `at_least` times are left out.

    One row per layer, expert and token: at most `most` tokens per expert, highest share first (ties: the more frequent
    token, then the one that came first); experts without such tokens have no row. Columns: layer int32 (the model's own
    index) · expert int16 · rank int16 (from 1) · token_id int32 (-1 if not known) · text str (of the id, exact; the
    most frequent if it has several) · tokens int64 (N_xi) · occurrences int64 (N_x, of tokens recorded at the layer) ·
    specialization float64 · chance float64 (k / E). Raises `InvalidTrace` if no token occurs often enough.

    Source: OLMoE (arXiv 2409.02060), section 5.4, eq. 8, for input ids, and table 8, which lists each token under one
    expert.
    """
    vocabulary = _vocabulary(trace, at_least)
    frames = []
    for experts, layer, num_experts in zip(trace.experts, trace.model.layers, trace.model.num_experts, strict=True):
        counts, times = vocabulary.counts(experts, num_experts), vocabulary.occurrences
        words = vocabulary.token_id, vocabulary.text
        frames.append(top_of_layer(layer, *words, counts, times, _chance(experts, num_experts), most))
    return pd.concat(frames, ignore_index=True)


def top_of_layer(
    layer: int, token_id: np.ndarray, text: np.ndarray, counts: np.ndarray, times: np.ndarray, chance: float, most: int
) -> pd.DataFrame:
    """Return the rows of `top_tokens` of one layer, for a vocabulary of V tokens.

    token_id (V,) and text (V,) say which; counts (V, E) how often each was sent to each expert; times (V,) how often
    each occurs, as recorded at the layer.
    """
    share = counts / times[:, None]
    order = np.lexsort((np.broadcast_to(-times[:, None], share.shape), -share), axis=0)[:most].T
    expert, place = np.nonzero(np.take_along_axis(counts.T, order, 1))
    token = order[expert, place]
    columns = {
        "layer": np.int32(layer),
        "expert": expert.astype(np.int16),
        "rank": (place + 1).astype(np.int16),
        "token_id": token_id[token],
        "text": pd.Series(text[token], dtype="str"),
        "tokens": counts[token, expert],
        "occurrences": times[token],
        "specialization": share[token, expert],
        "chance": chance,
    }
    return pd.DataFrame(columns)


@per_layer
def vocabulary_by_layer(trace: RoutingTrace, at_least: int = AT_LEAST) -> pd.DataFrame:
    """Compute the degree to which each token of a layer keeps to one expert: mean over the vocabulary, and by chance.

    For each token of the vocabulary: the share of its occurrences that are routed to its main expert, the one it is
    routed to most often. The result is the mean over all tokens that occur at least `at_least` times, each counting
    once. In a few occurrences some expert always comes out first, and a busy expert is the main expert of many tokens,
    so this mean is above k / E by chance. `shuffled` measures that: the mean over 20 shuffles (seed 0) of the tokens
    among the positions of the trace, which keep their experts. If a token occurs in only one text, what the text does
    to the routing counts as the token's doing.

    One row per layer. Columns: layer int32 · token_ids int64 (in the mean) · specialization, shuffled float64 (share of
    a token's occurrences; NaN if the trace has no tokens) · chance float64 (k / E). Raises `InvalidTrace` if no token
    occurs `at_least` times.

    Source: OLMoE (arXiv 2409.02060), section 5.4, 'per layer', which leaves no token out; the shuffle is moeviz's own.
    """
    vocabulary = _vocabulary(trace, at_least)
    rng = np.random.default_rng(0)
    shuffles = [vocabulary.shuffled(rng) for _ in range(SHUFFLES)]
    rows = []
    for experts, layer, num_experts in zip(trace.experts, trace.model.layers, trace.model.num_experts, strict=True):
        found = vocabulary.mean_share(experts, num_experts)
        luck = np.mean([shuffle.mean_share(experts, num_experts) for shuffle in shuffles])
        rows.append((layer, len(vocabulary.occurrences), found, luck, _chance(experts, num_experts)))
    columns = ["layer", "token_ids", "specialization", "shuffled", "chance"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": np.int32, "token_ids": np.int64})


@per_layer
def vocabulary_specialization(trace: RoutingTrace, at_least: int = AT_LEAST) -> pd.DataFrame:
    """Compute the degree to which each expert's tokens keep to it.

    A token belongs to its main expert, the one it is routed to most often (ties: the lower id), with the share of its
    occurrences that go there. An expert's specialization is the mean over the tokens that belong to it, each token of
    the vocabulary counting once, however often it occurs.

    One row per layer and expert. Columns: layer int32 · expert int16 · token_ids int64 (how many belong to it) ·
    specialization float64 (share of a token's occurrences; NaN if no token belongs to the expert) · shuffled float64
    (what chance gives, for the layer: see `vocabulary_by_layer`) · chance float64 (k / E). Raises `InvalidTrace` if no
    token occurs `at_least` times.

    Source: OLMoE (arXiv 2409.02060), section 5.4, 'per expert'; the mean as in its script run_moe_analysis.py.
    """
    vocabulary, of_layers = _vocabulary(trace, at_least), vocabulary_by_layer(trace, at_least)
    frames = []
    for experts, num_experts, of_layer in zip(
        trace.experts, trace.model.num_experts, of_layers.itertuples(), strict=True
    ):
        counts = vocabulary.counts(experts, num_experts)
        routed = counts.any(axis=1)
        main, share = counts.argmax(axis=1)[routed], vocabulary.shares(counts)[routed]
        belong = np.bincount(main, minlength=num_experts)
        sums = np.bincount(main, share, minlength=num_experts)
        columns = {
            "layer": of_layer.layer,
            "expert": np.arange(num_experts, dtype=np.int16),
            "token_ids": belong,
            "specialization": np.divide(sums, belong, out=np.full(num_experts, np.nan), where=belong > 0),
            "shuffled": of_layer.shuffled,
            "chance": of_layer.chance,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True).astype({"layer": np.int32})


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of the vocabulary that occur often enough in a trace. V of them, in the order in which they appear."""

    row: Int64[np.ndarray, " T"]  # which of them a token of the trace is; -1 = none
    occurrences: Int64[np.ndarray, " V"]
    token_id: np.ndarray
    text: np.ndarray

    def counts(self, experts: Int16[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, "V E"]:
        return _counts(self.row, len(self.occurrences), experts, num_experts)

    def shares(self, counts: Int64[np.ndarray, "V E"]) -> Float64[np.ndarray, " V"]:
        shares: np.ndarray = counts.max(axis=1) / self.occurrences
        return shares

    def mean_share(self, experts: Int16[np.ndarray, "T K"], num_experts: int) -> float:
        shares = self.shares(self.counts(experts, num_experts))
        return float(shares.mean()) if len(shares) else np.nan

    def shuffled(self, rng: np.random.Generator) -> "_Vocabulary":
        return _Vocabulary(rng.permutation(self.row), self.occurrences, self.token_id, self.text)


def _vocabulary(trace: RoutingTrace, at_least: int) -> _Vocabulary:
    tokens = trace.tokens
    unknown = tokens["token_id"] == NO_TOKEN_ID
    keys = pd.MultiIndex.from_arrays([tokens["token_id"], tokens["text"].where(unknown, "")])
    codes, _ = pd.factorize(keys)
    codes = codes.astype(np.int64)
    times = np.bincount(codes)
    kept = np.flatnonzero(times >= at_least)
    if len(times) and not len(kept):
        often = "once" if times.max() == 1 else f"{times.max()} times"
        raise InvalidTrace(
            f"Vocabulary specialization needs tokens that occur at least {at_least} times, and here no token occurs "
            f"more than {often}. Trace a longer text, or many texts with “moeviz corpus”."
        )
    check_cells("The vocabulary", trace.experts.size, tokens=len(kept), experts=max(trace.model.num_experts))
    row = np.full(len(times), -1)
    row[kept] = np.arange(len(kept))
    forms = tokens[["token_id", "text"]].assign(code=codes).value_counts(sort=False).reset_index()
    main = forms.sort_values("count", ascending=False, kind="stable").drop_duplicates("code").set_index("code")
    main = main.loc[kept]
    return _Vocabulary(row[codes], times[kept], main["token_id"].to_numpy(np.int32), main["text"].to_numpy(object))


def _chance(experts: Int16[np.ndarray, "T K"], num_experts: int) -> float:
    """Return k / E, with k the mean number of filled slots per token."""
    return float((experts >= 0).sum()) / max(len(experts), 1) / num_experts


def _counts(
    groups: Int64[np.ndarray, " T"], num_groups: int, experts: Int16[np.ndarray, "T K"], num_experts: int
) -> Int64[np.ndarray, "G E"]:
    token, slot = np.nonzero((experts >= 0) & (groups >= 0)[:, None])
    cells = groups[token] * num_experts + experts[token, slot]
    return np.bincount(cells, minlength=num_groups * num_experts).reshape(num_groups, num_experts)


@per_layer
def token_kinds(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the division of each kind of token (words, digits, spaces …) among the experts, layer by layer.

    `share` is a share of the kind's assignments (filled slots) in the layer, so a kind's shares sum to 1. `lift`
    compares it with the share of all tokens: 1 means that the kind uses the expert as all tokens do, 2 twice as much.

    One row per layer, kind and expert, including unused experts; the kinds that occur in the trace, in the order of
    `KINDS`. Columns: layer int32 (the model's own index) · kind str (see `kind_of`) · tokens int64 (of this kind) ·
    expert int16 · assignments int64 · share float64 (0 if the kind has no assignment) · uniform float64 (1 / E) ·
    share_of_tokens float64 (of the kind's tokens: sums to k) · lift float64 (NaN if no token was routed to the expert).

    Source: domain specialization of OLMoE (arXiv 2409.02060), section 5.3, with kinds of tokens instead of domains.
    """
    by_text = {text: KINDS.index(kind_of(text)) for text in trace.tokens["text"].unique()}
    kinds, codes = np.unique(trace.tokens["text"].map(by_text).to_numpy(np.int64), return_inverse=True)
    names, tokens = np.array(KINDS, object)[kinds], np.bincount(codes, minlength=len(kinds))
    frames = []
    for experts, layer, num_experts in zip(trace.experts, trace.model.layers, trace.model.num_experts, strict=True):
        counts = _counts(codes, len(kinds), experts, num_experts)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        load = counts.sum(axis=0) / max(counts.sum(), 1)
        columns = {
            "layer": np.int32(layer),
            "kind": pd.Series(np.repeat(names, num_experts), dtype="str"),
            "tokens": np.repeat(tokens, num_experts),
            "expert": np.tile(np.arange(num_experts, dtype=np.int16), len(kinds)),
            "assignments": counts.ravel(),
            "share": share.ravel(),
            "uniform": 1 / num_experts,
            "share_of_tokens": (counts / tokens[:, None]).ravel(),
            "lift": np.divide(share, load, out=np.full(share.shape, np.nan), where=load > 0).ravel(),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def kind_of(text: str) -> str:
    """The kind of a token's text, one of `KINDS`: by its letters, or else its digits, or else its other characters.

    >>> [kind_of(text) for text in (" the", "42", ",\\n", "\\n", "и", "</s>")]
    ['word, space before', 'digits', 'punctuation', 'space or line break', 'other script', 'special']
    """
    if part := _PART.fullmatch(text):
        text = part[1]
    if _SPECIAL.fullmatch(text):
        return SPECIAL
    names = [unicodedata.name(character, "") for character in text if unicodedata.category(character)[0] in "LM"]
    if names := [name for name in names if not name.startswith("VARIATION")]:  # which comes with emoji
        latin = all(name.startswith(("LATIN", "COMBINING")) for name in names)
        return SCRIPT if not latin else WORD if text[0].isspace() else INSIDE
    if any(character.isnumeric() for character in text):
        return DIGITS
    return PUNCTUATION if text.strip() else SPACE


def token_kinds_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which class of tokens goes to an expert most often compared with all tokens, of those beyond chance."""
    of_kind = frame.groupby("kind", sort=False)["assignments"].transform("sum")
    beyond = beyond_chance(frame["share"], of_kind, frame["share"] / frame["lift"])
    if not beyond.any():
        return None
    row = one_row(frame, frame["lift"][beyond].idxmax())
    return captions.expert_of_class(row.layer, row.expert, row.share, row.kind, row.lift, int(beyond.sum()), len(frame))


def vocabulary_layers_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim at which layer tokens keep most to one expert, of those where it is a fifth more than when shuffled."""
    clear = _clearly_kept(frame)
    if clear.empty:
        return None
    row = one_row(clear, clear["specialization"].idxmax())
    return captions.keeping_of_layer(row.layer, row.specialization, row.shuffled, len(clear), len(frame))


def vocabulary_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which expert's tokens keep most to it: a fifth more than when shuffled, and at least five of them."""
    clear = _clearly_kept(frame)
    if clear.empty:
        return None
    row = one_row(clear, clear["specialization"].idxmax())
    return captions.keeping_of_expert(row.layer, row.expert, row.specialization, row.shuffled, len(clear), len(frame))


def _clearly_kept(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["specialization"] >= 1.2 * frame["shuffled"]) & (frame["token_ids"] >= 5)]
