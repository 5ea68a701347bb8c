"""A plan of one recording on another: worth less the further traffic drifts, next to a fresh plan and to chance."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from moeviz import ExpertCounts, RoutingTrace, write_trace
from moeviz.cli.main import main
from moeviz.errors import MissingField
from moeviz.formats.counts_file import write_counts
from moeviz.metrics.staleness import CHANCE, NOTHING, OLDER, STILL, staleness, staleness_claim
from moeviz.serving.answers import STALE, decide
from moeviz.serving.decision import ENOUGH
from moeviz.serving.placement import STEP
from moeviz.serving.staleness import kept_sets, placements, plan_staleness, staleness_claims
from moeviz.testing import sample_trace

LAYERS, EXPERTS, DEVICES = 3, 32, 4
FIRST, LAST = (np.random.default_rng(seed).dirichlet(np.full(EXPERTS, 0.5), LAYERS) + 1e-3 for seed in (0, 1))


def recording(drift: float, seed: int, popularity: np.ndarray | None = None) -> RoutingTrace:
    """Made-up traffic whose popular experts are those of FIRST, of LAST, or between."""
    shares = (1 - drift) * FIRST + drift * LAST if popularity is None else popularity
    base, rng = sample_trace(LAYERS, 4_000, 4, EXPERTS), np.random.default_rng(seed)
    keys = rng.gumbel(size=(LAYERS, 4_000, EXPERTS)) + np.log(shares)[:, None]
    tokens = base.tokens.assign(token_id=rng.integers(0, 30_000, 4_000).astype(np.int32))
    experts = np.argsort(-keys, axis=-1)[..., :4].astype(np.int16)
    return replace(base, experts=experts, weights=None, logits=None, tokens=tokens)


@pytest.fixture(scope="module")
def first() -> RoutingTrace:
    return recording(0, 1)


@pytest.mark.parametrize("plans", [placements(DEVICES, DEVICES), kept_sets([8])], ids=["placements", "sets"])
def test_the_worth_of_a_plan_falls_with_the_drift(first, plans):
    tables = [plan_staleness(first, recording(drift, 50 + at), plans) for at, drift in enumerate((0, 0.3, 0.6, 1))]
    for name in tables[0]["plan"]:
        rows = [table.set_index("plan").loc[name] for table in tables]
        kept = [row["kept"] for row in rows]
        assert all(later < earlier + 0.1 for earlier, later in pairwise(kept))  # what the draws at random may move
        assert kept[0] > 0.95 and kept[1] < 0.9 and kept[-1] < 0.4
        assert rows[0]["verdict"] == STILL and rows[-1]["verdict"] == CHANCE
        assert all(row["layers"] == LAYERS and row["choices"] > ENOUGH for row in rows)


def test_a_plan_is_judged_as_by_hand():
    """Two sides of one text: of experts 0 1 2 3, the first recording uses 0 and 1, the second 2 and 3."""
    model = replace(sample_trace(1, 1, 1, 4).model, slot_order="unknown")
    one, other = (
        ExpertCounts(model, np.array(counts, np.int64), np.full((2, 1), 10), (0, 1), "step")
        for counts in ([[[6, 4, 0, 0]]] * 2, [[[0, 0, 6, 4]], [[0, 0, 5, 5]]])
    )
    (row,) = plan_staleness(one, other, kept_sets([2])).to_dict("records")
    assert (row["stale"], row["fresh"]) == (0.0, 1.0) and row["chance"] == pytest.approx(0.5, abs=0.2)
    (balanced, _) = plan_staleness(one, other, placements(2, 2)).to_dict("records")
    assert balanced["fresh"] == pytest.approx((1.2 + 1.0) / 2) and balanced["stale"] <= 2


def test_what_is_kept_is_a_share_of_the_gain_over_chance():
    drawn = [1.5] * 10 + [1.7] * 10
    for stale, fresh, kept, verdict in ((1.2, 1.2, 1, STILL), (1.4, 1.2, 0.5, OLDER), (1.6, 1.2, 0, CHANCE)):
        found = staleness("balanced", "imbalance", stale, fresh, drawn)
        assert (found.kept, found.verdict) == (pytest.approx(kept), verdict)
    assert staleness("balanced", "imbalance", 1.2, 1.6, drawn).verdict == NOTHING
    hits = staleness("4 experts kept", "hits", 0.6, 0.7, [0.4, 0.5])
    assert (hits.chance, hits.luck, hits.kept) == (pytest.approx(0.45), 0.5, pytest.approx(0.6))
    claim = staleness_claim(hits)
    assert claim.name == "stale_plan" and claim["kept"] == hits.kept and claim["stale"] == 0.6


def test_uniform_traffic_has_nothing_to_gain(first):
    uniform = recording(0, 9, np.full((LAYERS, EXPERTS), 1 / EXPERTS))
    found = plan_staleness(first, uniform, placements(DEVICES, 0))
    assert found["kept"].isna().all() and set(found["verdict"]) == {NOTHING}


def test_what_can_be_compared_is_and_the_rest_is_named(first):
    fewer = replace(first, model=replace(first.model, layers=(1, 2, 7)))
    found = plan_staleness(first, fewer, kept_sets())
    assert found["layers"].tolist() == [2]
    names = {claim.name: dict(claim.values) for claim in staleness_claims(first, fewer, found)}
    assert names["layers_judged"] == {"judged": 2, "layers": 3}
    texts = first.tokens["sequence"].nunique()
    assert names["texts_in_both"] == {"again": texts, "texts": texts}
    whole = recording(0.5, 4).counts()
    assert whole.group_kind not in ("step", "label")
    fit = plan_staleness(first, whole, kept_sets())
    assert "fresh_plan_fits" in {claim.name for claim in staleness_claims(first, whole, fit)}
    (few,) = staleness_claims(first, (short := first.select(tokens=slice(0, STEP))),
                              plan_staleness(first, short, kept_sets()))  # fmt: skip
    assert few.name == "few_choices_for_staleness" and few["needed"] == ENOUGH
    with pytest.raises(MissingField):
        plan_staleness(sample_trace(LAYERS, 60, 2, 8), first, kept_sets())


@pytest.fixture(scope="module")
def files(first, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stale")
    other = recording(0.5, 2)
    write_trace(first, folder / "a.npz")
    write_trace(other, folder / "b.npz")
    write_counts(other.counts(), folder / "b.json")
    write_trace(sample_trace(LAYERS, 60, 2, 8), folder / "smaller.npz")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        ("cost", "placement", "--devices", "4", "--copies", "4"),
        ("cost", "cache", "--capacities", "4,8"),
        ("plan", "--engine", "eplb", "--devices", "4", "-o", "plan.json"),
        ("plan", "--engine", "ktransformers-together", "-o", "plan.json"),
        ("decide", "--devices", "4"),
    ],
    ids=" ".join,
)
def test_each_command_judges_its_plans_on_another_recording(words, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    at = 1 if words[0] != "cost" else 2
    command = [*words[:at], files["a.npz"], *words[at:]]
    if "ktransformers-together" in words:
        pytest.importorskip("torch")
        command[command.index("plan.json")] = "plan.pt"
    assert main([*command, "--judged-on", files["b.npz"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if words[0] == "decide":
        (answer, *_) = found["answers"]
        assert answer["question"] == STALE and answer["verdict"]
        rows = answer["figures"]
    else:
        rows = found["judged_on"]
    assert {"stale", "fresh", "chance", "kept", "verdict"} <= {*rows[0]}
    assert pd.DataFrame(rows)["kept"].between(-0.5, 0.95).all()
    assert main([*command, "--judged-on", files["b.json"]]) == 0 and rows[0]["verdict"] in capsys.readouterr().out
    code = main([*command, "--judged-on", files["smaller.npz"]])
    out, err = capsys.readouterr()
    assert (code == 3 and err.count("\n") == 1) if words[0] != "decide" else (code == 0 and "judge a plan" in out)


def test_an_answer_about_another_recording_comes_first_and_only_if_there_is_one(first):
    assert [each.question for each in decide(first) if each.question == STALE] == []
    answer = decide(first, devices=4, judged_on=recording(1, 3))[0]
    assert answer.question == STALE and answer.verdict == CHANCE and len(answer.figures) == 3
