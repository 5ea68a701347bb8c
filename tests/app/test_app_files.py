"""Files and the app: the trace that it is started with, uploads, and what is kept for the machine's own user."""

from dataclasses import replace
from pathlib import Path

import pytest
from app_pages import script_of, visit_of
from plain_box import RUN, TEXT
from playwright.sync_api import expect
from streamlit import config
from streamlit.testing.v1 import AppTest

from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.settings import read_settings

pytestmark = pytest.mark.usefixtures("box_of_widgets")
MAIN = Path(__file__).parents[2] / "app" / "moeviz_app" / "main.py"
config._main_script_path = str(MAIN)  # as `streamlit run` does, so that the app's own settings hold here too


@pytest.fixture
def started_with(monkeypatch):
    """The app as `moeviz app FILE` serves it."""

    def start(*paths: Path) -> None:
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, files=tuple(map(str, paths))))

    return start


def traces_page() -> None:
    """The page alone."""
    from moeviz_app.views.traces import traces_page

    traces_page()


def visit(page: str = "", **query: str) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    app.query_params.update(query)
    app.run()
    return app.switch_page(page).run() if page else app


def test_every_visitor_begins_with_the_file_that_the_server_was_started_with(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    one, other = visit(), visit()
    assert not one.exception and visit_of(one).trace.equals(trace)
    assert visit_of(other).trace is visit_of(one).trace  # read once
    assert not [text.value for text in one.markdown if "recorded beforehand" in text.value]


def test_what_a_visitor_runs_takes_the_place_of_the_file_and_stays(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    app = visit()
    app.text_area(key=TEXT).set_value("Il fait froid.")
    app.button(key=RUN).click().run()
    app.run()
    assert not app.exception and visit_of(app).trace.model.name == "embedded"


def test_a_link_wins_over_the_file(started_with, trace, tmp_path):
    write_trace(trace, tmp_path / "mine.npz")
    started_with(tmp_path / "mine.npz")
    app = visit(prompt="Il fait froid.", model="embedded")
    assert not app.exception and visit_of(app).trace.model.name == "embedded"
    assert any(other.equals(trace) for other in visit_of(app).recent.values())  # and is still there


def test_a_file_that_has_gone_is_told_and_the_app_works(started_with, tmp_path):
    started_with(tmp_path / "gone.npz")
    app = visit()
    assert not app.exception and visit_of(app).trace is None
    assert [text.value for text in app.text if "gone.npz' cannot be read: No such file or directory." in text.value]
    assert not [text.value for text in app.run().text if "gone.npz" in text.value]  # once


def test_the_file_to_begin_with_comes_from_the_environment():
    assert read_settings({"MOEVIZ_OPEN": "/tmp/x.npz\n/tmp/y, z.csv"}).files == ("/tmp/x.npz", "/tmp/y, z.csv")
    assert read_settings({}).files == read_settings({"MOEVIZ_OPEN": ""}).files == ()


@pytest.mark.parametrize(("ours", "streamlit", "said"), [(20, 50, 20), (200, 50, 50)])
def test_the_traces_page_says_how_large_a_file_may_be_and_how_a_larger_one_opens(monkeypatch, ours, streamlit, said):
    """The lower of two limits."""
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, max_upload_mb=ours))
    monkeypatch.setattr("streamlit.get_option", {"server.maxUploadSize": streamlit}.get)
    app = script_of(traces_page).run()
    assert not app.exception
    (words,) = [text.value for text in app.markdown if "Files up to" in text.value]
    assert words.startswith(f":small[Files up to {said} MB. Open a larger one, ") and "`moeviz app FILE`" in words


@pytest.mark.browser
def test_a_file_too_large_to_upload_is_refused_with_the_way_to_open_it_and_opens_so(visit, serve, tmp_path):
    path = tmp_path / "large.csv"
    write_trace(sample_trace(tokens=5000), path)
    assert path.stat().st_size > 2**20
    page = visit("/files", at=serve(MOEVIZ_MAX_UPLOAD_MB="1", MOEVIZ_OPEN=str(path)))
    expect(page.get_by_text("5,000 tokens through sample")).to_be_visible()
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_text("File must be 1.0MB or smaller.")).to_be_visible()  # in Streamlit's words
    expect(
        page.get_by_text("Files up to 1 MB. Open a larger one, a folder, or a file of torch on your own machine")
    ).to_be_visible()


def test_the_downloads_name_what_each_format_leaves_out(trace):
    """Nothing is left out of a trace of experts and weights, and its logits of two formats."""
    plain = replace(trace, logits=None, next_tokens=None, outputs=None)
    shown = {}
    for name, one in {"all": trace, "plain": plain}.items():
        app = script_of(_downloads)
        app.session_state["of"] = one
        shown[name] = [text.value.replace("\\", "") for text in app.run().markdown]
        assert not app.exception
    (sentence,) = shown["all"]
    assert not shown["plain"] and all(word in sentence for word in (".csv or .parquet", "logits", ".json and .npz"))


def _downloads() -> None:
    import streamlit as st

    from moeviz_app.widgets.files import downloads

    downloads(st.session_state["of"])


def test_all_charts_are_offered_and_made_only_when_asked_for(monkeypatch, trace):
    made = []
    monkeypatch.setattr("moeviz.report.all_charts.charts_zip", lambda trace, pause: made.append(trace) or b"PK")
    app = script_of(traces_page)
    visit_of(app).trace = trace
    app.run()
    assert not app.exception and not made
    (button,) = (node for node in app.get("download_button") if node.proto.label == "All charts (zip)")
    assert button.proto.deferred_file_id
