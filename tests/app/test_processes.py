"""Several processes behind one port: a visitor keeps to one, limits are divided, and one that ends is replaced."""

import asyncio
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from waiting import SECONDS, until

import moeviz
from benchmarks.harness import processes_of
from moeviz_app import settings
from moeviz_app.processes import FirstProcess, HandedOver, VisitorPlaces, _Process
from moeviz_app.session.session import LOST
from tests.attack.tab import Tab, new_visitor, prompt_of
from tests.support.servers import COOKIE_SECRET, free_port, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process that has imported torch is forked on Linux")
TOKEN = "reads-the-metrics-of-tests"


def test_new_visitors_are_placed_in_turn_and_keep_their_place(monkeypatch):
    places = VisitorPlaces(3)
    assert [places.of(who) for who in "abcdabcd"] == [0, 1, 2, 0, 0, 1, 2, 0]
    monkeypatch.setattr("moeviz_app.processes.MOST_VISITORS", 2)
    assert [places.of(who) for who in "ef"] == [1, 2] and len(places._of) <= 5


def test_a_visitor_moves_where_the_process_is_absent_and_a_new_one_avoids_those_that_are_busy():
    places = VisitorPlaces(3)
    assert [places.of(who) for who in "abc"] == [0, 1, 2]
    assert places.of("b", absent=[1]) == 0 and places.of("b") == 0, "and stays there"
    assert [places.of(who, busy=[1]) for who in "cde"] == [2, 2, 0]
    assert places.of("f", absent=[0, 2], busy=[1]) == 1 and places.of("g", absent=[0, 1, 2]) in (0, 1, 2)


def test_what_all_visitors_may_have_is_divided_and_what_one_may_have_is_not():
    ours = settings.read_settings({"MOEVIZ_SERVE": "public", "MOEVIZ_MAX_SESSIONS": "7"})
    part = settings.share_of(ours, 2)
    assert (part.max_sessions, part.sessions_per_address, part.process_mb) == (4, 100, 1000)
    assert (part.sessions_per_visitor, part.runs_a_minute, part.session_mb) == (30, 20, 300)
    assert part.model_memory_mb is None and part.max_waiting * 2 == ours.max_waiting


@pytest.mark.parametrize(
    ("way", "more", "says"),
    [
        ("private", {}, "one's own app is one process"),
        ("public", {"MOEVIZ_PROMPTS_IN_LINKS": "0"}, "MOEVIZ_PROMPTS_IN_LINKS must be 1"),
    ],
)
def test_where_one_process_serves_more_are_refused_with_a_reason(way, more, says):
    with pytest.raises(ValueError, match=says):
        settings.read_settings({"MOEVIZ_SERVE": way, "MOEVIZ_PROCESSES": "2", **more})


def test_a_socket_that_is_handed_over_serves_as_one_that_was_accepted():
    async def served() -> bytes:
        handing, theirs = socket.socketpair()
        listening = socket.create_server(("127.0.0.1", 0))
        caller = socket.create_connection(listening.getsockname())
        accepted, peer = listening.accept()
        heard: asyncio.Future[tuple] = asyncio.get_running_loop().create_future()

        async def answer(reader, writer):
            heard.set_result((writer.get_extra_info("peername"), await reader.readexactly(2)))
            writer.close()

        server = await asyncio.start_server(answer, sock=HandedOver(fileno=theirs.detach()))
        with caller, listening, handing, accepted:
            assert handing.recv(1) == b".", "it says that it serves"
            socket.send_fds(handing, [b"+"], [accepted.fileno()])
            caller.sendall(b"hi")
            assert await asyncio.wait_for(heard, SECONDS) == (peer, b"hi")
        server.close()

    with ThreadPoolExecutor(1) as thread:  # the loop of browser tests may run in this one
        thread.submit(asyncio.run, served()).result(SECONDS)


class Handed(FirstProcess):
    """A first process that forks nobody: what it hands over is read here."""

    def __init__(self, listening):
        super().__init__(listening, 2)
        self.pairs = [socket.socketpair() for _ in range(2)]
        for number, (ours, theirs) in enumerate(self.pairs):
            theirs.setblocking(False)
            ours.setblocking(False)
            self.processes[number] = _Process(0, ours, serves=True)
            self.selector.register(
                ours, selectors.EVENT_READ, partial(lambda of, _: self._read_messages(of), self.processes[number])
            )

    def turn(self):
        for key, _ in self.selector.select(0.01):
            key.data(key.fileobj)
        for connection in list(self.begun):
            self._look(connection)
        for number in range(2):
            self._ask(number)
            self._send_waiting(number)

    def handed(self, number):
        with suppress(BlockingIOError):
            return [os.close(each) for each in socket.recv_fds(self.pairs[number][1], 1, 1)[1]]


@pytest.fixture
def first():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Handed(listening)
        yield made
        made.selector.close()
        for each in (*made.silent, *made.begun, *(end for pair in made.pairs for end in pair)):
            each.close()


def test_a_head_that_comes_in_parts_is_waited_for_and_nothing_of_it_is_taken(first):
    with socket.create_connection(first.listening.getsockname()) as caller:
        for part in (b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n"):
            first.turn()
            assert first.handed(0) is None
            caller.sendall(part)
        until(lambda: (first.turn(), first.handed(0))[1])
    assert not first.silent and not first.begun


def test_a_head_that_never_ends_is_handed_over_after_a_while_and_one_that_is_too_long_at_once(first, monkeypatch):
    monkeypatch.setattr("moeviz_app.processes.HEAD_SECONDS", 0.0)
    for sent in (b"GET /", b"x" * 20_000):
        with socket.create_connection(first.listening.getsockname()) as caller:
            caller.sendall(sent)
            until(lambda: (first.turn(), first.handed(0))[1])


def test_whatever_a_head_holds_it_is_handed_over_and_the_process_goes_on(first, monkeypatch):
    chance = random.Random(0)
    heads = [b"GET /metrics?process=9999 HTTP/1.1", b"Cookie: \xff=;;;=\nX-Forwarded-For: ,,[::1,\xe9"]
    heads += [bytes(chance.choices(b"\r\n:;=, aC\x00\xff", k=chance.randint(1, 400))) for _ in range(40)]
    for head in heads:
        assert first._number_for(b"GET / HTTP/1.1\r\n" + head + b"\r\n\r\n", ("127.0.0.1", 1))[0] in (0, 1)
    monkeypatch.setattr("moeviz_app.processes.visitor_of", lambda _scope: 1 / 0)
    with socket.create_connection(first.listening.getsockname()) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: (first.turn(), first.handed(0))[1])


def test_half_a_head_makes_room_for_others_too(first, monkeypatch):
    monkeypatch.setattr("moeviz_app.processes.MOST_SILENT", 2)
    callers = [socket.create_connection(first.listening.getsockname()) for _ in range(3)]
    for caller in callers:
        caller.sendall(b"GET /")
    until(lambda: (first.turn(), len(first.begun) == 2 and not first.silent)[1])
    for caller in callers:
        caller.close()


def test_silent_connections_make_room_for_others_and_those_that_end_are_forgotten(first, monkeypatch):
    monkeypatch.setattr("moeviz_app.processes.MOST_SILENT", 2)
    callers = [socket.create_connection(first.listening.getsockname()) for _ in range(3)]
    until(lambda: (first.turn(), first.turn(), first.turn(), len(first.silent) == 2)[-1])
    callers[0].settimeout(SECONDS)
    assert callers[0].recv(1) == b"", "the oldest has gone"
    for caller in callers:
        caller.close()
    until(lambda: (first.turn(), not first.silent)[1])


def asked_for(first, path):
    """The answer of the first process, which hands this to nobody."""
    with socket.create_connection(first.listening.getsockname()) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        caller.setblocking(False)

        def answer():
            first.turn()
            with suppress(BlockingIOError):
                return caller.recv(4096).decode()

        return until(answer)


def test_health_without_a_number_speaks_for_all_processes(first):
    assert asked_for(first, "/healthz").startswith("HTTP/1.1 200")
    assert asked_for(first, "/healthz?").endswith("\r\n\r\nok\n")
    one, other = first.processes
    one.ready = False
    assert asked_for(first, "/readyz").startswith("HTTP/1.1 200")
    other.asked = 0.0
    first._ask = lambda _number: None
    assert "503" in (answer := asked_for(first, "/readyz"))[:12] and "1 of 2" in answer
    assert asked_for(first, "/healthz").startswith("HTTP/1.1 200")
    first.processes[0] = None
    assert asked_for(first, "/healthz").startswith("HTTP/1.1 503") and not first.handed(1)


def test_a_process_is_asked_and_answers_from_its_loop_and_one_that_does_not_is_killed_once(first, monkeypatch, capsys):
    killed = []
    monkeypatch.setattr(os, "kill", lambda *what: killed.append(what))
    monkeypatch.setattr("moeviz_app.processes.SECONDS_BETWEEN_QUESTIONS", -1.0)
    theirs = first.pairs[0][1]
    until(lambda: (first.turn(), first.processes[0].asked)[1])
    heard = HandedOver(fileno=os.dup(theirs.fileno()))
    with heard, pytest.raises(BlockingIOError):
        heard.accept()
    before = first.processes[0].asked
    until(lambda: (first.turn(), first.processes[0].asked != before)[1])
    assert first.processes[0].ready and not killed
    first.processes[1].asked -= settings.SETTINGS.seconds_to_answer
    first.turn()
    first.turn()
    assert killed == [(0, signal.SIGKILL)] and "Process 1 has not answered" in capsys.readouterr().err


def test_connections_that_cannot_be_handed_over_wait_and_visitors_take_turns(first, monkeypatch):
    monkeypatch.setattr("moeviz_app.processes.MOST_SILENT", 4)
    monkeypatch.setattr(first, "_ask", lambda _number: None)
    monkeypatch.setattr(first, "_number_for", lambda head, _peer: (0, head.split()[1].decode()))
    callers = []

    def call(path):
        callers.append(caller := socket.create_connection(first.listening.getsockname()))
        caller.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        until(lambda: (first.turn(), not first.silent and not first.begun)[1])
        return caller

    until(lambda: (call("/crowd"), first.waiting[0])[1])
    mine = [call("/crowd") for _ in range(3)]
    honest = call("/honest")
    mine[0].close()
    call("/crowd")
    assert len(first.waiting[0]["/crowd"]) == 3 and len(first.waiting[0]["/honest"]) == 1, "the one that has gone"
    call("/crowd")
    assert len(first.waiting[0]["/crowd"]) == 3 and len(first.waiting[0]["/honest"]) == 1, "the oldest of the crowd"
    while first.handed(0):
        pass
    until(lambda: (first.turn(), not first.waiting[0])[1])
    arrived = []
    with suppress(BlockingIOError):
        while True:
            arrived.append(socket.socket(fileno=socket.recv_fds(first.pairs[0][1], 1, 1)[1][0]))
    honest.setblocking(False)
    with pytest.raises(BlockingIOError):
        honest.recv(1)
    for each in (*callers, *arrived):
        each.close()


@pytest.fixture(scope="module")
def server():
    """A server in two processes. When it ends, neither is left behind: the test of that, since no other can follow."""
    port = free_port()
    command = [sys.executable, "-m", "moeviz", "app", "--public", "--no-browser", "--port", str(port)]
    more = {"MOEVIZ_PROCESSES": "2", "MOEVIZ_METRICS_TOKEN": TOKEN, "MOEVIZ_COOKIE_SECRET": COOKIE_SECRET}
    more |= {"OMP_NUM_THREADS": "1", "MOEVIZ_WARM_UP": "1", "MOEVIZ_SECONDS_TO_ANSWER": "15"}
    with started(command, f"http://127.0.0.1:{port}", environment=more) as running:
        yield running
        processes = processes_of(running)
        running.process.terminate()
        assert running.process.wait(SECONDS) == 0
        until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def told(server, path, process=None):
    address = f"{server.url}{path}" + ("" if process is None else f"?process={process}")
    asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
        return answer.read().decode(), answer.headers


def tabs_of(server, process):
    return int(float(re.search(r"^moeviz_sessions (\S+)$", told(server, "/metrics", process)[0], re.M)[1]))


def all_take_new_visitors(server):
    def look():
        with suppress(urllib.error.HTTPError):  # none of them does yet
            return all(told(server, "/readyz", each)[0] for each in range(2)) and told(server, "/healthz")[0] == "ok\n"

    until(look)


def test_a_visitor_keeps_to_a_process_others_are_in_the_other_and_both_run(server):
    mine, other, model = new_visitor(), new_visitor(), moeviz.load_model()
    all_take_new_visitors(server)  # a tab connects as it is made, and a new visitor avoids a process that is busy
    with Tab(server.url, mine) as one, Tab(server.url, mine) as two, Tab(server.url, other) as third:
        for tab in (one, two, third):
            tab.come()
            tab.run(prompt_of(model, f"Tab {id(tab)} says", 0))
        assert sorted(tabs_of(server, number) for number in range(2)) == [1, 2]
    until(lambda: not any(tabs_of(server, number) for number in range(2)))


def test_a_connection_ends_with_its_answer_where_the_next_may_be_anothers(server):
    cookie = new_visitor()
    for headers, closes in (({}, True), (cookie, False), (cookie | {"X-Forwarded-For": "192.0.2.1"}, True)):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=SECONDS) as caller:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            caller.sendall(f"GET /healthz?process=0 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
            assert (b"connection: close" in caller.recv(65536).lower()) == closes, headers


def process_of(server, number: int) -> int:
    """The process of that number: the system lists them by birth, and each that ended was born again."""
    order = [0, 1]
    for ended in re.findall(r"Process (\d) ended", "".join(server.lines)):
        order.append(order.pop(order.index(int(ended))))
    return processes_of(server)[1:][order.index(number)]


def test_a_process_that_is_killed_is_replaced_and_visitors_of_the_other_hear_nothing(server):
    """Killed with a run in it: its visitor's page comes back and says so, until its next run."""
    model, visitors = moeviz.load_model(), [new_visitor() for _ in range(2)]
    all_take_new_visitors(server)
    begun, first = len(server.lines), processes_of(server)[0]
    with Tab(server.url, visitors[0]) as one:
        one.come()
        with_one = next(number for number in range(2) if tabs_of(server, number))
        with Tab(server.url, visitors[1]) as other:
            other.come()
            assert [tabs_of(server, number) for number in range(2)] == [1, 1]
            one.press_run(prompt_of(model, "And so it went on", 0))
            os.kill(process_of(server, with_one), signal.SIGKILL)
            until(lambda: any(f"Process {with_one} ended" in line for line in server.lines[begun:]))
            other.run(prompt_of(model, "The other goes on", 0))
    with Tab(server.url, visitors[0], session=one.session) as again:
        again.come()
        assert LOST in again.sentences
        again.run(prompt_of(model, "Anew", 0))
        again.sentences.clear()
        again.come()
        assert LOST not in again.sentences
    with Tab(server.url, visitors[0], session=again.session) as back:
        back.come()
        assert LOST not in back.sentences and back.session == again.session, "it was kept"
    assert processes_of(server)[0] == first and len(processes_of(server)) == 3
    loads = [line for line in server.lines if "Loading weights:   0%" in line]
    assert len(loads) == 1, "for all of them, before the fork"


def test_a_replacement_that_dies_before_it_serves_is_replaced_again_while_the_other_serves_on(server):
    begun, (first, *forked) = len(server.lines), processes_of(server)
    os.kill(forked[1], signal.SIGKILL)
    replacement = until(lambda: next(iter({*processes_of(server)} - {first, *forked}), None))
    os.kill(replacement, signal.SIGKILL)
    number = until(lambda: re.search(r"Process (\d) ended before it served", "".join(server.lines[begun:])))
    assert "1 of 2 processes" in told(server, "/healthz")[0]
    assert told(server, "/healthz", 1 - int(number[1]))[0] == "ok\n"
    until(lambda: told(server, "/healthz")[0] == "ok\n")
    assert told(server, "/healthz", int(number[1]))[0] == "ok\n" and processes_of(server)[:2] == [first, forked[0]]


def test_a_process_that_hangs_is_replaced_and_the_log_says_so(server):
    begun, (first, *forked) = len(server.lines), processes_of(server)
    os.kill(forked[0], signal.SIGSTOP)
    until(lambda: "1 of 2 processes" in told(server, "/readyz")[0])
    assert told(server, "/")[0], "those without a process go to the other"
    until(lambda: any("has not answered" in line for line in server.lines[begun:]))
    until(lambda: told(server, "/readyz")[0] == "ready\n")
    assert forked[0] not in processes_of(server) and processes_of(server)[0] == first


def test_streamlit_run_says_that_it_serves_in_one_process():
    command = [sys.executable, "-m", "streamlit", "run", "app/moeviz_app/main.py", "--server.port", str(free_port())]
    ended = subprocess.run(
        command,
        env=os.environ | {"MOEVIZ_SERVE": "public", "MOEVIZ_PROCESSES": "2"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode and "Start it with `moeviz app --public`" in ended.stdout + ended.stderr
