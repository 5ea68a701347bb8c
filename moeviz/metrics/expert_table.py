"""All experts of a model in one table: what each takes, how much it adds, and its role, as far as chance allows."""

from collections.abc import Iterable, Sequence
from math import ceil, comb

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.claims import Claim
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics import captions
from moeviz.metrics.expert import LUCK, all_experts
from moeviz.metrics.expert_names import UNNAMED, expert_names, names_that_hold
from moeviz.metrics.expert_tokens import TWICE, enough_occurrences, keeping_rows, token_codes
from moeviz.metrics.inputs import Statistics
from moeviz.metrics.significance import HANDFUL, STANDS_OUT
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.routing_trace import RoutingTrace

SHUFFLES = 999
MEANS = ("norm", "added", "cosine", "residual")  # of `ExpertOutputs`, as means over an expert's tokens
OF_NAMES = ("name", "precision", "recall", "f1", "f1_token", "f1_kind", "f1_position")  # columns
KEPT = 3  # tokens of an expert
OUTLIER, LARGE, TIMES_MEDIAN = 0.995, 0.1, 10.0  # of a Super Expert
SPECIALIST, COMMITTEE, GENERALIST = "specialist", "standing committee", "generalist"
NARROW, BROAD = "narrow", "broad"  # and UNNAMED: the kinds that people read
SPECIAL_FROM = 0.25  # `spec` of a specialist: of 15 kinds it has effectively half
PRESENT = 0.8  # share of the kinds in which an expert of a standing committee leads
FEW_DEAD = 3  # experts, which are named
ALIKE = 0.98  # cosine of two experts' weights, or outputs, from which on they are duplicates


def expert_table(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """All experts in one table: share, weight, what each adds, its kinds of text and tokens, and its role.

    What an expert adds needs a trace or a dataset with outputs; a dataset's sums give no weights, tests or tokens.
    `added` is the mean over an expert's tokens of gate x norm, the saliency of REAP, by which experts are chosen that a
    model may do without; it is not a proof that it can. An expert without a token has no means.

    The kind of text is the label of whose tokens an expert has the largest share, compared with its share of all other
    tokens (`lift`; half a token is added there, so that none is infinite). `q` is how often chance brings such a
    lift of some label: labels are shuffled among texts 999 times (seed 0), each text kept whole, and corrected for all
    experts together (Benjamini and Hochberg). `spec` is 1 less the entropy of its shares of all labels over the
    logarithm of their number: 0 where it has the same share of each, 1 where it has only one label. `keeps` are tokens
    that go to it more than twice as often as others, in two texts at least, if chance brings such a one among all
    tokens and all experts of the layer at most once in twenty times.

    `role`: a specialist has a kind with a lift of 2 or more and q of at most 5%, and spec of 0.25 or more: it has
    effectively at most half of 15 kinds. An expert of a standing committee has at least 1.5 times a uniform share, and
    is among the k experts with the largest share of a kind (k: slots of a token) for 80% of the kinds; of such, those
    that no other beats in the mean of its ranks and in their variance. It is named only if unrelated ranks would give
    a layer such an expert at most once in twenty times. A generalist is neither, and has between 1 / 1.5 and 1.5 times
    its mean share of every kind. arXiv 2601.03425 finds committees that take most of the routing, arXiv 2604.05267
    experts of domains; a model may have both, or neither. `super`: its greatest activation is above the 99.5th
    percentile of all experts', a tenth of the greatest at least, and ten times their median; the last rule is moeviz's
    own.

    One row per layer and expert. Columns: layer int32 · expert int16 · tokens int64 (that it has) · share float64 (of
    the layer's assignments) · times_uniform float64 · mean_weight, norm, added, greatest, cosine, residual float64
    (NaN where they are not recorded; greatest is the maximum) · kind str · lift, q, spec float64 (NaN without labels)
    · keeps str · role str · super bool · name str ("" where none holds) · precision, recall, f1, f1_token, f1_kind,
    f1_position float64 (of the name, as in `expert_names`; NaN where none holds).

    Source: REAP (arXiv 2510.13999), equation 9; Super Experts (arXiv 2507.23279), section 3; Benjamini and Hochberg
    (1995); standing committees as in COMMITTEEAUDIT (arXiv 2601.03425), by shares of tokens instead of mean weights,
    with the effect and the chance level next to it; spec as in the atlas of experts of colibri (analyze.py).
    """
    frame, counts = all_experts(trace), trace.counts()
    there = np.arange(counts.assignments.shape[2]) < np.array(trace.model.num_experts)[:, None]
    sums = counts.assignments[0].sum(axis=1, keepdims=True)
    share = np.divide(counts.assignments[0], sums, out=np.full(there.shape, np.nan), where=sums > 0)
    frame["tokens"], frame["share"] = counts.assignments[0][there], share[there]
    frame["times_uniform"] = (share * np.array(trace.model.num_experts)[:, None])[there]
    means = means_of_experts(trace) if isinstance(trace, RoutingTrace) else trace.output_means()
    for name in ("mean_weight", "norm", "added", "greatest", "cosine", "residual"):
        frame[name] = means[name][there] if name in means else np.nan
    kinds = _kinds(trace)
    for name, values in kinds.items():
        frame[name] = values[there]
    frame["kind"] = frame["kind"].where(frame["q"].fillna(0 if isinstance(trace, Statistics) else 1) <= LUCK, "")
    frame["keeps"] = _keeps(trace) if isinstance(trace, RoutingTrace) else ""
    special = (frame["kind"] != "") & (frame["lift"] >= TWICE) & (frame["q"] <= LUCK) & (frame["spec"] >= SPECIAL_FROM)
    leads, alike = frame.pop("leads") & (frame["times_uniform"] >= STANDS_OUT), frame.pop("alike")
    frame["role"] = np.select([special, leads, alike], [SPECIALIST, COMMITTEE, GENERALIST], "")
    frame["super"] = super_experts(frame["greatest"].to_numpy())
    return _name_experts(frame, trace).astype(dict.fromkeys(("kind", "keeps", "role", "name"), "str"))


def super_experts(greatest: Float64[np.ndarray, " N"]) -> np.ndarray:
    """Mark the experts whose greatest activation is an outlier among all of the model's: see `expert_table`."""
    known = greatest[np.isfinite(greatest)]
    if not len(known):
        return np.zeros(len(greatest), bool)
    least = max(np.quantile(known, OUTLIER), LARGE * known.max(), TIMES_MEDIAN * np.median(known))
    outlying: np.ndarray = np.nan_to_num(greatest) >= max(float(least), float(np.finfo(np.float32).tiny))
    return outlying


def adjusted(p: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Correct p for their number by Benjamini and Hochberg's rule; NaN stays and does not count.

    >>> adjusted(np.array([0.01, 0.04, 0.03, np.nan])).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * len(known) / np.arange(1, len(known) + 1)
    found = np.full(len(p), np.nan)
    found[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return found


def means_of_experts(trace: RoutingTrace) -> dict[str, np.ndarray]:
    """(L, E) means over each expert's tokens, by name, and its greatest activation; NaN where it has no token."""
    L, E = len(trace.model.layers), max(trace.model.num_experts)
    layer, token, slot = np.nonzero(trace.filled)
    cell = layer * E + trace.experts[layer, token, slot]
    count = np.bincount(cell, minlength=L * E).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(cell, values[layer, token, slot], minlength=L * E)
        means: np.ndarray = np.divide(sums, count, out=np.full(L * E, np.nan), where=count > 0).reshape(L, E)
        return means

    found = {} if trace.weights is None else {"mean_weight": mean(trace.weights)}
    if trace.outputs is None:
        return found
    arrays = trace.outputs.arrays()
    greatest = np.full(L * E, -np.inf)
    np.maximum.at(greatest, cell, arrays["greatest"][layer, token, slot])
    found |= {name: mean(arrays[name]) for name in MEANS if name in arrays}
    return found | {"greatest": np.where(count > 0, greatest, np.nan).reshape(L, E)}


def _kinds(source: RoutingTrace | Statistics) -> dict[str, np.ndarray]:
    """Return (L, E) the label of the largest lift, that lift, its q, spec, and whether it leads or has all alike."""
    L, E = len(source.model.layers), max(source.model.num_experts)
    none = {"kind": np.full((L, E), "", object)} | dict.fromkeys(("leads", "alike"), np.zeros((L, E), bool))
    none |= dict.fromkeys(("lift", "q", "spec"), np.full((L, E), np.nan))
    try:
        counted = source.counts_by_label("Kinds of text")
    except MissingField:
        return none
    if len(counted.groups) < 2:
        return none
    names = np.array([str(name) for name in counted.groups], object)
    has, tokens = counted.assignments.astype(np.float64), counted.tokens.astype(np.float64)  # (D, L, E), (D, L)
    lift, share = _lift(has, tokens)
    mean, enough = share.mean(0), np.asarray((tokens >= HANDFUL).all(0))[:, None]
    alike = (share.max(0) <= STANDS_OUT * mean) & (share.min(0) * STANDS_OUT >= mean) & (mean > 0)
    leads = [_leading(share[:, row, :E], source.model.top_k) for row, E in enumerate(source.model.num_experts)]
    return {
        "kind": np.where(has.sum(0) > 0, names[lift.argmax(0)], ""),
        "lift": np.where(has.sum(0) > 0, lift.max(0), np.nan),
        "q": _chance_of_lift(source, lift.max(0)) if isinstance(source, RoutingTrace) else none["q"],
        "spec": _spec(share),
        "leads": np.array([np.pad(row, (0, E - len(row))) for row in leads]) & enough,
        "alike": alike & enough,
    }


def _spec(share: np.ndarray) -> np.ndarray:
    """Return (…) how far each expert's shares (D, …) of D kinds are from uniform; NaN if it has none."""
    sums = share.sum(0)
    p = np.divide(share, sums, out=np.full(share.shape, np.nan), where=sums > 0)
    entropy: np.ndarray = -(p * np.log(np.where(p > 0, p, 1.0))).sum(0)
    spec: np.ndarray = 1 - entropy / np.log(len(share))
    return spec


def _leading(share: np.ndarray, k: int) -> np.ndarray:
    """Return (E,) whether an expert is in the standing committee of its layer, by its shares (D, E) of D kinds."""
    D, E = share.shape
    rank = 1 + (share[:, None, :] > share[:, :, None]).sum(-1)
    least = ceil(PRESENT * D)
    luck = sum(comb(D, n) * (k / E) ** n * (1 - k / E) ** (D - n) for n in range(least, D + 1))
    leads: np.ndarray = ((rank <= k) & (share > 0)).sum(0) >= least
    if k >= E or E * luck > LUCK:
        return np.zeros(E, bool)
    rank = np.minimum(rank, k + 1)
    places = np.where(leads, np.stack([rank.mean(0), rank.var(0)]), np.inf)  # (2, E)
    beaten = (places[:, None] <= places[..., None]).all(0) & (places[:, None] < places[..., None]).any(0)
    return leads & ~beaten.any(-1)


def _lift(has: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each label's share (D, L, E) over that of all other tokens, and its share; a rare label has no lift."""
    share = has / np.maximum(tokens, 1)[..., None]
    others = (has.sum(0) - has + 0.5) / (tokens.sum(0) - tokens + 1)[..., None]
    return np.where((tokens >= HANDFUL)[..., None], share / others, 0.0), share


def _chance_of_lift(trace: RoutingTrace, highest: np.ndarray) -> np.ndarray:
    """Return (L, E) q of the highest lift (L, E) of any label, with labels shuffled among whole texts."""
    names, codes = trace.labels("Kinds of text")
    texts, of_token = np.unique(np.stack([codes, trace.tokens["sequence"].to_numpy()]), axis=1, return_inverse=True)
    N, (L, E) = texts.shape[1], highest.shape
    if len(names) >= N:
        return np.full((L, E), np.nan)
    starts = np.searchsorted(texts[0], np.arange(len(names)))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(N) for _ in range(SHUFFLES)]
    p = np.full((L, E), np.nan)
    for row in range(L):
        token, slot = np.nonzero(trace.experts[row] >= 0)
        cell = of_token[token] * E + trace.experts[row][token, slot]
        has = np.bincount(cell, minlength=N * E).reshape(N, 1, E).astype(np.float64)
        tokens = np.bincount(of_token[trace.recorded[row]], minlength=N).astype(np.float64)[:, None]
        above = np.ones(E)
        for order in orders:
            lift, _ = _lift(np.add.reduceat(has[order], starts), np.add.reduceat(tokens[order], starts))
            above += lift.max(0)[0] >= highest[row] - 1e-12
        p[row] = np.where(has.sum((0, 1)) > 0, above / (SHUFFLES + 1), np.nan)
    return adjusted(p.ravel()).reshape(L, E)


def _keeps(trace: RoutingTrace) -> list[str]:
    """List the tokens that keep to each expert, most clearly first: “ und”, “ der”."""
    codes, sequence, T = token_codes(trace), trace.tokens["sequence"].to_numpy(), len(trace.tokens)
    size = int(codes.max(initial=-1)) + 1
    first = np.flatnonzero(~pd.Series(codes).duplicated())
    words = trace.tokens["text"].to_numpy(object)[first]
    plain = np.array([kind_of(word) != SPECIAL for word in words], bool)
    fewest, found = min(2, len(np.unique(sequence))), list[str]()
    for experts, recorded, E in zip(trace.experts, trace.recorded, trace.model.num_experts, strict=True):
        times, least = np.bincount(codes[recorded], minlength=size), enough_occurrences(int(recorded.sum()))
        in_texts = pd.Series(sequence[recorded]).groupby(codes[recorded]).nunique().reindex(range(size), fill_value=0)
        texts = in_texts.to_numpy()
        token, slot = np.nonzero(experts >= 0)
        owner, token = np.divmod(np.unique(experts[token, slot].astype(np.int64) * T + token), max(T, 1))
        usual = np.bincount(owner, minlength=E) / max(recorded.sum(), 1)
        cells, tokens = np.unique(owner * size + codes[token], return_counts=True)
        owner, code = np.divmod(cells, max(size, 1))
        share = tokens / np.maximum(times[code], 1)
        able = (times[code] >= least) & plain[code] & (texts[code] >= fewest)
        kept = np.flatnonzero(able & (share / np.maximum(usual[owner], 1e-12) >= TWICE))
        kept = kept[np.lexsort((-times[code[kept]], -share[kept]))]
        code, tokens, owner = code[kept], tokens[kept], owner[kept]
        named, tested = (code, code, words[code]), int((times >= least).sum())
        rows = keeping_rows(named, tokens, times[code], texts[code], usual[owner], tested * E).assign(owner=owner)
        clear = rows[rows["luck"] <= LUCK].sort_values("luck", kind="stable").groupby("owner").head(KEPT)
        of_expert: dict[int, list[str]] = {}
        for expert, text in zip(clear["owner"], clear["text"], strict=True):
            of_expert.setdefault(int(expert), []).append(f"“{visible(str(text))}”")
        found += [", ".join(of_expert.get(expert, ())) for expert in range(E)]
    return found


def _name_experts(frame: pd.DataFrame, trace: RoutingTrace | Statistics) -> pd.DataFrame:
    where = ["layer", "expert"]
    if isinstance(trace, RoutingTrace):
        try:
            held = names_that_hold(expert_names(trace))[[*where, *OF_NAMES]]
            return frame.merge(held, how="left", on=where).fillna({"name": ""})
        except MoevizError:  # one text, or nothing recorded
            pass
    return frame.assign(name="", **dict.fromkeys(OF_NAMES[1:], np.nan))


def with_writing(table: pd.DataFrame, written: pd.DataFrame) -> pd.DataFrame:
    """Return the table with what its experts write, where that is borne out.

    written   of `moeviz.analyses.expert_vectors.ExpertVectors`.

    Columns: those of the table, and writes str (the most promoted tokens; "" where their following tokens do not bear
    it out) · followed, usual, everywhere, beyond float64, as there.
    """
    where = ["layer", "expert"]
    found = table[where].merge(written, how="left", on=where)
    texts = [
        ", ".join(f"“{visible(str(text))}”" for text in promoted) if holds is True else ""
        for promoted, holds in zip(found["promoted"], found["holds"], strict=True)
    ]
    figures = {name: found[name].to_numpy(np.float64) for name in ("followed", "usual", "everywhere", "beyond")}
    return table.assign(writes=pd.array(np.array(texts, object), "str"), **figures)


def with_labels(table: pd.DataFrame, labels: pd.DataFrame, source: RoutingTrace | Statistics) -> pd.DataFrame:
    """Return the table with the labels that others gave to its experts, and how well our texts agree.

    labels   of `moeviz.formats.expert_labels.read_labels`. Of several labels of an expert the first counts.
    source   what the table is of.

    Columns: those of the table, and label str ("" where an expert has none) · label_score float64 and label_measure str
    (theirs) · label_rate float64 (the share of the tokens of the label that the expert has) · label_lift float64 (that
    over its share of all other tokens, as `lift`). Both come from our texts, and are NaN
    if no kind of them has the label's name, apart from case and the signs between words.
    """
    where = ["layer", "expert"]
    theirs = labels.drop_duplicates(where).rename(columns={"score": "label_score", "measure": "label_measure"})
    found = table[where].merge(theirs, how="left", on=where)
    rate = lift = np.full(len(table), np.nan)
    try:
        counted = source.counts_by_label("Labels of experts")
    except MissingField:
        pass
    else:
        names = {_plain(str(name)): at for at, name in enumerate(counted.groups)}
        at = found["label"].fillna("").map(lambda label: names.get(_plain(label), -1)).to_numpy(np.int64)
        has, tokens = counted.assignments.astype(np.float64), counted.tokens.astype(np.float64)
        row = pd.Series({layer: row for row, layer in enumerate(source.model.layers)})[table["layer"]].to_numpy()
        lifts, shares = (part[at, row, table["expert"].to_numpy()] for part in _lift(has, tokens))
        known = (at >= 0) & (tokens[at, row] >= HANDFUL)
        rate, lift = (np.where(known, part, np.nan) for part in (shares, lifts))
    words = {name: pd.array(found[name].fillna("").to_numpy(object), "str") for name in ("label", "label_measure")}
    score = found["label_score"].to_numpy(np.float64)
    ours = {"label_rate": rate, "label_lift": lift}
    return table.assign(label=words["label"], label_score=score, label_measure=words["label_measure"], **ours)


def labels_sentence(table: pd.DataFrame, labels: pd.DataFrame) -> Claim:
    """Claim how many of others' labels are of experts of this table, and how many our texts can judge."""
    here, judged = table["label"] != "", table["label_lift"].notna()
    borne_out = table["label_lift"] >= TWICE
    return captions.labels_of_others(len(labels), here.sum(), judged.sum(), borne_out.sum(), TWICE)


def _plain(label: str) -> str:
    """Normalise a label: its case, and what stands between its words."""
    return "".join(letter for letter in label.casefold() if letter.isalnum())


def with_twins(table: pd.DataFrame, weights: pd.DataFrame, outputs: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table with each expert's nearest other one, by weights and by outputs.

    weights, outputs   of `nearest_by_weights`, and of `ExpertVectors`, where these are known.

    Columns: those of the table, and twin_by_weights, twin_by_outputs int16 (-1: not known) · cosine_of_weights,
    cosine_of_outputs float64.
    """
    where = ["layer", "expert"]
    for name, frame in (("weights", weights), ("outputs", weights.head(0) if outputs is None else outputs)):
        found = table[where].merge(frame, how="left", on=where)
        twin = found["twin"].fillna(-1).astype(np.int16).to_numpy()
        table = table.assign(**{f"twin_by_{name}": twin, f"cosine_of_{name}": found["cosine"].to_numpy()})
    return table


def filled_columns(table: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return those of these names whose columns are there, and not empty in every row."""
    return [n for n in names if n in table and not (table[n].isna() | (table[n].astype("str") == "")).all()]


def notes_on_experts(table: pd.DataFrame) -> list[str]:
    """Note in a few words what is odd about each expert: dead, adds nothing, a duplicate, a Super Expert; or ""."""
    return [
        captions.expert_note(
            dead=not row["tokens"],
            idle=bool(row["tokens"]) and row["added"] == 0,
            twins=tuple(
                (by, row[f"twin_by_{by}"])
                for by in ("weights", "outputs")
                if row.get(f"cosine_of_{by}", np.nan) >= ALIKE
            ),
            greatest=row["greatest"] if row["super"] else None,
        )
        for row in table.to_dict("records")
    ]


def breadth(table: pd.DataFrame) -> pd.Series:
    """Return whether each expert of a table is narrow, broad, or has no kind of text: the words that people read.

    table   of `expert_table`, with its columns name and role.

    An expert has no kind of text if no name of it holds on texts that did not choose it. Of the others, a specialist
    is narrow, and the rest are broad.
    """
    words = np.select([table["name"] == "", table["role"] == SPECIALIST], [UNNAMED, NARROW], BROAD)
    return pd.Series(words, index=table.index, dtype="str", name="breadth")


def breadth_sentence(table: pd.DataFrame) -> Claim:
    """Claim how many experts of a table are narrow, broad, or have no kind of text."""
    counts = breadth(table).value_counts()
    return captions.breadths(len(table), *(int(counts.get(word, 0)) for word in (NARROW, BROAD, UNNAMED)))


def chance_sentence(by_chance: Sequence[int], experts: int) -> Claim:
    """Claim the control of `breadth_sentence`: the names that hold with the routing of other texts.

    by_chance   of `moeviz.metrics.expert_names.names_by_chance`.
    """
    return captions.names_by_chance(float(np.mean(by_chance)), experts, min(by_chance), max(by_chance))


def expert_table_sentences(table: pd.DataFrame) -> list[Claim]:
    """Claim what of a table holds: how many experts write, how many are special, and which ones are odd."""
    odd = pd.Series(notes_on_experts(table), index=table.index)
    count, claims = len(table), [breadth_sentence(table)] if (table["name"] != "").any() else []
    of = table["role"] == COMMITTEE
    if table["q"].notna().any() and of.any():
        share, uniform = table.loc[of, "share"], table.loc[of, "share"] / table.loc[of, "times_uniform"]
        claims.append(captions.committee(of.sum(), share.mean(), uniform.mean()))
    if "writes" in table:
        claims.append(captions.writers((table["writes"] != "").sum(), count))
    dead = int((table["tokens"] == 0).sum())
    if dead > FEW_DEAD:
        claims.append(captions.dead_experts(dead, count))
        odd[table["tokens"] == 0] = ""
    return claims + [
        captions.odd_expert(layer, expert, note)
        for layer, expert, note in zip(table["layer"], table["expert"], odd, strict=True)
        if note
    ]
