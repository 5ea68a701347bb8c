"""A run of the first page: what it writes stands as text, and what ends it loses nothing that was shown."""

import pytest
from app_pages import drawn, first_page, run
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.run_request import RunRequest, usual_temperature
from moeviz_app.session import session
from moeviz_app.views.explore import EXPLORER
from moeviz_app.widgets import run_panel
from moeviz_app.widgets.components.written import text_of
from streamlit.runtime.scriptrunner_utils.exceptions import RerunException
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

import moeviz
from moeviz.errors import CaptureError
from moeviz.metrics.tokens import written_text

pytestmark = pytest.mark.usefixtures("box_of_widgets")


@pytest.fixture(scope="module")
def made():
    return moeviz.trace("embedded", "Il fait", max_new_tokens=6)


def test_prompt_and_continuation_are_told_apart(made):
    given, continued = text_of(made)
    assert given == "Il fait"
    assert given + continued == written_text(made)
    assert text_of(moeviz.trace("embedded", "Il fait")) == ("", "")


def test_the_embedded_model_samples_unless_asked_otherwise():
    app = first_page()
    assert app.slider(key=session.TEMPERATURE).value == usual_temperature("embedded") == 0.8
    app.slider(key=session.NEW_TOKENS).set_value(5).run()
    trace = run(app, "One day").session_state["trace"]
    assert trace.model.decoding == "sampled at temperature 0.8, seed 0"
    assert usual_temperature("some/other") == 0.0


@pytest.mark.parametrize(("ends", "kept"), [(RerunException(RerunData()), True), (CaptureError("No."), False)])
def test_what_something_else_ends_is_kept_and_what_fails_is_not(monkeypatch, made, ends, kept):
    """A click elsewhere ends the script with RerunException; then the next script begins."""
    app = first_page(moeviz.trace("embedded", "Before"))
    before = app.session_state["trace"]

    def breaks_off(_heard, _listen):
        session.hold(made)
        raise ends

    monkeypatch.setattr(run_panel, "wait_for", breaks_off)
    run(app, "Il fait")
    app.run()
    assert not app.exception
    assert app.session_state["trace"] is (made if kept else before)


def test_a_link_repeats_a_chat():
    asked = RunRequest("a", "embedded", chat=True, system="Be brief.")
    assert asked.parameters() == {"prompt": "a", "model": "embedded", "chat": "True", "system": "Be brief."}


def test_the_strip_tells_apart_what_a_chat_template_added(monkeypatch):
    trace = moeviz.trace("embedded", "One day")
    monkeypatch.setattr(
        model_service, "added_by_template", lambda *asked: [0, 2] if asked[2:] == ("One day", "Be brief.") else []
    )
    app = first_page(trace)
    assert drawn(app, EXPLORER)["template"] == []
    app.session_state["runs"] = [(trace, RunRequest("One day", "embedded", chat=True, system="Be brief."))]
    app.run()
    assert drawn(app, EXPLORER)["template"] == [0, 2]


def test_what_a_template_added_is_known_of_a_model_in_memory_alone():
    assert model_service.added_by_template("/no/such/model", model_catalog.DEFAULT_LOAD, "a", None) == []
    model_service.model("embedded")
    assert model_service.added_by_template("embedded", model_catalog.DEFAULT_LOAD, "a", None) == [], (
        "it has no chat template"
    )
