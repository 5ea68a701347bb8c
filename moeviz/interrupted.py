"""Ctrl-C while the command `moeviz` is being imported, or after its last line: one line and exit code 130.

Importing takes half a second, and Python's own answer is a traceback. A program that imports moeviz keeps its own
answer.
"""

import os
import signal
import sys

CODE = 130


def is_command(word: str) -> bool:
    """Return whether `sys.argv[0]` is that of the command: of its script, or of `python -m moeviz`.

    >>> [is_command(word) for word in ("/usr/bin/moeviz", "lib/moeviz/__main__.py", "pytest", "-c")]
    [True, True, False, False]
    """
    place, name = os.path.split(word)
    return name.removesuffix(".exe") == "moeviz" or (name == "__main__.py" and os.path.split(place)[1] == "moeviz")


def stop_at_once(*_signal: object) -> None:
    """Answer Ctrl-C without unwinding: nothing has begun yet, or all is done."""
    os.write(2, b"moeviz: stopped\n")
    os._exit(CODE)


if is_command(sys.argv[0] if getattr(sys, "argv", None) else "") and signal.getsignal(signal.SIGINT) is not None:
    signal.signal(signal.SIGINT, stop_at_once)
