"""What a crowd from one address costs others, and honest visitors behind the same one: the second half of
`tests.attack.attack`.

Four messages of three megabytes; 300 web sockets that say nothing; 101 browsers whose cookies are made up, each with a
long run; 28 uploads that announce 19.9 MB and send one byte. Beside each, one visitor of another address and one of the
same run prompts; a round is without the crowd and with it, in turn.
"""

import contextlib
import itertools
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.exceptions import ConnectionClosed, InvalidStatus

import moeviz
from tests.attack.attack import MB, ask, put, xsrf
from tests.attack.tab import COOKIE, Prompt, Refused, Tab, new_visitor, prompt_of
from tests.support.servers import Server
from tests.support.visit import Visit

SETTINGS = {
    "MOEVIZ_SERVE": "public",
    "MOEVIZ_TRUSTED_PROXIES": "127.0.0.1",  # so that visitors may come from several addresses
    "MOEVIZ_RUNS_A_MINUTE": "6000",
}
CROWDED, ELSEWHERE = "192.0.2.7", "198.51.100.9"
MESSAGES, SOCKETS, COOKIES, UPLOADS = 4, 300, 101, 28
ROUNDS, RUNS = 3, 6  # a run of each kind in each half of a round
MOST = 1.5  # times as slow
# A tab of a crowd does not listen, not to its own keepalive either, nor to the server as it leaves.
DEAF = {"ping_interval": None, "close_timeout": 0.1}


@dataclass(slots=True)
class CrowdTimes:
    """Seconds of runs without the crowd and with it, and how many were refused."""

    without: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seconds = f"{median(self.without):.2f} s, then {median(self.beside):.2f} s" if self.beside else "none ran"
        return f"{seconds}: {self.ratio:.2f} times, {len(self.refused)} refused"

    @property
    def ratio(self) -> float:
        """How many times as slow the median run is."""
        return median(self.beside) / median(self.without) if self.beside else float("inf")


def at(address: str, **more: str) -> dict[str, str]:
    """The headers of who comes from an address."""
    return {"X-Forwarded-For": address} | more


@contextmanager
def messages(url: str) -> Iterator[None]:
    """Rows and texts without end, as the state of a page's fields."""
    rows = '{"edited_rows":{},"deleted_rows":[],"added_rows":[' + ",".join(["{}"] * 1_000_000) + "]}"
    with ExitStack() as stack:
        for number in range(MESSAGES):
            tab = stack.enter_context(Visit(url, headers=at(CROWDED), **DEAF))
            tab.open("", "many-texts")
            elements = [said.delta.new_element for said in tab.said if said.WhichOneof("type") == "delta"]
            widgets = [each.text_area.id for each in elements if each.WhichOneof("type") == "text_area"]
            asked = BackMsg()
            asked.rerun_script.page_name = "many-texts"
            for widget, text in zip(widgets, ["x" * 10**6] * 3 if number % 2 else [rows], strict=False):
                state = asked.rerun_script.widget_states.widgets.add()
                state.id, state.string_value = widget, text
            with contextlib.suppress(ConnectionClosed):
                tab.socket.send(asked.SerializeToString())
        yield


@contextmanager
def sockets(url: str) -> Iterator[None]:
    """Web sockets that are opened and say nothing."""
    with ExitStack() as stack:
        for _ in range(SOCKETS):
            with contextlib.suppress(InvalidStatus):
                stack.enter_context(Visit(url, headers=at(CROWDED), **DEAF))
        yield


@contextmanager
def cookies(url: str) -> Iterator[None]:
    """Browsers with cookies of their own making, each of which asks for a long text."""
    long = Prompt("And so it went on", 64, {})
    with ExitStack() as stack:
        tabs = []
        for _ in range(COOKIES):
            made_up = f"{COOKIE}={secrets.token_urlsafe(32)}"
            with contextlib.suppress(InvalidStatus):  # there are limits of tabs too
                tabs.append(stack.enter_context(Tab(url, at(CROWDED, Cookie=made_up), **DEAF)))
                tabs[-1].come()
        for tab in tabs:
            tab.press_run(long)
        yield


@contextmanager
def uploads(url: str) -> Iterator[None]:
    """Uploads that announce as much as is taken, and send one byte."""
    host, token = urlsplit(url), xsrf(url)
    with ExitStack() as stack:
        tab = stack.enter_context(Visit(url, headers=at(CROWDED)))
        tab.open("", "files")
        for number in range(UPLOADS):
            stalled = stack.enter_context(socket.create_connection((host.hostname, host.port)))
            head = f"PUT /_stcore/upload_file/{tab.session}/{number} HTTP/1.1\r\nHost: {host.netloc}\r\n"
            head += f"X-Forwarded-For: {CROWDED}\r\nContent-Length: 19900000\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in token.items())
            stalled.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n-".encode())
        yield
        honest = stack.enter_context(Visit(url, headers=at(CROWDED)))
        honest.open("", "files")
        if put(url, honest.session, "1", bytes(19 * MB), token | {"X_Forwarded_For": CROWDED}) != 204:
            raise RuntimeError("An honest file was refused beside the uploads that stall.")


CROWDS: dict[str, Callable] = {
    f"{MESSAGES} messages of 3 MB": messages,
    f"{SOCKETS} idle sockets": sockets,
    f"{COOKIES} made-up cookies": cookies,
    f"{UPLOADS} stalled uploads": uploads,
}


def beside(running: Server, crowd: Callable) -> tuple[dict[str, CrowdTimes], bool]:
    """Rounds without a crowd and with it: what runs took, by who ran; and whether the server was ready all the time."""
    runs = 2 * 2 * (1 + ROUNDS) * RUNS  # in which no text comes twice: the same run is done once
    prompts = _prompts(runs)
    seen, ready = {"elsewhere": CrowdTimes(), "same address": CrowdTimes()}, True
    for _ in range(ROUNDS):
        for who, address in (("elsewhere", ELSEWHERE), ("same address", CROWDED)):
            _run(running.url, address, prompts, seen[who].without, seen[who].refused)
        with crowd(running.url):
            for who, address in (("elsewhere", ELSEWHERE), ("same address", CROWDED)):
                _run(running.url, address, prompts, seen[who].beside, seen[who].refused)
                ready = ready and ask(running.url, path="/readyz")[0] == 200
    return seen, ready


def _prompts(count: int) -> Iterator[Prompt]:
    """Texts to read, and texts to go on with, in turn; what comes of them is worked out before anybody is timed."""
    model, kinds = moeviz.load_model(), itertools.cycle([("Il fait froid", 0), ("One day", 16)])
    made = secrets.token_hex(3)  # another round's are other texts too
    yield from [
        prompt_of(model, f"{text} {made} {n}", new) for n, (text, new) in zip(range(count), kinds, strict=False)
    ]


def _run(url: str, address: str, prompts: Iterator[Prompt], seconds: list[float], refused: list[str]) -> None:
    """A visitor comes, and runs the next prompts."""
    try:
        with Tab(url, at(address, **new_visitor())) as tab:
            tab.come()
            for prompt in itertools.islice(prompts, RUNS):
                begun = time.monotonic()
                tab.run(prompt)
                seconds.append(time.monotonic() - begun)
    except (InvalidStatus, Refused) as error:
        refused.append(str(error))


def report(running: Server) -> bool:
    """Print a row for each crowd; whether all is as it should be."""
    good = True
    _run(running.url, ELSEWHERE, _prompts(1), [], [])  # the first waits for the model
    for name, crowd in CROWDS.items():
        seen, ready = beside(running, crowd)
        cells = [f"{who}: {each}" for who, each in seen.items()]
        print(f"{name:22} {'; '.join(cells)}; {'ready' if ready else 'NOT READY'}", flush=True)
        good = good and ready and all(each.ratio <= MOST and not each.refused for each in seen.values())
    broken = sum("Traceback" in line for line in running.lines)
    print(f"tracebacks             {broken}")
    return good and not broken
