"""Rules: what an expert takes, in words, as a classifier that is judged on texts that did not choose it.

A rule is up to four terms joined by "or", each one fact of a token or two joined by "and". Next to it stands a table of
the tokens by themselves: if that predicts better, a name in words is decoration.
"""

import unicodedata
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.expert_names import sample_of_texts, set_aside
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.paths import kind_codes, plain_tokens
from moeviz.metrics.vocabulary import INSIDE, WORD, kind_of
from moeviz.routing_trace import RoutingTrace

MOST_TERMS, GAIN = 4, 0.01  # of a rule, and in F1 that another term must add
FEWEST, FEWEST_OF_TWO = 20, 40  # tokens of a fact, and of two together
SIGNS = ".,;:(){}[]<>=\"'/-+*_"
CLASSES = {WORD: "beginning of a word", INSIDE: "inside of a word"}  # where a comma would be misread
LETTERS = {"CYRILLIC": "in Cyrillic letters", "CJK": "in Chinese characters", "": "without letters"}


@needs_tokens
def expert_rules(trace: RoutingTrace) -> pd.DataFrame:
    """Describe each expert's tokens by a rule, and judge it on other texts, next to the token by itself.

    Of each kind every other text chooses, and the others judge; then the halves change places, and figures are means of
    both. Facts are the kind of text, the class of the token and of the one before it, capitals, script and signs. The
    token by itself is a table of the tokens that the expert had in the half that chose; the kind by itself likewise. A
    large trace is sampled, and special tokens are left out.

    One row per layer and expert. Columns: layer int32 · expert int16 · tokens int64 · rule str (chosen on the first
    half; "" with fewer than 20 tokens on either) · precision, recall, f1 float64 (on texts that did not choose) ·
    f1_token, f1_kind, f1_always float64 (of the token by itself, the kind by itself, and "always") · beats_token bool
    (the rule is better on both halves). Figures are NaN without a rule. Raises `MissingField` for a trace of one text.

    Source: RouterInterp (Sci4DL 2026) asks for names that predict; the rules and controls are moeviz's own.
    """
    trace = plain_tokens(sample_of_texts(trace))
    aside = set_aside(trace)
    names, facts = _facts(trace)
    if not names:
        raise InvalidTrace(f"The {len(aside)} tokens of this trace are too few for rules. Trace more texts.")
    terms: list[tuple[int, ...]] = [(at,) for at in range(len(names))]
    for pair in combinations(range(len(names)), 2):
        both = int((facts[pair[0]] & facts[pair[1]]).sum())
        if FEWEST_OF_TWO <= both < 0.98 * min(facts[pair[0]].sum(), facts[pair[1]].sum()):
            terms.append(pair)
    covered = np.array([facts[list(term)].all(0) for term in terms], np.float32)
    token, kind = pd.factorize(trace.tokens["text"])[0], kind_codes(trace)
    rows = []
    for layer, experts, E in zip(trace.model.layers, trace.experts, trace.model.num_experts, strict=True):
        for expert in range(E):
            has = (experts == expert).any(-1)
            rows.append((layer, expert, int(has.sum()), *_rule(names, terms, covered, has, aside, token, kind)))
    columns = ["layer", "expert", "tokens", "rule", "precision", "recall", "f1", "f1_token", "f1_kind", "f1_always"]
    frame = pd.DataFrame(rows, columns=[*columns, "beats_token"])
    return frame.astype({"layer": "int32", "expert": "int16", "tokens": "int64", "rule": "str", "beats_token": "bool"})


def rules_sentence(rules: pd.DataFrame) -> Claim:
    """Claim how many rules of `expert_rules` predict better than the token by itself."""
    known = rules[rules["rule"] != ""]
    return captions.rules_that_predict(
        int(known["beats_token"].sum()),
        len(known),
        known["f1"].mean(),
        known["f1_token"].mean(),
        known["f1_kind"].mean(),
    )


def _rule(
    names: list[str],
    terms: list[tuple[int, ...]],
    covered: np.ndarray,
    has: np.ndarray,
    aside: np.ndarray,
    token: np.ndarray,
    kind: np.ndarray,
) -> tuple[object, ...]:
    """Return the rule of one expert, its figures, and whether it beats the token on both halves."""
    if min(has[aside].sum(), has[~aside].sum()) < FEWEST:
        return ("", *[np.nan] * 6, False)
    words, figures = [], []
    for judges in (aside, ~aside):
        chosen = _greedy(covered[:, ~judges], has[~judges])
        words.append(" or ".join(" and ".join(names[at] for at in terms[term]) for term in chosen))
        own = has[judges]
        found: np.ndarray = np.any(covered[chosen][:, judges] > 0, axis=0)
        both = (own & found).sum()
        others = [_table(key, has, judges) for key in (token, kind)]
        scores = [_f1(one, own) for one in (found, *others, np.ones(len(own), bool))]
        figures.append([both / max(found.sum(), 1), both / max(own.sum(), 1), *scores])
    return (words[0], *np.mean(figures, axis=0), all(row[2] > row[3] for row in figures))


def _greedy(covered: np.ndarray, has: np.ndarray) -> list[int]:
    """Add term after term, as long as one adds enough F1 on these tokens."""
    done, chosen, best = np.zeros(len(has), bool), list[int](), 0.0
    for _ in range(MOST_TERMS):
        rest = (~done).astype(np.float32)
        both = (done & has).sum() + covered @ (rest * has)
        score = 2 * both / np.maximum(done.sum() + covered @ rest + has.sum(), 1)
        term = int(score.argmax())
        if score[term] < best + GAIN:
            break
        best = float(score[term])
        chosen.append(term)
        done |= covered[term] > 0
    return chosen


def _table(key: np.ndarray, has: np.ndarray, judges: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Predict by what was the expert's in the other half: at least a share that is chosen there, without the token."""
    own, size = key[~judges], int(key.max()) + 1
    prior = has[~judges].mean()
    times, hits = np.bincount(own, minlength=size), np.bincount(own, has[~judges], minlength=size)
    left_out = (hits[own] - has[~judges] + prior) / times[own]
    cuts = np.arange(0.1, 0.95, 0.05)
    cut = cuts[int(np.argmax([_f1(left_out >= one, has[~judges]) for one in cuts]))]
    found: np.ndarray = ((hits + prior) / (times + 1))[key[judges]] >= cut
    return found


def _f1(found: np.ndarray, own: np.ndarray) -> float:
    return float(2 * (found & own).sum() / max(found.sum() + own.sum(), 1))


def _facts(trace: RoutingTrace) -> tuple[list[str], Bool[np.ndarray, "F T"]]:
    """Name facts of tokens and of those before them, and say which tokens have them; nothing of what follows."""
    texts = trace.tokens["text"].to_numpy(object)
    first = np.diff(pd.factorize(trace.tokens["sequence"])[0], prepend=-1) != 0
    before = np.where(first, "", np.roll(texts, 1))
    kinds = np.array([kind_of(text) for text in texts], object)
    kinds_before = np.where(first, "", np.roll(kinds, 1))
    scripts = np.array([_script(text) for text in texts], object)
    found: dict[str, np.ndarray] = {}
    if "label" in trace.tokens:
        labels = trace.tokens["label"].to_numpy(object)
        found |= {f"in {label}": labels == label for label in pd.unique(labels)}
    found |= {CLASSES.get(kind, kind): kinds == kind for kind in pd.unique(kinds)}
    found |= {f"after {CLASSES.get(kind, kind)}": kinds_before == kind for kind in pd.unique(kinds)}
    found |= {words: scripts == script for script, words in LETTERS.items()}
    found["with a capital"] = _each(text.strip()[:1].isupper() for text in texts)
    found["one character"] = _each(len(text.strip()) == 1 for text in texts)
    found["four or more characters"] = _each(len(text.strip()) >= 4 for text in texts)
    for sign in SIGNS:
        found[f"with “{sign}”"] = _each(sign in text for text in texts)
        found[f"after “{sign}”"] = _each(sign in text for text in before)
    kept = {name: has for name, has in found.items() if FEWEST <= has.sum() <= len(texts) - FEWEST}
    return [*kept], np.array([*kept.values()], bool).reshape(len(kept), len(texts))


def _each(of: Iterable[bool]) -> np.ndarray:
    return np.array([*of], bool)


def _script(text: str) -> str:
    letter = next((one for one in text if one.isalpha()), None)
    return "" if letter is None else unicodedata.name(letter, "?").split()[0].split("-")[0]
