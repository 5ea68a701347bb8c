"""Several processes behind one port, each with visitors of its own: MOEVIZ_PROCESSES.

One Python runs one thread at a time, so the pages of fifty visitors and the model that they all run wait for each
other, however many cores there are. Here a first process imports what all need, listens, and forks as many others as
are asked for, which share that memory. It looks at the head of each connection without taking it, and hands the
connection itself to the process of its visitor, which alone reads it from then on. What belongs to a visitor (sessions,
files, traces) stays in one process, and the limits of all visitors together are divided evenly.

A process that ends, for whatever reason, is replaced, and so is one that no longer answers: each is asked every few
seconds, and answers from the loop that serves its visitors. Those begin anew, and nobody else notices. A replacement
that ends before it serves is replaced after a pause that grows, while its visitors go to the others. `/healthz` and
`/readyz` are answered here, for all processes; with `?process=N` by one of them.

Linux only: elsewhere a process that has imported torch must not be forked.
"""

import ctypes
import gc
import logging
import os
import re
import runpy
import secrets
import select
import selectors
import signal
import socket
import sys
import time
from argparse import ArgumentParser
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from starlette.types import Scope

from moeviz.embedded import EMBEDDED
from moeviz.errors import MoevizError
from moeviz_app import settings
from moeviz_app.server.client_address import network_of
from moeviz_app.server.identity import visitor_of
from moeviz_app.server.logs import JsonLines

KEY_OF_FORMS = "STREAMLIT_SERVER_COOKIE_SECRET"  # which every process has to know alike
IMPORTED = (  # before the fork, so that its memory is shared; nothing of it starts a thread
    "streamlit.web.cli",
    "transformers.models.mixtral.modeling_mixtral",
    "moeviz.capture.together",
    "moeviz.capture.trace",
    "moeviz_app.server.asgi",
    "moeviz.charts",
    "moeviz.metrics.findings",
    "moeviz.report.pictures",
)
BACKLOG = 2048
HEAD_BYTES = 2**14  # of a request, to find its visitor in
HEAD_SECONDS = 1.0  # within which the rest of a head that has begun must arrive
PAUSE = 0.02  # seconds between two looks at what waits
MOST_SILENT = 256  # connections without a word, with half a head, or waiting for a process; then the oldest is closed
PAIR_BYTES = 2**14  # of a pair of sockets: some twenty connections. The others wait here, where visitors take turns
MOST_VISITORS = 50_000  # whose process is remembered; the one seen longest ago goes
SECONDS_TO_STOP = 15.0
SECONDS_TO_START = 120.0
SECONDS_BETWEEN_QUESTIONS = 3.0
LONGEST_PAUSE = 60.0  # before a replacement, if others ended before they served
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
M_ARENA_MAX = -8  # of glibc's mallopt
OF_PROCESS = re.compile(rb"GET /(?:metrics|readyz|healthz)\?process=(\d{1,4}) ")
OF_ALL = re.compile(rb"GET /(healthz|readyz)(?:\?[^ ]*)? ")
CONNECTION, QUESTION, SERVES, READY, BUSY = b"+", b"?", b".", b"r", b"b"  # words between the processes


class HandedOver(socket.socket):
    """A listening socket as far as asyncio can tell: its connections are accepted elsewhere, and handed over here."""

    def listen(self, *_backlog: int) -> None:
        """Tell the first process, which listens, that connections are waited for here."""
        self.send(SERVES)

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and its peer's address. Raises `BlockingIOError` if no connection waits."""
        while (word_and_given := socket.recv_fds(self, 1, 1))[0] == QUESTION:
            self.send(READY if import_module("moeviz_app.server.asgi").readiness() == "ready" else BUSY)
        word, given, *_ = word_and_given
        if not word:  # the first process is gone
            signal.raise_signal(signal.SIGTERM)
            raise ConnectionAbortedError
        connection = socket.socket(fileno=given[0])
        try:
            return connection, connection.getpeername()
        except OSError as error:  # whoever called is gone
            connection.close()
            raise ConnectionAbortedError from error


class VisitorPlaces:
    """The process of each visitor: new ones are placed in turn, so that those who come together are spread evenly."""

    def __init__(self, processes: int) -> None:
        self._processes, self._next = processes, 0
        self._of: OrderedDict[str, int] = OrderedDict()  # the one seen longest ago first

    def of(self, visitor: str, absent: Collection[int] = (), busy: Collection[int] = ()) -> int:
        """Return the number of a visitor's process: one that is not absent and, for a new visitor, not busy."""
        if visitor not in self._of or self._of[visitor] in absent:
            self._of[visitor] = min(
                range(self._processes),
                key=lambda number: (number in absent, number in busy, (number - self._next) % self._processes),
            )
            self._next = self._of[visitor] + 1
        self._of.move_to_end(visitor)
        if len(self._of) > MOST_VISITORS:
            self._of.popitem(last=False)
        return self._of[visitor]


@dataclass(slots=True)
class _Process:
    pid: int
    handing: socket.socket  # over connections
    begun: float = field(default_factory=time.monotonic)
    serves: bool = False  # or did, before it ended
    ready: bool = True  # for new visitors, by its last answer
    asked: float | None = None  # when, if the answer has not come
    answered: float = field(default_factory=time.monotonic)
    killed: bool = False

    @property
    def answers(self) -> bool:
        return (
            self.serves
            and not self.killed
            and (self.asked is None or time.monotonic() < self.asked + 2 * SECONDS_BETWEEN_QUESTIONS)
        )


class FirstProcess:
    """The process that listens: it places visitors, hands over connections, and replaces processes that end or hang."""

    def __init__(self, listening: socket.socket, processes: int) -> None:
        self.listening, self.places = listening, VisitorPlaces(processes)
        self.processes: list[_Process | None] = [None] * processes
        self.failures = [0] * processes  # starts in a row that failed
        self.due: dict[int, float] = {}  # when processes that are missing are forked again
        self.own, self.forked, self.ever_served = os.getpid(), 0, False
        self.selector = selectors.DefaultSelector()
        self.silent: dict[socket.socket, str] = {}  # and their networks; the oldest first
        self.begun: dict[socket.socket, tuple[str, float]] = {}  # whose head is not whole, and since when
        self.waiting: list[OrderedDict[str, deque[socket.socket]]] = [OrderedDict() for _ in range(processes)]
        listening.setblocking(False)
        self.selector.register(listening, selectors.EVENT_READ, self._accept)

    def run(self) -> tuple[int, HandedOver]:
        """Serve until a signal ends it.

        Returns only in a forked process: the number of processes that were forked before it, and what it listens to.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            self.due = dict.fromkeys(range(len(self.processes)), 0.0)
            while True:
                if (forked := self._fork_those_due()) is not None:
                    return self.forked, forked
                for key, _ in self.selector.select(PAUSE if self.begun or any(self.waiting) else 1.0):
                    if isinstance(key.data, int):
                        self._replace_process(key.data)
                    else:
                        key.data(key.fileobj)
                for connection in list(self.begun):
                    self._look(connection)
                for number in range(len(self.processes)):
                    self._ask(number)
                    self._send_waiting(number)
        except (SystemExit, KeyboardInterrupt) as ended:
            if os.getpid() == self.own:  # a signal may come right after the fork
                self._stop()
            sys.exit(ended.code if isinstance(ended, SystemExit) else 0)

    def _fork_those_due(self) -> HandedOver | None:
        """Fork the missing processes. Returns only in a forked process."""
        for number, when in [*self.due.items()]:
            if time.monotonic() >= when:
                del self.due[number]
                if (forked := self._fork(number)) is not None:
                    return forked
        return None

    def _fork(self, number: int) -> HandedOver | None:
        handing, theirs = socket.socketpair()
        handing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BYTES)
        parent = os.getpid()
        if pid := os.fork():
            theirs.close()
            handing.setblocking(False)
            process = self.processes[number] = _Process(pid, handing)
            self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, number)
            self.selector.register(handing, selectors.EVENT_READ, lambda _handing: self._read_messages(process))
            self.forked += 1
            return None
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        others = [process.handing for process in self.processes if process is not None]
        for watched in [key.fd for key in self.selector.get_map().values() if isinstance(key.data, int)]:
            os.close(watched)
        self.selector.close()
        waiting = [each for of in self.waiting for line in of.values() for each in line]
        for each in (self.listening, handing, *others, *self.silent, *self.begun, *waiting):
            each.close()
        return HandedOver(fileno=theirs.detach())

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # it has gone again, or there are too many
            connection, peer = listening.accept()
            connection.setblocking(False)
            self.silent[connection] = network_of(peer[0])
            self.selector.register(connection, selectors.EVENT_READ, self._look)
            if len(self.silent) > MOST_SILENT:
                self._drop(_one_too_many(self.silent))

    def _look(self, connection: socket.socket) -> None:
        """Look at what a connection has sent, and hand it over once its head is there, or is late or too long."""
        try:
            head = connection.recv(HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        network, since = self.begun.get(connection, (self.silent.get(connection, ""), time.monotonic()))
        waits = b"\r\n\r\n" not in head and len(head) < HEAD_BYTES and time.monotonic() < since + HEAD_SECONDS
        if head and waits:
            if connection in self.silent:  # what has been sent stays readable, so the selector would never rest
                self._forget(connection)
                self.begun[connection] = network, since
                if len(self.begun) > MOST_SILENT:
                    self._drop(_one_too_many({each: of for each, (of, _) in self.begun.items()}))
            return
        self._forget(connection)
        if (asked := OF_ALL.match(head)) and not OF_PROCESS.match(head):
            self._answer(connection, asked[1] == b"readyz")
        elif head:
            self._hand_over(connection, head)
        else:
            connection.close()

    def _answer(self, connection: socket.socket, asks_for_ready: bool) -> None:
        """Answer for all processes: they are healthy while one answers, and ready while one takes a new visitor."""
        answering = [process for process in self.processes if process is not None and process.answers]
        good, word = bool(answering), "ok" if answering else "no process answers"
        if answering and asks_for_ready:
            good = any(process.ready for process in answering)
            word = "ready" if good else "busy"
        if missing := len(self.processes) - len(answering):
            word += f"\n{missing} of {len(self.processes)} processes do not answer" * bool(answering)
        status = "200 OK" if good else "503 Service Unavailable"
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
        with connection, suppress(OSError):
            connection.recv(HEAD_BYTES)  # a connection that is closed with unread bytes is reset
            connection.send(f"{head}Content-Length: {len(word) + 1}\r\nConnection: close\r\n\r\n{word}\n".encode())

    def _hand_over(self, connection: socket.socket, head: bytes) -> None:
        try:
            number, visitor = self._number_for(head, connection.getpeername())
        except OSError:  # it is gone
            connection.close()
            return
        number %= len(self.processes)
        self.waiting[number].setdefault(visitor, deque()).append(connection)
        self._send_waiting(number)
        self._keep_few(self.waiting[number])

    def _send_waiting(self, number: int) -> None:
        """Hand over the connections for a process that answers, as far as sockets take it; visitors take turns."""
        process, waiting = self.processes[number], self.waiting[number]
        while process is not None and process.answers and waiting:
            visitor = next(iter(waiting))
            try:
                socket.send_fds(process.handing, [CONNECTION], [waiting[visitor][0].fileno()])
            except OSError:  # it has enough to look at, or has ended
                return
            waiting[visitor].popleft().close()
            waiting.move_to_end(visitor)
            if not waiting[visitor]:
                del waiting[visitor]

    def _keep_few(self, waiting: OrderedDict[str, deque[socket.socket]]) -> None:
        """Close waiting connections over the limit: those that have gone, else the oldest of the busiest visitor."""
        if sum(map(len, waiting.values())) <= MOST_SILENT:
            return
        for visitor, line in [*waiting.items()]:
            gone = {*_closed_connections(line)}
            for connection in gone:
                connection.close()
            waiting[visitor] = deque(each for each in line if each not in gone)
            if not waiting[visitor]:
                del waiting[visitor]
        if sum(map(len, waiting.values())) > MOST_SILENT:
            max(waiting.values(), key=len).popleft().close()

    def _number_for(self, head: bytes, peer: Any) -> tuple[int, str]:
        """Return the number of a connection's process, any if its head cannot be read; and its visitor."""
        if asked := OF_PROCESS.match(head):
            return int(asked[1]), ""
        absent = [number for number, process in enumerate(self.processes) if process is None]
        busy = [number for number, of in enumerate(self.processes) if of and not (of.ready and of.answers)]
        try:
            visitor = visitor_of(_scope(head, peer)).id
        except Exception:  # of any kind: these are a stranger's bytes, and all visitors depend on this process
            return 0, ""
        return self.places.of(visitor, absent, busy), visitor

    def _forget(self, connection: socket.socket) -> None:
        if connection in self.silent:
            self.selector.unregister(connection)
        self.silent.pop(connection, None)
        self.begun.pop(connection, None)

    def _drop(self, connection: socket.socket) -> None:
        self._forget(connection)
        connection.close()

    def _ask(self, number: int) -> None:
        """Ask a process now and then whether it answers; one that does not, or does not begin to serve, is killed."""
        process, now = self.processes[number], time.monotonic()
        if process is None or process.killed:
            return
        patience = settings.SETTINGS.seconds_to_answer if process.serves else SECONDS_TO_START
        since = process.asked if process.serves else process.begun
        if since is not None and now > since + patience:
            _report(logging.ERROR, f"Process {number} has not answered for {patience:.0f} seconds. It is replaced.")
            process.killed = True
            os.kill(process.pid, signal.SIGKILL)
        elif process.serves and process.asked is None and now > process.answered + SECONDS_BETWEEN_QUESTIONS:
            process.asked = now
            with suppress(OSError):  # it has a long queue to look at, and if it never looks, that counts as no answer
                process.handing.send(QUESTION)

    def _read_messages(self, process: _Process) -> None:
        """Read a process's messages: that it serves, an answer, or that it ends."""
        if process.handing.fileno() < 0:  # it was replaced since the selector looked
            return
        words = b""
        with suppress(OSError):
            words = process.handing.recv(64)
        if not words:
            self.selector.unregister(process.handing)
            return
        process.serves = self.ever_served = True
        if words[-1:] != SERVES:
            process.ready, process.asked, process.answered = words[-1:] == READY, None, time.monotonic()

    def _replace_process(self, number: int) -> None:
        """Clear up after a process that has ended, and fork a replacement, or end with a sentence."""
        process = self.processes[number]
        assert process is not None
        code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        for key in list(self.selector.get_map().values()):
            if key.fileobj is process.handing:
                self._read_messages(process)
                with suppress(KeyError):
                    self.selector.unregister(process.handing)
            elif key.data == number and isinstance(key.data, int):
                self.selector.unregister(key.fileobj)
                os.close(key.fd)
        process.handing.close()
        self.processes[number] = None
        if not self.ever_served and not any(self.processes):
            sys.exit(f"moeviz: Process {number} did not start (exit status {code}); its own message is above.")
        self.failures[number] = 0 if process.serves else self.failures[number] + 1
        pause = min(LONGEST_PAUSE, 2.0 ** (self.failures[number] - 1)) if self.failures[number] else 0.0
        self.due[number] = time.monotonic() + pause
        if process.serves:
            _report(
                logging.WARNING,
                f"Process {number} ended (exit status {code}); its visitors start again in another one.",
            )
        else:
            _report(
                logging.ERROR,
                f"Process {number} ended before it served (exit status {code}). The next one follows in {pause:.0f} s.",
            )

    def _stop(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.listening.close()
        running = [process for process in self.processes if process is not None]
        for process in running:
            os.kill(process.pid, signal.SIGTERM)  # not reaped before, so the number is its own
        end = time.monotonic() + SECONDS_TO_STOP
        for process in running:
            ended = os.pidfd_open(process.pid)
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ)
                if not selector.select(max(0.0, end - time.monotonic())):
                    os.kill(process.pid, signal.SIGKILL)
            os.close(ended)
            os.waitpid(process.pid, 0)


def _one_too_many(held: Mapping[socket.socket, str]) -> socket.socket:
    """Return the oldest connection of the network with the most of these."""
    most = Counter(held.values()).most_common(1)[0][0]
    return next(connection for connection, network in held.items() if network == most)


def _closed_connections(connections: Collection[socket.socket]) -> Iterator[socket.socket]:
    poll = select.poll()
    by_number = {connection.fileno(): connection for connection in connections}
    for number in by_number:
        poll.register(number, select.POLLRDHUP)
    yield from (by_number[number] for number, _ in poll.poll(0))


def _report(level: int, sentence: str) -> None:
    """Write a line to the log, as JSON if that is what the log is."""
    record = logging.LogRecord("moeviz.app.processes", level, "", 0, sentence, (), None)
    sys.stderr.write(f"{JsonLines().format(record) if settings.SETTINGS.log == 'json' else f'  {sentence}'}\n")
    sys.stderr.flush()


def _scope(head: bytes, peer: Any) -> Scope:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = [(name.strip().lower(), value.strip()) for name, colon, value in lines if colon]
    return {"type": "http", "headers": headers, "client": peer}


def main() -> None:
    """Serve as `streamlit run` with these words would, in as many processes as the settings say."""
    if (processes := settings.SETTINGS.processes) > 1:
        _fork_into(processes, sys.argv[1:])
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _fork_into(processes: int, words: Sequence[str]) -> None:
    """Fork the others and become the first process. Returns in each of the others, ready to serve."""
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--server.address", dest="address", default="localhost")
    options.add_argument("--server.port", dest="port", type=int, default=8501)
    given, _ = options.parse_known_args(words)
    address, port = given.address, given.port
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        sys.exit(f"moeviz: Port {port} of {address} cannot be listened on: {error.strerror}. Give another: --port.")
    _agree_on_secrets()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    c_library = ctypes.CDLL(None)
    with suppress(AttributeError):  # another than glibc
        c_library.mallopt(M_ARENA_MAX, 1)  # a heap for each thread keeps more free memory than all need
    for module in IMPORTED:
        import_module(module)
    if settings.SETTINGS.warm_up and EMBEDDED in settings.SETTINGS.models:
        _load_for_all()
    gc.collect()
    with suppress(AttributeError):
        c_library.malloc_trim(0)
    gc.freeze()  # a collection writes to what it looks at, and what is written to is shared no longer
    number, handed_over = FirstProcess(listening, processes).run()
    os.environ[settings.PROCESS] = str(number)
    settings.SETTINGS = settings.share_of(settings.SETTINGS, processes)
    from streamlit.web.server.starlette import starlette_server

    starlette_server._bind_server_socket = lambda _address, bound, _port, _backlog: (handed_over, bound)
    sys.argv += ["--logger.hideWelcomeMessage", "true"] * (number > 0)


def _load_for_all() -> None:
    """Load the model that ships before the fork, so that its weights are in memory once; none with a GPU.

    A GPU cannot be used in a process that was forked from one that has used it, nor can threads of before the fork.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a look for a GPU that does not use it
    import torch
    from tqdm import tqdm

    from moeviz.capture.models.folder import weights_identity
    from moeviz.capture.models.load import load_model
    from moeviz_app.jobs import model_cache

    if torch.cuda.is_available():
        return
    threads, tqdm.monitor_interval = torch.get_num_threads(), 0  # which would be a thread
    torch.set_num_threads(1)
    identity = weights_identity(EMBEDDED)  # before they are read: they may change
    with suppress(MoevizError):  # the message reaches whoever runs it
        model_cache.loaded_before_fork[EMBEDDED] = identity, load_model(EMBEDDED, check_memory=False)
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(threads))


def _agree_on_secrets() -> None:
    """Make up the secrets that all processes share, if nobody has set them. The key of cookies is made at import."""
    ours = settings.SETTINGS
    if ours.serve == settings.TEAM and ours.login_header is None and ours.token is None:
        settings.SETTINGS = replace(ours, token=secrets.token_urlsafe(24))
    os.environ.setdefault(KEY_OF_FORMS, secrets.token_urlsafe(24))
