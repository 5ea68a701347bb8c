"""Servers that tests start: their ports are their own, they end with who started them, and work can be held up."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import servers
from hooked_streamlit import hold_work
from servers import ROOT, free_port
from waiting import SECONDS, until

from moeviz_app.jobs import fair_queue
from moeviz_app.jobs.fair_queue import Cancelled, Done, FairQueue, Progress

STARTS = """
import sys
from servers import started
with started([sys.executable, "-c", "import os, signal; print('It is', os.getpid(), flush=True); signal.pause()"], "",
             ready_at="It is") as running:
    print(running.lines[0], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def two_ports(monkeypatch):
    """There are two."""
    kept = []
    monkeypatch.setattr(servers, "PORTS", range(31_990, 31_992))
    monkeypatch.setattr(servers, "_kept", kept)
    yield
    for keeper in kept:
        keeper.close()


def test_no_port_is_given_twice_and_none_that_kernels_give_away(two_ports):
    assert sorted([free_port(), free_port()]) == [31_990, 31_991]
    with pytest.raises(RuntimeError, match="Every port from 31990 to 31991 is taken"):
        free_port()


def is_running(process: int) -> bool:
    """True if a process is there, and more than what is left of one that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with the one that started it")
def test_a_server_ends_where_who_started_it_was_killed():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STARTS], env=environment, **pipes) as parent:
        server = int(parent.stdout.readline().split()[-1])
        assert is_running(server)
        parent.send_signal(signal.SIGKILL)
        parent.wait(SECONDS)
        until(lambda: not is_running(server))


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """A gate that is shut, and work that tells of two steps."""
    monkeypatch.setattr(fair_queue._Job, "_tell", fair_queue._Job._tell)  # as it is, once the test is over
    hold_work(tmp_path / "gate")
    (tmp_path / "gate").touch()
    return tmp_path / "gate"


def test_work_stands_still_at_the_gate_until_it_is_opened(gate):
    second = threading.Event()

    def work(tell):
        tell("first")
        second.set()
        return "end"

    heard = FairQueue(9).ask(work)
    until(lambda: next(heard) == Progress("first"))
    assert not second.is_set()
    gate.unlink()
    assert list(heard)[-1] == Done("end") and second.is_set()


def test_work_that_stands_at_the_gate_can_be_cancelled(gate):
    ended = threading.Event()

    def work(tell):
        try:
            tell("first")
        except Cancelled:
            ended.set()
            raise

    heard = FairQueue(9).ask(work)
    until(lambda: next(heard) == Progress("first"))
    heard.close()
    assert ended.wait(SECONDS) and gate.exists()
