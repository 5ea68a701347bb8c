"""`moeviz.open_in_app`: the app in a process of its own, which answers, shows the trace, and ends."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect
from servers import Server

import moeviz
from moeviz.cli import app as serve
from moeviz.errors import MoevizError
from moeviz.testing import sample_trace


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where temporary folders are made; the app asks for its token, as it does for everybody."""
    (tmp_path / "places").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "places"))
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("MOEVIZ_ASK_TOKEN", "1")
    return tmp_path / "places"


@pytest.mark.browser
def test_the_app_shows_the_trace_until_it_is_stopped(visit, places):
    app = moeviz.open_in_app(sample_trace(tokens=37), browser=False)
    page = visit("", at=Server(app.url, [], None))
    page.goto(app.url.partition("/?access=")[0] + "/files")  # the browser is known by then
    expect(page.get_by_text("37 tokens through sample")).to_be_visible()
    page.goto("about:blank")
    assert app.running and app.url in app._repr_html_() and "running" in repr(app)
    assert [path.stat().st_mode & 0o077 for path in places.iterdir()] == [0]  # for its owner alone
    app.stop()
    app.stop()
    assert not app.running and not list(places.iterdir()) and "stopped" in repr(app)
    with pytest.raises(OSError):
        urllib.request.urlopen(app.url)


def test_it_ends_with_the_python_that_started_it(tmp_path):
    code = (
        "import moeviz; from moeviz.testing import sample_trace\n"
        "app = moeviz.open_in_app(sample_trace(), browser=False); print(app.url, app._folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    url, folder = done.stdout.split()
    with pytest.raises(OSError):
        urllib.request.urlopen(url)
    assert not Path(folder).exists()


def test_a_port_that_somebody_else_answers_on_is_refused(places, trace):
    with socket.create_server(("localhost", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MoevizError, match=f"Port {port} "):
            moeviz.open_in_app(trace, port=port)
    assert not list(places.iterdir())


def test_an_app_that_does_not_start_says_what_it_said_and_leaves_nothing(places, trace, monkeypatch):
    monkeypatch.setattr("moeviz.launch.write_trace", lambda trace, path: path.write_bytes(b"no trace"))
    with pytest.raises(MoevizError, match=r"\d+"):
        moeviz.open_in_app(trace, browser=False)
    assert not list(places.iterdir())


def test_without_streamlit_a_sentence_says_how_to_get_it(places, trace, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(MoevizError, match=r"moeviz\[app\]"):
        moeviz.open_in_app(trace)
    assert not list(places.iterdir())


def test_importing_moeviz_brings_nothing_of_it():
    code = "import sys, moeviz; print(sorted({'moeviz.launch', 'moeviz.cli.app', 'streamlit'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
