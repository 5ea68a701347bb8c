"""Processes that tests start: each ends at the latest with the process that started it."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

DEADLINE = 600  # seconds: a process that takes longer hangs, also on a busy machine
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Run in a new process before its program: on Linux it is killed once the process that started it has ended."""
    if _libc is not None:
        _libc.prctl(END_WITH_PARENT, signal.SIGKILL)


def python(
    *words: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `python -c CODE …` or `python -m MODULE …` to its end. The types of the library are not checked there."""
    return subprocess.run(
        [sys.executable, *words],
        env=dict(os.environ) if env is None else env,
        cwd=cwd,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=check,
        preexec_fn=end_with_parent if _libc is not None else None,
    )
