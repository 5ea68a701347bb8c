"""Files and the app: the trace that it is started with, uploads, and what is kept for the machine's own user."""

from dataclasses import replace
from pathlib import Path

import pytest
from moeviz_app import settings
from moeviz_app.settings import read_settings
from plain_box import RUN, TEXT
from streamlit import config
from streamlit.testing.v1 import AppTest

from moeviz.formats.exports import write_trace

pytestmark = pytest.mark.usefixtures("box_of_widgets")
MAIN = Path(__file__).parent.parent / "app" / "main.py"
config._main_script_path = str(MAIN)  # as `streamlit run` does, so that the app's own settings hold here too


@pytest.fixture
def started_with(monkeypatch):
    """The app as `moeviz app FILE` serves it."""

    def start(path: Path) -> None:
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, trace_file=str(path)))

    return start


def visit(page: str = "", **query: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    app.query_params.update(query)
    app.run()
    return app.switch_page(page).run() if page else app


def test_every_visitor_begins_with_the_file_that_the_server_was_started_with(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    one, other = visit(), visit()
    assert not one.exception and one.session_state["trace"].equals(trace)
    assert other.session_state["trace"] is one.session_state["trace"]  # read once
    assert not [text.value for text in one.markdown if "recorded beforehand" in text.value]


def test_without_a_file_a_visit_begins_with_the_example():
    app = visit()
    assert "trace" not in app.session_state
    assert [text.value for text in app.markdown if "recorded beforehand" in text.value]


def test_what_a_visitor_runs_takes_the_place_of_the_file_and_stays(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    app = visit()
    app.text_area(key=TEXT).set_value("Il fait froid.")
    app.button(key=RUN).click().run()
    app.run()
    assert not app.exception and app.session_state["trace"].model.name == "embedded"


def test_a_link_wins_over_the_file(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    app = visit(prompt="Il fait froid.", model="embedded")
    assert not app.exception and app.session_state["trace"].model.name == "embedded"
    assert any(other.equals(trace) for other in app.session_state["recent"].values())  # and is still there


def test_a_file_that_has_gone_is_told_and_the_app_works(started_with, tmp_path):
    started_with(tmp_path / "gone.npz")
    app = visit()
    assert not app.exception and "trace" not in app.session_state
    assert [text.value for text in app.text if "gone.npz' cannot be read: No such file or directory." in text.value]
    assert not [text.value for text in app.run().text if "gone.npz" in text.value]  # once


def test_the_file_to_begin_with_comes_from_the_environment():
    assert read_settings({"MOEVIZ_OPEN": "/tmp/x.npz"}).trace_file == "/tmp/x.npz"
    assert read_settings({}).trace_file is read_settings({"MOEVIZ_OPEN": ""}).trace_file is None
