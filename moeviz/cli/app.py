"""Serve the app from this process: what `moeviz app` does."""

import os
import runpy
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

SECONDS_TO_START = 60


def serve_app(port: int, options: Sequence[str] = (), browser: bool = True) -> None:
    """Serve the app to this machine until somebody stops it, and open it in a browser.

    `options` are Streamlit's; `--server.address 0.0.0.0` lets other machines in. Serves in this process, so that
    whoever stops it stops the server, and from the folder that holds .streamlit/config.toml.
    """
    home = Path(__file__).parents[2]  # app/ lies beside moeviz/
    sys.argv = ["streamlit", "run", str(home / "app" / "main.py"), "--server.port", str(port)]
    sys.argv += ["--server.address", "localhost", *options]  # of two, the last counts
    os.chdir(home)
    if browser:
        threading.Thread(target=open_browser, args=(port,), daemon=True).start()
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


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
