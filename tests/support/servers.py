"""Servers that tests and benchmarks start: on a port that is theirs, and ended with the process that started them."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import end_with_parent
from tests.support.waiting import SECONDS

ROOT = Path(__file__).parents[2]
PORTS = range(20_000, 32_000)  # below those that kernels give to whoever calls another port
COOKIE_SECRET = "signs-the-cookies-of-tests"  # of every server that is started here
GATE, SLOW = "MOEVIZ_TESTS_GATE", "MOEVIZ_TESTS_SLOW"  # read by tests/support/hooked_streamlit.py
_kept: list[socket.socket] = []  # what keeps ports for this process


@dataclass(frozen=True, slots=True)
class Server:
    """A running app, its process, and every line that it has written so far."""

    url: str
    lines: list[str]
    process: subprocess.Popen
    gate: Path | None = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within the block, what runs on a model stands still once it has told something: Stop is never too late."""
        if self.gate is None:
            raise ValueError(f"This server was started without {GATE}.")
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink()


@contextmanager
def served(
    script: str = "app/moeviz_app/main.py", folder: Path = ROOT, ready_at: str = "You can now view", **environment: str
) -> Iterator[Server]:
    """The app, or a page of tests, on a port of this machine, started in that folder, until the block ends.

    The block begins once the server has written a line that holds `ready_at`.
    """
    port = free_port()
    hooked = GATE in environment or SLOW in os.environ
    streamlit = [str(ROOT / "tests" / "support" / "hooked_streamlit.py")] if hooked else ["-m", "streamlit"]
    command = [sys.executable, *streamlit, "run", str(ROOT / script), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    with started(command, f"http://127.0.0.1:{port}", folder, ready_at, environment) as running:
        yield running


def free_port() -> int:
    """A port of this machine that nobody listens on, and that nobody else who asks here is given while we live.

    What keeps it is the UDP port of the same number, which the kernel frees when this process ends.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            keeper.bind(("127.0.0.1", port))
            with socket.socket() as free:
                free.bind(("127.0.0.1", port))
        except OSError:
            keeper.close()
            continue
        _kept.append(keeper)
        return port
    raise RuntimeError(f"Every port from {PORTS.start} to {PORTS.stop - 1} is taken.")


@contextmanager
def started(
    command: list[str],
    url: str,
    folder: Path = ROOT,
    ready_at: str = "You can now view",
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """A server that this command starts, once it has written a line that holds `ready_at`, until the block ends."""
    environment = environment or {}
    reading, writing = os.pipe()
    try:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"MOEVIZ_COOKIE_SECRET": COOKIE_SECRET} | environment,
            stdout=writing,
            stderr=writing,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
    finally:
        os.close(writing)
    output = os.fdopen(reading, encoding="utf-8")
    lines, ready = [], threading.Event()

    def read() -> None:
        for line in output:
            lines.append(line)
            if ready_at in line:
                ready.set()
        ready.set()  # it ended: stop waiting

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not ready.wait(SECONDS) or server.poll() is not None:
            raise RuntimeError("The server did not start:\n" + "".join(lines))
        yield Server(url, lines, server, Path(environment[GATE]) if GATE in environment else None)
    finally:
        server.terminate()
        try:
            server.wait(SECONDS)
        finally:
            server.kill()
            reader.join(SECONDS)
            output.close()
