"""Serve the app from this process: what `moeviz app` does."""

import os
import runpy
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from moeviz.errors import MoevizError
from moeviz.formats.exports import read_trace

SECONDS_TO_START = 60
TRACE_FILE = "MOEVIZ_OPEN"  # the app's setting: a trace to begin with


def serve_app(port: int, options: Sequence[str] = (), browser: bool = True, file: str | None = None) -> None:
    """Serve the app to this machine until somebody stops it, and open it in a browser; with a trace from a file.

    `options` are Streamlit's; `--server.address 0.0.0.0` lets other machines in. Serves in this process, so that
    whoever stops it stops the server, and from the folder that it is in, so that relative paths typed on a page mean
    what they say. Streamlit reads the app's settings beside its `main.py`.

    Raises `MoevizError` where Streamlit is missing, and before anything is served what `read_trace` raises.
    """
    check_streamlit()
    if file is not None:
        read_trace(file)
        os.environ[TRACE_FILE] = str(Path(file).resolve())
    sys.argv = ["streamlit", "run", str(main_script()), "--server.port", str(port)]
    sys.argv += ["--server.address", "localhost", *options]  # of two, the last counts
    if browser:
        threading.Thread(target=open_browser, args=(port,), daemon=True).start()
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def check_streamlit() -> None:
    """Raise `MoevizError` where what serves the app is missing."""
    if find_spec("streamlit") is None:
        raise MoevizError('The app needs Streamlit, which is not installed here: `pip install "moeviz[app]"`.')


def main_script() -> Path:
    """The app that belongs to this moeviz: beside it as `moeviz_app` where it is installed, as `app` in a checkout."""
    home = Path(__file__).parents[2]
    installed = home / "moeviz_app" / "main.py"
    return installed if installed.exists() else home / "app" / "main.py"


def open_browser(port: int) -> None:
    """Open the app once it answers. Streamlit could do that too, but puts advertisements on the page when it does."""
    if sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        return  # the only browser here would take over the terminal
    for _ in range(SECONDS_TO_START):
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            time.sleep(1)
        else:
            webbrowser.open(f"http://localhost:{port}")
            return
