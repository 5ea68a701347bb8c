"""A command on a machine that is made slow on purpose, such as the browser tests: `make test-slow-machine`.

    python -m tests.support.slow_machine python -m pytest -m browser

Every message to a page comes late, every run of a script takes longer (hooked_streamlit.py does that in the
servers that tests start), and a process keeps a core busy. A test that looks too early, or waits for a time in place of
an event, fails here.
"""

import os
import subprocess
import sys

from tests.support.processes import end_with_parent
from tests.support.servers import SLOW

LATE, LONGER = 12, 0.7  # ms of each message, seconds of each run
BUSY = "while True: pass"


def on_a_slow_machine(command: list[str]) -> int:
    """Run it; its exit status."""
    environment = os.environ | {SLOW: f"{LATE},{LONGER}"}
    with subprocess.Popen([sys.executable, "-c", BUSY], preexec_fn=end_with_parent) as busy:
        try:
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            busy.kill()


if __name__ == "__main__":
    sys.exit(on_a_slow_machine(sys.argv[1:]) if sys.argv[1:] else __doc__)
