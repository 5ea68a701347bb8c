"""Routes: were tokens routed well? Each choice next to the other sets of as many experts that could have been chosen.

A route is the set of experts of one token at one layer. No single choice is ever called wrong: of routes chosen at
random, half are worse than half of the others. Only groups of tokens are judged, with bands by texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int16

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.metrics import captions
from moeviz.model_info import ModelInfo
from moeviz.parameters import active_parameters

MOST_SETS = 40  # sets of K experts that are all tried; else one of K is swapped
NEXT = 7  # likeliest experts that may come in, or K if that is more
EXACT = 1e-4  # nats: what rounding may do, so a difference this small is a tie
TIE = 0.05  # nats: a difference this small is a tie in rank_ties; fixed before any figure was looked at
FEWEST_TOKENS, FEWEST_TEXTS = 40, 4  # of a group that is judged
RESAMPLES, SHUFFLES = 300, 5
CHANCE = 0.5  # of a rank
SPEED_OF = 384  # rows and columns of matrices by which a processor's speed is measured
SLOWER = 5  # than that is a forward: 4.4 to 5.2 times in moeviz's own models, less in larger ones
BY = ("layer", "certainty", "label", "kind", "next_kind", "kinds", "place")
CERTAINTY = ("surest fifth", "second fifth", "third fifth", "fourth fifth", "least sure fifth")
PLACES = ((32, "first 32 tokens"), (96, "tokens 32 to 95"), (np.inf, "token 96 and later"))


class RouteCost(NamedTuple):
    """The cost of route regret for a text: routes of a token, forwards of all layers, and passes of the head."""

    routes: int
    forwards: float
    heads: int

    def sentence(self, texts: int, seconds: float | None = None) -> str:
        """Say what texts will take, and for how long if one forward of the judged tokens takes this many seconds."""
        said = (
            f"{self.routes:,} routes of each token at each layer take {self.forwards:,.0f} forwards of the layers and "
            f"{self.heads:,} of the head for a text"
        )
        if seconds is None:
            return said
        took = max(texts * (self.forwards + self.heads) / 2 * seconds, 1)
        number, unit = (took / 60, "minute") if took >= 60 else (took, "second")
        about = f"{number:,.0f} {unit}{'s' * (round(number) != 1)}"
        return f"{said}: about {about} for {texts:,} text{'s' * (texts != 1)}"


def expected_cost(model: ModelInfo) -> RouteCost:
    """Count what route regret takes for each text, as far as that is known before the model is loaded."""
    depth, rows = max(model.layers) + 1, []
    for E in model.num_experts:
        K = min(model.top_k, E)
        rows.append(math.comb(E, K) if math.comb(E, K) <= MOST_SETS else 1 + K * min(max(NEXT, K), E - K))
    forwards = sum(row * (depth - layer) / depth for row, layer in zip(rows, model.layers, strict=True))
    return RouteCost(max(rows), 1 + forwards, 1 + sum(rows))


def expected_seconds(model: ModelInfo, tokens: float) -> float | None:
    """Estimate the seconds of one plain forward of this many tokens here; None if the model's parameters are unknown.

    A product for each active parameter and token, at a fifth of the speed of large matrices on this processor.
    """
    if model.parameters is None:
        return None
    return SLOWER * active_parameters(model.parameters, model.top_k) * tokens / _products_per_second()


@cache
def _products_per_second() -> float:
    """Measure how many products of two numbers this machine adds up in a second."""
    matrix, best = np.ones((SPEED_OF, SPEED_OF), np.float32), np.inf
    for _ in range(5):  # the first wakes the threads
        start = perf_counter()
        matrix @ matrix
        best = min(best, perf_counter() - start)
    return SPEED_OF**3 / max(best, 1e-9)


@dataclass(frozen=True, slots=True, eq=False)
class RouteRegret:
    """Tokens and layers of texts, and the loss of the next token with each of the routes. C cells, A routes, K slots.

    cells     one row per token and layer. Columns: sequence, position, layer int32 (the model's own index) ·
              text, next_text, kind, next_kind str (classes of both tokens) · label str (with labelled texts) · entropy
              float64 (nats: of the prediction as it is) · loss float64 (nats: of the next token, with the route taken)
              · mean float64 (of the other routes) · best float64 (of all) · spread float64 (standard deviation over all
              routes: how much is at stake) · gain float64 (mean - loss) · alternatives int16 · better float64 (share of
              the others that are better) · ties float64 (share within 1e-4 nats) · rank float64 (better + ties / 2; NaN
              if all tie; 0.5 is chance) · rank_ties float64 (the same, with all differences up to 0.05 nats as ties).
    losses    NaN where a token has fewer routes; the route taken is the first.
    routes    experts of each, -1 where a token has fewer routes.
    model     as in a trace.
    every     True if the routes are all sets of K experts; else one of the K is swapped for a likely one.
    left_out  reasons by layer, for layers that have no other routes.
    error     nats: the largest difference of a loss from that of a plain forward with the same change, of a few.
    forwards  of all layers, and `heads`, passes of the head, in all.
    """

    cells: pd.DataFrame
    losses: Float32[np.ndarray, "C A"]
    routes: Int16[np.ndarray, "C A K"]
    model: ModelInfo
    every: bool
    left_out: dict[int, str]
    error: float
    forwards: float
    heads: int

    def at(self, sequence: int, position: int, layer: int) -> pd.DataFrame:
        """Return all routes of one token at one layer, the one taken first.

        One row per route. Columns: experts tuple of int · loss float32 (nats, of the next token) · more float32 (than
        with the route taken). Empty if the token is not among the cells.
        """
        own = self.cells[["sequence", "position", "layer"]].to_numpy() == (sequence, position, layer)
        rows = np.flatnonzero(own.all(axis=1))[:1]
        known = np.isfinite(self.losses[rows])
        losses, routes = self.losses[rows][known], self.routes[rows][known]
        experts = [tuple(sorted(int(expert) for expert in route)) for route in routes]
        return pd.DataFrame(
            {"experts": experts, "loss": losses, "more": losses - losses[:1] if len(losses) else losses}
        )

    def at_stake(self) -> pd.DataFrame:
        """Return how much is at stake for each token and layer, and how well its route does there.

        At stake is the standard deviation of the next token's loss over all routes (spread), and a route does well by
        the nats that the others cost more on average (gain). One cell is one draw: of routes at random, half would do
        worse than the others, so none is ever called misrouted.

        One row per token and layer. Columns: those of `cells`.
        """
        return self.cells

    def sentence(self, sequence: int, position: int, layer: int) -> Claim | None:
        """Claim what the route of one token at one layer costs next to the others; None if it is not judged."""
        row = self.cells[
            (self.cells[["sequence", "position", "layer"]].to_numpy() == (sequence, position, layer)).all(1)
        ]
        if row.empty:
            return None
        one, routes = row.iloc[0], self.at(sequence, position, layer)
        better = round(one["better"] * one["alternatives"])
        best = float(one["loss"] - one["best"])
        texts = one["text"], one["next_text"]
        return captions.route_of_token(
            *texts, layer, routes["experts"].iloc[0], one["loss"], one["mean"], int(one["alternatives"]), better, best
        )


def joined_regret(parts: Sequence[RouteRegret]) -> RouteRegret:
    """Join the results of several texts, in their order."""
    width = max(part.losses.shape[1] for part in parts)
    losses = [np.pad(p.losses, ((0, 0), (0, width - p.losses.shape[1])), constant_values=np.nan) for p in parts]
    routes = [np.pad(p.routes, ((0, 0), (0, width - p.routes.shape[1]), (0, 0)), constant_values=-1) for p in parts]
    return replace(
        parts[0],
        cells=pd.concat([part.cells for part in parts], ignore_index=True),
        losses=np.concatenate(losses),
        routes=np.concatenate(routes),
        every=all(part.every for part in parts),
        error=max(part.error for part in parts),
        forwards=sum(part.forwards for part in parts),
        heads=sum(part.heads for part in parts),
    )


def ranks(losses: Float32[np.ndarray, "C A"], taken: np.ndarray | int = 0) -> dict[str, np.ndarray]:
    """Return the columns of `RouteRegret.cells` that compare one route (C,) of each cell with the others."""
    losses = losses.astype(np.float64)
    at = np.broadcast_to(taken, len(losses))[:, None]
    own = np.take_along_axis(losses, at, 1)
    known = np.isfinite(losses)
    others = known & (np.arange(losses.shape[1]) != at)
    number = others.sum(1)

    def share(of: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.divide((of & others).sum(1), number, out=np.full(len(number), np.nan), where=number > 0)
        return found

    def rank(tie: float) -> np.ndarray:
        return share(losses < own - tie) + share(np.abs(losses - own) <= tie) / 2

    mean = np.divide(np.where(others, losses, 0).sum(1), number, out=np.full(len(number), np.nan), where=number > 0)
    ties = share(np.abs(losses - own) <= EXACT)
    return {
        "loss": own[:, 0],
        "mean": mean,
        "best": np.nanmin(losses, axis=1, initial=np.inf),
        "spread": np.nanstd(losses, axis=1) if len(losses) else np.empty(0),
        "gain": mean - own[:, 0],
        "alternatives": number.astype(np.int16),
        "better": share(losses < own - EXACT),
        "ties": ties,
        "rank": np.where(ties < 1, rank(EXACT), np.nan),
        "rank_ties": rank(TIE),
    }


def by(cells: pd.DataFrame, what: str) -> pd.DataFrame:
    """Judge groups of tokens: how good their routes are among the others, and by how many nats.

    what   layer · certainty (fifths of tokens, by the entropy of the prediction) · label (kind of text) · kind and
           next_kind (class of the token, and of the next) · kinds (both) · place (in the text).

    One row per group. Columns: by, what str · tokens, texts int64 · rank, low, high float64 (the mean, and a band of
    95 % by resampled texts; 0.5 is chance) · rank_ties, low_ties, high_ties float64 (the same with differences up to
    0.05 nats as ties) · gain, low_gain, high_gain float64 (nats: how much worse the other routes are, on average) ·
    spread float64 (nats). Bands are NaN for fewer than four texts.
    """
    frame = cells.assign(group=_groups(cells, what))
    rng, rows = np.random.default_rng(0), []
    for name, group in frame.groupby("group", sort=what in ("layer", "certainty"), observed=True):
        number = len(group[["sequence", "position"]].drop_duplicates())
        texts = group["sequence"].nunique()
        row = {"by": what, "what": str(name), "tokens": number, "texts": texts, "spread": group["spread"].mean()}
        for column, ends in (
            ("rank", ("low", "high")),
            ("rank_ties", ("low_ties", "high_ties")),
            ("gain", ("low_gain", "high_gain")),
        ):
            row |= {column: group[column].mean()} | dict(zip(ends, _band(group, column, rng), strict=True))
        rows.append(row)
    order = ["by", "what", "tokens", "texts", "rank", "low", "high", "rank_ties", "low_ties", "high_ties"]
    return pd.DataFrame(rows, columns=[*order, "gain", "low_gain", "high_gain", "spread"])


def blind_spots(cells: pd.DataFrame) -> pd.DataFrame:
    """Find groups of tokens for which the routers choose no better than chance.

    Groups are those of `by`, but for layers, that have at least 40 tokens of four texts. Columns: those of `by`, and
    blind bool (the band of the rank reaches 0.5) · blind_ties bool (that of the rank with ties does). Of many groups,
    one or two reach it by chance.
    """
    parts = [by(cells, what) for what in BY if what != "layer" and (what != "label" or "label" in cells)]
    found = pd.concat(parts, ignore_index=True)
    found = found[(found["tokens"] >= FEWEST_TOKENS) & (found["texts"] >= FEWEST_TEXTS)].reset_index(drop=True)
    return found.assign(blind=found["high"] >= CHANCE, blind_ties=found["high_ties"] >= CHANCE)


def whose_route(regret: RouteRegret) -> pd.DataFrame:
    """Give tokens the routes of other tokens, to see how much of a router's choice is the token's own.

    One row each: its own · another token's · another token's of the kind of text · of the kind and class of token · the
    layer's commonest · at random (the mean of all others). Columns: route str · rank, rank_ties float64 (0.5 is chance)
    · more float64 (nats per token, above its own) · gained float64 (1 - more, of that at random: the share of what the
    router gains that this route gains too). Others' routes are drawn five times (seed 0), and means given.

    Raises `MissingField` unless every set of experts is among the routes.
    """
    if not regret.every:
        raise MissingField(
            "Other tokens' routes can be compared only if every set of experts was tried, and here one expert at a "
            f"time was swapped: {regret.model.name} has too many sets."
        )
    cells = regret.cells
    keys = (np.int64(1) << regret.routes.astype(np.int64)).sum(-1)  # (C, A): the same sets in every cell
    order = np.argsort(keys, axis=1)
    ordered = np.take_along_axis(keys, order, 1)
    everything = pd.Series("", cells.index)
    label = cells.get("label", everything)
    groups = {"another token's": everything}
    if "label" in cells:
        groups |= {"of the same kind of text": label, "of the same kind and class": label + "\0" + cells["kind"]}
    rng, drawn = np.random.default_rng(0), dict[str, list[np.ndarray]]()
    for name, group in groups.items():
        codes = group.groupby([cells["layer"], group]).ngroup().to_numpy()
        places = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[places], prepend=-1))
        for _ in range(SHUFFLES):
            other = np.empty(len(codes), np.int64)
            for part in np.split(places, starts[1:]):
                other[part] = rng.permutation(part)
            drawn.setdefault(name, []).append(keys[other, 0])
    common = pd.Series(keys[:, 0]).groupby(cells["layer"].to_numpy()).transform(lambda part: part.mode()[0]).to_numpy()
    drawn |= {"its own": [keys[:, 0]], "the layer's commonest": [common]}
    own = regret.losses[:, 0]
    rows = {}
    for name, sets in drawn.items():
        at = [np.take_along_axis(order, (ordered < key[:, None]).sum(1)[:, None], 1)[:, 0] for key in sets]
        found = [ranks(regret.losses, place) for place in at]
        more = np.mean([part["loss"] - own for part in found])
        rows[name] = (np.nanmean([p["rank"] for p in found]), np.mean([p["rank_ties"] for p in found]), more)
    chance = float(cells["gain"].mean())
    rows["at random"] = (CHANCE, CHANCE, chance)
    names = ["its own", *groups, "the layer's commonest", "at random"]
    frame = pd.DataFrame([(name, *rows[name]) for name in names], columns=["route", "rank", "rank_ties", "more"])
    return frame.assign(gained=1 - frame["more"] / chance)


def route_sentences(regret: RouteRegret) -> list[Claim]:
    """Claim how good routes are among the others, what is at stake, whose they are, and where chance is as good."""
    cells = regret.cells
    if cells["rank"].isna().all():
        return [captions.routes_alike(len(cells))]
    one = by(cells.assign(label=""), "label").iloc[0]
    certainty = by(cells, "certainty")
    rank, ties = ((float(row.iloc[0]), float(row.iloc[-1])) for row in (certainty["rank"], certainty["rank_ties"]))
    claims = [
        captions.route_ranks(
            int(one["tokens"]),
            int(one["texts"]),
            one["rank"],
            one["rank_ties"],
            TIE,
            one["gain"],
            one["low"],
            one["high"],
        ),
        captions.route_certainty(rank[0], rank[1], TIE, ties[0], ties[1]),
        captions.route_stakes(*_stakes(cells)),
    ]
    if regret.every and "label" in cells and cells["label"].nunique() > 1:
        rows = whose_route(regret).set_index("route")["more"]
        claims.append(captions.route_of_kind(rows["at random"], rows["of the same kind of text"]))
    spots = blind_spots(cells)
    if len(spots):
        blind = spots[spots["blind"]].sort_values("rank", ascending=False)
        shown = tuple(blind["what"].where(blind["by"] != "next_kind", "next token: " + blind["what"]))
        claims.append(captions.blind_spots(len(spots), len(blind), shown, int(spots["blind_ties"].sum())))
    return claims


def _stakes(cells: pd.DataFrame) -> tuple[float, float]:
    """Return the share of all spread in a tenth of the cells, and its rank correlation with the rank."""
    spread = np.sort(cells["spread"].to_numpy())[::-1]
    most = spread[: max(len(spread) // 10, 1)].sum() / max(spread.sum(), 1e-12)
    both = cells[["spread", "rank"]].dropna().rank()
    related = both["spread"].corr(both["rank"]) if len(both) > 1 else np.nan
    return float(most), float(related)


def _groups(cells: pd.DataFrame, what: str) -> pd.Series:
    if what == "certainty":
        order = cells.groupby(["sequence", "position"])["entropy"].first().rank(method="first")
        fifths = (order / len(order) * len(CERTAINTY)).apply(np.ceil).astype(int) - 1
        at = pd.MultiIndex.from_frame(cells[["sequence", "position"]])
        return pd.Series(pd.Categorical.from_codes(fifths.loc[at].to_numpy(), pd.Index(CERTAINTY)), cells.index)
    if what == "kinds":
        return cells["kind"] + " → " + cells["next_kind"]
    if what == "place":
        within = np.select([cells["position"] < end for end, _ in PLACES], [name for _, name in PLACES], "")
        return pd.Series(within, cells.index)
    if what not in cells:
        raise MissingField(f"Routes are grouped by {', '.join(BY)}; these have no {what!r}.")
    return cells[what]


def _band(group: pd.DataFrame, column: str, rng: np.random.Generator) -> tuple[float, float]:
    """Return a band of 95 % for a mean, by resampled texts; NaN for fewer than four."""
    texts = group[["sequence", column]].dropna().groupby("sequence")[column].agg(["sum", "size"]).to_numpy()
    if len(texts) < FEWEST_TEXTS:
        return np.nan, np.nan
    sums, sizes = texts[rng.integers(len(texts), size=(RESAMPLES, len(texts)))].sum(1).T
    low, high = np.percentile(sums / sizes, [2.5, 97.5])
    return float(low), float(high)
