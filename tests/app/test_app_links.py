"""What pages carry in their links beside the trace: a change of the routing, two traces to compare."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from app_pages import COMPARE, WHAT_IF, address, go_to, pair, run, sentences, visit, visit_of
from plain_box import TEXT
from streamlit.testing.v1 import AppTest

import moeviz
from moeviz.charts import NAMED
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, run_request
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import session
from moeviz_app.views import what_if as fields
from moeviz_app.widgets import pickers

pytestmark = pytest.mark.usefixtures("box_of_widgets")
FRENCH, ENGLISH = RunRequest("Il fait froid.", "embedded"), RunRequest("One day", "embedded")


def changed(app: AppTest) -> dict[str, object]:
    """What the widgets of What if hold."""
    widgets = [*app.selectbox, *app.select_slider, *app.multiselect]
    return {widget.label: widget.value for widget in widgets if widget.key != "subject"}


def compared(app: AppTest) -> list[str]:
    return [box.value for box in app.selectbox if box.key in pickers.KEYS and box.value is not None]


@pytest.mark.parametrize(
    "kind, chosen",
    [
        ("mute", {"Layer": 2, "Experts": [1, 5]}),
        ("swap", {"Layer": 1, "Expert": 6, "With expert": 3}),
        ("precision", {"Precision": "int8"}),
    ],
)
def test_a_link_to_what_if_shows_the_change_and_does_not_run_it(kind, chosen, monkeypatch):
    app = visit(WHAT_IF)
    app.selectbox(key=session.CHANGE).set_value(kind).run()
    before = changed(app)
    for label, value in chosen.items():
        (widget,) = (box for box in [*app.selectbox, *app.select_slider, *app.multiselect] if box.label == label)
        widget.set_value(value)
        app.run()
    app.text_area(key=session.PROMPT).set_value("Another text").run()
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    other = visit(WHAT_IF, **address(app))
    assert changed(other) == {"Change": kind} | chosen != before
    assert other.text_area(key=session.PROMPT).value == "Another text"
    assert visit_of(other).what_if is None and visit_of(other).trace is None
    assert not other.warning
    assert address(other) == address(app)


def test_what_if_says_beside_its_change_which_run_is_on_screen():
    app = go_to(run(visit(""), FRENCH.prompt), WHAT_IF)
    assert address(app).items() >= FRENCH.parameters().items()
    assert address(app).keys() >= {"change", "layer", "experts"}
    assert fields.CHANGED_PROMPT not in address(app)
    other = visit(WHAT_IF, **address(app))
    assert visit_of(other).trace.equals(moeviz.trace(moeviz.load_model(), FRENCH.prompt, next_tokens=True))
    assert other.text_area(key=session.PROMPT).value == FRENCH.prompt and changed(other) == changed(app)


@pytest.mark.parametrize(
    "query",
    [
        {"change": "<b>", "layer": "2", "experts": "1"},
        {"change": "mute", "layer": "99", "experts": "1"},
        {"change": "mute", "experts": "99,-1,1e3,"},
    ],
)
def test_nonsense_in_a_link_to_what_if_changes_nothing(query):
    usual = changed(visit(WHAT_IF))
    assert changed(visit(WHAT_IF, **query)) == usual
    assert changed(visit(WHAT_IF, change="mute", layer="2", experts="4,99,4"))["Experts"] == [4], "the control"


def test_a_top_k_that_the_model_has_not_is_not_chosen():
    assert changed(visit(WHAT_IF, change="experts-per-token", experts_per_token="9"))["Experts per token"] == 1
    assert changed(visit(WHAT_IF, change="experts-per-token", experts_per_token="8"))["Experts per token"] == 8


def test_a_link_to_what_if_of_another_model_fetches_nothing_of_it(monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=True))
    for module, name in ((model_catalog, "facts_of_any"), (model_service, "_load"), (model_service, "run_on_model")):
        monkeypatch.setattr(module, name, pytest.fail)
    app = visit(WHAT_IF, prompt="One day", model="some/model", change="experts-per-token", experts_per_token="3")
    assert "a model that is not loaded" in sentences(app)
    assert not any("with and without" in button.label for button in app.button)


def test_a_change_that_waits_with_its_run_is_there_after_it():
    app = visit(WHAT_IF, prompt="One day", new_tokens="2", change="experts-per-token", experts_per_token="3")
    assert "Experts per token" not in changed(app)
    app = run(go_to(app, ""), "One day")
    app = go_to(app, WHAT_IF)
    assert changed(app)["Experts per token"] == 3


def test_a_link_to_compare_shows_the_two_traces():
    app = go_to(run(run(visit(""), FRENCH.prompt), ENGLISH.prompt), COMPARE)
    app.selectbox(key=session.FIRST_TRACE).set_value(FRENCH.prompt)
    app.selectbox(key=session.SECOND_TRACE).set_value(ENGLISH.prompt).run()
    chart = NAMED["aux_loss_by_layer"].question
    app.selectbox(key=session.BESIDE).set_value(chart).run()
    assert dict(parse_qsl(address(app)["first"])) == FRENCH.parameters()
    other = visit(COMPARE, **address(app))
    assert compared(other) == compared(app) == [FRENCH.prompt, ENGLISH.prompt]
    assert other.selectbox(key=session.BESIDE).value == chart
    assert address(other) == address(app)
    assert visit_of(visit(COMPARE)).address == {}, "the control"


def test_a_link_brings_the_third_trace_and_one_of_two_takes_it_away():
    app = go_to(run(run(visit(""), FRENCH.prompt), ENGLISH.prompt), COMPARE)
    for key, value in zip(pickers.KEYS, (FRENCH.prompt, ENGLISH.prompt, FRENCH.prompt), strict=True):
        app.selectbox(key=key).set_value(value).run()
    three = address(app)
    assert dict(parse_qsl(three["third"])) == FRENCH.parameters()
    other = visit(COMPARE, **three)
    assert not other.exception
    assert compared(other) == [FRENCH.prompt, ENGLISH.prompt, FRENCH.prompt] and address(other) == three
    assert compared(go_to(app, COMPARE, **pair(ENGLISH, FRENCH))) == [ENGLISH.prompt, FRENCH.prompt]


def test_a_link_to_compare_takes_up_what_was_run_before(monkeypatch):
    app = run(run(visit(""), FRENCH.prompt), ENGLISH.prompt)
    shown = visit_of(app).trace
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    go_to(app, COMPARE, **pair(FRENCH, ENGLISH))
    assert compared(app) == [FRENCH.prompt, ENGLISH.prompt] and visit_of(app).trace is shown
    go_to(app, "load")
    assert compared(go_to(app, COMPARE, **pair(ENGLISH, FRENCH))) == [ENGLISH.prompt, FRENCH.prompt]


def test_a_run_that_generates_waits_and_then_is_compared_part_by_part(monkeypatch):
    written = replace(ENGLISH, new_tokens=2, temperature=0.5, seed=3).parameters()
    query = pair(written | {"part": "generated"}, FRENCH)
    with monkeypatch.context() as watched:
        watched.setattr(model_service, "_load", pytest.fail)
        app = visit(COMPARE, **pair(written, written))
        assert sentences(app).count("press Run on the Explore page") == 1 and "'One day'" in sentences(app)
        assert not visit_of(app).recent and not app.get("vega_lite_chart"), "nothing is compared before"
    app = visit(COMPARE, **query)
    assert len(visit_of(app).recent) == 1 and "press Run on the Explore page" in sentences(app)
    app = go_to(app, "")
    assert (app.text_area(key=TEXT).value, app.slider(key=session.NEW_TOKENS).value) == ("One day", 2)
    app = go_to(run(app, "One day"), COMPARE)
    assert "press Run on the Explore page" not in sentences(app)
    first, second = compared(app)
    assert first.endswith(" · generated") and second == FRENCH.prompt
    assert dict(parse_qsl(address(app)["first"])) == written | {"part": "generated"}


@pytest.mark.parametrize("model, why", [("some/model", "not available here"), ("embedded", "")])
def test_a_link_to_compare_loads_no_model_that_is_not_on_offer(model, why, monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=False))
    app = visit(COMPARE, **pair(replace(FRENCH, model=model), ENGLISH))
    assert why in sentences(app) and ("not available" in sentences(app)) == (model != "embedded")
    assert len(visit_of(app).recent) == (1 if why else 2)


def test_a_model_of_a_strangers_choice_waits_on_compare_and_on_explore(monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=True))
    for module, name in ((model_catalog, "facts_of_any"), (model_service, "_load"), (model_service, "run_on_model")):
        monkeypatch.setattr(module, name, pytest.fail)
    other = replace(FRENCH, model="some/model")
    app = visit(COMPARE, **pair(other, other))
    assert "by 'some/model', a model that is not loaded" in sentences(app)
    assert "by 'some/model'" in sentences(go_to(app, "")), "the first page says it too, and asks nothing of the model"


@pytest.mark.parametrize("text", ["a=1&" * 1000, "%ff%fe"])
def test_nonsense_in_a_link_to_compare_is_ignored(text, monkeypatch):
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    app = visit(COMPARE, first=text, second=text)
    assert not visit_of(app).recent and any("Example, recorded" in text.value for text in app.markdown)


def test_a_part_that_a_trace_has_not_is_ignored():
    app = visit(COMPARE, **pair(FRENCH.parameters() | {"part": "<b>"}, ENGLISH))
    assert set(compared(app)) <= {FRENCH.prompt, ENGLISH.prompt}


def test_a_choice_by_hand_ends_what_a_link_still_wants():
    app = run(run(visit(""), FRENCH.prompt), ENGLISH.prompt)
    go_to(app, COMPARE, **pair(replace(ENGLISH, new_tokens=2), FRENCH))
    assert visit_of(app).pair_asked
    app.selectbox(key=session.FIRST_TRACE).set_value(ENGLISH.prompt).run()
    assert not visit_of(app).pair_asked


def test_what_a_link_cannot_bring_stays_out_of_the_address(monkeypatch):
    monkeypatch.setattr(run_request, "LONGEST", 40)
    app = run(run(visit(""), FRENCH.prompt), "a " * 21)
    assert not {"first", "second"} & address(go_to(app, COMPARE)).keys()
    app = run(visit(""), FRENCH.prompt)
    visit_of(app).recent.put("from a file", sample_trace(), most=8)
    assert not {"first", "second"} & address(go_to(app, COMPARE)).keys()
    app = run(go_to(app, ""), ENGLISH.prompt)
    go_to(app, COMPARE).selectbox(key=session.FIRST_TRACE).set_value(FRENCH.prompt)
    app.selectbox(key=session.SECOND_TRACE).set_value(ENGLISH.prompt).run()
    assert {"first", "second"} <= address(app).keys(), "the control"


def test_a_link_to_serve_brings_the_recording_that_plans_are_judged_on():
    app = go_to(run(run(visit(""), FRENCH.prompt), ENGLISH.prompt), "serve")
    app.selectbox(key=session.JUDGED_ON).set_value(FRENCH.prompt).run()
    written = address(app)
    assert dict(parse_qsl(written["judged_on"])) == FRENCH.parameters()
    other = visit("serve", **written)
    assert other.selectbox(key=session.JUDGED_ON).value == FRENCH.prompt and address(other) == written
    assert visit_of(other).trace.tokens["text"].str.cat().endswith(ENGLISH.prompt), "the subject is the other one"
    other.selectbox(key=session.JUDGED_ON).set_value(None).run()
    assert "judged_on" not in address(other)
