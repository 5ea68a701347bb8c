"""Workers that are forked run each test once, tell all of it, and what none of them finished is a failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere they are pytest-xdist's.")

CONFTEST = """
import os, pytest
from workers import pytest_cmdline_main

FIRST, OUTPUT = os.getpid(), os.fstat(1).st_ino

@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    yield tmp_path_factory.mktemp("shared")
    assert os.getpid() != FIRST
    with open("torn", "a") as file:
        file.write(request.node.name + "\\n")
"""
GOOD = """
import os
from conftest import FIRST, OUTPUT

def test_it_runs_in_a_worker(shared):
    assert os.getpid() != FIRST and shared.parent.name == os.environ["PYTEST_XDIST_WORKER"]

def test_what_it_writes_is_its_own(shared):
    assert shared.is_dir() and os.fstat(1).st_ino != OUTPUT
"""
BAD = """
import os

def test_one_is_wrong(shared):
    print("said before")
    assert [1, 2] == [1, 3]

def test_it_dies_here():
    os.kill(os.getpid(), 9)

def test_nobody_comes_to_this_one():
    pass
"""


@pytest.fixture
def ran(tmp_path):
    """Run pytest there, with two workers; the end of what it says."""

    def run(*options: str, **files: str) -> str:
        for name, text in {"conftest": CONFTEST, **files}.items():
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests", ROOT / "tests" / "support"))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:jaxtyping", "-rN", "--numprocesses", "2", *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
        return re.sub(r" in [\d.]+s", "", done.stdout)

    return run


def test_each_test_runs_once_and_what_a_file_shares_is_taken_down(ran, tmp_path):
    said = ran("--dist", "loadfile", test_a=GOOD, test_b=GOOD, test_c=GOOD)
    assert said.splitlines()[-1] == "6 passed"
    assert sorted((tmp_path / "torn").read_text().split()) == ["test_a.py", "test_b.py", "test_c.py"]


def test_a_failure_is_told_as_ever_and_what_a_dead_worker_left_is_one_too(ran):
    said = ran("--dist", "loadfile", test_a=BAD, test_b=GOOD, test_c=GOOD)
    assert "assert [1, 2] == [1, 3]" in said and "At index 1 diff: 2 != 3" in said and "said before" in said
    assert said.count("A worker ended while it ran test_a.py::test_it_dies_here.") == 2
    assert said.splitlines()[-1] == "3 failed, 4 passed"


def test_after_enough_failures_no_more_is_run(ran):
    said = ran("--dist", "loadfile", "-x", test_a=BAD)
    assert "stopping after 1 failures" in said and said.splitlines()[-1].startswith("1 failed")


def test_other_ways_to_distribute_are_pytest_xdist_s(ran):
    code = "def test_it():\n    import os\n    assert 'PYTEST_XDIST_TESTRUNUID' in os.environ"
    assert ran("--dist", "load", test_a=code).splitlines()[-1] == "1 passed"
    assert ran("--dist", "loadfile", test_a=code).splitlines()[-1] == "1 failed"


def test_without_workers_the_first_process_runs_them(ran):
    code = "import os, conftest\ndef test_it():\n    assert os.getpid() == conftest.FIRST"
    assert ran("--dist", "loadfile", "--numprocesses", "0", test_a=code).splitlines()[-1] == "1 passed"
