"""Routes: cases worked by hand, chance, and what is claimed counted again."""

import numpy as np
import pandas as pd
import pytest

import moeviz
from moeviz.charts.routes import GAINS, RANKS, ROUTES, STAKE, WELL, WHOSE
from moeviz.errors import MissingField
from moeviz.metrics.routes import (
    BY,
    RouteRegret,
    blind_spots,
    by,
    joined_regret,
    ranks,
    route_sentences,
    whose_route,
)

PAIRS = np.array([(a, b) for a in range(4) for b in range(a + 1, 4)], np.int16)  # six routes: two of four experts


def made(losses: np.ndarray, taken: np.ndarray, layers: int = 1) -> RouteRegret:
    """Cells of texts of ten tokens, of two kinds; the route taken is put first, as the analysis does."""
    C = len(losses)
    order = np.stack([np.r_[own, np.delete(np.arange(6), own)] for own in taken])
    losses = np.take_along_axis(losses, order, 1).astype(np.float32)
    token = np.tile(np.arange(C // layers), layers)
    frame = {"sequence": token // 10, "position": token % 10, "layer": np.repeat(np.arange(layers), C // layers)}
    frame |= {"text": " a", "next_text": "b", "kind": "word, space before", "next_kind": "digits"}
    frame |= {"label": np.where(token // 10 % 2, "one", "two"), "entropy": token * 7 % C / C}
    cells = pd.DataFrame(frame).assign(**ranks(losses))
    info = moeviz.testing.sample_trace(layers=layers, experts=4, top_k=2).model
    return RouteRegret(cells, losses, PAIRS[order], info, True, {}, 0.0, 1.0, 1)


def test_a_rank_counts_the_others_that_are_better_and_half_of_those_that_tie():
    found = ranks(np.array([[1.0, 0.5, 1.00005, 2.0, 0.98, np.nan]], np.float32))
    # of four others one is better, one ties by rounding, one is better by less than 0.05, one is worse
    assert {name: float(found[name][0]) for name in ("better", "ties", "rank", "rank_ties")} == pytest.approx(
        {"better": 0.5, "ties": 0.25, "rank": 0.625, "rank_ties": 0.5}
    )
    assert found["gain"][0] == pytest.approx((0.5 + 1.00005 + 2 + 0.98) / 4 - 1) and found["alternatives"][0] == 4
    assert np.isnan(ranks(np.ones((1, 3), np.float32))["rank"][0])  # where all tie, nothing is said


def test_routes_at_random_have_rank_one_half_and_reach_chance_in_every_group():
    rng = np.random.default_rng(0)
    regret = made(rng.normal(size=(4000, 6)), rng.integers(6, size=4000))
    assert regret.cells["rank"].mean() == pytest.approx(0.5, abs=0.02)
    spots = blind_spots(regret.cells)
    assert spots["blind"].mean() > 0.8
    best = made(losses := rng.normal(size=(4000, 6)), losses.argmin(1))
    assert best.cells["rank"].max() <= 0.1 and not blind_spots(best.cells)["blind"].any()


def test_bands_are_by_texts_and_need_four():
    rng = np.random.default_rng(0)
    regret = made(rng.normal(size=(30, 6)), rng.integers(6, size=30))
    assert by(regret.cells, "layer")["low"].isna().all()
    regret = made(rng.normal(size=(400, 6)), rng.integers(6, size=400), layers=2)
    for what in BY:
        found = by(regret.cells, what)
        assert found["tokens"].sum() == (400 if what == "layer" else 200), what
        known = found.dropna(subset=["low"])
        assert ((known["low"] <= known["rank"]) & (known["rank"] <= known["high"])).all() and len(known)
    with pytest.raises(MissingField):
        by(regret.cells.drop(columns="label"), "label")


def test_a_router_that_knows_the_kind_alone_is_found_out():
    """Each kind has one route that is best for all of its tokens: another token of the kind has it too."""
    rng = np.random.default_rng(0)
    kind = np.arange(2000) // 10 % 2
    losses = rng.normal(size=(2000, 6)) * 0.1 + 1
    best = np.where(kind, 4, 1)
    losses[np.arange(2000), best] -= 1
    rows = whose_route(made(losses, best)).set_index("route")
    assert rows["gained"]["of the same kind of text"] == pytest.approx(1, abs=0.02)
    assert rows["gained"]["another token's"] == pytest.approx(0.5, abs=0.03)  # half get their own kind's
    assert rows["more"]["its own"] == 0 and rows["rank"]["its own"] == 0
    token = rng.integers(6, size=2000)  # a router that knows the token alone
    losses = rng.normal(size=(2000, 6)) * 0.1 + 1
    losses[np.arange(2000), token] -= 1
    rows = whose_route(made(losses, token)).set_index("route")
    assert rows["gained"]["of the same kind of text"] == pytest.approx(1 / 6, abs=0.03)  # the same by chance


def test_other_tokens_routes_need_all_sets():
    rng = np.random.default_rng(0)
    regret = made(rng.normal(size=(40, 6)), rng.integers(6, size=40))
    object.__setattr__(regret, "every", False)
    with pytest.raises(MissingField):
        whose_route(regret)
    assert {claim.name for claim in route_sentences(regret)}.isdisjoint({"route_of_kind"})


def test_what_is_claimed_of_routes_is_counted_again():
    rng = np.random.default_rng(3)
    regret = made(losses := rng.normal(size=(1200, 6)), np.where(rng.random(1200) < 0.5, losses.argmin(1), 2), layers=2)
    claims = {claim.name: claim for claim in route_sentences(regret)}
    losses = regret.losses.astype(float)
    others = losses[:, 1:]
    ranked = ((others < losses[:, :1] - 1e-4).sum(1) + (abs(others - losses[:, :1]) <= 1e-4).sum(1) / 2) / 5
    tied = ((others < losses[:, :1] - 0.05).sum(1) + (abs(others - losses[:, :1]) <= 0.05).sum(1) / 2) / 5
    one = claims["route_ranks"]
    assert (one["tokens"], one["texts"], one["tie"]) == (600, 60, 0.05)
    assert one["rank"] == pytest.approx(ranked.mean()) and one["rank_ties"] == pytest.approx(tied.mean())
    assert one["gain"] == pytest.approx((others.mean(1) - losses[:, 0]).mean(), abs=1e-5)
    assert one["low"] < one["rank"] < one["high"]
    fifth = regret.cells["entropy"].rank(method="first") <= len(ranked) / 5
    assert claims["route_certainty"]["surest"] == pytest.approx(ranked[fifth].mean())
    assert by(regret.cells, "certainty")["what"].tolist()[::4] == ["surest fifth", "least sure fifth"]
    assert claims["route_certainty"]["surest_ties"] == pytest.approx(tied[fifth].mean())
    spread = np.sort(losses.std(1))[::-1]
    assert claims["route_stakes"]["most"] == pytest.approx(spread[:120].sum() / spread.sum(), abs=1e-4)
    rows = whose_route(regret).set_index("route")["more"]
    assert claims["route_of_kind"]["of_kind"] == rows["of the same kind of text"]
    spots = blind_spots(regret.cells)
    assert claims["blind_spots"]["groups"] == len(spots) and claims["blind_spots"]["blind"] == spots["blind"].sum()
    alike = made(np.ones((40, 6)), np.zeros(40, int))
    assert [claim.name for claim in route_sentences(alike)] == ["routes_alike"]


def test_results_of_texts_with_other_numbers_of_routes_are_joined():
    rng = np.random.default_rng(0)
    one = made(rng.normal(size=(10, 6)), rng.integers(6, size=10))
    other = made(rng.normal(size=(10, 6)), rng.integers(6, size=10))
    object.__setattr__(other, "losses", other.losses[:, :4])
    object.__setattr__(other, "routes", other.routes[:, :4])
    found = joined_regret([one, other])
    assert found.losses.shape == (20, 6) and np.isnan(found.losses[10:, 4:]).all() and found.heads == 2
    assert len(found.at(0, 3, 0)) == 6 and found.at(0, 3, 0)["more"][0] == 0
    assert found.at(7, 0, 0).empty


def test_routes_are_drawn_next_to_chance_and_the_one_taken():
    rng = np.random.default_rng(0)
    regret = made(rng.normal(size=(400, 6)), rng.integers(6, size=400), layers=2)
    for chart in (STAKE, WELL):
        rows = next(iter(chart.draw(chart.measure(regret)).to_dict()["datasets"].values()))
        assert len(rows) == 400 and {row["layer"] for row in rows} == {0, 1}
    rows = next(iter(ROUTES.draw(ROUTES.measure(regret, 3, 4, 1)).to_dict()["datasets"].values()))
    assert len(rows) == 6 and [row["more"] for row in rows if row["taken"]] == [0]
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    claim, all_of_it = regret.sentence(3, 4, 1), regret.at(3, 4, 1)["loss"].to_numpy()
    assert claim.name == "route_of_token" and (claim["others"], claim["layer"]) == (5, 1)
    assert claim["better"] == (all_of_it < all_of_it[0]).sum() and claim["loss"] == all_of_it[0]
    assert claim["mean"] == pytest.approx(all_of_it[1:].mean()) and claim["best"] == pytest.approx(
        all_of_it[0] - all_of_it.min()
    )
    assert regret.sentence(99, 4, 1) is None
    for chart, chance in ((RANKS, 0.5), (GAINS, 0)):
        spec = chart.draw(chart.measure(regret.cells, "layer")).to_dict()
        assert [{"chance": chance}] in spec["datasets"].values()
    bars = next(iter(WHOSE.draw(WHOSE.measure(regret)).to_dict()["datasets"].values()))
    assert bars[0]["route"] == "its own" and bars[0]["more"] == 0
