"""The tests' own rule: nobody reaches another host, in this process or in one that a test starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sitecustomize as offline


@pytest.fixture
def outbound(monkeypatch, tmp_path):
    """Where attempts are written down, so that these count for nobody."""
    log = tmp_path / "outbound"
    monkeypatch.setenv(offline.LOG, str(log))
    return log


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.getaddrinfo("moeviz.invalid", 80),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    ],
    ids=["an address", "a name", "IPv6", "UDP"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_host_is_out_of_reach_and_the_attempt_is_written_down(outbound, attempt):
    with pytest.raises(OSError, match="network"):
        attempt()
    assert "test_offline.py" in outbound.read_text()


def test_a_process_that_a_test_starts_reaches_nobody_either(outbound):
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tests have no network" in said.stdout and "192.0.2.1" in outbound.read_text()


def test_this_machine_is_in_reach(outbound):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    assert (
        not outbound.exists() and Path(os.environ["PYTHONPATH"].split(os.pathsep)[0]) == Path(offline.__file__).parent
    )
