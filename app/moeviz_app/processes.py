"""Several processes behind one port, each with visitors of its own: MOEVIZ_PROCESSES.

One Python runs one thread at a time, so the pages of fifty visitors and the model that they all run wait for each
other, however many cores there are. Here a first process imports what all need, listens, and forks as many others as
are asked for, which share that memory. It looks at the head of each connection without taking it, and hands the
connection itself to the process of its visitor; what is said on it afterwards passes nobody else. What belongs to a
visitor (sessions, files, traces) stays in one process, and what all visitors may have together is divided evenly.

A process that ends, for whatever reason, is replaced; its visitors begin anew there, and nobody else hears of it.
Linux alone: elsewhere a process that has imported torch must not be forked.
"""

import ctypes
import gc
import itertools
import os
import re
import runpy
import secrets
import selectors
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from starlette.types import Scope

from moeviz.embedded import EMBEDDED
from moeviz.errors import MoevizError
from moeviz_app import settings
from moeviz_app.server.identity import visitor_of

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
HEAD_SECONDS = 1.0  # within which the rest of a head that has begun is to be there
PAUSE = 0.02  # seconds between two looks at it
MOST_SILENT = 256  # connections that have said nothing, or half a head; the oldest goes
MOST_VISITORS = 50_000  # whose process is remembered; the one seen longest ago goes
SECONDS_TO_STOP = 15.0
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
M_ARENA_MAX = -8  # of glibc's mallopt
OF_PROCESS = re.compile(rb"GET /(?:metrics|readyz|healthz)\?process=(\d{1,4}) ")


class HandedOver(socket.socket):
    """A listening socket as far as asyncio can tell: its connections are accepted elsewhere, and handed over here."""

    def listen(self, *_backlog: int) -> None:
        """Tell the first process, which listens, that connections are waited for here."""
        self.send(b".")

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and the address of its other end. Raises `BlockingIOError` while there is none."""
        word, given, *_ = socket.recv_fds(self, 1, 1)
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
        self._turn = itertools.cycle(range(processes))
        self._of: OrderedDict[str, int] = OrderedDict()  # the one seen longest ago first

    def of(self, visitor: str) -> int:
        """Return the number of a visitor's process."""
        if visitor not in self._of:
            self._of[visitor] = next(self._turn)
        self._of.move_to_end(visitor)
        if len(self._of) > MOST_VISITORS:
            self._of.popitem(last=False)
        return self._of[visitor]


@dataclass(slots=True)
class _Process:
    pid: int
    handing: socket.socket  # over connections
    serves: bool = False  # or did, before it ended


class FirstProcess:
    """The process that listens: it places visitors, hands over connections, and replaces processes that end."""

    def __init__(self, listening: socket.socket, processes: int) -> None:
        self.listening, self.places = listening, VisitorPlaces(processes)
        self.processes: list[_Process | None] = [None] * processes
        self.own, self.forked = os.getpid(), 0
        self.selector = selectors.DefaultSelector()
        self.silent: dict[socket.socket, None] = {}  # the oldest first
        self.begun: dict[socket.socket, float] = {}  # whose head is not whole, and since when
        listening.setblocking(False)
        self.selector.register(listening, selectors.EVENT_READ, self._accept)

    def run(self) -> tuple[int, HandedOver]:
        """Serve until a signal ends it.

        Returns in a forked process alone: how many were forked before it, and what it listens to.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            for number in range(len(self.processes)):
                if (forked := self._fork(number)) is not None:
                    return self.forked, forked
            while True:
                for key, _ in self.selector.select(PAUSE if self.begun else None):
                    if isinstance(key.data, int):
                        if (forked := self._replace(key.data)) is not None:
                            return self.forked, forked
                    else:
                        key.data(key.fileobj)
                for connection in list(self.begun):
                    self._look(connection)
        except (SystemExit, KeyboardInterrupt) as ended:
            if os.getpid() == self.own:  # a signal may come right after the fork
                self._stop()
            sys.exit(ended.code if isinstance(ended, SystemExit) else 0)

    def _fork(self, number: int) -> HandedOver | None:
        handing, theirs = socket.socketpair()
        parent = os.getpid()
        if pid := os.fork():
            theirs.close()
            handing.setblocking(False)
            process = self.processes[number] = _Process(pid, handing)
            self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, number)
            self.selector.register(handing, selectors.EVENT_READ, lambda _handing: self._begins(process))
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
        for each in (self.listening, handing, *others, *self.silent, *self.begun):
            each.close()
        return HandedOver(fileno=theirs.detach())

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # it has gone again, or there are too many
            connection, _ = listening.accept()
            connection.setblocking(False)
            self.silent[connection] = None
            self.selector.register(connection, selectors.EVENT_READ, self._look)
            if len(self.silent) > MOST_SILENT:
                self._drop(next(iter(self.silent)))

    def _look(self, connection: socket.socket) -> None:
        """Look at what a connection has said, and hand it over once its head is there, or is late or too long."""
        try:
            head = connection.recv(HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        since = self.begun.get(connection, time.monotonic())
        waits = b"\r\n\r\n" not in head and len(head) < HEAD_BYTES and time.monotonic() < since + HEAD_SECONDS
        if head and waits:
            if connection in self.silent:  # what has been said stays readable, so the selector would never rest
                del self.silent[connection]
                self.selector.unregister(connection)
                self.begun[connection] = since
                if len(self.begun) > MOST_SILENT:
                    self._drop(next(iter(self.begun)))
            return
        if head:
            self._hand_over(connection, head)
        self._drop(connection)

    def _hand_over(self, connection: socket.socket, head: bytes) -> None:
        with suppress(OSError):  # it is gone, or its process has a long line of others to look at
            number = self._number_for(head, connection.getpeername())
            process = self.processes[number % len(self.processes)]
            assert process is not None
            socket.send_fds(process.handing, [b"+"], [connection.fileno()])

    def _number_for(self, head: bytes, peer: Any) -> int:
        """Return the number of a connection's process: any, where what it says cannot be read."""
        if asked := OF_PROCESS.match(head):
            return int(asked[1])
        try:
            return self.places.of(visitor_of(_scope(head, peer)).id)
        except Exception:  # of any kind: these are a stranger's bytes, and all visitors depend on this process
            return 0

    def _drop(self, connection: socket.socket) -> None:
        if connection in self.silent:
            self.selector.unregister(connection)
        self.silent.pop(connection, None)
        self.begun.pop(connection, None)
        connection.close()

    def _begins(self, process: _Process) -> None:
        """Hear from a process that it serves, or that it ends."""
        if process.handing.fileno() < 0:  # it was replaced since the selector looked
            return
        with suppress(OSError):
            process.serves = bool(process.handing.recv(1))
        self.selector.unregister(process.handing)

    def _replace(self, number: int) -> HandedOver | None:
        process = self.processes[number]
        assert process is not None
        code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        for key in list(self.selector.get_map().values()):
            if key.fileobj is process.handing:
                self._begins(process)
            elif key.data == number and isinstance(key.data, int):
                self.selector.unregister(key.fileobj)
                os.close(key.fd)
        process.handing.close()
        self.processes[number] = None
        if not process.serves:
            sys.exit(f"moeviz: Process {number} did not start (exit status {code}); what it said stands above.")
        sys.stderr.write(f"  Process {number} ended (exit status {code}); its visitors begin anew in another one.\n")
        sys.stderr.flush()
        return self._fork(number)

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


def _scope(head: bytes, peer: Any) -> Scope:
    """The head of a request as far as it says whose it is, as ASGI would say it."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = [(name.strip().lower(), value.strip()) for name, colon, value in lines if colon]
    return {"type": "http", "headers": headers, "client": peer}


def main() -> None:
    """Serve as `streamlit run` with these words would, in as many processes as the settings say."""
    if (processes := settings.SETTINGS.processes) > 1:
        _fork_into(processes, sys.argv[1:])
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _fork_into(processes: int, words: Sequence[str]) -> None:
    """Become the first process. Returns in each of the others, ready to serve."""
    address, port = _option(words, "server.address", "localhost"), int(_option(words, "server.port", "8501"))
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
    with suppress(MoevizError):  # whoever runs it is told what is wrong with it
        model_cache.loaded_before_fork[EMBEDDED] = identity, load_model(EMBEDDED, check_memory=False)
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(threads))


def _agree_on_secrets() -> None:
    """Make up what every process has to know alike, where nobody has set it. The key of cookies is made at import."""
    ours = settings.SETTINGS
    if ours.serve == settings.TEAM and ours.login_header is None and ours.token is None:
        settings.SETTINGS = replace(ours, token=secrets.token_urlsafe(24))
    os.environ.setdefault(KEY_OF_FORMS, secrets.token_urlsafe(24))


def _option(words: Sequence[str], name: str, usual: str) -> str:
    """The last value that these words give to an option of Streamlit's."""
    found = usual
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == f"--{name}":
            found = following
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found
