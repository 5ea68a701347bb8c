"""Does anything but one sentence come of damaged files, links and command lines?

    python -m tests.attack.fuzz --minutes 30 [--only npz] [--seed 1] [--keep FOLDER]

Each target gets an equal share of the minutes, in a process of its own. Valid files are mutated, and so is whatever
reached a line that none before it did. The mutations know the formats: members of a zip, facts in JSON and columns of a
Parquet file are changed one by one and put together again, with right checksums.

Printed for each target: executions, how many ended in a trace (or a parsed command) and how many in a sentence, other
exceptions, how many MB the hungriest input took at once and how many it may take (the readers have a budget; measured
for each input on Linux, elsewhere for all together), and how many lines of its modules were reached. An input that ends
in another exception, or takes more than SECONDS or more memory than it may, is kept in the folder:
`tests/formats/test_fuzz.py` reads those of tests/data/fuzz. Exit code 1 if there were any.

There is no reader of served responses in moeviz, so there is no target for one.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from hashlib import sha256
from pathlib import Path

from benchmarks.harness import forget_peak, peak_mb
from tests.attack.fuzz_targets import TARGETS, Target

SECONDS = 10  # that one input of a few kB may take
MB = 1e6
FOUND = Path(__file__).parents[2] / "tests" / "data" / "fuzz"


def main() -> int:
    """Print the table; 1 if something other than a sentence came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time, for all targets together")
    parser.add_argument("--only", choices=TARGETS, help="one target alone, with all the minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=FOUND, help="where to keep what was found")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run(TARGETS[args.run], args)
    names = [args.only] if args.only else list(TARGETS)
    print(f"{'target':9}{'executions':>12}{'good':>9}{'refused':>9}{'others':>8}{'MB of':>9}{'lines':>12}  slowest")
    results = [one(name, 60 * args.minutes / len(names), args) for name in names]
    total = Counter({key: sum(found[key] for found in results) for key in ("executions", "others", "seconds")})
    print(f"\n{total['executions']:,} executions in {total['seconds'] / 60:.1f} minutes, {total['others']} other ends")
    return int(total["others"] > 0)


def one(name: str, seconds: float, args: argparse.Namespace) -> dict:
    """One target in a process of its own; a crash of it is one of the other ends."""
    command = [sys.executable, "-m", "tests.attack.fuzz", "--run", name, "--minutes", str(seconds / 60)]
    command += ["--seed", str(args.seed), "--keep", str(args.keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout.splitlines() or [""])[-1]
    if not last.startswith("{"):
        print(f"{name:9} CRASHED with exit code {done.returncode}: {done.stderr[-1500:]}", flush=True)
        return {"executions": 0, "others": 1, "seconds": seconds}
    found = json.loads(last)
    lines, most = f"{found['reached']}/{found['lines']}", TARGETS[name].most_mb
    memory = f"{found['mb']:.0f}/{'-' if most is None else format(most, '.0f')}"
    print(
        f"{name:9}{found['executions']:12,}{found['good']:9,}{found['refused']:9,}{found['others']:8}"
        f"{memory:>9}{lines:>12}  {found['slowest']:.2f} s",
        flush=True,
    )
    for what in found["what"]:
        print(f"    {what}", flush=True)
    return found


class Executed:
    """What came of the inputs so far."""

    def __init__(self, target: Target, keep: Path, seconds: float) -> None:
        self.target, self.keep, self.ends = target, keep, time.process_time() + seconds
        self.start, self.counts, self.what, self.slowest = time.process_time(), Counter(), [], 0.0
        self.hungriest = 0.0  # MB

    def __call__(self, data: bytes) -> None:
        """Execute one input."""
        forget_peak()
        before, held = time.process_time(), peak_mb()
        self.counts["executions"] += 1
        try:
            self.counts["good" if self.target.execute(data) else "refused"] += 1
        except Exception as error:  # whatever it is: that is what is looked for
            self._keep(data, error)
        taken, risen, most = time.process_time() - before, peak_mb() - held, self.target.most_mb
        self.slowest, self.hungriest = max(self.slowest, taken), max(self.hungriest, risen)
        if taken > SECONDS:
            self._keep(data, TimeoutError(f"{taken:.0f} seconds"))
        if most is not None and risen > most:
            self._keep(data, MemoryError(f"more than {most:.0f} MB at once"))

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.process_time() > self.ends

    def _keep(self, data: bytes, error: Exception) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}" if last else str(error)
        self.counts["others"] += 1
        if not any(what.startswith(where) for what in self.what):
            path = self.keep / f"{self.target.name}-{sha256(data).hexdigest()[:8]}{self.target.suffix}"
            path.write_bytes(data)
            self.what.append(f"{where}: {error} ({path.name})"[:300])

    def report(self, lines: tuple[int, int]) -> str:
        """All of it as a line of JSON."""
        ends = {key: self.counts[key] for key in ("executions", "good", "refused", "others")}
        numbers = {"mb": self.hungriest, "slowest": self.slowest, "reached": lines[0], "lines": lines[1]}
        return json.dumps(ends | numbers | {"what": self.what, "seconds": time.process_time() - self.start})


def run(target: Target, args: argparse.Namespace) -> int:
    """Give one target inputs until the time is up; the last line that is printed is the result."""
    args.keep.mkdir(parents=True, exist_ok=True)
    reached = Reached(target.modules)
    target.prepare()
    with reached:
        for data in target.seeds():
            target.execute(data)  # so that what they import and take does not count as memory
    executed = Executed(target, args.keep, 60 * args.minutes)
    with reached, Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        by_mutation(target, executed, args.seed, reached)
    print(executed.report(reached.lines()), flush=True)
    os._exit(0)


def by_mutation(target: Target, executed: Executed, seed: int, reached: "Reached") -> None:
    """Mutate the seeds, and whatever reached a line that none before it did."""
    rng, corpus = random.Random(seed), [*target.seeds()]
    while not executed.over:
        data = target.mutate(rng.choice(corpus), rng.randrange(2**32))
        before = reached.count
        executed(data)
        if reached.count > before:
            corpus.append(data)


class Reached:
    """Which lines of these modules were run, by Python's own tracing of lines: each is traced once, then forgotten."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.files = {str(Path(importlib.util.find_spec(name).origin)): name for name in modules}
        self.seen: set[tuple[str, int]] = set()
        self.count = 0

    def __enter__(self) -> "Reached":
        sys.settrace(self._calls)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def lines(self) -> tuple[int, int]:
        """How many lines were run, and how many there are inside functions."""
        there = {(file, line) for file in self.files for line in _lines_of(Path(file))}
        return len(self.seen & there), len(there)

    def _calls(self, frame, event, argument):
        return self._lines if frame.f_code.co_filename in self.files else None

    def _lines(self, frame, event, argument):
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            if place not in self.seen:
                self.seen.add(place)
                self.count += 1
        return self._lines


def _lines_of(file: Path) -> set[int]:
    """Lines of code inside functions."""
    todo: list = [compile(file.read_text(), str(file), "exec")]
    found: set[int] = set()
    while todo:
        code = todo.pop()
        inner = [constant for constant in code.co_consts if hasattr(constant, "co_lines")]
        todo += inner
        if code.co_name != "<module>" and code.co_flags & 0x2:  # a function: a class has no fast locals
            lines = {line for _, _, line in code.co_lines() if line is not None}
            found |= lines if code.co_name.startswith("<") else lines - {code.co_firstlineno}
    return found


if __name__ == "__main__":
    sys.exit(main())
