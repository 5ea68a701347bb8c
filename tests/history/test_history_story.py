"""From 1991 to Mixtral: what its words, its meters and its drawings say is what the traces that ship say."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from app_pages import SECONDS, pictures
from moeviz_app.views.menu import MENU, OLD_ADDRESSES, PAGES, STORY
from streamlit.testing.v1 import AppTest

from moeviz.capture.models.load import model_facts
from moeviz.charts.one_input import ONE_INPUT, described, expert_boxes
from moeviz.embedded.recorded_routing import example_trace
from moeviz.errors import MoevizError
from moeviz.history import story
from moeviz.history.shared.results import WITHOUT_BALANCE, shipped
from moeviz.history.story import PARTS, PAYOFF, STEPS, Step, StepData, meters_of
from moeviz.history.switch_2021.model import capacity
from moeviz.history.systems import BESIDE, EXHIBITS, kind_of, shipped_trace, trace_beside
from moeviz.parameters import active_parameters
from moeviz.published import published_counts

ALL = (*STEPS, PAYOFF)
MOST_WORDS = 60  # of a step
every_step = pytest.mark.parametrize("step", ALL, ids=lambda step: step.title)
every_drawing = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
BY_YEAR = {step.year: step for step in ALL}


@pytest.fixture(scope="module")
def seen() -> dict[str, StepData]:
    """What each step shows, by its year."""
    return {step.year: step.show() for step in ALL}


def words(step: Step, seen: StepData) -> list[str]:
    return " ".join(step.texts(seen)).split()


@every_step
def test_a_step_has_four_parts_in_under_sixty_words_and_leads_to_a_page(step, seen):
    told = step.texts(seen[step.year])
    assert len(told) == len(PARTS) == 4
    assert all(part.endswith(".") and "{" not in part for part in told)
    assert len(words(step, seen[step.year])) < MOST_WORDS
    assert step.page in [name for names in MENU.values() for name in names]


def test_the_words_are_counted(seen):
    """The control: a longer step is too long."""
    longer = replace(STEPS[0], remaining=STEPS[0].remaining + " And this went on for years.")
    assert len(words(longer, seen["1991"])) >= MOST_WORDS


def test_every_system_of_the_gallery_has_its_step_in_the_order_of_years():
    assert {row.title for row in EXHIBITS.values()} <= {step.page for step in ALL}
    years = [int(step.year[:4]) for step in STEPS]
    assert years == sorted(years)


def test_the_meters_are_those_of_the_traces(seen):
    """Experts of a layer, and the share that one input has in its slots; all of them behind a soft gate."""
    top_k = {name: shipped_trace(name).model for name in ("sparsely-gated", "switch")}
    counted = published_counts("OLMoE-1B-7B").model
    on = shipped(kind_of("conditional")).on
    wanted = {
        **{year: (trace.model.num_experts[-1], 1) for year, trace in _soft().items()},
        "2002": (shipped(kind_of("svm-experts")).weights.shape[-1], 1),
        "2013 and 2015": (on.shape[1], on.mean()),
        "2017": (16, top_k["sparsely-gated"].top_k / 16),
        "2021": (8, top_k["switch"].top_k / 8),
        "2023": (8, example_trace().model.top_k / 8),
        "2024 and later": (counted.num_experts[0], counted.top_k / counted.num_experts[0]),
        "Today": (16, 2 / 16),  # the mixture of most experts
    }
    assert {year: tuple(of.meters) for year, of in seen.items()} == {
        year: (experts, pytest.approx(share)) for year, (experts, share) in wanted.items()
    }
    assert [round(seen[year].meters.parameters, 3) for year in ("1991", "2017", "2021", "2023")] == [1, 8, 8, 4]


def _soft() -> dict:
    names = {"1991": "local-experts", "1994": "hierarchical", "1996": "hmm-experts", "2013": "deep-mixture"}
    return {year: shipped_trace(name) for year, name in names.items()}


def test_the_meters_count_slots_and_not_top_k():
    """Of four experts, three tokens have two, one and none: a quarter on average."""
    trace = shipped_trace("local-experts")
    trace = trace.select(layers=trace.model.layers[-1:], tokens=slice(0, 3))
    experts = np.where(np.arange(4) < [[2], [1], [0]], trace.experts, np.int16(-1))
    weights = np.where(experts >= 0, trace.weights, np.float32(0))
    assert meters_of(replace(trace, experts=experts, weights=weights)).computed == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("year", "trace", "layers"),
    [
        ("1991", lambda: shipped_trace("local-experts"), [-1]),
        ("1994", lambda: shipped_trace("hierarchical"), [0, 1]),
        ("2013", lambda: shipped_trace("deep-mixture"), [0, 1]),
        ("2013 and 2015", lambda: shipped_trace("conditional"), [0]),
        ("2017", lambda: shipped_trace("sparsely-gated"), [0]),
        ("2023", example_trace, range(6)),
    ],
)
def test_the_boxes_are_those_of_the_input_that_is_named(seen, year, trace, layers):
    trace, drawn = trace(), seen[year]
    token = drawn.quoted["token"]
    text = trace.tokens["text"].iat[token].strip()
    assert all(part in drawn.quoted["input"] for part in re.findall(r"\w+", text))
    for row, layer in zip(drawn.frame["row"].unique(), layers, strict=False):
        boxes = drawn.frame[drawn.frame["row"] == row].set_index("expert")
        slots = trace.experts[layer, token]
        assert set(boxes.index[boxes["computed"]]) == set(slots[slots >= 0].tolist())
        weights = trace.weights[layer, token][slots >= 0]
        assert boxes.loc[slots[slots >= 0], "weight"].to_numpy() == pytest.approx(weights)
        assert (boxes.loc[~boxes["computed"], "weight"] == 0).all()


def test_1991_two_experts_are_computed_and_never_lead(seen):
    trace = shipped_trace("local-experts")
    led = set(trace.experts[-1, :, 0].tolist())
    assert len(led) == 2 and seen["1991"].quoted["idle"] == "Two"
    assert (
        seen["1991"].quoted["best"] in led and seen["1991"].quoted["epochs"] == shipped(kind_of("local-experts")).epochs
    )


def test_1996_the_gate_settles_on_the_right_speaker(seen):
    trace, frame = shipped_trace("hmm-experts"), seen["1996"].frame
    rows = [part for _, part in frame.groupby("row", sort=False)]
    tops = [part["weight"].max() for part in rows]
    assert all(earlier < later for earlier, later in pairwise(tops)) and tops[-1] > 0.99
    assert [part["weight"].sum() for part in rows] == pytest.approx([1, 1, 1])
    same = (trace.tokens["label"] == trace.tokens["label"].iat[seen["1996"].quoted["token"]]).to_numpy()
    length = (trace.experts[:, :, 0] >= 0).sum(axis=0)
    ends = trace.experts[length - 1, np.arange(len(length)), 0][same]
    assert np.bincount(ends).argmax() == rows[-1]["weight"].argmax()


def test_2002_a_full_expert_sends_the_digit_on_and_all_answer(seen):
    result, frame, quoted = shipped(kind_of("svm-experts")), seen["2002"].frame, seen["2002"].quoted
    token = quoted["token"]
    assert frame["load"].tolist() == np.bincount(result.assigned[-1], minlength=8).tolist()
    assert (frame["capacity"] == result.capacity).all() and (frame["load"] <= frame["capacity"]).all()
    assert frame["computed"].all() and (np.sign(frame["weight"]) == np.sign(result.weights[-1, token])).all()
    first = result.first_choice[-1, token]
    assert frame.index[frame["refused"]].tolist() == [first] == [quoted["first"]]
    assert frame.loc[first, "load"] == result.capacity and result.assigned[-1, token] == quoted["given"] != first


def test_2013_without_the_constraint_one_expert_takes_a_layer(seen):
    loads = seen["2013"].frame.groupby("row", sort=False)["load"]
    assert loads.sum().to_numpy() == pytest.approx(len(shipped_trace("deep-mixture").tokens), rel=1e-4)
    most = (loads.max() / loads.sum()).tolist()
    assert max(most[:2]) < 0.45 and most[3] > 0.95
    assert seen["2013"].quoted["at"] == "layer 2" and seen["2013"].quoted["paths"] == 16
    assert seen["2013"].quoted["greedy"] == trace_beside("deep-mixture").experts[1, 0, 0]


def test_2017_the_losses_leave_no_expert_without_words(seen):
    loads = {row: part["load"].tolist() for row, part in seen["2017"].frame.groupby("row", sort=False)}
    traces = (shipped_trace("sparsely-gated"), trace_beside("sparsely-gated"))
    assert list(loads.values()) == [np.bincount(trace.experts.ravel(), minlength=16).tolist() for trace in traces]
    quoted = seen["2017"].quoted
    assert (quoted["least"], quoted["least_without"]) == tuple(int(min(load)) for load in loads.values())
    assert quoted["least"] > 10 * quoted["least_without"]


def test_2021_the_same_word_is_taken_early_and_dropped_late(seen):
    trace, result, quoted = shipped_trace("switch"), shipped(kind_of("switch")), seen["2021"].quoted
    early, late = (part.set_index("expert") for _, part in seen["2021"].frame.groupby("row", sort=False))
    room = capacity(len(trace.tokens), 8, result.settings["capacity_factor"])
    assert (early["capacity"] == room).all() and (late["capacity"] == room).all() and quoted["capacity"] == room
    expert = quoted["expert"]
    assert early.index[early["computed"]].tolist() == [expert] and not early["refused"].any()
    assert late.index[late["refused"]].tolist() == [expert] and not late["computed"].any()
    assert early.loc[expert, "load"] < room == late.loc[expert, "load"]
    assert trace.experts[0, quoted["token"], 0] < 0 and result.dropped[quoted["token"]]
    assert quoted["dropped"] == result.dropped.sum()


def test_2023_the_numbers_are_of_the_real_mixtral_and_the_drawing_of_a_model_of_ours_that_says_so(seen):
    step, quoted = BY_YEAR["2023"], seen["2023"].quoted
    real = model_facts("mistralai/Mixtral-8x7B-v0.1")
    assert f"each of {len(real.layers)} layers" in step.idea
    assert (quoted["experts"], quoted["k"]) == (real.num_experts[0], real.top_k)
    assert quoted["total"] == f"{real.parameters.total / 1e9:.1f}"
    assert quoted["active"] == f"{active_parameters(real.parameters, real.top_k) / 1e9:.1f}"
    assert "a small model of ours" in step.observation and "not Mixtral" in step.observation
    assert quoted["layers"] == len(example_trace().model.layers)


def test_2024_fills_no_box_since_there_is_no_input(seen):
    frame = seen["2024 and later"].frame
    assert not frame["computed"].any() and (frame["weight"] == 0).all()
    assert frame.groupby("row")["load"].sum().to_numpy() == pytest.approx(published_counts("OLMoE-1B-7B").model.top_k)


def test_what_for_says_what_the_page_on_dense_networks_says(seen):
    quoted, frame = seen["Today"].quoted, seen["Today"].frame
    means = story.part("dense", "exhibit").payoff_runs().groupby("experts")["nats"].mean()
    assert (quoted["sparse"], quoted["dense"], quoted["two"]) == tuple(f"{means[count]:.2f}" for count in (16, 1, 2))
    seeds = frame["spread"].max()
    assert quoted["seeds"] == f"{seeds:.2f}" and abs(means[2] - means[16]) < seeds, (
        "the words say that it does not show"
    )
    assert quoted["compute"] == "28%" and quoted["total"] == "46.7"


@every_drawing
def test_a_drawing_has_what_its_frame_has(step, seen):
    frame = seen[step.year].frame
    spec = expert_boxes(frame).to_dict()
    fields = [layer["encoding"].get("y2", {}).get("field") for layer in spec["layer"]]
    crosses = [layer for layer in spec["layer"] if layer["mark"].get("shape")]
    assert ("bar" in fields or "bottom" in fields) and bool(crosses) == frame["refused"].any()
    assert ("load_end" in fields) == frame["load"].notna().any()
    assert ("capacity_end" in fields) == frame["capacity"].notna().any()
    assert spec["height"] < 700
    assert ("refused" in described(frame)) == frame["refused"].any()


def test_a_row_of_fewer_experts_has_wider_boxes_above_those_of_the_next(seen):
    spec = expert_boxes(seen["1994"].frame).to_dict()
    data = next(of for of in spec["datasets"].values() if len(of) == 6)
    wide = {(row["experts"], row["expert"]): (row["left"], row["right"]) for row in data}
    assert wide[2, 0][1] < wide[2, 1][0] and wide[2, 0][0] <= 2 * wide[4, 0][0] and wide[4, 1][1] < wide[2, 1][0]


def test_the_chart_says_how_it_is_read():
    assert ONE_INPUT.question.endswith("?") and ONE_INPUT.picture(ONE_INPUT.measure(example_trace(), 36)).to_dict()


def test_a_run_beside_the_one_that_ships_differs_in_what_keeps_the_balance_alone():
    for name, settings in BESIDE.items():
        plain, beside = shipped(kind_of(name)).settings, shipped(kind_of(name), WITHOUT_BALANCE).settings
        assert {key for key in plain if plain[key] != beside[key]} == set(settings)
        assert {key: beside[key] for key in settings} == settings
    with pytest.raises(MoevizError, match="deep-mixture"):
        trace_beside("switch")


def test_the_page_opens_at_once_with_all_steps_and_trains_nothing(monkeypatch):
    monkeypatch.setattr("torch.Tensor.backward", _never)
    script = "from moeviz_app.views.menu import PAGES, STORY\nPAGES[STORY]()"
    app = AppTest.from_string(script, default_timeout=SECONDS).run()
    assert not app.exception
    assert pictures(app) == len(ALL) + 1
    assert [heading.value for heading in app.subheader][: len(ALL)] == [f"{step.year}: {step.title}" for step in ALL]
    told = "\n".join(text.value for text in app.markdown)
    assert all(told.count(part) == len(ALL) for part in PARTS)
    assert [metric.label for metric in app.metric] == ["Experts", "Computed", "Parameters"] * len(ALL)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("nothing is trained here")


def test_the_old_address_leads_here():
    assert OLD_ADDRESSES["gallery"] == STORY and MENU["Story"][0] == STORY and STORY in PAGES
