"""Paths of tokens through the layers, tokens that are routed alike, and experts that take the same contexts.

A path is the first choices of a token at several layers. Letters: L layers, T tokens, K slots, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics import captions
from moeviz.metrics.expert_names import kind_codes, plain_tokens, set_aside
from moeviz.metrics.inputs import check_recorded, needs_tokens
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import kind_of
from moeviz.routing_trace import RoutingTrace

WHOLE = 8  # layers up to which whole paths are counted; beyond them, windows of three
WINDOW = 3
AT_LEAST, OFTEN, AGAIN, AGAIN_TOKENS = 8, 3.0, 2.0, 5
SHOWN = 3  # tokens in context that stand for a path
AROUND = 3  # tokens of a context on each side
NEAREST, RESAMPLES, RENAMED = 3, 12, 50


@dataclass(frozen=True, slots=True, eq=False)
class PathTable:
    """Paths that tokens take more often than layers that are independent given the kind of text.

    paths     one row per path that at least `at_least` tokens of the half that chose take, highest lift first.
              Columns: first_layer, last_layer int32 (the model's own index) · path tuple of int · tokens int64 ·
              expected float64 · lift float64 (both of the half of the texts that chose) · tokens_aside int64 ·
              expected_aside, lift_aside float64 (of the other half) · holds bool (three times as often as expected, and
              twice, in five tokens, in the other half) · examples str (tokens in context).
    layers    of each path.
    distinct  paths, and `shuffled` the mean when the choices of each layer are shuffled among the tokens of each kind.
    often     paths that enough tokens take, of which `holding` hold; `by_chance` do in a trace shuffled so.
    """

    paths: pd.DataFrame
    layers: int
    distinct: int
    shuffled: float
    often: int
    holding: int
    by_chance: int

    def sentences(self) -> list[Claim]:
        """Claim how far layers depend on each other given the kind of text, and which path holds best."""
        held = self.paths[self.paths["holds"]]
        claims = [
            captions.paths_beyond(self.layers, self.distinct, self.shuffled, self.often, self.holding, self.by_chance)
        ]
        if len(held):
            best = held.iloc[0]
            claims.append(captions.path_that_holds(best["path"], int(best["tokens"]), best["lift"], best["lift_aside"]))
        return claims


def path_table(trace: RoutingTrace, at_least: int = AT_LEAST, most: int = 100) -> PathTable:
    """Count the paths of tokens, compared with layers that are independent given the kind of text.

    Every other text of each kind is set aside to judge what the others choose. Up to eight layers a path is whole; with
    more, windows of three layers are counted one by one: whole paths would nearly all be different. Special tokens have
    a path of their own and are left out. Without labels, all texts are one kind.

    at_least  tokens of a path, in the half that chose.
    most      paths.

    Raises `MissingField` for a trace of one text, or of experts in no known order, and `InvalidTrace` for one layer.

    Source: the question is that of "Polysemantic Experts, Monosemantic Paths" (arXiv 2604.17837); the null is moeviz's.
    """
    check_recorded(trace)
    trace = plain_tokens(trace)
    L = len(trace.model.layers)
    if L < 2:
        raise InvalidTrace("A path leads through several layers, and this trace has one.")
    first = trace.first_choices("Paths").astype(np.int64)
    kinds = kind_codes(trace)
    aside = set_aside(trace)
    rng = np.random.default_rng(0)
    shuffled = _shuffled(first, kinds, rng)
    spans = [(0, L)] if L <= WHOLE else [(at, at + WINDOW) for at in range(L - WINDOW + 1)]
    parts, distinct, by_chance, others = [], 0, 0, 0
    for start, end in spans:
        found = _over(first[start:end], kinds, aside, at_least)
        examples = [" · ".join(context(trace, int(row)) for row in rows) for rows in found.pop("rows")]
        of = trace.model.layers[start], trace.model.layers[end - 1]
        found.insert(0, "last_layer", np.int32(of[1]))
        found.insert(0, "first_layer", np.int32(of[0]))
        parts.append(found.assign(examples=pd.array(examples, "str")))
        distinct += len(np.unique(first[start:end], axis=1).T)
        others += len(np.unique(shuffled[start:end], axis=1).T)
        by_chance += int(_over(shuffled[start:end], kinds, aside, at_least)["holds"].sum())
    paths = pd.concat(parts, ignore_index=True)
    paths = paths.sort_values(["holds", "lift_aside"], ascending=False, kind="stable", ignore_index=True)
    held = int(paths["holds"].sum())
    return PathTable(paths.head(most), spans[0][1], distinct, float(others), len(paths), held, by_chance)


@needs_tokens
def tokens_of_path(trace: RoutingTrace, first_layer: int, path: Sequence[int], most: int = 40) -> pd.DataFrame:
    """Find the tokens whose first choices are these experts, from one layer on; two layers are a pair.

    One row per token. Columns: those of `similar_tokens` without shared. Raises `InvalidTrace` for layers that are not
    there.
    """
    layers = trace.model.layers
    start = layers.index(first_layer) if first_layer in layers else len(layers)
    if not path or start + len(path) > len(layers):
        raise InvalidTrace(f"A path of {len(path)} layers from {first_layer} on is not in this trace: it has {layers}.")
    for layer, expert, E in zip(layers[start:], path, trace.model.num_experts[start:], strict=False):
        if not 0 <= expert < E:
            raise InvalidTrace(f"Layer {layer} has experts 0 to {E - 1}, and the path asks for {expert} there.")
    first = trace.first_choices("Paths")[start : start + len(path)]
    return _tokens_at(trace, np.flatnonzero((first == np.array(path)[:, None]).all(axis=0))[:most])


@needs_tokens
def similar_tokens(
    trace: RoutingTrace, token: int | str, most: int = 12, of: RoutingTrace | None = None
) -> pd.DataFrame:
    """Find the tokens of other texts that are routed most like one token: by the experts that both have.

    token   row of the trace, or a text: its first occurrence, with or without the space before it.
    of      another trace of the same model that the token is of; then all texts are searched.

    One row per token, most alike first. Columns: row int64 (of the trace) · sequence, position int32 · text str ·
    context str · label str (with labels) · shared float64 (share of the choices, of all layers, that both have; see
    `shared_by_chance`). Tokens of the same text are left out, unless there is only one. Raises `InvalidTrace` for no
    such token.
    """
    row = _row_of(trace if of is None else of, token)
    own = (trace if of is None else of).experts[:, row]
    shared = np.zeros(trace.experts.shape[1])
    for layer, chosen in zip(trace.experts, own, strict=True):
        shared += np.isin(layer, chosen[chosen >= 0]).sum(axis=1)
    filled = int((own >= 0).sum())
    sequence = trace.tokens["sequence"].to_numpy()
    rows = np.arange(len(sequence))
    if of is None:
        rows = np.flatnonzero(sequence != sequence[row]) if len(np.unique(sequence)) > 1 else np.delete(rows, row)
    rows = rows[np.argsort(-shared[rows], kind="stable")][:most]
    return _tokens_at(trace, rows).assign(shared=shared[rows] / max(filled, 1))


def shared_by_chance(trace: RoutingTrace) -> float:
    """Compute the share of the choices, of all layers, that two tokens drawn at random have in common, on average.

    It is K / E where all experts are used alike, and more where some are used more. NaN where nothing was chosen.
    """
    counts = [np.bincount(layer[layer >= 0]) for layer in trace.experts]
    alike, every = sum(float((count.astype(float) ** 2).sum()) for count in counts), sum(map(np.sum, counts))
    return alike / (every * len(trace.tokens)) if every else np.nan


def _tokens_at(trace: RoutingTrace, rows: np.ndarray) -> pd.DataFrame:
    """Return these tokens in their contexts."""
    names = [name for name in ("sequence", "position", "text", "label") if name in trace.tokens]
    found = trace.tokens.iloc[rows][names].reset_index(drop=True)
    found.insert(0, "row", rows)
    found["context"] = pd.array([context(trace, int(at)) for at in rows], "str")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class ExpertMap:
    """Experts in a plane, and how far it can be trusted.

    experts   one row per layer and expert. Columns: layer int32 · expert int16 · x, y float64 · spread float64 (root
              mean square over resamples of the texts) · kind str (the label with the highest lift; "" without labels).
    nearest   one row per expert and neighbour: layer, expert, other_layer, other_expert · rank int16 · distance float64
              (Hellinger, 0 to 1). The plane is wrong about many of them, so draw these as lines.
    halves    rank correlation of all distances, one half of the texts with the other; `renamed` the most that experts
              renamed at random reach.
    kept      share of the three nearest that the other half has too, and `plane` that the plane has too.
    clouds    resamples (R, N, 2), turned onto the map.
    """

    experts: pd.DataFrame
    nearest: pd.DataFrame
    halves: float
    renamed: float
    kept: float
    plane: float
    clouds: Float64[np.ndarray, "R N 2"]

    def sentence(self) -> Claim:
        """Claim how far likeness holds between halves of the texts, and how far the plane shows it."""
        chance = min(NEAREST / max(len(self.experts) - 1, 1), 1.0)
        return captions.map_of_experts(self.halves, self.renamed, self.kept, self.plane, chance)

    def rows(self) -> pd.DataFrame:
        """Give the true neighbours of each expert, and where it would be with other texts, with all places.

        Experts are alike if their tokens come from the same contexts: kinds of text, and classes of token in them; see
        `expert_map`. The plane is by classical scaling of Hellinger distances, and is wrong about many neighbours.

        One row per expert and neighbour, or resample of the texts. Columns: those of `experts` · what str ("neighbour",
        "resample") · to_x, to_y float64 · other str (layer and expert of a neighbour, "" of a resample) · distance
        float64 (Hellinger, 0 to 1; NaN for a resample).
        """
        where, other = ["layer", "expert"], ["other_layer", "other_expert"]
        places = self.experts[[*where, "x", "y"]].set_axis([*other, "to_x", "to_y"], axis=1)
        near = self.experts.merge(self.nearest, on=where).merge(places, on=other)
        words = near["other_layer"].astype("str") + "·" + near["other_expert"].astype("str")
        near = near.drop(columns=[*other, "rank"]).assign(what="neighbour", other=words)
        clouds = pd.concat([self.experts] * len(self.clouds), ignore_index=True)
        x, y = self.clouds.reshape(-1, 2).T
        again = clouds.assign(what="resample", to_x=x, to_y=y, other="", distance=np.nan)
        return pd.concat([near, again[near.columns]], ignore_index=True).astype({"what": "str", "other": "str"})


def expert_map(trace: RoutingTrace) -> ExpertMap:
    """Place experts in a plane by the contexts whose tokens they take: kinds of text, and classes of token in them.

    Two experts are alike if their tokens come from the same contexts (Hellinger distance). The plane is by classical
    scaling. Whole texts are resampled twelve times. Raises `MissingField` for a trace of one text or of one context.

    Source: Torgerson (1952), Psychometrika 17, for classical scaling.
    """
    check_recorded(trace)
    trace = plain_tokens(trace)
    kinds, aside = kind_codes(trace), set_aside(trace)
    classes = pd.factorize(np.array([kind_of(text) for text in trace.tokens["text"]], object))[0]
    contexts = pd.factorize(kinds * (classes.max(initial=0) + 1) + classes)[0]
    if not contexts.any():
        raise MissingField(
            "A map tells experts apart by the kinds of text and the classes of token that they take, and this trace "
            "has one kind and one class. Trace texts with labels, or import them with the texts of their tokens."
        )
    sequence = pd.factorize(trace.tokens["sequence"])[0]
    ones = np.ones(len(contexts))
    whole = _distances(trace, contexts, ones)
    N = len(whole)
    if N < NEAREST + 2:
        raise InvalidTrace(f"A map needs at least {NEAREST + 2} experts, and this trace has {N}.")
    plane = _scaled(whole)
    halves = [_distances(trace, contexts, (aside == half).astype(float)) for half in (False, True)]
    rng = np.random.default_rng(0)
    above = np.triu_indices(N, 1)
    orders = [rng.permutation(N) for _ in range(RENAMED)]
    ranks = np.zeros((2, N, N))
    for half, found in enumerate(halves):
        ranks[half][above] = pd.Series(found[above]).rank()
        ranks[half] += ranks[half].T
    related = [
        float(np.corrcoef(ranks[0][above], ranks[1][np.ix_(o, o)][above])[0, 1]) for o in [np.arange(N), *orders]
    ]
    clouds = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(sequence.max() + 1, size=sequence.max() + 1), minlength=sequence.max() + 1)
        clouds.append(_turned(plane, _scaled(_distances(trace, contexts, times[sequence].astype(float)))))
    spread = np.sqrt(((np.stack(clouds) - plane) ** 2).sum(2).mean(0))
    near = _nearest(whole)
    drawn = np.sqrt(((plane[:, None] - plane[None]) ** 2).sum(2))
    layer = np.repeat(np.asarray(trace.model.layers, np.int32), trace.model.num_experts)
    expert = np.concatenate([np.arange(count) for count in trace.model.num_experts]).astype(np.int16)
    frame = pd.DataFrame({"layer": layer, "expert": expert, "x": plane[:, 0], "y": plane[:, 1], "spread": spread})
    lines = pd.DataFrame(
        {
            **{name: part.repeat(NEAREST) for name, part in (("layer", layer), ("expert", expert))},
            **{f"other_{name}": part[near.ravel()] for name, part in (("layer", layer), ("expert", expert))},
            "rank": np.tile(np.arange(1, NEAREST + 1), N).astype(np.int16),
            "distance": np.take_along_axis(whole, near, 1).ravel(),
        }
    )
    return ExpertMap(
        frame.assign(kind=pd.array(_kinds(trace, kinds), "str")),
        lines,
        related[0],
        max(map(abs, related[1:])),
        _agree(*map(_nearest, halves)),
        _agree(near, _nearest(drawn)),
        np.stack(clouds),
    )


def context(trace: RoutingTrace, row: int) -> str:
    """Return a token with those around it, as plain text on one line; where it is, in a trace without texts."""
    sequence = trace.tokens["sequence"].to_numpy()
    texts = trace.tokens["text"].to_numpy()
    if not texts.any():
        return f"text {sequence[row]}, position {trace.tokens['position'].iloc[row]}"
    rows = [
        at for at in range(row - AROUND, row + AROUND + 1) if 0 <= at < len(texts) and sequence[at] == sequence[row]
    ]
    return "".join(f"[{visible(texts[at])}]" if at == row else visible(texts[at]) for at in rows)


def _shuffled(first: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = first.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        for layer in out:
            layer[rows] = layer[rng.permutation(rows)]
    return out


def _over(first: np.ndarray, kinds: np.ndarray, aside: np.ndarray, at_least: int) -> pd.DataFrame:
    """Return the rows of `path_table` of one span of layers, and the tokens of each path."""
    known = (first >= 0).all(0)
    paths, code = np.unique(first[:, known], axis=1, return_inverse=True)
    code = code.ravel()
    half = aside[known]
    counts = np.stack([np.bincount(code[half == side], minlength=paths.shape[1]) for side in (False, True)])
    chosen = np.flatnonzero(counts[0] >= at_least)
    expected = np.zeros((2, len(chosen)))
    E = int(first.max(initial=0)) + 1
    for kind in np.unique(kinds):
        for side in (False, True):
            rows = np.flatnonzero(known & (kinds == kind) & (aside == side))
            if len(rows):
                share = np.ones(len(chosen))
                for layer, path in zip(first, paths[:, chosen], strict=True):
                    share *= (np.bincount(layer[rows], minlength=E) / len(rows))[path]
                expected[int(side)] += len(rows) * share
    lift = counts[:, chosen] / np.maximum(expected, 1e-12)
    where = np.flatnonzero(known)
    return pd.DataFrame(
        {
            "path": [tuple(map(int, path)) for path in paths[:, chosen].T],
            "tokens": counts[0, chosen],
            "expected": expected[0],
            "lift": lift[0],
            "tokens_aside": counts[1, chosen],
            "expected_aside": expected[1],
            "lift_aside": lift[1],
            "holds": (lift[0] >= OFTEN) & (lift[1] >= AGAIN) & (counts[1, chosen] >= AGAIN_TOKENS),
            "rows": [where[np.flatnonzero(code == one)[:SHOWN]] for one in chosen],
        }
    )


def _row_of(trace: RoutingTrace, token: int | str) -> int:
    texts = trace.tokens["text"]
    if isinstance(token, str):
        for at in (texts == token, texts.str.strip() == token.strip()):
            if at.any():
                return int(np.flatnonzero(at)[0])
        raise InvalidTrace(f"No token of this trace is {visible(token)!r}. Name one as it stands in moeviz trace.")
    if not 0 <= token < len(texts):
        raise InvalidTrace(f"This trace has tokens 0 to {len(texts) - 1}, not {token}.")
    return int(token)


def _profiles(trace: RoutingTrace, contexts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Count each expert's choices in each context, weighted, for each layer: (N, C)."""
    C, parts = int(contexts.max(initial=0)) + 1, []
    for experts, E in zip(trace.experts, trace.model.num_experts, strict=True):
        token, slot = np.nonzero(experts >= 0)
        cell = experts[token, slot].astype(np.int64) * C + contexts[token]
        parts.append(np.bincount(cell, weights[token], minlength=E * C).reshape(E, C))
    return np.concatenate(parts)


def _distances(trace: RoutingTrace, contexts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    profiles = _profiles(trace, contexts, weights)
    roots = np.sqrt(profiles / np.maximum(profiles.sum(1, keepdims=True), 1))
    distances: np.ndarray = np.sqrt(np.maximum(1 - roots @ roots.T, 0))
    return distances


def _scaled(distances: np.ndarray) -> np.ndarray:
    """Place points in a plane by classical scaling."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-centre @ distances**2 @ centre / 2)
    best = np.argsort(-values)[:2]
    places: np.ndarray = vectors[:, best] * np.sqrt(np.maximum(values[best], 0))
    return places


def _turned(onto: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Turn, mirror and scale points onto others (Procrustes)."""
    ours, theirs = points - points.mean(0), onto - onto.mean(0)
    left, sizes, right = np.linalg.svd(ours.T @ theirs)
    turned: np.ndarray = ours @ (left @ right) * (sizes.sum() / max((ours**2).sum(), 1e-12)) + onto.mean(0)
    return turned


def _nearest(distances: np.ndarray) -> np.ndarray:
    return np.argsort(distances + np.eye(len(distances)) * 9, axis=1, kind="stable")[:, :NEAREST]


def _agree(one: np.ndarray, other: np.ndarray) -> float:
    return float((one[:, :, None] == other[:, None, :]).any(-1).mean())


def _kinds(trace: RoutingTrace, kinds: np.ndarray) -> np.ndarray:
    """Name the label of which each expert takes most, compared with its share of all."""
    profiles = _profiles(trace, kinds, np.ones(len(kinds)))
    if "label" not in trace.tokens:
        return np.full(len(profiles), "", object)
    names = pd.factorize(trace.tokens["label"])[1].to_numpy().astype(object)
    lift = profiles / np.maximum(profiles.sum(1, keepdims=True), 1) / np.maximum(np.bincount(kinds), 1)
    found: np.ndarray = np.where(profiles.sum(1) > 0, names[lift.argmax(1)], "")
    return found
