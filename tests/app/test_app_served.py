"""A model on a server, in the app: who may name one, what a run shows, and what Stop does."""

import threading
from dataclasses import replace

import pytest
from app_pages import first_page, run, visit_of
from served_stub import Stub, read, serving
from waiting import SECONDS

from moeviz.errors import CaptureError, ModelNotFound
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import session
from moeviz_app.views import layout
from moeviz_app.widgets import run_panel

pytestmark = pytest.mark.usefixtures("box_of_widgets")


@pytest.fixture
def stub(monkeypatch):
    for name in ("MOEVIZ_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Stub()) as running:
        yield running


@pytest.fixture
def name(stub):
    return f"vllm+{stub.url}?experts=8"


@pytest.fixture
def listed(name, monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, models=("embedded", name)))
    return name


def chosen(name):
    """The first page with that model chosen."""
    app = first_page()
    app.selectbox(key=session.MODEL).set_value(name).run()
    return app


def told(app):
    return "\n".join(part.value for part in [*app.error, *app.info, *app.warning, *app.text, *app.markdown])


def test_a_prompt_is_run_on_the_server_that_was_chosen(listed):
    app = chosen(listed)
    app.slider(key=session.NEW_TOKENS).set_value(3).run()
    app = run(app, "Hello")
    trace = visit_of(app).trace
    assert not app.exception and trace.model.name == listed and trace.weights is None
    assert trace.tokens["token_id"].tolist() == read("Hellobb")
    words = " ".join(text.value for text in app.text)
    assert "recorded by its server (0.30.0) in vllm" in words


def test_a_server_that_is_gone_is_a_sentence_and_what_was_shown_stays(listed, stub):
    app = run(chosen(listed), "Hello")
    before = visit_of(app).trace
    stub.routes["/v1/completions"] = lambda body: (500, {}, b'{"error": {"message": "out of memory"}}')
    app = run(app, "Another")
    assert not app.exception and visit_of(app).trace is before
    assert "failed at /v1/completions (HTTP 500): “out of memory”" in told(app)


@pytest.mark.parametrize(
    ("serve", "any_model", "may"), [("private", True, True), ("team", True, False), ("public", False, False)]
)
def test_an_address_may_be_typed_in_private_alone(name, serve, any_model, may, monkeypatch):
    """In a team that may name any model, too. The control: a folder may be named there."""
    changed = replace(settings.SETTINGS, serve=serve, allow_any_model=any_model)
    monkeypatch.setattr(settings, "SETTINGS", changed)
    if may:
        return model_catalog.check_on_offer(name)
    with pytest.raises(ModelNotFound, match="is not available here"):
        model_catalog.check_on_offer(name)
    monkeypatch.setattr(settings, "SETTINGS", replace(changed, models=("embedded", name)))
    model_catalog.check_on_offer(name)
    if any_model:
        model_catalog.check_on_offer("some/model")


def test_a_link_asks_no_server_that_is_not_listed(name, stub, monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=True))
    app = first_page()
    app.query_params["prompt"], app.query_params["model"] = "Hello", name
    app.run()
    assert "Links lead to listed servers alone" in told(app) and stub.asked == []
    with pytest.raises(ModelNotFound, match="not listed here"):
        layout._show(RunRequest("Hello", name), None, None)


def test_a_link_to_a_listed_server_waits_for_run(listed, stub):
    app = first_page()
    app.query_params["prompt"], app.query_params["model"] = "Hello", listed
    app.run()
    assert "a model on a server" in told(app)
    assert stub.asked == []
    assert not model_service.at_hand(listed, model_catalog.DEFAULT_LOAD)
    assert visit_of(run(app, "Hello")).trace.tokens["token_id"].tolist() == read("Hello")


def test_who_stops_listening_hangs_up(listed, stub, monkeypatch):
    """As the page does at Stop: it closes what it hears, and the server's connection is closed within a moment."""
    forever = threading.Event()
    model_service.model(listed)
    stub.routes["/v1/completions"] = lambda body: forever.wait(SECONDS) and b" " * 2**25
    monkeypatch.setattr(run_panel, "wait_for", _stop_at_news)
    with pytest.raises(CaptureError, match="stopped"):
        run_panel.run_live(RunRequest("Hello", listed, new_tokens=4))
    for line in model_service._lines.values():
        assert line._resting.wait(SECONDS)  # the run has ended, and with it the connection
    forever.set()
    assert stub.left.wait(SECONDS)


def _stop_at_news(heard, listen):
    for told in heard:
        listen(told)
        if isinstance(told, run_panel.Progress):
            assert told.value is None
            heard.close()
            raise CaptureError("stopped")
