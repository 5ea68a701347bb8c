"""Names of experts: the kinds of text, or the class of tokens, that an expert has, where that holds on other texts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from pandas.api.types import is_integer_dtype

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.metrics.words import one_row, short
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

# Correlation on the texts that did not choose the name. There are many more sets of kinds to choose from than classes:
# with kinds shuffled over texts, 0.32 leaves about 2 names of 48 (`names_by_chance`).
HOLDS = {"kinds": 0.32, "tokens": 0.3, "": 1.0}
SURE = 4.0  # times the standard error of the correlation of two unrelated facts, 1 / sqrt(tokens)
GAIN = 0.03  # in correlation, that another kind in a name, or a class in place of kinds, must add
MOST_KINDS = 4  # in a name
FEWEST = 10  # tokens of the expert, on either half of the texts
UNNAMED = "no kind of text"
JOINED = ", "  # between the kinds of a name; within a kind it is "; "
SHOWN = 2  # kinds of a name, where there is little room
MOST_TOKENS, MOST_PLACES = 20_000, 1_000_000  # of a sample, and of its tokens times layers


@needs_tokens
def expert_names(trace: RoutingTrace) -> pd.DataFrame:
    """Names of experts, chosen on one half of the texts and tested on the other.

    A name is up to four kinds of text (labels, with commas between them), or one class of tokens, as `kind_of` of
    `moeviz.metrics.vocabulary` has them. Of each kind every other text is set aside. On the first half, the name is
    what correlates best with "the expert has this token" (phi, the correlation of two yes-or-no facts); another kind in
    it, or a class of tokens in place of kinds, must add 0.03. `phi` is that correlation on the texts that were set
    aside. From 0.32 up (0.3 for a class) the name holds, if that is also 4 standard errors of unrelated facts,
    1 / sqrt(tokens set aside); else, and with fewer than 10 tokens on either half, the expert has no kind of text.
    Without labels, or where a kind has one text, only classes of tokens, or the other kinds, make names.

    One row per layer and expert. Columns: layer int32 (the model's own index) · expert int16 · tokens int64 (that it
    has) · name str · holds bool · by str ("kinds", "tokens", or "" without a candidate) · chosen_phi, phi float64 ·
    precision float64 (of its tokens set aside, the share that is of the name) · recall float64 (of the tokens of the
    name set aside, the share that it has) · share float64 (of all tokens set aside, those of the name). Figures are NaN
    without a candidate. Raises `MissingField` where there is one text only.

    Source: the correlation is Pearson's phi; Yule (1912), Journal of the Royal Statistical Society 75(6).
    """
    candidates = [_kinds_of(trace), _classes_of(trace)]
    aside = set_aside(trace)
    frames = [_names_of_layer(trace, row, candidates, aside) for row in range(len(trace.model.layers))]
    return pd.concat(frames, ignore_index=True).astype({"layer": np.int32, "expert": np.int16, "tokens": np.int64})


def names_by_chance(trace: RoutingTrace, times: int = 12) -> list[int]:
    """Count the names by kinds that hold with the kinds shuffled among whole texts, as a control, `times` times.

    The generator's seed is 0. Raises `MissingField` as `expert_names` does, and for texts without labels.
    """
    _, codes = trace.labels("Names of experts")
    texts, of_token = np.unique(trace.tokens["sequence"].to_numpy(), return_inverse=True)
    kinds = np.zeros(len(texts), np.int64)
    kinds[of_token] = codes
    rng, found = np.random.default_rng(0), list[int]()
    for _ in range(times):
        labels = pd.array(rng.permutation(kinds)[of_token].astype(str), "str")
        names = expert_names(replace(trace, tokens=trace.tokens.assign(label=labels)))
        found.append(int((names["holds"] & (names["by"] == "kinds")).sum()))
    return found


def sample_of_texts(trace: RoutingTrace) -> RoutingTrace:
    """Take whole texts of a large trace, in turn of each kind: 20,000 tokens at most, fewer where layers are many.

    A trace that is no larger is returned as it is. Where no text is small enough, the sample is the first tokens.
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


def short_name(name: str) -> str:
    """Cut a name of `expert_names` to two kinds, and count the rest.

    >>> short_name("German, Russian, HTML")
    'German, Russian +1'
    """
    kinds = name.split(JOINED)
    shown = JOINED.join(short(kind) for kind in kinds[:SHOWN])
    return f"{shown} +{len(kinds) - SHOWN}" if len(kinds) > SHOWN else shown


def with_names(frame: pd.DataFrame, names: pd.DataFrame | None) -> pd.DataFrame:
    """A table about experts with their names in a last column `name` str, "" where none holds.

    names   of `expert_names`, of the same model; None, and the table stays as it is.

    So do tables without the columns layer and expert, and those that have names.
    """
    where = ["layer", "expert"]
    if names is None or "name" in frame or not all(name in frame and is_integer_dtype(frame[name]) for name in where):
        return frame
    held = names.loc[names["holds"], [*where, "name"]]
    return frame.assign(name=frame[where].merge(held, how="left", on=where)["name"].fillna("").to_numpy())


def expert_name_sentence(names: pd.DataFrame, layer: int, expert: int) -> Claim | None:
    """Claim an expert's name and how far it holds, from the rows of `expert_names`; None if it has too few tokens."""
    row = names[(names["layer"] == layer) & (names["expert"] == expert)].iloc[0]
    if not row["by"]:
        return None
    if not row["holds"]:
        return captions.no_name(row["phi"])
    return captions.name_that_holds(row["name"], row["by"], row["precision"], row["share"])


def expert_names_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim how many names hold, and which holds best; None if none does."""
    held = frame[frame["holds"]]
    if held.empty:
        return None
    best = one_row(held, held["phi"].idxmax())
    return captions.names_that_hold(len(held), len(frame), best.expert, best.layer, best.name)


def _kinds_of(trace: RoutingTrace) -> tuple[list[str], np.ndarray]:
    """Labels, and which of them each token has."""
    return trace.labels("Names of experts") if "label" in trace.tokens else ([], np.zeros(len(trace.tokens), np.int64))


def _classes_of(trace: RoutingTrace) -> tuple[list[str], np.ndarray]:
    """Classes of tokens, and which of them each token has; -1 for special tokens, which name nothing."""
    codes, texts = pd.factorize(trace.tokens["text"])
    of_texts, names = pd.factorize(np.array([kind_of(text) for text in texts], object))
    used = names != SPECIAL
    number = np.where(used, np.cumsum(used) - 1, -1)
    return [str(name) for name in names[used]], number[of_texts][codes]


def set_aside(trace: RoutingTrace) -> np.ndarray:
    """Mark the tokens (T,) of every other text of each kind."""
    what = trace.tokens[[name for name in ("label", "sequence") if name in trace.tokens]].astype({"sequence": str})
    texts = what.drop_duplicates()
    if len(texts) < 2:
        raise MissingField(
            f"Names of experts are chosen on some texts and tested on others, and this trace has {len(texts)} of them. "
            "Trace several texts."
        )
    number = texts.groupby("label", sort=False).cumcount() if "label" in what else np.arange(len(texts))
    return what.merge(texts.assign(aside=number % 2 == 1), how="left")["aside"].to_numpy(bool)


def _names_of_layer(
    trace: RoutingTrace, row: int, candidates: list[tuple[list[str], np.ndarray]], aside: np.ndarray
) -> pd.DataFrame:
    experts, E = trace.experts[row], trace.model.num_experts[row]
    token, slot = np.nonzero(experts >= 0)
    expert, recorded = experts[token, slot], trace.recorded[row]
    has, size = _by_half(aside[token], expert, E), np.bincount(aside[recorded], minlength=2)
    found = _unnamed(trace.model.layers[row], has.sum(axis=0))
    enough = np.flatnonzero((has >= FEWEST).all(axis=0))
    for (names, code), by, most in zip(candidates, ("kinds", "tokens"), (MOST_KINDS, 1), strict=True):
        C = len(names)
        code = np.where(code < 0, C, code)
        of = _by_half(aside[recorded], code[recorded], C + 1)[:, :C]
        for some in np.array_split(enough, 1 + len(enough) * C // MOST_PLACES):  # a file may have thousands of kinds
            place = np.full(E, -1)
            place[some] = np.arange(len(some))
            theirs = place[expert] >= 0
            chosen = code[token[theirs]] * len(some) + place[expert[theirs]]
            counts = _by_half(aside[token[theirs]], chosen, (C + 1) * len(some)).reshape(2, C + 1, len(some))[:, :C]
            members, figures = _best_name(counts, of, has[:, some], size, most)
            better = members.any(axis=0) & ~(figures["chosen_phi"] <= found["chosen_phi"].to_numpy()[some] + GAIN)
            for name, values in figures.items():  # a figure of before is NaN where there is no other name
                found.loc[some[better], name] = values[better]
            found.loc[some[better], "by"] = by
            order = np.argsort(-counts[0], axis=0, kind="stable")
            for one in np.flatnonzero(better):
                kinds = [names[code] for code in order[:, one] if members[code, one]]
                found.loc[some[one], "name"] = _joined(kinds, by)
    least = found["by"].map(HOLDS).clip(lower=SURE / max(size[1], 1) ** 0.5)
    found["holds"] = found["phi"] >= least
    found.loc[~found["holds"], "name"] = UNNAMED
    return found


def _unnamed(layer: int, tokens: Int64[np.ndarray, " E"]) -> pd.DataFrame:
    """Return the rows of a layer whose experts have no name."""
    figures = dict.fromkeys(("chosen_phi", "phi", "precision", "recall", "share"), np.nan)
    facts = {"layer": layer, "expert": np.arange(len(tokens)), "tokens": tokens}
    return pd.DataFrame({**facts, "name": UNNAMED, "holds": False, "by": "", **figures})


def _best_name(
    counts: Int64[np.ndarray, "2 C E"],
    of: Int64[np.ndarray, "2 C"],
    has: Int64[np.ndarray, "2 E"],
    size: Int64[np.ndarray, "2"],
    most: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Choose the name of each expert on the first half of the texts, (C, E), and judge it on the second: (E,) each."""
    usable = np.logical_and(*(of > 0))
    members, chosen_phi = _chosen(counts[0] * usable[:, None], of[0] * usable, has[0], int(size[0]), most)
    both, tokens = np.where(members, counts[1], 0).sum(axis=0), (members * of[1][:, None]).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return members, {
            "chosen_phi": chosen_phi,
            "phi": _phi(both, tokens, has[1], int(size[1])),
            "precision": both / has[1],
            "recall": both / tokens,
            "share": tokens / size[1],
        }


def _joined(kinds: list[str], by: str) -> str:
    return JOINED.join(kind.replace(JOINED, "; ") for kind in kinds) if by == "kinds" else kinds[0]


def _by_half(aside: np.ndarray, code: np.ndarray, codes: int) -> Int64[np.ndarray, "2 codes"]:
    """Count codes on either half of the texts."""
    counts: np.ndarray = np.bincount(aside * codes + code, minlength=2 * codes).reshape(2, codes)
    return counts


def _chosen(
    counts: Int64[np.ndarray, "C E"], of: Int64[np.ndarray, " C"], has: Int64[np.ndarray, " E"], size: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add candidate after candidate to each expert's name, as long as one adds enough; and the correlation (E,)."""
    members, phi = np.zeros(counts.shape, bool), np.zeros(counts.shape[1])
    if not len(of):
        return members, phi
    everyone = np.arange(counts.shape[1])
    for number in range(most):
        own = np.where(members, counts, 0).sum(axis=0), (members * of[:, None]).sum(axis=0)
        longer: np.ndarray = np.where(members, -1, _phi(own[0] + counts, own[1] + of[:, None], has, size))
        best = longer.argmax(axis=0)
        adds = longer[best, everyone] > phi + (GAIN if number else 0)
        members[best[adds], everyone[adds]] = True
        phi = np.where(adds, longer[best, everyone], phi)
    return members, phi


def _phi(both: np.ndarray, of: np.ndarray, has: np.ndarray, size: int) -> Float64[np.ndarray, "..."]:
    """Correlation of "the expert has the token" and "it is of the name"; 0 where one of them is always so, or never."""
    both, of, has = (np.asarray(count, np.float64) for count in (both, of, has))
    spread = of * has * (size - of) * (size - has)
    phi: np.ndarray = (both * size - of * has) / np.sqrt(np.where(spread > 0, spread, np.inf))
    return phi
