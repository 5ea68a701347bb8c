"""From 1991 to Mixtral: what its words, its numbers and its pictures say is what the traces that ship say."""

import json
from base64 import b64decode
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from app_pages import SECONDS, pictures, sentences
from streamlit.testing.v1 import AppTest

import moeviz
from moeviz.capture.models.load import model_facts
from moeviz.embedded import EMBEDDED
from moeviz.embedded.one_sentence import SENTENCE, one_sentence
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import fine_bias, reference_routing
from moeviz.errors import MoevizError
from moeviz.history import story
from moeviz.history.deep_mixture_2013 import model as deep_mixture
from moeviz.history.local_experts_1991.model import STOP_AT
from moeviz.history.shared import datasets
from moeviz.history.shared.results import WITHOUT_BALANCE, shipped
from moeviz.history.story import BRANCHES, INPUTS, STEPS, Half, Inputs, Scene, meters_of
from moeviz.history.switch_2021.model import capacity
from moeviz.history.systems import BESIDE, EXHIBITS, kind_of, shipped_trace, trace_beside
from moeviz.metrics.expert_names import UNNAMED, expert_names
from moeviz.parameters import active_parameters
from moeviz_app.settings import SETTINGS
from moeviz_app.views.menu import MENU, ROWS, STORY
from moeviz_app.widgets.components import history as component

MOST_WORDS = 120  # of a step
HALVES = {half.show.__name__: half for step in STEPS for half in step.halves}
every_half = pytest.mark.parametrize("name", HALVES)


@pytest.fixture(scope="module")
def seen() -> dict[str, Scene]:
    """What is shown, by the name of its function."""
    return {name: half.show() for name, half in HALVES.items()}


@pytest.fixture(scope="module")
def inputs() -> dict[str, Inputs]:
    return {name: made() for name, made in INPUTS.items()}


@pytest.fixture(scope="module")
def packed() -> dict:
    """What a browser is told."""
    return json.loads(json.dumps(component.packed_story()))


def told(half: Half, scene: Scene) -> str:
    (step,) = (step for step in STEPS if half in step.halves)
    return " ".join(words.format_map(scene.quoted) for words in (step.before, half.new, half.left))


@every_half
def test_a_step_says_what_is_new_and_what_is_left_in_few_words_and_leads_to_a_page(name, seen):
    half = HALVES[name]
    words = told(half, seen[name])
    assert words.endswith(".") and "{" not in words and len(words.split()) < MOST_WORDS
    longer = replace(half, left=half.left + " And so on" * 40)
    assert sum(len(part.split()) for part in (longer.new, longer.left)) > MOST_WORDS
    assert half.caption.format_map(seen[name].quoted).endswith(".")
    assert half.page in [page for pages in MENU.values() for page in pages]


def test_what_went_wrong_follows_from_what_was_left_over(seen):
    """Every step but the first says it, and the years go up."""
    assert [step.before == "" for step in STEPS] == [True] + [False] * 7
    years = [int(step.year[:4]) for step in STEPS[1:]]
    assert all(earlier < later for earlier, later in pairwise(years))


def test_a_router_is_said_once_to_be_a_gate(seen):
    everything = " ".join(told(half, seen[name]) for name, half in HALVES.items())
    assert everything.count("router = gate") == 1 and "**router = gate**" in HALVES["compete"].new


def test_every_system_of_the_gallery_has_its_step_or_stands_beside_the_way():
    there = {half.page for half in HALVES.values()} | {branch.page for branch in BRANCHES}
    assert {row.title for row in EXHIBITS.values()} - there == {"Dense contrast"}
    assert all("Mixtral does not descend from it." in branch.says for branch in BRANCHES)


def test_the_meters_are_those_of_the_traces(seen):
    """Experts of a layer, and the share that one input has in its slots; all of them behind a soft gate."""
    on = shipped(kind_of("conditional")).on
    wanted = {
        "one_network": (1, 1, 0),
        **dict.fromkeys(("compete", "tree", "layers", "unbalanced_layers"), (4, 1, 0)),
        "switches": (on.shape[1], on.mean(), 0),
        **dict.fromkeys(("top_two", "unbalanced_two"), (16, shipped_trace("sparsely-gated").model.top_k / 16, 0)),
        "dropped": (8, shipped_trace("switch").model.top_k / 8, 0),
        "every_layer": (8, 2 / 8, 0),
        "fine": (31, (7 + 1) / (31 + 1), 1),
    }
    assert {name: tuple(scene.meters) for name, scene in seen.items()} == {
        name: (experts, pytest.approx(share), shared) for name, (experts, share, shared) in wanted.items()
    }
    assert [round(seen[name].meters.parameters, 3) for name in ("compete", "top_two", "dropped", "fine")] == [
        1,
        8,
        8,
        4,
    ]


def test_the_meters_count_slots_and_not_top_k():
    """Of four experts, three tokens have two, one and none: a quarter on average."""
    trace = shipped_trace("local-experts")
    trace = trace.select(layers=trace.model.layers[-1:], tokens=slice(0, 3))
    experts = np.where(np.arange(4) < [[2], [1], [0]], trace.experts, np.int16(-1))
    weights = np.where(experts >= 0, trace.weights, np.float32(0))
    assert meters_of(replace(trace, experts=experts, weights=weights)).computed == pytest.approx(0.25)


@every_half
def test_inputs_are_named_as_the_trace_has_them_and_what_the_browser_is_told_is_the_trace(name, seen, inputs, packed):
    scene, given = seen[name], inputs[seen[name].inputs]
    assert len(given.names) == len(scene.trace.tokens) and 0 <= given.first < len(given.names)
    if name != "one_network":
        texts = ((text.split() or [""])[0] for text in scene.trace.tokens["text"])
        assert all(text in said for text, said in zip(texts, given.names, strict=True))
    new = HALVES[name].new.format_map(scene.quoted)
    (half,) = (half for step in packed["steps"] for half in step["halves"] if half["new"] == new)
    experts = np.frombuffer(b64decode(half["experts"]), np.int8).reshape(scene.trace.experts.shape)
    weights = np.frombuffer(b64decode(half["weights"]), np.float32).reshape(scene.trace.weights.shape)
    assert np.array_equal(experts, scene.trace.experts) and np.array_equal(weights, scene.trace.weights)
    assert half["counts"] == list(scene.trace.model.num_experts)


def test_the_story_is_small_enough_to_be_sent(packed):
    assert len(json.dumps(packed)) < 350_000


def test_the_rival_of_1991_has_the_size_of_the_mixture_and_gets_as_many_right_as_its_words_say(seen):
    scene, mixture = seen["one_network"], shipped(kind_of("local-experts"))
    assert scene.quoted["weights"] == 25 and mixture.expert_lines[0].size + mixture.gate_lines[0].size == 24
    right = (np.array(scene.drawn["says"])[:, 0] > 0.5) == np.array(INPUTS["vowels"]().drawn["wanted"])
    assert right.mean() == story.rivals().networks[0].train_accuracy and scene.quoted["right"] == "89%"
    curves = seen["compete"].drawn["curves"]
    for kind, runs in zip(("mixture", "network"), story.rivals(), strict=True):
        assert [run[0] for run in curves[kind]] == [round(run.error_by_epoch[0], 4) for run in runs]
        assert [len(run) for run in curves[kind]] == [run.epochs // curves["every"] + 1 for run in runs]


@pytest.mark.parametrize("name", ["compete", "tree"])
def test_the_answers_of_the_vowels_are_right_as_often_as_the_caption_says(name, seen, inputs):
    """What the picture adds up: weight times what an expert says, over the experts."""
    scene, said = seen[name], np.array(seen[name].drawn["says"])
    experts, weights = scene.trace.experts[-1].astype(int), scene.trace.weights[-1]
    answer = (np.take_along_axis(said, experts, axis=1) * weights).sum(axis=1)
    right = ((answer > 0.5) == np.array(inputs["vowels"].drawn["wanted"])).mean()
    assert f"{100 * right:.0f}%" == scene.quoted["right"] == "90%"


def test_1991_two_of_four_experts_lead_and_learning_is_slow(seen):
    led = np.unique(seen["compete"].trace.experts[-1, :, 0])
    assert len(led) == 2 and seen["compete"].quoted["leading"] == "two"
    assert len(seen["compete"].drawn["lines"]) == 2
    epochs = [np.mean([run.epochs for run in runs]) for runs in story.rivals()]
    assert [seen["compete"].quoted[name] for name in ("epochs", "network_epochs")] == list(map(round, epochs))
    assert seen["compete"].quoted["ratio"] == f"{epochs[0] / epochs[1]:.2f}"


def test_1994_the_same_error_takes_a_few_passes(seen):
    errors = shipped(kind_of("hierarchical")).squared_error
    passes = seen["tree"].quoted["passes"]
    assert errors[passes] <= STOP_AT < errors[passes - 1]
    root, leaves = seen["tree"].trace.weights
    assert root[:, :2].sum(axis=1) == pytest.approx(1) and leaves.sum(axis=1) == pytest.approx(1)


def test_2013_without_the_constraint_one_expert_takes_a_layer(seen):
    count = len(shipped_trace("deep-mixture").tokens)
    loads = [np.array(seen[name].drawn["load"]) for name in ("layers", "unbalanced_layers")]
    assert all(load.sum(axis=1) == pytest.approx(count, rel=1e-3) for load in loads)
    assert (loads[0] / count).max() < 0.45 and (loads[1] / count).max() > 0.95
    quoted = seen["unbalanced_layers"].quoted
    assert quoted["greedy"] == trace_beside("deep-mixture").experts[1, 0, 0] and quoted["layer"] == 2
    assert seen["layers"].quoted == {"experts": 4, "paths": 16}


def test_2013_the_images_are_those_whose_gates_were_measured(monkeypatch):
    """A network that answers each image with its number tells which images the measurement keeps."""

    def numbered(network, inputs, totals):
        rows = torch.arange(len(inputs), dtype=torch.float32)[None, :, None].expand(2, -1, 4)
        return torch.zeros(len(inputs), 10), rows, rows

    monkeypatch.setattr(deep_mixture.DeepMixtureNetwork, "run", numbered)
    network = deep_mixture.start(4, torch.Generator())
    found = deep_mixture._measured(network, datasets.digits()[1], lambda *_: None)
    assert np.array_equal(found["logits"][0, :, 0].reshape(81, 10).T, story.moved_images())
    digit, place = found["digit"][story._moved_rows()], found["place"][story._moved_rows()]
    assert digit.tolist() == 5 * list(range(10)) and place[::10].tolist() == list(story.PLACES.values())


def test_2013_and_2015_a_picture_is_of_the_digit_that_is_named(inputs):
    test = datasets.digits()[1]
    for name, rows in (("digits", story._digits_in_order()), ("moved digits", story.moved_images()[:, 0])):
        pixels = [np.frombuffer(b64decode(image), np.uint8).reshape(28, 28) for image in inputs[name].drawn["pixels"]]
        assert all(np.array_equal(shown, image) for shown, image in zip(pixels, test.images[rows], strict=False))
        assert [said.split("digit ")[1][0] for said in inputs[name].names[:10]] == list(map(str, range(10)))
    assert inputs["moved digits"].drawn["moves"][0] == [-4, -4] and "4 left, 4 up" in inputs["moved digits"].names[0]


def test_2015_blocks_that_are_on_are_those_of_the_digit_and_most_boxes_stay_empty(seen):
    result, trace = shipped(kind_of("conditional")), seen["switches"].trace
    rows = story._digits_in_order()
    for token, row in enumerate(rows):
        slots = trace.experts[0, token]
        assert slots[slots >= 0].tolist() == np.flatnonzero(result.on[row]).tolist()
    assert seen["switches"].drawn["answers"] == [str(answer) for answer in result.answer[rows]]
    assert (
        seen["switches"].quoted["mean"] == f"{result.on.sum() / 1000:.1f}" and seen["switches"].quoted["error"] == "6%"
    )


def test_2017_the_losses_leave_no_expert_without_words(seen):
    traces = (shipped_trace("sparsely-gated"), trace_beside("sparsely-gated"))
    loads = [seen[name].drawn["load"][0] for name in ("top_two", "unbalanced_two")]
    assert loads == [np.bincount(trace.experts.ravel(), minlength=16).tolist() for trace in traces]
    quoted = seen["unbalanced_two"].quoted
    assert (quoted["least"], quoted["least_without"]) == tuple(map(min, loads))
    assert quoted["least"] > 10 * quoted["least_without"]


def test_2021_whoever_is_dropped_wanted_an_expert_that_was_full(seen, inputs):
    trace, result, drawn = seen["dropped"].trace, shipped(kind_of("switch")), seen["dropped"].drawn
    assert drawn["capacity"] == capacity(len(trace.tokens), 8, result.settings["capacity_factor"])
    before = np.zeros(8, int)
    for wanted, served in zip(drawn["wanted"], trace.experts[0, :, 0], strict=True):
        assert served == (wanted if before[wanted] < drawn["capacity"] else -1)
        before[wanted] += served >= 0
    assert seen["dropped"].quoted["dropped"] == result.dropped.sum() == (trace.experts < 0).sum()
    assert trace.experts[0, inputs["queue"].first, 0] < 0


def test_2023_the_numbers_are_of_the_real_mixtral_and_the_drawing_of_a_model_of_ours_that_says_so(seen):
    half, quoted = HALVES["every_layer"], seen["every_layer"].quoted
    real = model_facts("mistralai/Mixtral-8x7B-v0.1")
    assert f"Mixtral has {len(real.layers)}" in half.caption and "a small model of ours" in half.caption
    assert (quoted["experts"], quoted["k"]) == (real.num_experts[0], real.top_k)
    assert quoted["total"] == f"{real.parameters.total / 1e9:.1f}"
    assert quoted["active"] == f"{active_parameters(real.parameters, real.top_k) / 1e9:.1f}"
    assert quoted["layers"] == len(reference_routing(EMBEDDED).model.layers)


def test_2024_a_layer_of_many_small_experts_is_drawn_with_its_bias(seen, inputs):
    trace, whole = seen["fine"].trace, reference_routing(FINE)
    assert trace.model.layers == (2,) and trace.model.num_experts == (31,)
    kept = (whole.tokens["label"] == "French").to_numpy() & (whole.tokens["sequence"] == 38).to_numpy()
    assert np.array_equal(trace.experts[0, :12], one_sentence().fine.experts[2])
    assert np.array_equal(trace.experts[0, 12 : 12 + 34], whole.experts[2, kept][:34])
    bias = fine_bias()
    assert seen["fine"].drawn["bias"] == bias[bias["layer"] == 2]["bias"].tolist()
    drawn = inputs["texts"].drawn
    assert drawn["groups"][12::34] == list(story.READ)
    assert [drawn["groups"][at] for at in drawn["starts"]] == [story.MINE, *story.READ]


def test_the_sentence_of_the_opening_goes_through_every_step_that_reads_words(inputs):
    words, recorded = SENTENCE.split(), one_sentence()
    assert "".join(recorded.tokens[1:]).split() == words == inputs["words"].drawn["words"][: len(words)]
    assert inputs["words"].names[inputs["words"].first] == "the word “list”"
    assert inputs["texts"].drawn["words"][inputs["texts"].first].strip() == "list"


def test_the_recorded_sentence_is_what_the_embedded_model_does_with_it():
    recorded, live = one_sentence(), moeviz.trace(EMBEDDED, SENTENCE)
    assert live.tokens["text"].tolist() == recorded.tokens
    assert np.array_equal(recorded.chosen.experts, live.experts)
    assert np.abs(recorded.chosen.weights - live.weights).max() < 0.002
    assert np.abs(recorded.scores - live.logits).max() < 0.01
    x, answers = recorded.x[3, 5], recorded.answers[3, 5]
    assert x.shape == answers[0].shape == (256,) and recorded.others.shape == (6, 540, 8)


def test_the_twins_read_the_same_texts_and_their_names_are_those_of_the_metric():
    pushed, natural = story.twins()
    assert pushed.trace.tokens["text"].equals(natural.trace.tokens["text"])
    for twin, model, names in ((pushed, EMBEDDED, 46), (natural, NATURAL, 15)):
        trace = reference_routing(model)
        assert twin.names["holds"].sum() == expert_names(trace)["holds"].sum() == names
        assert twin.shares.sum(axis=1) == pytest.approx(2), "of two choices a token"
        german = (trace.tokens["label"] == "German").to_numpy()
        by_hand = (trace.experts[2, german] == 4).any(axis=1).mean()
        assert twin.shares[2, 4, story.kinds_of_text().index("German")] == pytest.approx(by_hand)
    assert pushed.repeats[0] > 3 * natural.repeats[1] and story.repeats_of_mixtral() == pytest.approx((0.136, 0.284))
    packed = component.packed_twins((pushed, natural), story.kinds_of_text())["twins"]
    assert [sum(map(bool, twin["by"])) for twin in packed] == [46, 15]
    for twin, model in zip(packed, (EMBEDDED, NATURAL), strict=True):
        first, text = reference_routing(model).experts[..., 0], reference_routing(model).tokens["sequence"].to_numpy()
        repeats = (first[:, 1:] == first[:, :-1])[:, text[1:] == text[:-1]].mean(axis=1)
        assert twin["said"] == f"first choices repeat: {100 * repeats.min():.0f}% to {100 * repeats.max():.0f}%"
    assert {name for name, by in zip(packed[1]["names"], packed[1]["by"], strict=True) if not by} == {UNNAMED}


def test_a_run_beside_the_one_that_ships_differs_in_what_keeps_the_balance_alone():
    for name, settings in BESIDE.items():
        plain, beside = shipped(kind_of(name)).settings, shipped(kind_of(name), WITHOUT_BALANCE).settings
        assert {key for key in plain if plain[key] != beside[key]} == set(settings)
        assert {key: beside[key] for key in settings} == settings
    with pytest.raises(MoevizError, match="deep-mixture"):
        trace_beside("switch")


def test_the_page_opens_at_once_with_all_steps_and_trains_nothing(monkeypatch):
    monkeypatch.setattr("torch.Tensor.backward", _never)
    script = "from moeviz_app.views.menu import ROWS, STORY\nROWS[STORY].draw()"
    app = AppTest.from_string(script, default_timeout=SECONDS).run()
    assert not app.exception and pictures(app) == 1
    said = [json.loads(node.proto.json) for node in app.get("bidi_component") if node.proto.json]
    (steps,) = (of["steps"] for of in said if "steps" in of)
    (twins,) = (of["twins"] for of in said if "twins" in of)
    assert [(step["year"], step["title"]) for step in steps] == [(step.year, step.title) for step in STEPS]
    assert [len(step["halves"]) for step in steps] == [1, 1, 1, 3, 2, 1, 1, 1] and len(twins) == 2
    words = "\n".join(text.value for text in app.markdown)
    assert (
        "Sometimes: it depends on what the load is balanced over" in words
        and "14% to 28%" in words
        and "“A rule instead”" in words
    )
    assert "{" not in words


def test_a_sentence_over_the_limit_is_refused_with_both_numbers_and_stays_in_its_box():
    script = "from moeviz_app.views.history.story import _own_sentence\n_own_sentence(None)"
    app = AppTest.from_string(script, default_timeout=SECONDS).run()
    most = SETTINGS.max_prompt_chars
    app.text_input[0].set_value("a" * (most + 1))
    app.button[0].click().run()
    assert not app.exception and app.text_input[0].value == "a" * (most + 1)
    assert f"{most + 1:,}" in sentences(app) and f"{most:,}" in sentences(app)


def test_a_page_that_was_asked_for_is_one_that_was_offered(monkeypatch, packed):
    for asked, page in (("Switch", "Switch"), ("SVM experts", "SVM experts"), ("Open", None), (["Switch"], None)):
        monkeypatch.setattr(component, "_story", lambda asked=asked, **_: {"page": asked})
        assert component.story(packed, "story") == page


def _never(*_: object, **__: object) -> None:
    raise AssertionError("nothing is trained here")


def test_the_old_address_leads_here():
    assert MENU["Story"][0] == STORY and STORY in ROWS
