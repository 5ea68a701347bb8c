"""A Ray cluster of two nodes on this machine, and drivers beside it. Its processes are outside the guard of the
network: Ray looks for a cloud that it might run in, and nodes talk by the machine's own address.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from waiting import until

ROOT = Path(__file__).parents[2]
PORT = 9121


def outside_the_guard(home: Path) -> dict[str, str]:
    """The environment of Ray and of its drivers. Ray keeps a key in the home folder, which is one of our own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MOEVIZ_OUTBOUND")}
    own = {
        "HOME": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    return kept | own | {"PYTHONPATH": str(ROOT)}


def driver(home: Path, *words: str) -> subprocess.Popen[str]:
    """`moeviz corpus …` in a process of its own."""
    command = [sys.executable, "-m", "moeviz", "corpus", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=outside_the_guard(home), cwd=home, **pipes)


@contextmanager
def two_nodes(home: Path) -> Iterator[str]:
    """The address of a cluster of two nodes with one CPU each, as `ray start` makes one."""
    address, start = (
        f"127.0.0.1:{PORT}",
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"],
    )
    head = ["--head", f"--port={PORT}", "--include-dashboard=false", "--temp-dir", str(short_folder(home))]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for words in (head, [f"--address={address}"]):
            place = home / f"node-{len(running)}.log"
            with place.open("wb") as log:
                how = {"env": outside_the_guard(home), "stdout": log, "stderr": log, "start_new_session": True}
                running.append(subprocess.Popen([*start, "--object-store-memory=100000000", *words], **how))
            wait_for(partial(started, place), running[-1])
        yield address
    finally:
        for node in reversed(running):
            node.send_signal(signal.SIGTERM)
            node.wait(60)
        short_link().unlink(missing_ok=True)


def started(log: Path) -> bool:
    """Whether a node says that it is up."""
    return b"Ray runtime started" in log.read_bytes()


def short_link() -> Path:
    """A short name for this process's folder."""
    return Path("/tmp") / f"moeviz-ray-{os.getpid()}"


def short_folder(home: Path) -> Path:
    """Names of sockets are short, and pytest's folders are not."""
    link = short_link()
    link.unlink(missing_ok=True)
    (home / "of-ray").mkdir()
    link.symlink_to(home / "of-ray")
    return link


def wait_for(there, process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    """Until something is there. Raises where the process that is to bring it has ended, or after so long."""

    def is_there() -> bool:
        ended = process is not None and process.poll() is not None
        if there():
            return True
        if ended:
            raise AssertionError(f"{process.args} ended with {process.returncode}")
        return False

    until(is_there, seconds)


def actors(home: Path) -> list[int]:
    """The processes of our actors that are alive, and no one else's: those with this home."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name, own = (place / "cmdline").read_bytes(), (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        if name.startswith(b"ray::Tracer") and f"HOME={home}".encode() in own:
            found.append(int(place.name))
    return found
