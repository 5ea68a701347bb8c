"""The app in a real Chromium: for tests/test_browser.py and benchmarks/app.py."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from moeviz_app.pages.menu import FIRST, MENU
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).parent.parent
SECONDS_TO_START = 120
AGENT = "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"
SIZES = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "user_agent": AGENT,
    },
}
OWN = {"127.0.0.1", "localhost"}
MILLISECONDS = 120_000  # the first page also loads the model, and a machine may have more to do
expect.set_options(timeout=MILLISECONDS)
AT_REST = """() => {
  const rests = document.querySelector("[data-test-script-state=notRunning]") !== null;
  window.framesAtRest = rests ? window.framesAtRest + 1 : 0;
  return window.framesAtRest > 12;
}"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, slots=True)
class Server:
    """A running app, its process, and every line that it has written so far."""

    url: str
    lines: list[str]
    process: subprocess.Popen


@contextmanager
def served(
    script: str = "app/main.py", folder: Path = ROOT, ready_at: str = "You can now view", **environment: str
) -> Iterator[Server]:
    """The app, or a page of tests, on a free port of this machine, started in that folder, until the block ends.

    The block begins once the server has written a line that holds `ready_at`.
    """
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / script), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    with started(command, f"http://127.0.0.1:{port}", folder, ready_at, environment) as running:
        yield running


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(
    command: list[str],
    url: str,
    folder: Path = ROOT,
    ready_at: str = "You can now view",
    environment: dict | None = None,
) -> Iterator[Server]:
    """A server that this command starts, once it has written a line that holds `ready_at`, until the block ends."""
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    lines, ready = [], threading.Event()

    def read() -> None:
        for line in server.stdout:
            lines.append(line)
            if ready_at in line:
                ready.set()
        ready.set()  # it ended: stop waiting

    reader = threading.Thread(target=read)
    reader.start()
    try:
        if not ready.wait(SECONDS_TO_START) or server.poll() is not None:
            raise RuntimeError("The server did not start:\n" + "".join(lines))
        yield Server(url, lines, server)
    finally:
        server.terminate()
        server.wait()
        reader.join()
        server.stdout.close()


def chromium(playwright: Playwright) -> Browser:
    """The Chromium named by CHROMIUM, the system's, or Playwright's own; an error says how to get one."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
    except PlaywrightError as error:
        raise RuntimeError(
            f"No Chromium started ({path or 'none on this machine'}). Run `make browser`, or set CHROMIUM to the path "
            f"of one. {error}"
        ) from error


def watched(server: Server, browser: Browser, path: str = "", **options):
    """A fresh visitor. In no test may an error reach the console, a dialog open, or a request leave the machine."""
    context = browser.new_context(**options)
    context.set_default_timeout(MILLISECONDS)
    page, wrong = context.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if is_fault(said) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if is_foreign(request.url) else None)
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.goto(server.url + path)
    if urlparse(page.url).path == "/":
        drawn(page)
    else:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        settled(page)
    yield page
    context.close()
    assert not wrong, wrong


def settled(page: Page) -> None:
    """Wait until no script has run for a while: what is being drawn anew is pale, and a click on it may be lost.

    For a while, as a script that asks for another run is over before that run begins.
    """
    page.evaluate("window.framesAtRest = 0")
    page.wait_for_function(AT_REST)


def drawn(page: Page) -> None:
    """Wait until the first page shows a trace."""
    expect(page.locator(".map[data-drawn] canvas")).to_be_visible()
    settled(page)


def is_fault(said: ConsoleMessage) -> bool:
    """Whether it is an error; but under any address but the first, Streamlit asks for two files that are not there."""
    return said.type == "error" and re.search(r"/[^/]+/_stcore/(health|host-config)$", said.location["url"]) is None


def is_foreign(url: str) -> bool:
    return urlparse(url).scheme in ("http", "https", "ws", "wss") and urlparse(url).hostname not in OWN


def go_to(page: Page, name: str) -> None:
    """By the links above: the part of the app that a page is in, then the page."""
    (part,) = (part for part, names in MENU.items() if name in names)
    page.locator(".st-key-menu").get_by_role("link", name=part, exact=True).click()
    if name != MENU[part][0]:
        further = page.locator(".st-key-submenu")
        # Before it is drawn anew, as one row with one open page, a click on it may be lost.
        expect(further.locator("strong")).to_have_text([MENU[part][0]])
        further.get_by_role("link", name=name, exact=True).click()
    if name == FIRST:
        drawn(page)
    else:
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
