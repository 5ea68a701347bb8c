"""Open a trace in the app from Python: `moeviz.open_in_app`."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from types import TracebackType

from moeviz.cli.app import SECONDS_TO_START, TOKEN, asked_token, check_streamlit, own_address
from moeviz.errors import MoevizError
from moeviz.formats.exports import write_trace
from moeviz.routing_trace import RoutingTrace

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_STOP = 10


class RunningApp:
    """The app in a process of its own, which ends with the Python process that started it.

    `url` is its address, with the token that lets only this user's browsers in; `stop()` ends it.

    >>> import moeviz
    >>> app = moeviz.open_in_app()  # doctest: +SKIP
    >>> app.url  # doctest: +SKIP
    'http://localhost:8501/?access=…'
    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.url = url
        self._process, self._folder = process, folder
        atexit.register(self.stop)

    @property
    def running(self) -> bool:
        """True while the server runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server, and remove its temporary files. A second call does nothing."""
        atexit.unregister(self.stop)
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self) -> None:
        """Wait until the server has ended: the last line of a script that should keep it open."""
        self._process.wait()

    def __enter__(self) -> "RunningApp":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<moeviz app at {self.url}, {'running' if self.running else 'stopped'}: .stop() ends it>"

    def _repr_html_(self) -> str:
        link = f'<a href="{escape(self.url)}" target="_blank">{escape(self.url)}</a>'
        return f"moeviz app at {link}" if self.running else f"moeviz app at {escape(self.url)}, stopped"


def open_in_app(trace: RoutingTrace, *, port: int | None = None, browser: bool = True) -> RunningApp:
    """Open the app with this trace on screen, in a server of its own, and return once it answers, after some seconds.

    The trace is written to a temporary file, which is removed at the end. The server is for this machine's browsers. It
    ends by `stop()`, with the `with` block if used as a context manager, or with this Python process.

    port      the port to serve on; default: a free one.
    browser   True also opens a browser, if there is a screen.

        app = moeviz.open_in_app(trace)
        app.url
        app.stop()

    Raises `MoevizError` if the extra `app` is not installed, if the port is in use, and if the app does not start; the
    message then has its last line of output.

    >>> import moeviz
    >>> app = moeviz.open_in_app(moeviz.read_trace("paris.npz"))  # doctest: +SKIP
    >>> app.stop()  # doctest: +SKIP
    """
    check_streamlit()
    port = _free_port(port or 0)
    folder = Path(tempfile.mkdtemp(prefix="moeviz-"))
    said = folder / "said.txt"
    try:
        write_trace(trace, folder / "trace.npz")
        running = RunningApp(own_address(port), _start(folder, port, browser, said), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        _until_it_answers(running, port, said)
    except BaseException:  # an interrupt leaves no server behind
        running.stop()
        raise
    return running


def _start(folder: Path, port: int, browser: bool, said: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "moeviz", "app", str(folder / "trace.npz"), "--port", str(port)]
    command += [] if browser else ["--no-browser"]
    token = asked_token()  # passed on, since it may not be on disk
    with said.open("wb") as log:
        return subprocess.Popen(
            command,
            env=os.environ | ({TOKEN: token} if token else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=os.name != "nt",  # Ctrl+C in a notebook must not reach the app
        )


def _until_it_answers(app: RunningApp, port: int, said: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if not app.running:
            break
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            return
    lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
    raise MoevizError(
        f"The app did not start on port {port}. Its last line of output: {lines[-1] if lines else 'none'}"
    )


def _free_port(wanted: int) -> int:
    """Return that port, or a free one for 0. Raises `MoevizError` if it is in use: that server would pass for ours."""
    try:
        with socket.create_server(("localhost", wanted)) as free:
            port: int = free.getsockname()[1]
    except OSError as error:
        raise MoevizError(f"Port {wanted} is in use. Give another, or none to get a free one.") from error
    return port
