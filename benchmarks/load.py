"""A class of fifty: the server's behaviour when many visitors run prompts, and whether anybody sees another's trace.

    python -m benchmarks.load [--sessions N] [--think S] [--minutes M] [--variant NAME] [--all]
                              [--processes P]

Each visitor is a web socket session that speaks Streamlit's own protocol, opens the page, then runs prompts one after
the other, with a pause of 0 to 2S seconds between: two in three are read, one in three goes on for 16 tokens. Every
trace that is shown is compared with the library's own, made beforehand: texts and expert ids. The variants:

    plain        nothing else
    cancelling   ten more visitors press Run and leave: half press Stop, half close the tab
    hog          one more visitor runs long texts in 24 tabs at once, with the same pauses
    hostile      one more visitor uploads hostile files all the while
    measuring    four more visitors press Measure on the page Prune, again and again
    naive        plain, on the same app with one lock, no line and no freezing: what the ratios are to

It prints a row for each: errors (bugs and mixed traces, with the first of them below), runs that were asked to try
again, seconds to open the page and to a run's trace (median and 95th percentile), runs per second, the server's CPU
time per run, with all that it does besides, and its memory in MB at the start, in the middle and at the end, all its
processes together (`--processes` sets MOEVIZ_PROCESSES). `--all` runs plain for --minutes (default 10) and the others
for 3 minutes, one after the other. Clients and server share this machine, so compare rows, not machines.
"""

import argparse
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from streamlit.proto.BackMsg_pb2 import BackMsg

import moeviz
from benchmarks.harness import cpu_of, megabytes, percentile
from tests.attack.attack import ask
from tests.attack.hostile_tables import TABLES
from tests.attack.tab import Broke, Prompt, Refused, Tab, new_visitor, prompt_of
from tests.support.servers import Server, free_port, started

PAGE = "files"
SECONDS_BETWEEN = 0.5


def upload_until(over: threading.Event, url: str) -> None:
    """Upload each of the hostile tables in turn, in a tab of its own, until it is over."""
    files = [(f"hostile{suffix}", make()) for suffix, make in TABLES.values()]
    for name, content in itertools.cycle(files):
        if over.is_set():
            return
        with Tab(url, visitor := new_visitor()) as tab:
            tab.come(page=PAGE)
            upload(tab, url, visitor, name, content)
            tab.come()  # the first page draws what was opened
        over.wait(SECONDS_BETWEEN)


def upload(tab: Tab, url: str, visitor: dict[str, str], name: str, content: bytes) -> None:
    """Send a file as a visitor's browser does, and let the page read it; its answer is read and passed over."""
    _, headers, _ = ask(url, path="/_stcore/health")
    cookie = headers.get("set-cookie", "").partition(";")[0]
    head = f'--b\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--b--\r\n"
    form = {
        "Cookie": f"{visitor['Cookie']}; {cookie}",
        "X_Xsrftoken": cookie.partition("=")[2],
        "Content_Type": "multipart/form-data; boundary=b",
    }
    status, _, said = ask(url, "PUT", f"/_stcore/upload_file/{tab.session}/1", body, **form)
    if status not in (204, 413):
        raise Broke(f"the upload of {name} was answered with {status}: {said[:80]!r}")
    asked = BackMsg()
    asked.rerun_script.page_name = PAGE
    state = asked.rerun_script.widget_states.widgets.add()
    state.id = tab.uploader
    info = state.file_uploader_state_value.uploaded_file_info.add()
    info.name, info.size, info.file_id, info.file_urls.file_id = name, len(content), "1", "1"
    tab.socket.send(asked.SerializeToString())
    tab.finish()


VARIANTS = ("plain", "cancelling", "hog", "hostile", "measuring", "naive")
TEXTS_EACH, NEW_TOKENS = 24, 16  # so many that none comes again within some minutes: the same run is done once
LONG_TOKENS, HOG_TABS, CANCELLING, MEASURING = 128, 24, 10, 4
MINUTES, MINUTES_OF_A_VARIANT = 10.0, 3.0
LIMITS = {  # as for strangers, but of a class that is in a hurry, on one machine
    "MOEVIZ_SERVE": "public",
    "MOEVIZ_RUNS_A_MINUTE": "6000",
    "MOEVIZ_RUNS_PER_ADDRESS": "200",
    "MOEVIZ_MAX_NEW_TOKENS": str(LONG_TOKENS),
    "OMP_NUM_THREADS": "1",  # the model is small: several threads would wait for each other
}
COLUMNS = (
    "variant",
    "errors",
    "mixed",
    "refused",
    "open50",
    "open95",
    "run50",
    "run95",
    "runs/s",
    "CPU ms",
    "MB0",
    "MB½",
    "MB1",
)
WORDS = (
    "the",
    "river",
    "of",
    "light",
    "ran",
    "under",
    "a",
    "stone",
    "bridge",
    "while",
    "12 + 7 = 19",
    "für",
    "il fait froid",
)


@dataclass(slots=True)
class LoadResult:
    """The results that the visitors saw."""

    opened: list[float] = field(default_factory=list)  # seconds
    ran: list[float] = field(default_factory=list)
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB
    cpu: float = 0.0  # seconds of the server's process, all its threads together


def main() -> None:
    """Run one variant, or all of them, and print the table as it grows."""
    asked = arguments()
    rows = [(asked.variant, asked.minutes)]
    if asked.all:
        rows = [(name, asked.minutes if name == "plain" else MINUTES_OF_A_VARIANT) for name in VARIANTS]
    print(f"{asked.sessions} sessions, think {asked.think:g} s, {os.cpu_count()} cores", flush=True)
    print("  ".join(f"{name:>10}" for name in COLUMNS), flush=True)
    errors = 0
    for name, minutes in rows:
        seen = loaded(name, asked.sessions, asked.think, 60 * minutes, asked.processes)
        print("  ".join(f"{value:>10}" for value in row(name, seen, 60 * minutes)), flush=True)
        for error in dict.fromkeys(seen.errors[:5]):
            print(f"           {error}", flush=True)
        errors += len(seen.errors) * (name != "naive")
    sys.exit(bool(errors))


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--think", type=float, default=2.0, help="mean pause between two runs, in seconds")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="of the server; the naive one has one")
    return parser.parse_args()


def row(name: str, seen: LoadResult, seconds: float) -> list[str]:
    """Return the figures of a variant."""
    mixed = sum("mixed" in error for error in seen.errors)
    times = [f"{percentile(times, share):.2f}" for times in (seen.opened, seen.ran) for share in (0.5, 0.95)]
    memory = [f"{value:.0f}" for value in (seen.memory[0], seen.memory[len(seen.memory) // 2], seen.memory[-1])]
    counted = [str(len(seen.errors) - mixed), str(mixed), str(seen.refused)]
    cpu = f"{1000 * seen.cpu / max(len(seen.ran), 1):.0f}"
    return [name, *counted, *times, f"{len(seen.ran) / seconds:.2f}", cpu, *memory]


def loaded(name: str, sessions: int, think: float, seconds: float, processes: int = 1) -> LoadResult:
    """Measure one variant on a server of its own."""
    prompts = prompts_of(sessions)
    seen, over = LoadResult(), threading.Event()
    with server(naive=name == "naive", processes=processes) as running:
        for _ in range(processes):  # visitors are placed in turn
            warm(running)
        seen.memory.append(megabytes(running))
        visitors = [lambda mine=mine, n=n: visit(running, mine, think, seen, over, n) for n, mine in enumerate(prompts)]
        others = OTHERS[name](running, think, over, seen) if name in OTHERS else []
        threads = [threading.Thread(target=go, daemon=True) for go in [*visitors, *others]]
        for thread in threads:
            thread.start()
        begun = cpu_of(running)
        watch(running, seen, seconds)
        over.set()
        for thread in threads:
            thread.join(180)
        seen.cpu = cpu_of(running) - begun
        seen.errors += [line for line in running.lines if "Traceback" in line]
    return seen


def prompts_of(sessions: int) -> list[list[Prompt]]:
    """Return the prompts of each visitor: texts of their own, with the library's trace of each."""
    torch.set_num_threads(1)
    model, chance = moeviz.load_model(), random.Random(0)
    texts = [f"{n}: " + " ".join(chance.choices(WORDS, k=chance.randint(8, 40))) for n in range(sessions * TEXTS_EACH)]
    made = [prompt_of(model, text, 0 if n % 3 else NEW_TOKENS) for n, text in enumerate(texts)]
    return [made[n::sessions] for n in range(sessions)]


@contextmanager
def server(naive: bool = False, processes: int = 1, **more: str) -> Iterator[Server]:
    """The app on a free port, in one process or several; where a benchmark asks for it, made naive."""
    port = free_port()
    command = [sys.executable, "-m", "tests.attack.wrapped_server", *["--naive"] * naive, "--server.port", str(port)]
    if processes > 1 and not naive:
        command = [sys.executable, "-m", "moeviz", "app", "--public", "--no-browser", "--port", str(port)]
        more |= {"MOEVIZ_PROCESSES": str(processes)}
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    with started(command, f"http://127.0.0.1:{port}", environment=LIMITS | more) as running:
        yield running


def warm(running: Server) -> None:
    """Run one prompt first, so that no visitor who is measured waits for torch or for the model."""
    with Tab(running.url, new_visitor()) as tab:
        tab.come()
        tab.run(prompt_of(moeviz.load_model(), "warm", 0))


def visit(
    running: Server, mine: list[Prompt], think: float, seen: LoadResult, over: threading.Event, number: int
) -> None:
    """Open the page, then run one's prompts in turn until it is over."""
    chance = random.Random(number)
    over.wait(chance.uniform(0, think))
    try:
        begun = time.monotonic()
        with Tab(running.url, new_visitor()) as tab:
            tab.come()
            seen.opened.append(time.monotonic() - begun)
            for turn in range(10**9):
                if over.wait(chance.uniform(0, 2 * think)):
                    return
                run_once(tab, mine[turn % len(mine)], seen)
    except Exception as error:  # of any kind: it is counted and reported
        seen.errors.append(f"{type(error).__name__}: {error}"[:200])


def run_once(tab: Tab, prompt: Prompt, seen: LoadResult) -> None:
    """Make one run of a visitor, and record how long it took, or why there is no answer."""
    begun = time.monotonic()
    try:
        tab.run(prompt)
        seen.ran.append(time.monotonic() - begun)
    except Refused:
        seen.refused += 1
    except Broke as error:
        seen.errors.append(str(error)[:200])


def cancelling(running: Server, think: float, over: threading.Event, seen: LoadResult) -> list[Callable]:
    """Simulate visitors who begin a long text and leave."""

    def leave(number: int) -> None:
        chance, long = random.Random(-1 - number), Prompt("And so it went on", LONG_TOKENS, {})
        while not over.is_set():
            with Tab(running.url, new_visitor()) as tab:
                tab.come()
                tab.press_run(long)
                over.wait(chance.uniform(0.2, 2))
                if number % 2:
                    tab.stop()
                    tab.finish()

    return [counted(lambda n=n: leave(n), seen) for n in range(CANCELLING)]


def hog(running: Server, think: float, over: threading.Event, seen: LoadResult) -> list[Callable]:
    """Simulate one visitor with many tabs, each of which runs a long text again and again."""
    headers, long = new_visitor(), prompt_of(moeviz.load_model(), "And so it went on", LONG_TOKENS)

    def insist(number: int) -> None:
        chance = random.Random(number)
        with Tab(running.url, headers) as tab:
            tab.come()
            while not over.wait(chance.uniform(0, 2 * think)):
                with suppress(Refused):
                    tab.run(long)

    return [counted(lambda n=n: insist(n), seen) for n in range(HOG_TABS)]


def counted(go: Callable[[], None], seen: LoadResult) -> Callable[[], None]:
    """Do the same, and add what goes wrong to the errors."""

    def and_count() -> None:
        try:
            go()
        except Exception as error:  # of any kind: it is counted and reported
            seen.errors.append(f"{type(error).__name__}: {error}"[:200])

    return and_count


def hostile(running: Server, think: float, over: threading.Event, seen: LoadResult) -> list[Callable]:
    """Simulate one visitor who uploads what is meant to hurt. See `benchmarks.load`."""
    return [counted(lambda: upload_until(over, running.url), seen)]


def measuring(running: Server, think: float, over: threading.Event, seen: LoadResult) -> list[Callable]:
    """Visitors who measure what cutting experts costs: hundreds of forwards at a press."""

    def insist() -> None:
        with Tab(running.url, new_visitor()) as tab:
            tab.come(page="prune")
            while not over.wait(think):
                tab.press("Measure")
                ended = threading.Thread(target=tab.finish, daemon=True)
                ended.start()
                while ended.is_alive() and not over.is_set():
                    ended.join(SECONDS_BETWEEN)

    return [counted(insist, seen) for _ in range(MEASURING)]


OTHERS = {"cancelling": cancelling, "hog": hog, "hostile": hostile, "measuring": measuring}


def watch(running: Server, seen: LoadResult, seconds: float) -> None:
    """The server's memory, in the meantime."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(2.0, seconds / 10))
        seen.memory.append(megabytes(running))


if __name__ == "__main__":
    main()
