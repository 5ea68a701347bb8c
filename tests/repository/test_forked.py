"""A child of the warm process is a process of its own, in all that tests rely on."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sitecustomize as offline
from forked import Child, python

SUPPORT = Path(__file__).parents[1] / "support"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere it is a fresh process.")


def test_it_has_words_folder_environment_and_output_of_its_own(tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), dict(os.environ), __name__); sys.stderr.write('and that')"
    done = python("-c", code, "one", cwd=tmp_path, env={"A": "B"})
    assert done.stdout == f"['-c', 'one'] {tmp_path} {{'A': 'B'}} __main__\n" and done.stderr == "and that"
    assert done.returncode == 0 and "A" not in os.environ


def test_what_one_does_is_not_there_in_the_next():
    change = "import moeviz, os; moeviz.changed = os.environ['MINE'] = '1'"
    assert python("-c", change).returncode == 0
    look = "import moeviz, os; assert not hasattr(moeviz, 'changed') and 'MINE' not in os.environ"
    assert python("-c", look).stderr == ""


def test_modules_that_it_asks_for_are_there():
    code = "import sys; print('tabnanny' in sys.modules)"
    assert [python("-c", code, warm=warm).stdout for warm in ((), ("tabnanny",))] == ["False\n", "True\n"]


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(lambda: sys.stderr.write('last'))", 0, "last"),
        ("import sys, threading; threading.Thread(target=lambda: sys.stderr.write('thread')).start()", 0, "thread"),
    ],
)
def test_it_ends_as_any_python_does(code, ends, says):
    done = python("-c", code)
    assert done.returncode == ends and done.stderr.endswith(says) and bool(done.stderr) == bool(says)
    if ends:
        with pytest.raises(subprocess.CalledProcessError):
            python("-c", code, check=True)


def test_who_does_not_end_in_time_is_killed_with_all_that_it_started():
    code = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(3600)"
    with pytest.raises(subprocess.TimeoutExpired):
        python("-c", code, deadline=1)
    with Path(os.devnull).open("w") as nothing:
        child = Child(("-c", code), *[nothing.fileno()] * 2)
    child.kill()
    assert child.code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_it_says_whether_it_has_ended_and_ends_when_it_is_asked_to():
    with Path(os.devnull).open("w") as nothing:
        child = Child(("-c", "import time; time.sleep(3600)"), *[nothing.fileno()] * 2)
    assert child.poll() is None
    child.terminate()
    assert child.wait() == child.poll() == -signal.SIGTERM
    child.terminate()  # which nobody hears


def test_a_script_is_run_in_its_own_folder(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(__name__, sys.argv, sys.path[0])")
    assert python(str(script), "one").stdout == f"__main__ {[str(script), 'one']} {tmp_path}\n"


def test_the_memory_that_it_takes_is_seen_in_its_peak():
    """Though its peak begins with what the warm process holds."""
    for held in ("bytearray(10**8)", "[bytearray(10**5) for _ in range(1000)]"):
        code = f"from benchmarks.harness import peak_mb; idle = peak_mb(); held = {held}; print(peak_mb() - idle)"
        assert 95 < float(python("-c", code, cwd=SUPPORT.parents[1]).stdout) < 120


def test_it_reaches_no_other_host(tmp_path):
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError as error: print(error)"
    log = tmp_path / "outbound"
    said = python("-c", code, env=os.environ | {offline.LOG: str(log)})
    assert "tests have no network" in said.stdout and "192.0.2.1" in log.read_text()


BESIDE = """
import os, sys
import forked
reading, writing = os.pipe()
child = forked.Child(("-c", "import time; print('begun', flush=True); time.sleep(3600)"), writing, 2, warm=())
assert os.read(reading, 5) == b"begun"
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_the_tests_that_started_it():
    """Its end closes the pipe that it inherited."""
    path = os.pathsep.join([str(SUPPORT), os.environ["PYTHONPATH"]])
    with subprocess.Popen(
        [sys.executable, "-c", BESIDE], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
    ) as tests:
        end = os.pidfd_open(int(tests.stdout.readline()))
        assert tests.wait() == -signal.SIGKILL
        ended, _, _ = select.select([end], [], [], 60)
        os.close(end)
    assert ended
