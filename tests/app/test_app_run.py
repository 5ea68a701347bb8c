"""A run of the first page: what it writes stands as text, and what ends it loses nothing that was shown."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pandas as pd
import pytest
from app_pages import drawn, first_page, run, visit_of
from streamlit.runtime.scriptrunner_utils.exceptions import RerunException
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

import moeviz
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.metrics.tokens import written_text
from moeviz_app import settings
from moeviz_app.jobs.run_request import READ, RunRequest, run_from_query, usual_temperature
from moeviz_app.session import session
from moeviz_app.views.explore import EXPLORER
from moeviz_app.widgets import run_panel
from moeviz_app.widgets.components.texts import text_of

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
    trace = visit_of(run(app, "One day")).trace
    assert trace.model.decoding == "sampled at temperature 0.8, seed 0"
    assert usual_temperature("some/other") == 0.0


@pytest.mark.parametrize(("ends", "kept"), [(RerunException(RerunData()), True), (CaptureError("No."), False)])
def test_what_something_else_ends_is_kept_and_what_fails_is_not(monkeypatch, made, ends, kept):
    """A click elsewhere ends the script with RerunException; then the next script begins."""
    app = first_page(moeviz.trace("embedded", "Before"))
    before = visit_of(app).trace

    def breaks_off(_heard, _listen):
        session.hold(made, 20)
        raise ends

    monkeypatch.setattr(run_panel, "wait_for", breaks_off)
    run(app, "Nobody has asked this before")  # what has been asked is answered without waiting
    app.run()
    assert not app.exception
    shown, has = visit_of(app).trace, (made.tokens["phase"] == "generated").sum()
    stopped = replace(made, model=replace(made.model, decoding=f"greedy; stopped with {has} of 20 tokens"))
    assert shown.equals(stopped) if kept else shown is before


def test_each_field_of_a_run_is_in_an_address_and_comes_back():
    most = settings.SETTINGS.max_new_tokens
    asked = RunRequest(
        "a", "m", most, 0.75, 7, "bfloat16", "cpu", "decoder", "off", "checkpoint", True, "Be brief.", ((1, 6), (2, 4))
    )
    assert ["prompt", "model", *READ] == list(asked.parameters())
    assert [*asked.parameters(), "images"] == [field.name for field in fields(RunRequest)]  # which the visit has
    assert run_from_query(asked.parameters()) == asked
    assert run_from_query({"prompt": "a"}) == RunRequest("a", settings.SETTINGS.models[0])


@pytest.mark.parametrize("name", ["new_tokens", "temperature", "seed"])
def test_a_number_in_a_link_is_at_most_what_is_allowed_and_0_where_it_is_none(name):
    most = {
        "new_tokens": settings.SETTINGS.max_new_tokens,
        "temperature": settings.HIGHEST_TEMPERATURE,
        "seed": settings.HIGHEST_SEED,
    }
    found = [
        getattr(run_from_query({"prompt": "a", name: text}), name)
        for text in ("9" * 10, "9" * 11, "-1", "²", "nan", "1e5", ".", "")
    ]
    assert found == [most[name], *[0] * 7]


@pytest.mark.parametrize("name", ["dtype", "device_map", "kernels", "decoding", "chat"])
def test_a_choice_in_a_link_that_is_not_on_offer_is_ignored(name):
    assert run_from_query({"prompt": "a", name: "another"}) == run_from_query({"prompt": "a"})


def test_texts_in_a_link_are_cut_where_a_prompt_is_too_long():
    most = settings.SETTINGS.max_prompt_chars
    found = run_from_query({"prompt": "a" * (most + 1), "system": "b" * (most + 1)})
    assert (len(found.prompt), len(found.system)) == (most, most)


def test_a_run_is_asked_of_the_library_as_one_request():
    found = RunRequest("a", "m", 3, 0.75, 7, site="decoder", kernels="off", chat=True, system="b").request()
    drawn_as = moeviz.Sampling(0.75, seed=7)
    how = {"kernels": False, "site": "decoder", "chat": True, "system": "b", "next_tokens": "auto"}
    assert found == CaptureRequest(("a",), 3, drawn_as, **how)
    as_it_says = RunRequest("a", "m", 3, 0.75, 7, decoding="checkpoint").request()
    assert as_it_says == CaptureRequest(("a",), 3, moeviz.Sampling(seed=7), "checkpoint", next_tokens="auto")
    muted = RunRequest("a", "m", mute=((1, 6), (2, 4), (2, 5))).request()
    assert muted.intervention == moeviz.Mute({1: (6,), 2: (4, 5)})


@pytest.mark.parametrize("query", [{"prompt": ""}, {"prompt": "a", "system": "Be brief."}])
def test_a_link_may_ask_for_what_the_library_refuses(query):
    with pytest.raises(InvalidPrompt):
        run_from_query(query).request()


def test_the_strip_tells_apart_what_a_chat_template_added():
    trace = moeviz.trace("embedded", "One day")
    assert drawn(first_page(trace), EXPLORER)["template"] == []
    segments = ["turn", "user", "turn", *["user"] * (len(trace.tokens) - 3)]
    app = first_page(replace(trace, tokens=trace.tokens.assign(segment=pd.Series(segments, dtype="str"))))
    assert drawn(app, EXPLORER)["template"] == [0, 2]


def test_the_rest_of_the_work_is_estimated_by_the_share_that_is_done(monkeypatch):
    """From the first news on, and at the end, and too early, not at all."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(run_panel, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pace, said = run_panel.Pace(), []
    for clock.now, share in ((100, 0.5), (101, 0.6), (110, 0.75), (120, 1.0)):
        said.append(pace.left(share))
    assert "10 s" in said.pop(2)
    assert said == ["", "", ""]
