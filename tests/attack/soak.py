"""Half an hour of use: what does the server keep that it should have let go?

    python -m tests.attack.soak [--minutes M] [--sessions N] [--think S]

Ten visitors run prompts, open new tabs and leave (see `benchmarks.load`). After a first stretch, in which caches fill,
and at the end, all tabs are closed and the server is asked what it holds: memory, threads, open files, hooks and
replaced forwards on the model. Printed are both, and the growth of memory per 1,000 runs; it ends with 1 where that is
more than MOST_MB, or where threads, files or hooks are not back to where they were.
"""

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.harness import megabytes
from benchmarks.load import LoadResult, prompts_of, server, visit, warm
from tests.attack.wrapped_server import INSPECTED
from tests.support.servers import Server

MOST_MB = 1.0  # per 1,000 runs
FIRST = 0.2  # of the time, before the first look
TAB_SECONDS = 20.0  # that a tab stays open: sessions come and go
SECONDS_IDLE = 5  # that the server keeps what a closed tab had
SECONDS_TO_SETTLE = 15.0


def main() -> None:
    """Two stretches, a look after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--think", type=float, default=0.5)
    asked = parser.parse_args()
    with server(MOEVIZ_SECONDS_IDLE=str(SECONDS_IDLE)) as running:
        warm(running)
        first = stretch(running, asked.sessions, asked.think, 60 * asked.minutes * FIRST)
        before = held(running)
        second = stretch(running, asked.sessions, asked.think, 60 * asked.minutes * (1 - FIRST))
        after = held(running)
    sys.exit(report(first, second, before, after))


def stretch(running: Server, sessions: int, think: float, seconds: float) -> LoadResult:
    """Visitors who come, run and leave, again and again."""
    seen = LoadResult()
    end = time.monotonic() + seconds

    def come_and_go(number: int, mine: list) -> None:
        while time.monotonic() < end:
            leaves = threading.Event()
            left = min(TAB_SECONDS, end - time.monotonic())
            timer = threading.Timer(max(left, 0.0), leaves.set)
            timer.start()
            visit(running, mine, think, seen, leaves, number)
            timer.cancel()

    threads = [
        threading.Thread(target=come_and_go, args=(n, mine), daemon=True) for n, mine in enumerate(prompts_of(sessions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def held(running: Server) -> dict[str, object]:
    """What the server holds once all tabs are closed and forgotten."""
    time.sleep(SECONDS_IDLE + SECONDS_TO_SETTLE)
    lines = len(running.lines)
    running.process.send_signal(signal.SIGUSR1)
    while not (said := [line for line in running.lines[lines:] if line.startswith(INSPECTED)]):
        time.sleep(0.1)
    found = json.loads(said[0].removeprefix(INSPECTED))
    files = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
    return {"MB": round(megabytes(running), 1), "files": files} | found


def report(first: LoadResult, second: LoadResult, before: dict, after: dict) -> int:
    """Print it all; 1 where something was kept."""
    growth = 1000 * (after["MB"] - before["MB"]) / max(len(second.ran), 1)
    print(f"{len(first.ran)} + {len(second.ran)} runs, {first.refused + second.refused} told to try again")
    for error in (first.errors + second.errors)[:5]:
        print(f"  {error}")
    for name in before:
        print(f"{name:10} {before[name]} -> {after[name]}")
    print(f"memory per 1,000 runs: {growth:+.2f} MB (at most {MOST_MB:g})")
    kept = [name for name in ("files", "hooks", "replaced") if after[name] > before[name]]
    kept += ["threads"] * (len(after["threads"]) > len(before["threads"]))
    print(f"not back to where it was: {', '.join(kept) or 'nothing'}")
    return int(bool(kept or first.errors or second.errors or growth > MOST_MB))


if __name__ == "__main__":
    main()
