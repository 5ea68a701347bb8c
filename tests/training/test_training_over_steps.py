"""What a run of training is drawn from, on runs worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from chart_cases import check_golden
from made_runs import CHARTS, TWO_RUNS, layer, made_run

from moeviz.charts import training as charts
from moeviz.charts import training as figures
from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.training.reading import example_runs
from moeviz.training.recorded.claims import quiet_caption, router_verdict
from moeviz.training.recorded.over_steps import (
    balance_over_steps,
    counts_at_end,
    health_over_steps,
    importance_at_end,
    load_over_steps,
    violation_over_steps,
    worst_layer,
)
from moeviz.training.recorded.rules import Rules
from moeviz.training.recorded.run import ALARMS, WHOLE_RUN, TrainingRun, bins_of, chance_violation, dead_since


@pytest.fixture
def run() -> TrainingRun:
    """Layer 0 is even; in layer 3 expert 2 of 4 gets its last token in step 14, and is said to be dead at step 40."""
    late = [[3, 2, 1, 0], [3, 2, 1, 0], [4, 2, 0, 0], [4, 2, 0, 0], [2, 2, 2, 0]]
    since = [(), (), (), ((2, 15),), ()]
    return made_run(
        [[layer(0, [100, 100, 100, 100]), layer(3, [100 * n for n in counts], dead)]
         for counts, dead in zip(late, since, strict=True)],
        aux_loss=1.2,
        aux_coefficient=0.01,
        aux_in_loss=0.012,
    )  # fmt: skip


def measured(chart, run: TrainingRun, over: str = "step") -> pd.DataFrame:
    if chart in TWO_RUNS:
        return chart.measure({"<b>A": run, "B": run}, over)
    if chart is charts.IMPORTANCE:
        return chart.measure(run, 3)
    return chart.measure(run, 3, over) if chart is charts.HEATMAP else chart.measure(run, over)


def test_an_expert_is_dead_from_after_its_last_token_until_it_is_back(run):
    """The log of steps 11 to 20 has tokens from before step 15, so it is not among the dead ones."""
    assert dead_since(run, 1)[:, 2].tolist() == [-1, -1, 15, 15, -1]
    assert (dead_since(run, 0) == -1).all()
    frame = load_over_steps(run, 3)
    dead = frame[frame["dead_since"] >= 0]
    assert set(dead["expert"]) == {2} and dead["step"].tolist() == [30, 40]
    assert charts.dead_stretches(frame)[["after", "words"]].values.tolist() == [[20, "dead from step 15"]], (
        "it came back"
    )
    ended = frame[frame["step"] <= 40]
    assert charts.dead_stretches(ended)["words"].tolist() == ["dead since step 15"]
    strokes = charts.hatched(frame)
    assert strokes["middle"].between(20, 40).all() and len(strokes) == 2 * int(charts.STROKES / 5)


def test_an_expert_that_came_back_between_two_logs_of_a_column_is_dead_since_its_last_token():
    """In a log that was not read: a long file is thinned."""
    rows = [[layer(0, [4, 0], [(1, 5 if at < 101 else 1005)])] for at in range(240)]
    frame = load_over_steps(made_run(rows), 0).query("expert == 1 and step == 1020")
    assert frame["dead_since"].tolist() == [1005] and frame["after"].tolist() == [1000]


def test_load_is_a_multiple_of_the_even_share_and_experts_are_in_the_order_of_the_end(run):
    frame = load_over_steps(run, 3)
    first = frame[frame["step"] == 10].set_index("expert")
    assert first["times_uniform"].to_dict() == {0: 2.0, 1: pytest.approx(4 / 3), 2: pytest.approx(2 / 3), 3: 0.0}
    assert (first["after"] == 0).all() and first["place"].sort_values().index.tolist()[0] == 0
    assert "tokens" in load_over_steps(run, 3, "tokens") and frame["assignments"].sum() == 600 * 5


def test_logs_of_a_long_run_are_summed_before_they_are_measured():
    """Two logs that are uneven in opposite ways are even together; a mean of MaxVio would be 1."""
    run = made_run([[layer(0, [10, 0] if at % 2 else [0, 10])] for at in range(400)])
    bins = bins_of(run, "step")
    assert bins.every == 4 and len(bins.at) == 100 and bins.after[:2].tolist() == [0, 40] and bins.at[-1] == 4000
    frame = violation_over_steps(run)
    assert (frame["max_violation"] == 0).all() and frame["assignments"].sum() == 4000
    assert frame["effective"].tolist() == pytest.approx([2] * 100)


@pytest.mark.parametrize(("experts", "top_k", "even"), [(8, 2, 1000), (256, 8, 1000), (8, 2, 20), (128, 8, 20)])
def test_the_chance_level_is_what_luck_gives(experts, top_k, even):
    random, tokens = np.random.default_rng(0), even * experts // top_k
    found = []
    for _ in range(40):
        chosen = random.random((tokens, experts)).argpartition(top_k, axis=1)[:, :top_k]
        counts = np.bincount(chosen.ravel(), minlength=experts)
        found.append(counts.max() / counts.mean() - 1)
    expected = float(chance_violation(np.array([even * experts]), experts, top_k)[0])
    assert expected == pytest.approx(np.mean(found), rel=0.12)
    assert chance_violation(np.array([100]), 4, 4).tolist() == [0], "where all are chosen there is no luck"


def test_the_worst_layer_is_judged_by_enough_assignments_and_an_alarm_comes_first(run):
    assert worst_layer(run) == 3 and counts_at_end(run)[1].tolist() == [1600, 1000, 400, 0]
    alarms = pd.DataFrame([{"kind": "dead", "layer": 0, "began": 1, "over": np.nan, "on": True, "says": "x"}])
    assert worst_layer(replace(run, alarms=alarms)) == 0
    assert worst_layer(replace(run, counts=None)) in (0, 3) and worst_layer(made_run([])) is None


def test_balance_says_which_layer_is_the_worst_and_two_runs_stand_on_one_axis(run):
    frame = balance_over_steps({"one": run, "other": run})
    first = frame[(frame["run"] == "one") & (frame["step"] == 10)].iloc[0]
    assert (first["worst"], first["best"], first["worst_layer"]) == (1.0, 0.0, 3)
    assert first["fewest_layer"] == 3 and 0.5 < first["fewest"] < 1 and first["chance"] > 0
    assert set(frame["run"]) == {"one", "other"}


def test_importance_is_that_of_the_last_logs(run):
    frame = importance_at_end(run, 3)
    assert frame["tokens"].tolist() == counts_at_end(run)[1].tolist()
    assert frame["importance"].tolist() == pytest.approx(frame["load"].tolist())


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.key)
def test_every_chart_draws_on_either_axis_and_of_one_log(chart, run):
    for over in ("step", "tokens"):
        spec = chart.draw(measured(chart, run, over)).to_dict()
        assert spec["width"] == "container"
        if chart is not charts.IMPORTANCE:
            assert {"step": "steps", "tokens": "training tokens"}[over] in json.dumps(spec, default=str)
    chart.draw(measured(chart, made_run([[layer(0, [5, 5]), layer(3, [5, 0])]], aux_loss=1.0))).to_dict()


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.key)
def test_every_chart_matches_its_golden_file(chart, run, request):
    check_golden(chart, chart.draw(measured(chart, run)).to_dict(), request)


def test_sentences_are_counted_from_the_frame(run):
    load = charts.HEATMAP.caption(load_over_steps(run, 3).query("step <= 40"))
    assert (load["expert"], load["times"]) == (0, pytest.approx(2.67, abs=0.05))
    assert load["dead"] == (1, 2, 15)
    even = charts.HEATMAP.caption(load_over_steps(run, 0))
    assert (even["expert"], even["times"], even["dead"], even["back"]) == (0, 1, None, None)
    ((name, (layer, worst, chance)),) = charts.BALANCE.caption(balance_over_steps({"r": run}).query("step == 10"))[
        "runs"
    ]
    assert (name, layer, worst) == (None, 3, 1) and 0 < chance < 1
    assert figures.AUX.caption(measured(figures.AUX, run))["runs"][0] == ("<b>A", pytest.approx((1.2, 0.01)))
    assert figures.LOSS.caption(measured(figures.LOSS, run))["runs"][0] == ("<b>A", pytest.approx((4.5, 4.488)))
    plain, unknown = (replace(run, logs=run.logs.assign(aux_in_loss=part)) for part in (0.0, np.nan))
    assert figures.LOSS.caption(figures.LOSS.measure({"r": plain}))["runs"] == ((None, (4.5, 4.5)),)
    assert figures.LOSS.caption(figures.LOSS.measure({"r": unknown}))["runs"] == ((None, (4.5, None)),)
    gradients = figures.GRADIENTS.caption(measured(figures.GRADIENTS, run))
    assert dict(gradients.values) == {"layer": 3, "share": pytest.approx(0.25), "largest_layer": 0}


def test_a_run_without_an_alarm_says_so_and_that_its_warm_up_is_not_over(run):
    warming = replace(run, facts=replace(run.facts, rules=Rules.from_scratch()))
    assert [stated(quiet_caption(one)) for one in (run, warming, made_run([]))] == [
        ("no_alarm", {"step": 50}), ("warming_up", {"step": 50, "tokens": 1_000_000}), ("nothing_logged", {})
    ]  # fmt: skip


def test_what_a_run_lacks_is_said(run):
    bare = replace(run, counts=None, importance=None, dead_since=None)
    for chart, words in ((charts.HEATMAP, "needs counts"), (charts.IMPORTANCE, "needs counts")):
        with pytest.raises(MissingField, match=words):
            measured(chart, bare)
    assert violation_over_steps(bare)["max_violation"].tolist() == pytest.approx(run.layers["max_violation"].tolist())
    empty = made_run([])
    for chart in TWO_RUNS:
        with pytest.raises(MissingField):
            chart.measure({"none": empty})
    with pytest.raises(MissingField, match="layer"):
        load_over_steps(run, 7)


def test_counts_that_some_logs_lack_are_nobodys():
    rows = [[layer(0, [4, 4])], [layer(0, [4, 4])], [layer(0, [4, 4])]]
    del rows[1][0]["counts"]
    frame = load_over_steps(made_run(rows), 0)
    assert frame[frame["step"] == 20]["times_uniform"].isna().all() and (frame["dead_since"] == -1).all()
    charts.HEATMAP.draw(frame).to_dict()


def test_a_layer_of_many_experts_is_drawn_by_its_busiest_and_idlest():
    run = made_run([[layer(0, list(range(400)))]])
    frame = load_over_steps(run, 0)
    assert len(frame) == 256 and set(frame["expert"]) == {*range(128), *range(272, 400)}


def test_of_two_runs_the_one_without_figures_is_named_and_keeps_its_colour(run):
    """Frames of pages say which runs they are of, though one has no row in them."""
    frame = figures.CHANGE.measure({"B": run})
    assert figures.CHANGE.lacking(frame) is None
    of_two = frame.assign(run=pd.Categorical(frame["run"], ["<A>", "B"]))
    told = figures.CHANGE.lacking(of_two)
    assert (told["lacking"], told["drawn"]) == (("<A>",), ("B",))
    assert [name for name, _ in figures.CHANGE.caption(of_two)["runs"]] == ["B"]
    colour = figures.CHANGE.draw(of_two).to_dict()["layer"][0]["encoding"]["color"]
    assert colour["scale"]["domain"] == ["<A>", "B"] and colour["legend"] is not None
    none = of_two.assign(mean=float("nan"))
    assert figures.CHANGE.lacking(none) is None, "nothing is drawn, so nothing is drawn alone"


def test_losses_of_runs_with_and_without_an_aux_loss_are_compared_without_it():
    """The pair that ships: as logged they are 2.17 apart, most of it the aux loss."""
    frame = figures.LOSS.measure(example_runs())
    end = frame[frame["step"] == 90].set_index("run")
    assert end["loss"].round(2).to_dict() == {"aux-on": 9.88, "aux-off": 7.71}
    assert end["without_aux"].round(2).to_dict() == {"aux-on": 7.86, "aux-off": 7.71}
    drawn = pd.DataFrame(figures.LOSS.draw(frame).data)
    assert drawn.groupby(["run", "which"]).size().to_dict() == {
        ("aux-off", "without the aux loss"): 18,
        ("aux-on", "as it was logged"): 18,
        ("aux-on", "without the aux loss"): 18,
    }


def stated(claim: Claim) -> tuple[str, dict]:
    return claim.name, dict(claim.values)


def judged(run: TrainingRun, *alarms: tuple) -> tuple[str, Claim]:
    """The light and the answer, with these alarms: kind, layer, began, over, what it says."""
    rows = [dict(zip(("kind", "layer", "began", "over", "says"), alarm, strict=True)) for alarm in alarms]
    table = pd.DataFrame([row | {"on": np.isnan(row["over"])} for row in rows] or None, columns=list(ALARMS))
    return router_verdict(replace(run, alarms=table.astype(ALARMS)))[:2]


ON = np.nan


def test_the_verdict_begins_with_the_answer_and_the_gravest_alarm_comes_first(run):
    dead = ("dead", 3, 40, ON, "step 40: layer 3: expert 3 of 4 has been dead since step 1; no aux loss is computed")
    load = ("load", 3, 20, ON, "step 20: layer 3: expert 0 has 2.7 times its share (of at most 4)")
    collapse = ("collapse", 3, 30, ON, "step 30: layer 3: expert 0 of 4 does 70% of the work")
    off = (
        "aux_off",
        WHOLE_RUN,
        10,
        ON,
        "step 10: the aux loss is off: none is computed, so nothing keeps the load even",
    )
    rising = ("logits", 0, 10, ON, "step 10: layer 0: the z-loss went from 1 to 4 within 100 steps")
    light, answer = judged(run, dead, load, collapse, off)
    values = {"step": 30, "layer": 3, "experts": (0,), "of": 4, "share": pytest.approx(0.53, abs=0.005)}
    assert light == "red" and stated(answer) == ("collapsed", values)
    for alarms, light, degree, step in (
        ((load, dead), "red", "No", 40),
        ((load, rising), "amber", "Not quite", 20),
        ((rising,), "amber", "Not quite", 10),
    ):  # fmt: skip
        said = judged(run, *alarms)
        assert (said[0], said[1]["degree"], said[1]["step"]) == (light, degree, step)
        named = next(alarm for alarm in alarms if alarm[2] == step)
        assert f"at layer {named[1]}, " in said[1]["alarm"], "in its own words"
    run = replace(run, facts=replace(run.facts, rules=Rules(enough=100)))
    light, answer = judged(run, off)
    assert light == "amber" and answer.name == "unguarded"
    over = ("collapse", 3, 30, 40.0, "step 40: layer 3: more experts share the work again")
    light, answer = judged(run, over)
    assert light == "green" and stated(answer) == (
        "healthy", {"step": 50, "over": 1, "layer": 3, "expert": 0, "times": pytest.approx(2.1, abs=0.05)}
    )  # fmt: skip


def test_where_nothing_can_be_said_the_verdict_is_grey(run):
    assert (judged(made_run([]))[0], judged(made_run([]))[1].name) == ("grey", "nothing_logged")
    early = made_run([[layer(0, [10, 9])]])
    warming = replace(run, facts=replace(run.facts, rules=Rules.from_scratch()))
    assert judged(warming)[1].name == "warming_up"
    light, answer, beside = router_verdict(early)
    assert (light, answer.name) == ("grey", "too_early") and dict(beside.values) == {"choices": 9.5, "enough": 1_000}
    for odd in (
        replace(run, counts=None),
        replace(
            run, facts=replace(run.facts, layers=(), num_experts=()), counts=None, importance=None, dead_since=None
        ),
        made_run([[layer(0, [0, 0])]]),
        made_run([[layer(0, [9])]]),
    ):
        light, answer, _ = router_verdict(odd)
        assert light == "grey" and "nan" not in answer


def test_what_a_collapse_is_beside_are_the_experts_that_get_next_to_nothing():
    shipped = example_runs()["aux-off"]
    verdict, counts = router_verdict(shipped), counts_at_end(shipped)[1].tolist()
    busy = sorted(counts)[-2:]
    share = pytest.approx(sum(busy) / sum(counts))
    assert dict(verdict.answer.values) == {"step": 30, "layer": 1, "experts": (0, 3), "of": 8, "share": share}
    starved = [count for count in counts if count < sum(counts) / 8 / 20]
    assert dict(verdict.beside.values) == {
        "experts": len(starved), "of": 6, "assignments": sum(starved), "of_assignments": sum(counts)
    }  # fmt: skip


def test_none_is_dead_is_not_said_beside_a_stretch_of_death_without_a_word_on_it(run):
    back = charts.HEATMAP.caption(load_over_steps(run, 3))
    assert (back["dead"], back["back"]) == (None, (1, 2, 15))
    shipped = charts.HEATMAP.caption(load_over_steps(example_runs()["aux-off"], 1))
    assert (shipped["dead"], shipped["back"]) == (None, (1, 7, 63))


def test_alarms_stand_in_the_rows_of_their_layers_as_long_as_they_were_on(run):
    alarms = pd.DataFrame(
        [("load", 3, 20, 40.0, False, "a"), ("dead", 3, 40, ON, True, "b"), ("aux_off", WHOLE_RUN, 10, ON, True, "c"),
         ("load", 99, 10, ON, True, "of a layer that there is not")],
        columns=list(ALARMS),
    ).astype(ALARMS)  # fmt: skip
    frame = health_over_steps(replace(run, alarms=alarms))
    found = frame[frame["alarm"] != ""][["alarm", "layer", "after", "step"]]
    assert found.values.tolist() == [["load", 3, 20, 40], ["dead", 3, 40, 50], ["aux_off", -1, 10, 50]]
    assert frame.loc[frame["alarm"] == "", "busiest"].max() == pytest.approx(8 / 3)
    tokens = health_over_steps(replace(run, alarms=alarms), "tokens")
    assert tokens.loc[tokens["alarm"] == "load", ["after", "tokens"]].values.tolist() == [[2000, 4000]]
    check = charts.HEALTH.draw(frame).to_dict()
    assert [len(part.get("layer", [1])) for part in check["layer"]] == [1, 6], (
        "the load, a lane for each kind, a name each"
    )
