"""What an expert does, in words: as far as the counts go, and no further. A finding that is weak is not told."""

import pandas as pd

from moeviz.metrics.expert import LUCK, has_token, row_of
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.routing_trace import RoutingTrace
from moeviz.text import with_and

NEARLY_ALL = 0.9  # of a token's occurrences
TWICE = 2.0  # the usual share, at least, for a token to be named
MOST_KINDS, MOST_TOKENS = 3, 4
SECOND_TO_FIRST = 1.6  # a kind is named beside the first if it has at least one part in so many of its share


def what_it_does(
    trace: RoutingTrace, layer: int, expert: int, tokens: pd.DataFrame, kinds: pd.DataFrame | None = None
) -> str:
    """One or two sentences: the kinds of text that the expert takes, and the tokens that keep to it, with counts.

    Kinds are named where shuffling whole texts does not explain their share, and tokens where luck does not: of routing
    that is shuffled, something is said in at most 5% of the experts for each of the two. Otherwise the sentence says
    that nothing stands out.

    tokens   of `keeping_tokens`.
    kinds    of `expert_kinds`; None where the trace has no labels.

    Token text and labels are in it as they are: it is for a text node, never for Markdown or HTML.
    """
    row, has = row_of(trace, layer, expert), has_token(trace, layer, expert)
    return by_counts(int(has.sum()), int(trace.recorded[row].sum()), tokens, kinds)


def by_counts(has: int, recorded: int, tokens: pd.DataFrame, kinds: pd.DataFrame | None = None) -> str:
    """The same of an expert that has so many of the tokens that are recorded at its layer."""
    if not recorded:
        return "No token was recorded at this layer, so nothing is known of this expert here."
    if not has:
        return f"Nothing here was routed to it: it has none of {_many(recorded, 'token')}."
    if has == recorded:
        return f"Everything here was routed to it: it has all of {_many(recorded, 'token')}."
    found = [sentence for sentence in (_of_kinds(kinds), _of_tokens(tokens)) if sentence]
    return " ".join(found) or _nothing(kinds)


def _of_kinds(kinds: pd.DataFrame | None) -> str:
    if kinds is None or not kinds["stands_out"].any():
        return ""
    clear = kinds[kinds["stands_out"] & (kinds["share"] >= kinds["share"].iloc[0] / SECOND_TO_FIRST)].head(MOST_KINDS)
    named = [
        f"{_percent(kind.share)} of {visible(str(kind.label))} "
        f"({_many(kind.tokens, 'token')} in {_many(kind.texts, 'text')})"
        for kind in clear.itertuples()
    ]
    return f"Takes {with_and(named)}; a uniform share would be {_percent(kinds['uniform'].iloc[0])}."


def _of_tokens(tokens: pd.DataFrame) -> str:
    clear = tokens[(tokens["share"] >= NEARLY_ALL) & (tokens["lift"] >= TWICE) & (tokens["luck"] <= LUCK)]
    clear = clear[clear["text"].map(kind_of) != SPECIAL].head(MOST_TOKENS)
    if not len(clear):
        return ""
    named = [f"“{visible(str(token.text))}” ({token.tokens} of {token.occurrences})" for token in clear.itertuples()]
    return f"{'Every' if (clear['share'] == 1).all() else 'Nearly every'} {with_and(named)} goes to it."


def _nothing(kinds: pd.DataFrame | None) -> str:
    if kinds is None:
        return "No token stands out: chance could explain which ones it takes."
    if kinds["luck"].isna().all():
        return "No token stands out. With one text of each kind, no kind can be told from its text."
    return "No kind of text and no token stands out: chance could explain what it takes."


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _percent(share: float) -> str:
    return "over 99%" if 0.995 <= share < 1 else f"{100 * share:.0f}%"
