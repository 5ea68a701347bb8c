"""The atlas of a trace of many texts: its tokens by kind of text, and what each expert of each layer has of them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Int32, Int64

from moeviz.errors import MissingField
from moeviz.metrics.expert_names import sample_of_texts
from moeviz.metrics.expert_tokens import KEEPS, enough_occurrences, token_codes
from moeviz.metrics.inputs import check_recorded
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.routing_trace import RoutingTrace

MOST_KINDS = 24  # of more, the smallest are one
OTHERS = "other kinds"
DRAWN, KEPT = 3, 2  # tokens of an expert that are drawn at random, and of the vocabulary that keep to it
SEED = 7


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """The tokens of each kind that each expert has, in texts grouped by kind. L, T, E as in traces; C kinds."""

    trace: RoutingTrace  # the texts, or a sample of them, those of one kind after each other
    columns: list[tuple[str, int, int]]  # kinds of text, or single texts, by the rows where each begins and ends
    kinds: list[str]  # that experts are compared by: labels, or classes of tokens if there are none
    by: str  # "kinds" or "tokens": which of these they are, as in `expert_names`
    kind: Int64[np.ndarray, " T"]  # -1: a special token, which has no class
    counts: Int64[np.ndarray, "L E C"]  # tokens of each kind that an expert has, in any slot
    of: Int64[np.ndarray, "L C"]  # tokens of each kind that are recorded at the layer
    tokens: Int64[np.ndarray, "L E"]  # that an expert has
    recorded: Int64[np.ndarray, " L"]
    drawn: Int32[np.ndarray, "L E 3"]  # rows of its tokens, drawn at random from different texts; -1: none
    text: Int64[np.ndarray, " T"]  # which text a token is of, for what stands around it
    code: Int64[np.ndarray, " T"]  # which token of the vocabulary: see `token_codes`
    keeps: Int32[np.ndarray, "L E 2 3"]  # tokens of the vocabulary that keep to it: code, times that it has, times


def atlas(trace: RoutingTrace) -> Atlas:
    """Compute the atlas of a trace, of a sample of whole texts where it is large (`sample_of_texts`).

    Tokens are drawn (seed 7) from an expert's first choices where these are known, and from all that it has where they
    are not. A token of the vocabulary keeps to an expert as `keeping_tokens` has it. Raises `MissingField` if
    nothing is recorded, or the tokens have neither labels nor texts.
    """
    check_recorded(trace)
    trace = sample_of_texts(trace)
    codes, texts = pd.factorize(trace.tokens["text"])
    classes = np.array([kind_of(text) for text in texts], object)[codes]
    if "label" not in trace.tokens and (classes == SPECIAL).all():
        raise MissingField(
            "An atlas shows which kinds of text, or classes of tokens, an expert takes, and this trace has neither "
            "labels nor texts. Record it with its texts."
        )
    trace, text, columns, order = _in_order(trace)
    kinds, kind, by = _kinds(trace, classes[order])
    L, E, C = len(trace.model.layers), max(trace.model.num_experts), len(kinds)
    counts, of, tokens = np.zeros((L, E, C), np.int64), np.zeros((L, C), np.int64), np.zeros((L, E), np.int64)
    drawn, keeps = np.full((L, E, DRAWN), -1, np.int32), np.full((L, E, KEPT, 3), -1, np.int32)
    special, code, recorded = classes[order] == SPECIAL, token_codes(trace), trace.recorded
    rng = np.random.default_rng(SEED)
    for row, experts in enumerate(trace.experts):
        token, slot = np.nonzero(experts >= 0)
        expert = experts[token, slot].astype(np.int64)
        at = np.where(kind[token] < 0, C, kind[token]) * E + expert
        counts[row] = np.bincount(at, minlength=(C + 1) * E).reshape(C + 1, E)[:C].T
        of[row] = np.bincount(kind[recorded[row] & (kind >= 0)], minlength=C)
        tokens[row] = np.bincount(expert, minlength=E)
        shown = ~special[token] & ((slot == 0) | (not trace.ordered))
        drawn[row] = _draw_rows(token[shown], expert[shown], text, E, rng)
        keeps[row] = _keeping(code[token], expert, code[recorded[row] & ~special], E)
    return Atlas(trace, columns, kinds, by, kind, counts, of, tokens, recorded.sum(axis=1), drawn, text, code, keeps)


def _in_order(trace: RoutingTrace) -> tuple[RoutingTrace, np.ndarray, list[tuple[str, int, int]], np.ndarray]:
    """Return the trace with texts of one kind next to each other, the text of each token, the columns and the order.

    Where tokens of one text have several labels, each stands by itself.
    """
    sequence = pd.factorize(trace.tokens["sequence"])[0]
    label, names = sequence, [f"text {number + 1:,}" for number in range(int(sequence.max(initial=-1)) + 1)]
    if "label" in trace.tokens:
        names, label = trace.labels("An atlas")
        if (pd.Series(label).groupby(sequence).nunique() > 1).any():
            sequence = np.arange(len(sequence))
    order = np.lexsort((sequence, label))  # stable
    edges = [*np.flatnonzero(np.diff(label[order], prepend=-1)).tolist(), len(order)]
    columns = [(names[label[order[a]]], a, b) for a, b in pairwise(edges)]
    kept = trace if (np.diff(order) == 1).all() else trace.select(tokens=order)
    return kept, sequence[order].astype(np.int64), columns, order


def _kinds(trace: RoutingTrace, classes: np.ndarray) -> tuple[list[str], np.ndarray, str]:
    if "label" not in trace.tokens:
        of_class, found = pd.factorize(pd.Series(classes, dtype=object).where(classes != SPECIAL))
        return [str(name) for name in found], of_class.astype(np.int64), "tokens"
    names, codes = trace.labels("An atlas")
    if len(names) > MOST_KINDS:
        sizes = np.bincount(codes, minlength=len(names))
        large = np.sort(np.argsort(-sizes, kind="stable")[: MOST_KINDS - 1])
        places = np.full(len(names), MOST_KINDS - 1)
        places[large] = np.arange(MOST_KINDS - 1)
        names, codes = [*(names[place] for place in large), OTHERS], places[codes]
    return list(names), codes.astype(np.int64), "kinds"


def _draw_rows(token: np.ndarray, expert: np.ndarray, text: np.ndarray, E: int, rng: np.random.Generator) -> np.ndarray:
    """Return (E, 3) rows of an expert's tokens, drawn at random, from different texts if it has enough."""
    order = rng.permutation(len(token))
    table = pd.DataFrame({"expert": expert[order], "row": token[order], "text": text[token[order]]})
    again = table.duplicated(["expert", "text"])
    table = pd.concat([table[~again], table[again]])
    table["nth"] = table.groupby("expert").cumcount()
    table = table[table["nth"] < DRAWN]
    rows = np.full((E, DRAWN), -1, np.int32)
    rows[table["expert"], table["nth"]] = table["row"]
    return rows


def _keeping(code: np.ndarray, expert: np.ndarray, recorded: np.ndarray, E: int) -> np.ndarray:
    """Return (E, 2, 3) vocabulary tokens that keep to each expert: code, times that it has it, times it occurs."""
    times = np.bincount(recorded)
    often = np.flatnonzero(times >= enough_occurrences(len(recorded)))
    found = np.full((E, KEPT, 3), -1, np.int32)
    place = np.full(max(int(code.max(initial=-1)) + 1, len(times)), -1)
    place[often] = np.arange(len(often))
    own = place[code] >= 0
    has = np.bincount(place[code[own]] * E + expert[own], minlength=len(often) * E).reshape(len(often), E)
    usual = np.bincount(expert, minlength=E) / max(len(recorded), 1)
    share = has / np.maximum(times[often], 1)[:, None]
    rank = np.where((has > 0) & (share >= KEEPS * usual), share + times[often][:, None] / 1e9, -1.0)
    for nth in range(min(KEPT, len(often))):
        best = rank.argmax(axis=0)
        at = np.flatnonzero(rank[best, np.arange(E)] >= 0)
        found[at, nth] = np.stack([often[best[at]], has[best[at], at], times[often[best[at]]]], axis=1)
        rank[best, np.arange(E)] = -1
    return found
