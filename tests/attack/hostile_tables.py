"""How much memory do small tables take that mean harm?

    python -m tests.attack.hostile_tables [--only NAME]

Each table of a few rows names what would be large: ids, layers, slots, labels, texts. A process of its own runs `moeviz
metrics` on it, all topics; another opens it in the app, on the page Files, and turns to its first page and the pages
Load, Co-activation, Flow, Layers and Tokens. Printed is the peak of each process above that of the same with the sample
trace, in MB, and what was said first where something was refused.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.harness import peak_mb

HIGH = 32_766
MOST = 300  # MB above idle
PLAIN = "position,layer,expert\n"
MAIN = Path(__file__).parents[2] / "app" / "moeviz_app" / "main.py"
PAGES = ("Load", "Co-activation", "Flow", "Layers", "Tokens")


def rows(lines: list[str], header: str = PLAIN) -> bytes:
    """A CSV of these rows."""
    return (header + "\n".join(lines) + "\n").encode()


def long_texts() -> bytes:
    """2,000 rows that share one text of 30,000 characters: a file of a few kB."""
    count, sink = 2_000, pa.BufferOutputStream()
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x" * 30_000]))
    columns = {"position": np.arange(count), "layer": np.zeros(count, int), "expert": np.zeros(count, int)}
    parquet.write_table(pa.table(columns | {"token": text}), sink)
    return sink.getvalue().to_pybytes()


def turned(count: int, top_k: int) -> list[str]:
    """So many tokens of one layer, each with experts of its own."""
    return [f"{token},0,{(token * top_k + slot) % HIGH}" for token in range(count) for slot in range(top_k)]


def pairs_of(count: int) -> list[str]:
    """So many tokens of one layer, each with one expert of its own and its neighbour's."""
    return [f"{token},0,{(token + slot) % count}" for token in range(count) for slot in (0, 1)]


TABLES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "two rows, expert 32,766 in both layers": (".csv", lambda: rows([f"0,0,{HIGH}", f"1,1,{HIGH}"])),
    "one token of two layers, ids 0 and 32,766": (
        ".csv",
        lambda: rows([f"0,{n},{e}" for n in (0, 1) for e in (0, HIGH)]),
    ),
    "two rows, layer 2,147,483,646": (".csv", lambda: rows(["0,2147483646,0", "2147483646,5,1"])),
    "4,000 layers, each with expert 32,766": (".csv", lambda: rows([f"0,{layer},{HIGH}" for layer in range(4_000)])),
    "4,096 layers of sixteen experts": (".csv", lambda: rows([f"{n % 3},{n},{n % 16}" for n in range(4_096)])),
    "one token of 32,767 slots": (".csv", lambda: rows([f"0,0,{expert}" for expert in range(HIGH + 1)])),
    "4,000 tokens, 4,000 layers": (".csv", lambda: rows([f"{n},{n},0" for n in range(4_000)])),
    "16,000 tokens, each with two experts of its own": (".csv", lambda: rows(turned(16_000, 2))),
    "1,000 labels and 1,000 sequences, expert 32,766": (
        ".csv",
        lambda: rows([f"{n},0,0,{HIGH - n},{n}" for n in range(1_000)], "sequence,position,layer,expert,label\n"),
    ),
    "1,400 experts in 1,400 pairs": (".csv", lambda: rows(pairs_of(1_400))),
    "1,000 experts in 1,000 pairs": (".csv", lambda: rows(pairs_of(1_000))),
    "one text of 30,000 characters in 2,000 rows": (".parquet", long_texts),
}


def main() -> None:
    """Print the table, and exit with 1 if a number is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="tables whose name has this in it")
    parser.add_argument("--run", nargs=2, metavar=("WAY", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return WAYS[args.run[0]](Path(args.run[1]))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(print_table(Path(folder), args.only))


def print_table(folder: Path, only: str) -> int:
    """Measure and print; the exit code."""
    from moeviz.formats.exports import write_trace
    from moeviz.testing import sample_trace

    write_trace(sample_trace(), folder / "idle.csv")
    idle = {way: peak(way, folder / "idle.csv")[0] for way in WAYS}
    print(f"idle, with the sample trace: metrics {idle['metrics']:.0f} MB, app {idle['app']:.0f} MB\n")
    print(f"{'table':50}{'kB':>7}{'metrics':>9}{'app':>6}   first refusal")
    worst = 0.0
    for number, (name, (suffix, make)) in enumerate(TABLES.items()):
        if only in name:
            (path := folder / f"{number}{suffix}").write_bytes(make())
            found = {way: peak(way, path) for way in WAYS}
            above = {way: size - idle[way] for way, (size, _) in found.items()}
            said, worst = found["metrics"][1], max(worst, *above.values())
            size = path.stat().st_size / 1000
            print(f"{name:50}{size:7.0f}{above['metrics']:9.0f}{above['app']:6.0f}   {said[:150]}", flush=True)
    print(f"\nhighest: {worst:.0f} MB above idle; the bound is {MOST}")
    return int(worst > MOST)


def peak(way: str, path: Path) -> tuple[float, str]:
    """The highest memory of a process in MB, and the first sentence that it said."""
    command = [sys.executable, "-m", "tests.attack.hostile_tables", "--run", way, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    size, *said = done.stdout.splitlines() or [f"nan: {done.stderr[-300:]}"]
    if done.returncode:
        raise SystemExit(f"{way} {path.name}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return float(size), said[0] if said else ""


def run_metrics(path: Path) -> None:
    """`moeviz metrics` of every topic, as text and as JSON."""
    from moeviz.cli.main import main as moeviz
    from moeviz.cli.metrics import TOPICS

    said = io.StringIO()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(said):
        for topic in TOPICS:
            for option in ([], ["--json"], ["--token", "0"]):
                moeviz(["metrics", str(path), "--topic", topic, *option])
    refused = [line for line in said.getvalue().splitlines() if " at most " in line or "more than the" in line]
    report(*refused[:1])


def run_app(path: Path) -> None:
    """Open the file on the page Files, and turn to a few others."""
    import logging

    logging.disable(logging.CRITICAL)
    from streamlit.testing.v1 import AppTest

    from moeviz_app.session import session
    from moeviz_app.session.visit import KEY
    from moeviz_app.widgets import near

    near.is_near = lambda _name: True  # AppTest has no screen that anything could be far from

    def traces() -> None:
        from moeviz_app.views.traces import traces_page

        traces_page()

    def topic(name: str) -> None:
        from moeviz_app.views.topic import topic_page

        topic_page(name)

    app = AppTest.from_function(traces, default_timeout=600).run()
    app.file_uploader[0].upload(path.name, path.read_bytes(), "application/octet-stream").run()
    problems, said = list(app.exception), [text.value for text in app.text]
    if KEY in app.session_state and app.session_state[KEY].trace is not None:
        pages = [AppTest.from_function(topic, default_timeout=600, args=(name,)) for name in PAGES]
        for page in (*pages, AppTest.from_file(str(MAIN), default_timeout=600)):
            for key in (KEY, session.LAYER, session.FIRST_LAYER, session.SECOND_LAYER):
                if key in app.session_state:
                    page.session_state[key] = app.session_state[key]
            problems += list(page.run().exception)
    if problems:
        raise SystemExit(f"{problems[0].message}\n{problems[0].stack_trace}")
    report(*said[:1])


def report(*said: str) -> None:
    """What this process took, and what it said."""
    print(peak_mb(), *said, sep="\n")


WAYS = {"metrics": run_metrics, "app": run_app}

if __name__ == "__main__":
    main()
