"""What `moeviz app` starts, for whom, and that nothing but moeviz is on the page."""

import runpy
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from moeviz.cli.app import open_browser
from moeviz.cli.main import app as serve
from moeviz.cli.main import main


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What `moeviz app` hands to Streamlit, in place of a server: one list of arguments a call."""
    calls = []
    monkeypatch.setattr(runpy, "run_module", lambda name, run_name, alter_sys: calls.append((name, *sys.argv)))
    monkeypatch.setattr(sys, "argv", ["moeviz"])
    monkeypatch.chdir(tmp_path)  # and back, when the test is over
    return calls


def test_app_starts_streamlit_in_the_folder_that_holds_its_config(started):
    assert main(["app", "--no-browser"]) == 0
    (call,) = started
    assert call[:3] == ("streamlit", "streamlit", "run")
    assert Path(call[3]).is_file() and Path(call[3]).relative_to(Path.cwd()) == Path("app/main.py")
    assert call[4:] == ("--server.port", "8501", "--server.address", "localhost")


def test_app_opens_to_other_machines_when_told_to(started):
    assert main(["app", "--port", "8080", "--no-browser", "--server.address", "0.0.0.0"]) == 0
    options = dict(zip(started[0][4::2], started[0][5::2], strict=True))  # the last of two counts
    assert options == {"--server.port": "8080", "--server.address": "0.0.0.0"}


def test_app_opens_a_browser_once_the_server_answers(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        open_browser(port)
    assert opened == [f"http://localhost:{port}"]


def test_streamlit_advertises_nothing_on_the_page():
    """It puts a toast with an install button there unless it runs headless."""
    config = tomllib.loads((Path(serve.__file__).parents[1] / ".streamlit" / "config.toml").read_text())
    assert config["server"]["headless"] is True
