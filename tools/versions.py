"""Test capture and app with the oldest and the newest versions that requirements.txt admits.

    python -m tools.versions [oldest] [newest]      (make test-versions: both)

Each end gets an environment of its own under build/versions/, which runs the tests of the capture contract and of
the app that need neither a GPU nor a browser. "Oldest" is the first release series that each range names, of every
package there. The first time downloads torch twice, with all that it brings along.
"""

import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "build" / "versions"
SHOWN = ("transformers", "torch", "streamlit")
TESTS = (
    "tests/capture/test_capture_hf.py",
    "tests/capture/test_capture_fused.py",
    "tests/capture/test_odd_routers.py",
    "tests/app/test_app.py",
    "tests/app/test_app_pages.py",
)
AS_THEY_ARE = ("--override-ini", "addopts=--strict-markers")  # shapes are checked by `make test`, with one jaxtyping
ENDS = ("oldest", "newest")


def requirements_in(text: str) -> list[Requirement]:
    """Return the requirements in a file of them, one a line; comments are left out."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def oldest(requirement: Requirement) -> str:
    """Return the first release series that a range admits.

    >>> oldest(Requirement("torch>=2.6,<3"))
    'torch==2.6.*'
    >>> oldest(Requirement("altair>=6,<7"))
    'altair==6.0.*'
    """
    (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
    series = bound if "." in bound else f"{bound}.0"
    return f"{requirement.name}=={series}.*" + (f" ; {requirement.marker}" if requirement.marker else "")


def main(ends: list[str]) -> int:
    """Test each end, print a table, and return 1 where a test fails."""
    rows = [(end, *tested(end)) for end in ends]
    print(f"{'':8} {'Python':8}" + "".join(f"{name:>14}" for name in SHOWN) + "  tests")
    for end, versions, summary, _ in rows:
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"{end:8} {python:8}" + "".join(f"{versions[name]:>14}" for name in SHOWN) + f"  {summary}")
    return int(any(code for *_, code in rows))


def tested(end: str) -> tuple[dict[str, str], str, int]:
    """Install one end and run the tests there: its versions, pytest's last line, and its exit code."""
    python = installed(end)
    command = [python, "-m", "pytest", "-q", *AS_THEY_ARE, "-m", "not gpu and not browser", *TESTS]
    started = time.monotonic()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (PLACE / f"{end}.txt").write_text(run.stdout + run.stderr)
    print(f"{end}: {time.monotonic() - started:.0f} s of tests, written to {PLACE / f'{end}.txt'}", flush=True)
    script = f"from importlib.metadata import version; print(*map(version, {SHOWN}))"
    versions = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    last = (run.stdout.strip() or run.stderr.strip()).splitlines()[-1]
    return dict(zip(SHOWN, versions, strict=True)), last, run.returncode


def installed(end: str) -> Path:
    """Return the Python of an environment with the versions of that end."""
    home = PLACE / end
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    ranges = requirements_in((ROOT / "requirements.txt").read_text())
    wanted = home / "constraints.txt"
    wanted.write_text("".join(f"{oldest(each)}\n" for each in ranges) if end == "oldest" else "")
    # The variable takes the place of any cap that this machine sets for itself.
    environment = os.environ | {"PIP_CONSTRAINT": str(wanted)}
    latest = ["--upgrade", "--upgrade-strategy", "eager"]
    package = ["--editable", f"{ROOT}[test]"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *latest, *package], env=environment, check=True)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(ENDS)))
