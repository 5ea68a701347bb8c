"""Report on one page what moeviz does on this machine's GPU: the GPU tests, and the kernels' benchmark.

    python -m tools.gpu_report [--output FILE] [--rounds N] [--resume] [--minutes M]        or: make gpu-report

Runs the kernels' own tests (on a GPU they run compiled), `benchmarks.kernels` and `pytest -m gpu`, and writes a page in
Markdown, anew after each: what was measured before an interruption is on it. `--resume` goes on from there. `--minutes`
is for machines that limit the time of a command. Exit code: 0 if everything passed, 1 if a test or the benchmark failed
(the page says which), 2 without a CUDA GPU (nothing is run, and no page is written), 3 if the minutes were over.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from benchmarks.kernels import GOALS, read_lines

PAGE = Path(__file__).parent.parent / "docs" / "gpu-report.md"
KEPT = Path(__file__).parent.parent / "build" / "gpu-report"
# Without the conftest, which wants a browser and what the app needs; each fits into a call of ten minutes.
MARKED = (
    "tests/capture/test_capture_fused.py",
    "tests/capture/test_capture_hf.py",
    "tests/training/test_training_trainers.py",
)
TESTS = (
    "--noconftest tests/kernels/test_kernels_router.py tests/kernels/test_kernels_experts.py",
    f"--noconftest -m gpu {' '.join(MARKED)}",
)
PACKAGES = ("moeviz", "torch", "triton", "transformers")
FAILED, NO_GPU, OVER = 1, 2, 3
WITHOUT = (
    "There is no CUDA GPU here, so nothing was run and no report was written. "
    "Run `make gpu-report` on a machine that has one."
)

Result = dict[str, Any]  # of `benchmarks.kernels`: case, us (microseconds by way), floor_us


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run of pytest."""

    command: str
    passed: int
    failed: tuple[str, ...]  # names
    skipped: int
    seconds: float

    @property
    def good(self) -> bool:
        """Something ran, and nothing failed."""
        return bool(self.passed) and not self.failed


def main(arguments: list[str] | None = None) -> int:
    """Run everything, write the page, and say how it went; see the module for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="where the page goes")
    parser.add_argument("--rounds", type=int, default=200, help="of the benchmark")
    parser.add_argument("--kept", type=Path, default=KEPT, metavar="FOLDER", help="where results lie meanwhile")
    parser.add_argument("--resume", action="store_true", help="go on where the last report was interrupted")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after so many; --resume goes on")
    asked = parser.parse_args(arguments)
    over = None if asked.minutes is None else monotonic() + 60 * asked.minutes
    if not torch.cuda.is_available():
        print(WITHOUT, file=sys.stderr)
        return NO_GPU
    if not asked.resume:
        shutil.rmtree(asked.kept, ignore_errors=True)
    asked.kept.mkdir(parents=True, exist_ok=True)
    about, tests = facts(), []
    lines = asked.kept / "kernels.jsonl"

    def write(is_whole: bool = False) -> None:
        asked.output.write_text(page(about, tests, measured(lines), is_whole))

    try:
        tests.append(tests_of(TESTS[0], asked.kept / "kernels.xml", over))
        write()
        code = benchmark(asked.rounds, lines, over)
        write()
        tests.append(tests_of(TESTS[1], asked.kept / "gpu.xml", over))
    except subprocess.TimeoutExpired:
        write()
        print(f"The minutes are over. {asked.output} has what was measured; --resume goes on.")
        return OVER
    except BaseException:  # Ctrl-C too: what is there is worth its page
        write()
        raise
    write(is_whole=True)
    print(f"Written to {asked.output}.")
    return 0 if code == 0 and all(run.good for run in tests) else FAILED


def tests_of(chosen: str, report: Path, over: float | None = None) -> Outcome:
    """Run these tests in a process of their own; those whose report is there were run before the interruption."""
    command = f"python -m pytest {chosen}"
    if report.exists():
        return read_report(command, report.read_text())
    _run([sys.executable, "-m", "pytest", *chosen.split(), f"--junitxml={report}"], over)
    if not report.exists():
        return Outcome(command, 0, ("pytest itself: it wrote no report",), 0, 0.0)
    return read_report(command, report.read_text())


def read_report(command: str, report: str) -> Outcome:
    """Counts and names out of pytest's report in JUnit's XML."""
    cases = list(ET.fromstring(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = tuple(f"{case.get('classname')}.{case.get('name')}" for case in failed)
    seconds = sum(float(case.get("time", 0)) for case in cases)
    return Outcome(command, len(cases) - len(failed) - len(skipped), names, len(skipped), seconds)


def _run(command: list[str], over: float | None) -> int:
    """Run a command to its end, or until a point of `monotonic`: then `TimeoutExpired`. Returns its exit code."""
    left = None if over is None else max(over - monotonic(), 0)
    return subprocess.run(command, check=False, timeout=left).returncode


def benchmark(rounds: int, lines: Path, over: float | None = None) -> int:
    """Run `benchmarks.kernels` in its own process, append its figures to `lines`, and return its exit code."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--rounds", str(rounds), "--lines", str(lines)]
    return _run(command, over)


def measured(lines: Path) -> dict[str, Any] | None:
    """Return the figures that the benchmark has written so far; None if it has none."""
    first, *results = read_lines(lines) or [{}]
    return {"goals": GOALS} | first | {"results": results} if results else None


def facts() -> dict[str, str]:
    """Return the device, the versions and the date."""
    device = torch.cuda.get_device_properties(0)
    driver = _program_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    return {
        "GPU": f"{device.name}, {device.total_memory / 1e9:.0f} GB, compute capability {device.major}.{device.minor}",
        "driver": driver or "not known",
        "CUDA of torch": str(torch.version.cuda),
        **{package: _version(package) for package in PACKAGES},
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "commit": _program_output("git", "describe", "--always", "--dirty") or "not known",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"


def _program_output(program: str, *arguments: str) -> str:
    """Return what a program prints; "" if it is missing or fails."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def page(about: dict[str, str], tests: list[Outcome], measured: dict[str, Any] | None, is_whole: bool = True) -> str:
    """Return the whole page in Markdown."""
    parts = [
        "# GPU report",
        *([] if is_whole else ["**Interrupted: some of it has not run.** `make gpu-report RESUME=1` goes on."]),
        "Written by `make gpu-report`, which runs the tests that need a GPU and the kernels' benchmark on one machine.",
        table(["", ""], [[name, value] for name, value in about.items()]),
        "## Tests",
        *tests_part(tests),
        "## Speed",
        *(speed_part(measured) if measured else ["**The benchmark failed**, so there are no times."]),
        "## Commands",
        "\n".join(f"    {line}" for line in (*(run.command for run in tests), "python -m benchmarks.kernels")),
    ]
    return "\n\n".join(parts) + "\n"


def tests_part(tests: list[Outcome]) -> list[str]:
    """Passed, failed and skipped by command; and the names of what failed."""
    rows = [
        [f"`{run.command}`", str(run.passed), str(len(run.failed)), str(run.skipped), f"{run.seconds:.0f}"]
        for run in tests
    ]
    said = [table(["command", "passed", "failed", "skipped", "seconds"], rows)]
    if failed := [name for run in tests for name in run.failed]:
        said.append("**Failed:**\n\n" + "\n".join(f"- `{name}`" for name in failed))
    if any(not run.passed for run in tests):
        said.append("**A command ran no test that passed.**")
    return said


def speed_part(measured: dict[str, Any]) -> list[str]:
    """Times in microseconds, and what each is of ours."""
    results: list[Result] = [result for result in measured["results"] if "error" not in result]
    errors = [f"- {result['case']}: {result['error']}" for result in measured["results"] if "error" in result]
    routers = [result for result in results if result["case"].startswith("router")]
    others = [result for result in results if not result["case"].startswith("router")]
    return [
        "Median times of one call in microseconds, each arm replayed as a CUDA graph, all arms in turn. In brackets: "
        f"the time divided by plain, which is moeviz's kernel. A copy on this GPU moves {measured['copy'] / 1e12:.2f} "
        "TB/s; floor is the time that this takes for the bytes that must be moved.",
        "### What recording costs",
        "The router without a record (plain), with one (traced), and plain once more (again): a difference as small as "
        "that one is noise.",
        times(routers, ["plain", "traced", "again"]),
        "### The router compared with others",
        "plain + copies: the decision copied after the launch, as engines do. transformers: its own PyTorch code, and "
        "the same through torch.compile.",
        times(routers, ["plain", "plain + copies", "transformers", "torch.compile"]),
        "### Dispatch, experts and whole blocks",
        times(others, ["plain", "torch.sort", "grouped_mm", "stock"]),
        *(["### Cases that failed", "\n".join(errors)] if errors else []),
        "### Goals",
        measured["goals"],
    ]


def times(results: list[Result], ways: list[str]) -> str:
    """A row a case: the time of each way, and in brackets its ratio to plain. A way without a time is left empty."""

    def cell(result: Result, way: str) -> str:
        found = result["us"].get(way)
        if found is None:
            return ""
        return f"{found:.2f}" if way == "plain" else f"{found:.2f} ({found / result['us']['plain']:.2f})"

    floors = [f"{result['floor_us']:.2f}" if "floor_us" in result else "" for result in results]
    cells = [[cell(result, way) for way in ways] for result in results]
    rows = [[result["case"], *row, floor] for result, row, floor in zip(results, cells, floors, strict=True)]
    return table(["case", *ways, "floor"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
