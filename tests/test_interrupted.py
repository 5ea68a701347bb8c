"""Ctrl-C ends the command in one line before and after it runs; other programs keep their own answer."""

import signal
import subprocess
import sys

import pytest
from house import ROOT

HEARD = (
    "signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where a shell runs the tests in the background
)
AT = f"import os, signal, sys; {HEARD}; sys.argv = [{{word!r}}]; {{before}}; os.kill(os.getpid(), signal.SIGINT)"
RUN = "from moeviz.cli.main import main; sys.argv = [{word!r}, 'completion', 'bash']; main()"


def interrupted(word, before):
    program = AT.format(word=word, before=before.format(word=word))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False)
    return done.returncode, done.stderr.decode().splitlines()


@pytest.mark.parametrize("before", ["import moeviz", "import moeviz.cli.main", RUN])
def test_the_command_ends_in_one_line(before):
    assert interrupted("/usr/bin/moeviz", before) == (130, ["moeviz: stopped"])


def test_another_program_is_interrupted_as_ever():
    code, lines = interrupted("mine.py", "import moeviz")
    assert code == -signal.SIGINT and lines[-1] == "KeyboardInterrupt"
