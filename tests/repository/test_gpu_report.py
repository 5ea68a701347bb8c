"""The page that `make gpu-report` writes, from made-up results: today's machine has no GPU."""

import json
import re
import subprocess
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import kernels
from tools import gpu_report, gpu_wheels
from tools.gpu_report import FAILED, NO_GPU, OVER, Outcome, main, page, read_report

ABOUT = {"GPU": "Made-up GPU, 80 GB", "torch": "9.9", "date": "2026-01-02 03:04 UTC"}
GOOD = Outcome("python -m pytest -m gpu", 13, (), 1, 61.4)
BAD = Outcome(
    "python -m pytest tests/kernels/test_kernels_router.py",
    70,
    ("tests.kernels.test_kernels_router.test_ties",),
    0,
    9.0,
)
US = {"plain": 4.0, "traced": 4.2, "plain + copies": 8.0, "transformers": 48.0, "torch.compile": 12.0, "again": 4.0}
MEASURED = {
    "about": "Made-up GPU",
    "copy": 2.5e12,
    "goals": "Goals on an H100: all of them.",
    "results": [
        {"case": "router (8, 2) T=16", "us": US, "floor_us": 1.5},
        {"case": "router (256, 8) groups T=16", "us": US, "floor_us": 2.0},
        {"case": "dispatch (128, 8) T=1", "us": {"plain": 3.0, "torch.sort": 9.0}},
        {"case": "experts Qwen3 30B T=1", "us": {"plain": 30.0, "grouped_mm": 45.0}, "floor_us": 25.0},
    ],
}
JUNIT = """<?xml version="1.0"?><testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">
<testcase classname="tests.test_a" name="test_good" time="1.5" />
<testcase classname="tests.test_a" name="test_bad" time="2"><failure message="no">…</failure></testcase>
<testcase classname="" name="tests.test_b" time="0"><error message="does not import">…</error></testcase>
<testcase classname="tests.test_a" name="test_left_out" time="0"><skipped message="why" /></testcase>
</testsuite></testsuites>"""
ALL_GOOD = JUNIT.replace("<failure", "<ok").replace("failure>", "ok>").replace("<error", "<ok").replace("error>", "ok>")


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_page_says_on_what_and_when_it_was_measured():
    text = page(ABOUT, [GOOD, BAD], MEASURED)
    assert text.startswith("# GPU report\n")
    for name, value in ABOUT.items():
        assert f"| {name} | {value} |" in text
    for command in (GOOD.command, BAD.command, "python -m benchmarks.kernels"):
        assert f"\n    {command}\n" in text


def test_the_facts_are_the_devices_and_the_versions(monkeypatch):
    device = SimpleNamespace(name="Made-up GPU", total_memory=80e9, major=9, minor=0)
    monkeypatch.setattr(gpu_report.torch.cuda, "get_device_properties", lambda index: device)
    said = {"nvidia-smi": "570.1\n570.1", "git": "abc1234-dirty"}
    monkeypatch.setattr(gpu_report, "_program_output", lambda program, *_: said[program])
    about = gpu_report.facts()
    assert about["GPU"] == "Made-up GPU, 80 GB, compute capability 9.0"
    assert (about["driver"], about["commit"], about["torch"]) == ("570.1", "abc1234-dirty", version("torch"))
    assert {"triton", "transformers", "moeviz", "Python", "date"} <= about.keys()


def test_the_page_counts_the_tests_and_names_those_that_failed():
    text = page(ABOUT, [GOOD, BAD], MEASURED)
    assert "| `python -m pytest -m gpu` | 13 | 0 | 1 | 61 |" in text
    assert "**Failed:**\n\n- `tests.kernels.test_kernels_router.test_ties`" in text
    assert "Failed" not in page(ABOUT, [GOOD], MEASURED)
    assert "ran no test that passed" in page(ABOUT, [Outcome("python -m pytest -m gpu", 0, (), 13, 1.0)], MEASURED)


def test_the_page_has_absolute_times_and_ratios_to_the_plain_kernel():
    recording, beside = lines_of(page(ABOUT, [GOOD], MEASURED), "| router (8, 2) T=16")
    assert recording == "| router (8, 2) T=16 | 4.00 | 4.20 (1.05) | 4.00 (1.00) | 1.50 |"
    assert beside.endswith("| 4.00 | 8.00 (2.00) | 48.00 (12.00) | 12.00 (3.00) | 1.50 |")


def test_what_was_not_timed_is_left_empty():
    assert lines_of(page(ABOUT, [GOOD], MEASURED), "| dispatch") == [
        "| dispatch (128, 8) T=1 | 3.00 | 9.00 (3.00) |  |  |  |"
    ]


def test_a_benchmark_that_failed_leaves_a_page_that_says_so():
    text = page(ABOUT, [GOOD], None)
    assert "**The benchmark failed**" in text and "| router" not in text


def test_failures_and_errors_are_read_from_the_report_of_pytest():
    run = read_report("python -m pytest", JUNIT)
    assert run == Outcome("python -m pytest", 1, ("tests.test_a.test_bad", ".tests.test_b"), 1, 3.5)
    assert not run.good


def test_without_a_gpu_it_says_so_and_is_not_a_passed_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_report.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_report.subprocess, "run", lambda *_, **__: pytest.fail("nothing is run"))
    assert main(["--output", str(tmp_path / "page.md")]) == NO_GPU != 0
    assert capsys.readouterr().err == gpu_report.WITHOUT + "\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("junit", "benchmark_code", "code"),
    [(ALL_GOOD, 0, 0), (JUNIT, 0, FAILED), ("", 0, FAILED), (ALL_GOOD, 1, FAILED)],
    ids=["all good", "a test failed", "pytest wrote nothing", "the benchmark failed"],
)
def test_one_command_runs_tests_and_benchmark_and_writes_the_page(monkeypatch, tmp_path, junit, benchmark_code, code):
    asked = []

    def run(command, **_):
        asked.append((command[2], *(word for word in command if word in ("--rounds", "gpu"))))
        *_, last = command
        if "pytest" in command and junit:
            Path(last.removeprefix("--junitxml=")).write_text(junit)
        if "benchmarks.kernels" in command:
            assert command[command.index("--rounds") + 1] == "7"
            write_lines(Path(last), MEASURED["results"][: None if benchmark_code == 0 else 0])
        return gpu_report.subprocess.CompletedProcess(command, benchmark_code if "pytest" not in command else 0)

    monkeypatch.setattr(gpu_report.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_report, "facts", lambda: ABOUT)
    monkeypatch.setattr(gpu_report.subprocess, "run", run)
    assert main(["--output", str(tmp_path / "page.md"), "--rounds", "7", "--kept", str(tmp_path / "kept")]) == code
    assert asked == [("pytest",), ("benchmarks.kernels", "--rounds"), ("pytest", "gpu")]
    text = (tmp_path / "page.md").read_text()
    assert ("| router (8, 2) T=16 | 4.00 |" in text) == (benchmark_code == 0) and "Interrupted" not in text


def write_lines(file: Path, results: list[dict]) -> None:
    first = {name: MEASURED[name] for name in ("about", "copy", "goals")}
    file.write_text("".join(json.dumps(row) + "\n" for row in (first, *results)))


def test_an_interrupted_report_keeps_what_it_has_and_goes_on(monkeypatch, tmp_path):
    asked = []

    def run(command, **_):
        asked.append(command[2:4])
        *_, last = command
        if "pytest" in command:
            Path(last.removeprefix("--junitxml=")).write_text(ALL_GOOD)
        elif len(asked) == 2:
            write_lines(Path(last), MEASURED["results"][:1])
            with Path(last).open("a") as lines:
                lines.write('{"case": "router (8, 2) T')
            raise KeyboardInterrupt
        else:
            assert [row.get("case") for row in kernels.read_lines(Path(last))] == [None, "router (8, 2) T=16"]
            write_lines(Path(last), [*MEASURED["results"], {"case": "two blocks", "error": "OutOfMemoryError: no"}])
        return gpu_report.subprocess.CompletedProcess(command, 1 if "benchmarks.kernels" in command else 0)

    monkeypatch.setattr(gpu_report.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_report, "facts", lambda: ABOUT)
    monkeypatch.setattr(gpu_report.subprocess, "run", run)
    given = ["--output", str(tmp_path / "page.md"), "--kept", str(tmp_path / "kept")]
    with pytest.raises(KeyboardInterrupt):
        main(given)
    text = (tmp_path / "page.md").read_text()
    assert "| GPU | Made-up GPU, 80 GB |" in text and "| router (8, 2) T=16 | 4.00 |" in text and "Interrupted" in text
    asked.clear()
    asked.append("the kernels' tests, which are not asked for again")
    asked.append("nor is anything else")
    assert main([*given, "--resume"]) == FAILED, "a case failed"
    assert asked[2:] == [["benchmarks.kernels", "--rounds"], ["pytest", "--noconftest"]]
    text = (tmp_path / "page.md").read_text()
    assert "- two blocks: OutOfMemoryError: no" in text and "| dispatch (128, 8) T=1 |" in text


def test_the_benchmark_goes_on_after_a_case_that_fails_and_does_none_twice(monkeypatch, tmp_path, capsys):
    lines, done = tmp_path / "lines.jsonl", []

    def case(name):
        done.append(name)
        return {"us": {"plain": 1.0}} if name != "bad" else 1 / 0

    monkeypatch.setattr(kernels.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels.torch.cuda, "get_device_name", lambda: "Made-up GPU")
    monkeypatch.setattr(kernels, "bandwidth", lambda rounds: 1e12)
    monkeypatch.setattr(kernels, "cases", lambda *_: {name: partial(case, name) for name in ("good", "bad", "last")})
    assert kernels.main(["--lines", str(lines), "--only", "d"]) == 1 and done == ["good", "bad"]
    assert kernels.main(["--lines", str(lines)]) == 1 and done == ["good", "bad", "last"]
    assert [row.get("error") for row in kernels.read_lines(lines)] == [
        None,
        None,
        "ZeroDivisionError: division by zero",
        None,
    ]
    assert "failed: ZeroDivisionError" in capsys.readouterr().out


def test_the_minutes_end_a_report_that_goes_on_later(monkeypatch, tmp_path):
    """The first run of pytest takes all of them; what it was to write is then asked for again."""
    limits = []

    def run(command, timeout, **_):
        limits.append(timeout)
        if len(limits) == 2:
            raise gpu_report.subprocess.TimeoutExpired(command, timeout)
        if "pytest" in command:
            Path(command[-1].removeprefix("--junitxml=")).write_text(ALL_GOOD)
        return gpu_report.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu_report.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_report, "facts", lambda: ABOUT)
    monkeypatch.setattr(gpu_report.subprocess, "run", run)
    given = ["--output", str(tmp_path / "page.md"), "--kept", str(tmp_path / "kept")]
    assert main([*given, "--minutes", "9"]) == OVER
    assert all(0 < limit <= 540 for limit in limits) and "Interrupted" in (tmp_path / "page.md").read_text()
    limits.clear()
    limits.append("the kernels' tests are not run again")
    limits.append("nor is the limit there")
    assert main([*given, "--resume"]) == 0 and limits[2:] == [None, None]


def test_the_report_runs_every_test_that_needs_a_gpu():
    """It names their files, since the others want a browser and the app's packages to be collected."""
    tests = Path(gpu_report.__file__).parents[1] / "tests"
    marked = {
        str(file.relative_to(tests.parent))
        for file in tests.rglob("test_*.py")
        if f"mark.{'gpu'}\n" in file.read_text()
    }
    assert marked <= set(" ".join(gpu_report.TESTS).split()) and len(marked) >= 4


def test_the_wheels_are_all_that_the_report_needs_but_torch_triton_and_cuda():
    names = {pinned.partition("==")[0] for pinned in gpu_wheels.needed("3.12")}
    assert {"transformers", "accelerate", "altair", "pytest", "beartype", "jaxtyping", "httpx2", "tokenizers"} <= names
    assert not {name for name in names if re.match("torch|triton|nvidia|cuda|streamlit|playwright|moeviz", name)}


def test_wheels_that_the_machine_has_in_a_good_version_are_left_out():
    every = gpu_wheels.needed("3.12")
    left = every - gpu_wheels.needed(
        "3.12", "numpy==2.5.2\ntransformers==5.17.0\nSafeTensors==0.8.0\nfile @ file:///x\n"
    )
    assert {pinned.partition("==")[0] for pinned in left} == {"numpy", "safetensors"}, "transformers 5.17 is too old"


def test_the_tree_without_the_models_is_small_enough_to_be_carried():
    """In `git archive HEAD -- . ':!models'`, which CONTRIBUTING names."""
    root = Path(gpu_report.__file__).parents[1]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", ".", ":!models"], cwd=root, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is not a checkout")
    files = [root / name for name in listed.stdout.decode().split("\0")[:-1]]
    assert sum(file.stat().st_size for file in files if file.exists()) < 45e6
    assert "git archive HEAD -- . ':!models'" in (root / "CONTRIBUTING.md").read_text()
