"""Names of experts: what an expert takes, in words, as a rule that is judged on texts that did not choose it.

A rule is up to four terms of which one must hold, each one fact of a token or two together. Next to it stand tables of
the tokens, kinds of text and places by themselves: if the token predicts better, a name in words is decoration.

Letters: P profiles (tokens with the same facts), Q terms, N experts.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from pandas.api.types import is_integer_dtype

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.tokens import PART_OF_CHARACTER, tokens_are_known
from moeviz.metrics.vocabulary import INSIDE, SPECIAL, WORD, kind_of
from moeviz.metrics.words import one_row, short
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

HOLDS = 0.3  # correlation on the texts that did not choose; with the routing of other texts next to none has it
SURE = 4.0  # times the standard error of the correlation of two unrelated facts, 1 / sqrt(tokens)
MOST_KINDS = 100  # of text that may be in names, the commonest
MOST_TERMS, GAIN = 4, 0.02  # of a rule, and in F1 that another term must add
FEWEST, FEWEST_OF_TWO, MOST_PAIRS = 20, 40, 3_000  # tokens of an expert or a fact, and of two facts together; pairs
COMMON = 0.4  # of all tokens: for an expert with more, "always" has an F1 that few rules reach, so phi chooses
CUTS = np.arange(0.1, 0.95, 0.05)  # shares from which on a table predicts an expert
SIGNS = ".,;:(){}[]<>=\"'/-+*_"
CLASSES = {WORD: "beginning of a word", INSIDE: "inside of a word"}  # for names in which a comma would be misread
LETTERS = {"CYRILLIC": "Cyrillic letters", "CJK": "Chinese characters", "": "no letters"}
UNNAMED = "no kind of text"
BEATEN = "the token says more"  # of a name that predicts less than a table of tokens
JOINED = ", "  # between the terms of a name; within a label it is "; "
SHOWN, LONGEST_TERM = 2, 30  # terms of a name, in a narrow column, and characters of each
MOST_TOKENS, MOST_PLACES = 20_000, 1_000_000  # of a sample, and of its tokens times layers
MOST_CELLS = 1_000_000  # profiles, terms or tokens times experts that are there at once
FIGURES = ("precision", "recall", "share", "phi", "f1", "f1_token", "f1_kind", "f1_position", "f1_always")


@needs_tokens
def expert_names(trace: RoutingTrace) -> pd.DataFrame:
    """Name each expert by the rule that predicts its tokens best, and judge it on other texts against simpler tables.

    A rule joins up to four terms, with commas for "or"; a term is one fact of a token or two together: the kind of
    text (one of the 100 commonest labels), the class of the token and of the one before it, capitals, script, signs.
    Of each kind of text every other text is set aside. Rules are chosen on the first half, by F1, the harmonic mean of
    precision and recall, or by phi for an expert with 40 % of all tokens, as top-2 of 4 has, since "always" then has an
    F1 that few rules reach; another term must add 0.02. A name holds if it correlates (phi) with "the expert has this
    token" from 0.3 up on the texts set aside, and at 4 standard errors of unrelated facts, 1 / sqrt(tokens); else, and
    with fewer than 20 tokens on either half, the expert has no kind of text. A large trace is sampled, and special
    tokens are left out.

    The token by itself is a table of the tokens that the expert had in the half that chose, with a share that is chosen
    there; the kind of text and the position (tens of tokens) by themselves likewise. F1 scores are means of both ways
    round: each half chooses once, and the other judges.

    One row per layer and expert. Columns: layer int32 (the model's own index) · expert int16 · tokens int64 (that it
    has) · name str ("no kind of text" unless it holds) · holds bool · by str ("kinds" if a kind of text is in the rule,
    "tokens" if not, "" without one) · precision float64 (of the tokens of the name, the share that the expert has) ·
    recall float64 (of the expert's tokens, the share that is of the name) · share float64 (of all tokens, those of the
    name) · phi float64 · f1, f1_token, f1_kind, f1_position, f1_always float64 (of the rule, the tables, and "always")
    · beats_token bool (the rule is better than the token, both ways round). The first four figures are of the texts set
    aside; all are NaN without a rule, and f1_token in a trace that has neither texts nor ids of tokens. Raises
    `MissingField` if there is only one text.

    Source: RouterInterp (Sci4DL 2026) asks for names that predict; the rules and controls are moeviz's own.
    """
    known = np.asarray(trace.recorded.any(axis=0))
    if known.any() and not known.all():
        trace = trace.select(tokens=known)
    trace = plain_tokens(sample_of_texts(trace))
    aside, (facts, labels, has_fact) = set_aside(trace).astype(np.int64), _facts(trace)
    profiles, of_token = np.unique(has_fact, axis=1, return_inverse=True)
    terms = _terms(profiles.astype(np.float32), np.bincount(of_token.ravel(), minlength=profiles.shape[1]))
    covers = np.array([profiles[list(term)].all(0) for term in terms], np.float32).reshape(
        len(terms), profiles.shape[1]
    )
    words = [_words([facts[at] for at in term], term[0] < labels) for term in terms]
    tokens = pd.factorize(trace.tokens["text" if trace.tokens["text"].any() else "token_id"])[0]
    keys = [of_token.ravel(), tokens, kind_codes(trace), _places(trace)]
    frames = []
    for layer, experts, recorded, E in zip(
        trace.model.layers, trace.experts, trace.recorded, trace.model.num_experts, strict=True
    ):
        token, slot = np.nonzero(experts >= 0)
        expert = experts[token, slot].astype(np.int64)
        has = np.bincount(aside[token] * E + expert, minlength=2 * E).reshape(2, E)
        frame = pd.DataFrame({"layer": layer, "expert": np.arange(E), "tokens": has.sum(0), "name": UNNAMED})
        frame = frame.assign(holds=False, by="", **dict.fromkeys(FIGURES, np.nan), beats_token=False)
        enough = np.flatnonzero((has >= FEWEST).all(0) & bool(terms))
        widest = max(len(terms), *(int(key.max(initial=0)) + 1 for key in keys))
        parts = np.array_split(enough, 1 + len(enough) * widest // MOST_CELLS) if len(enough) else []
        for some in parts:
            place = np.full(E, -1)
            place[some] = np.arange(len(some))
            own = place[expert] >= 0
            counted = [_count_by_key(key, aside, recorded, token[own], place[expert[own]], len(some)) for key in keys]
            chosen, figures = _choose_rules(covers, counted)
            for name, values in figures.items():
                frame.loc[some, name] = values
            for one, of in zip(some, chosen.T, strict=True):
                frame.loc[one, "name"] = JOINED.join(words[term] for term in of if term >= 0)
                frame.loc[one, "by"] = "kinds" if any(terms[term][0] < labels for term in of if term >= 0) else "tokens"
        size = int(aside[recorded].sum())
        frame["holds"] = frame["phi"] >= max(HOLDS, SURE / max(size, 1) ** 0.5)
        frame.loc[~frame["holds"], "name"] = UNNAMED
        frames.append(frame)
    found = pd.concat(frames, ignore_index=True).astype({"layer": np.int32, "expert": np.int16, "tokens": np.int64})
    if not tokens_are_known(trace):
        found = found.assign(f1_token=np.nan, beats_token=False)
    return found.astype({"name": "str", "by": "str", "beats_token": bool})


def names_by_chance(trace: RoutingTrace, times: int = 12) -> list[int]:
    """Count the names that hold if tokens get the routing of other texts, as a control, `times` times.

    Texts change places whole. The generator's seed is 0. Raises `MissingField` as `expert_names` does.
    """
    text, rng, found = pd.factorize(trace.tokens["sequence"])[0], np.random.default_rng(0), list[int]()
    for _ in range(times):
        order = np.argsort(rng.permutation(text.max(initial=0) + 1)[text], kind="stable")
        other = replace(trace, experts=trace.experts[:, order], weights=None, logits=None, outputs=None)
        found.append(int(expert_names(other)["holds"].sum()))
    return found


def sample_of_texts(trace: RoutingTrace) -> RoutingTrace:
    """Take whole texts of a large trace, in turn of each kind: 20,000 tokens at most, fewer where layers are many.

    A smaller trace is returned as it is. If no text is small enough, the sample is the first tokens.
    """
    room, tokens = room_for(trace.model), trace.tokens
    if len(tokens) <= room:
        return trace
    texts = tokens.groupby("sequence", sort=False)
    sizes = texts.size()
    if "label" in tokens:
        kinds = texts["label"].first()
        sizes = sizes.iloc[np.argsort(kinds.groupby(kinds, sort=False).cumcount().to_numpy(), kind="stable")]
    kept = sizes.index[whole_texts_within(sizes.tolist(), room)]
    return trace.select(tokens=tokens["sequence"].isin(kept).to_numpy() if len(kept) else slice(room))


def room_for(model: ModelInfo) -> int:
    """Tokens of a sample of a trace with these layers."""
    return min(MOST_TOKENS, MOST_PLACES // max(len(model.layers), 1))


def whole_texts_within(sizes: Sequence[int], room: int) -> list[int]:
    """Places of the texts, of these sizes in tokens, that fit when each that still fits is taken in turn."""
    kept = []
    for place, size in enumerate(sizes):
        if size <= room:
            room -= size
            kept.append(place)
    return kept


def short_name(name: str, beaten: bool = False) -> str:
    """Cut a name of `expert_names` to two terms, and count the rest; say so if the token by itself predicts better.

    >>> short_name("German, Russian, HTML")
    'German, Russian +1'
    """
    terms = name.split(JOINED)
    shown = JOINED.join(short(term, LONGEST_TERM) for term in terms[:SHOWN]) + (
        f" +{len(terms) - SHOWN}" if terms[SHOWN:] else ""
    )
    return f"{shown} ({BEATEN})" if beaten else shown


def with_names(frame: pd.DataFrame, names: pd.DataFrame | None) -> pd.DataFrame:
    """Return a table about experts with their names in a last column `name` str, "" where none holds.

    names   of `expert_names`, of the same model; None, and the table stays as it is.

    So do tables without the columns layer and expert, and those that have names.
    """
    where = ["layer", "expert"]
    if names is None or "name" in frame or not all(name in frame and is_integer_dtype(frame[name]) for name in where):
        return frame
    held = names.loc[names["holds"], [*where, "name"]]
    return frame.assign(name=frame[where].merge(held, how="left", on=where)["name"].fillna("").to_numpy())


def names_that_hold(names: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `expert_names` whose name holds, and short str, where room is little, and beaten bool."""
    held = names[names["holds"]]
    beaten = held["f1_token"] > held["f1"]
    short = [short_name(name, less) for name, less in zip(held["name"], beaten, strict=True)]
    return held.assign(short=short, beaten=beaten)


def expert_name_sentence(names: pd.DataFrame, layer: int, expert: int) -> Claim | None:
    """Claim an expert's name and how far it predicts, from `expert_names`; None if it has too few tokens."""
    row = names[(names["layer"] == layer) & (names["expert"] == expert)].iloc[0]
    if not row["by"]:
        return None
    if not row["holds"]:
        return captions.no_name(row["phi"])
    scores = (row[name] for name in ("f1", "f1_token", "f1_kind", "f1_position"))
    return captions.name_that_holds(row["name"], row["precision"], row["recall"], *scores)


def expert_names_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim how many names hold, and which holds best; None if none does."""
    held = frame[frame["holds"]]
    if held.empty:
        return None
    best = one_row(held, held["phi"].idxmax())
    return captions.names_that_hold(len(held), len(frame), best.expert, best.layer, best.name)


def names_sentence(frame: pd.DataFrame) -> Claim | None:
    """Claim how many rules predict better than the token by itself; None without a rule."""
    known = frame[frame["by"] != ""]
    means = known[["f1", "f1_token", "f1_kind"]].mean()
    return captions.names_that_predict(int(known["beats_token"].sum()), len(known), *means) if len(known) else None


def set_aside(trace: RoutingTrace) -> Bool[np.ndarray, " T"]:
    """Mark the tokens of every other text of each kind."""
    what = trace.tokens[[name for name in ("label", "sequence") if name in trace.tokens]].astype({"sequence": str})
    texts = what.drop_duplicates()
    if len(texts) < 2:
        raise MissingField(
            f"Names of experts are chosen on some texts and tested on others, and this trace has {len(texts)} of them. "
            "Trace several texts."
        )
    number = texts.groupby("label", sort=False).cumcount() if "label" in what else np.arange(len(texts))
    return what.merge(texts.assign(aside=number % 2 == 1), how="left")["aside"].to_numpy(bool)


def plain_tokens(trace: RoutingTrace) -> RoutingTrace:
    """Return a trace without special tokens: they have routes of their own."""
    texts = trace.tokens["text"]
    known = (text for text in texts.unique() if text)  # many sources give ids of experts and no texts
    special = {text for text in known if kind_of(text) == SPECIAL and not PART_OF_CHARACTER.search(text)}
    return trace.select(tokens=~texts.isin(special).to_numpy()) if special else trace


def kind_codes(trace: RoutingTrace) -> Int64[np.ndarray, " T"]:
    """Return the label of each token as a number; 0 for all without labels."""
    if "label" not in trace.tokens:
        return np.zeros(len(trace.tokens), np.int64)
    codes: np.ndarray = pd.factorize(trace.tokens["label"])[0].astype(np.int64)
    return codes


def _places(trace: RoutingTrace) -> Int64[np.ndarray, " T"]:
    """Return the position of each token in tens, up to 200."""
    places: np.ndarray = np.minimum(trace.tokens["position"].to_numpy() // 10, 20).astype(np.int64)
    return places


def _terms(profiles: np.ndarray, tokens: np.ndarray) -> list[tuple[int, ...]]:
    """Return all facts, and the commonest pairs of them that are not nearly the same fact, as places in `profiles`."""
    together = (profiles * tokens) @ profiles.T
    alone = together.diagonal()
    pairs = [
        (-together[pair], pair)
        for pair in combinations(range(len(profiles)), 2)
        if FEWEST_OF_TWO <= together[pair] < 0.98 * min(alone[pair[0]], alone[pair[1]])
    ]
    return [(at,) for at in range(len(profiles))] + [pair for _, pair in sorted(pairs)[:MOST_PAIRS]]


def _words(facts: list[str], of_label: bool) -> str:
    """Name a term of one or two facts, of which the first may be a label."""
    return " in ".join(facts[::-1]) if of_label else " and ".join(facts)


def _count_by_key(
    key: np.ndarray, aside: np.ndarray, recorded: np.ndarray, token: np.ndarray, expert: np.ndarray, N: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count tokens by key on either half of the texts, (2, C), and those that each expert has, (2, C, N)."""
    C = int(key.max(initial=0)) + 1
    times = np.bincount(aside[recorded] * C + key[recorded], minlength=2 * C)
    hits = np.bincount((aside[token] * C + key[token]) * N + expert, minlength=2 * C * N)
    return times.reshape(2, C).astype(np.float32), hits.reshape(2, C, N).astype(np.float32)


def _choose_rules(
    covers: np.ndarray, counted: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Choose rules (4, N) on the first half of the texts, -1 if there are fewer terms, and judge them: (N,) each."""
    (times, hits), *tables = counted
    chosen, scores = [], []
    common = hits.sum((0, 1)) >= COMMON * times.sum()
    for first in (0, 1):
        rule, found = _greedy(covers, times[first], hits[first], common)
        chosen.append(rule)
        judges = times[1 - first], hits[1 - first]
        everything = np.ones_like(found)
        scores.append([_f1(*judges, found), *(_table(*of, first) for of in tables), _f1(*judges, everything)])
        if first == 0:
            both, of = (judges[1] * found).sum(0), (judges[0][:, None] * found).sum(0)
            has, size = judges[1].sum(0), judges[0].sum()
    figures = dict(zip(FIGURES[4:], np.mean(scores, axis=0), strict=True))
    figures |= {"precision": both / np.maximum(of, 1), "recall": both / has, "share": of / size}
    beats = np.all([score[0] > score[1] for score in scores], axis=0)
    return chosen[0], figures | {"phi": _phi(both, of, has, float(size)), "beats_token": beats}


def _greedy(
    covers: np.ndarray, times: np.ndarray, hits: np.ndarray, common: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add term after term to each expert's rule, as long as one adds enough; and the profiles found, (P, N)."""
    P, N = hits.shape
    found, chosen, best = np.zeros((P, N), bool), np.full((MOST_TERMS, N), -1), np.zeros(N)
    able, has = np.arange(N), hits.sum(0)
    for number in range(MOST_TERMS):
        own, every, done = hits[:, able], times[:, None], found[:, able]
        both = (own * done).sum(0) + covers @ np.where(done, 0, own)
        of = (every * done).sum(0) + covers @ np.where(done, 0, every)
        score = 2 * both / np.maximum(of + has[able], 1)
        if (by_phi := common[able]).any():
            score[:, by_phi] = _phi(both[:, by_phi], of[:, by_phi], has[able][by_phi], float(times.sum()))
        term = score.argmax(0)
        top = score[term, np.arange(len(able))]
        more = top >= best[able] + GAIN
        able, term = able[more], term[more]
        if not len(able):
            break
        best[able], chosen[number, able] = top[more], term
        found[:, able] |= covers[term].T > 0
    return chosen, found


def _table(times: np.ndarray, hits: np.ndarray, first: int) -> np.ndarray:
    """Score a table (N,) that predicts the keys of which the expert had the best share in the first half."""
    every, own = times[first][:, None], hits[first]
    prior = own.sum(0) / max(every.sum(), 1)
    with_it, without = ((own - less + prior) / np.maximum(every, 1) for less in (1, 0))  # the token itself left out
    scores = []
    for cut in CUTS:
        both = (own * (with_it >= cut)).sum(0)
        scores.append(2 * both / (both + ((every - own) * (without >= cut)).sum(0) + own.sum(0)))
    cut = CUTS[np.argmax(scores, axis=0)]
    return _f1(times[1 - first], hits[1 - first], (own + prior) / (every + 1) >= cut)


def _f1(times: np.ndarray, hits: np.ndarray, found: np.ndarray) -> np.ndarray:
    score: np.ndarray = 2 * (hits * found).sum(0) / np.maximum((times[:, None] * found).sum(0) + hits.sum(0), 1)
    return score


def _facts(trace: RoutingTrace) -> tuple[list[str], int, Bool[np.ndarray, "F T"]]:
    """Name facts of tokens and of those before them, labels first, and their number; and say which tokens have them."""
    codes, unique = pd.factorize(trace.tokens["text"])
    first = np.diff(pd.factorize(trace.tokens["sequence"])[0], prepend=-1) != 0
    before = np.where(first, len(unique), np.roll(codes, 1))
    texts = np.array([*unique, ""], object)
    kinds = np.array([kind_of(text) for text in unique] + [""], object)
    scripts = np.array([_script(text) for text in texts], object)
    found = list[tuple[str, np.ndarray]]()
    if "label" in trace.tokens:
        labels, most = trace.tokens["label"].to_numpy(object), trace.tokens["label"].value_counts().index[:MOST_KINDS]
        found = _common([(str(label).replace(JOINED, "; "), labels == label) for label in most])
    number = len(found)
    found += [(CLASSES.get(kind, kind), (kinds == kind)[codes]) for kind in pd.unique(kinds[:-1])]
    found += [(f"after {CLASSES.get(kind, kind)}", (kinds == kind)[before]) for kind in pd.unique(kinds[:-1])]
    found += [(words, (scripts == script)[codes]) for script, words in LETTERS.items()]
    found.append(("with a capital", _each(text.strip()[:1].isupper() for text in texts)[codes]))
    found.append(("one character", _each(len(text.strip()) == 1 for text in texts)[codes]))
    found.append(("four or more characters", _each(len(text.strip()) >= 4 for text in texts)[codes]))
    for sign in SIGNS:
        has = _each(sign in text for text in texts)
        found += [(f"with “{sign}”", has[codes]), (f"after “{sign}”", has[before])]
    kept = _common(found)
    return [name for name, _ in kept], number, np.array([has for _, has in kept], bool).reshape(len(kept), len(codes))


def _common(facts: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    return [(name, has) for name, has in facts if FEWEST <= has.sum() <= len(has) - FEWEST]


def _each(of: Iterable[bool]) -> np.ndarray:
    return np.array([*of], bool)


def _script(text: str) -> str:
    letter = next((one for one in text if one.isalpha()), None)
    return "" if letter is None else unicodedata.name(letter, "?").split()[0].split("-")[0]


def _phi(both: np.ndarray, of: np.ndarray, has: np.ndarray, size: float) -> Float64[np.ndarray, "..."]:
    """Correlate "the expert has the token" with "it matches the name"; 0 if one of them is always or never so."""
    both, of, has = (np.asarray(count, np.float64) for count in (both, of, has))
    spread = of * has * (size - of) * (size - has)
    phi: np.ndarray = (both * size - of * has) / np.sqrt(np.where(spread > 0, spread, np.inf))
    return phi
