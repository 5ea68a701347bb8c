"""Workers of `-n 3 --dist loadfile` that are forked once all is imported and collected: pytest-xdist's each do it anew.

Whoever is free takes the next file. Where the system cannot fork safely, or pytest is of a version whose parts without
a public name were not looked at here, they are pytest-xdist's as ever.
"""

import atexit
import os
import signal
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
from forked import warm_up
from servers import end_with_parent

NUMBER = struct.Struct("i")
LOOKED_AT = (9,)  # versions of pytest


class Worker(NamedTuple):
    """A process that runs tests: where it tells of them, and a file that can be read once it has ended."""

    pid: int
    tells: Connection
    end: int


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before pytest-xdist starts its own."""
    asked = config.option
    count = getattr(asked, "numprocesses", None)
    here = sys.platform == "linux" and pytest.version_tuple[0] in LOOKED_AT and isinstance(count, int) and count > 0
    if here and asked.dist == "loadfile" and not asked.usepdb:
        asked.numprocesses = 0
        if "MOEVIZ_SUITE_COSTS" not in os.environ:  # costs of what all share would be nobody's
            warm_up("python", *(["app"] if getattr(asked, "tier", "fast") != "fast" else []))  # its imports begin here
        config.pluginmanager.register(Forks(count))


class Forks:
    """So many workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Let them run all tests; None, for pytest to end, where that is not what it is to do."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        files = [list(items) for _, items in groupby(session.items, key=lambda item: item.path)]
        folder, queue = session.config._tmp_path_factory.getbasetemp(), numbers(len(files))
        workers = []
        try:
            for number in range(min(self.count, len(files))):
                workers.append(forked(session, files, queue, folder / f"gw{number}"))
            hear_all(session, workers)
        finally:
            for worker in workers:
                end(worker)
            os.close(queue)
        return True


def numbers(count: int) -> int:
    """A pipe from which each number below `count` can be taken once, by whichever process comes first."""
    queue, end = os.pipe()
    os.set_blocking(end, False)  # more than a pipe holds is an error here, and no wait for ever
    os.write(end, b"".join(map(NUMBER.pack, range(count))))
    os.close(end)
    return queue


def forked(session: pytest.Session, files: list[list[pytest.Item]], queue: int, folder: Path) -> Worker:
    """A new process, which works until the queue is empty."""
    parent = os.getpid()
    hears, tells = Pipe(duplex=False)
    if pid := os.fork():
        tells.close()
        return Worker(pid, hears, os.pidfd_open(pid))
    work_and_end(session, files, queue, folder, tells, parent)


def end(worker: Worker) -> None:
    """Whether it has ended or not."""
    signal.pidfd_send_signal(worker.end, signal.SIGKILL)
    os.waitpid(worker.pid, 0)
    os.close(worker.end)
    worker.tells.close()


def work_and_end(
    session: pytest.Session, files: list[list[pytest.Item]], queue: int, folder: Path, tells: Connection, parent: int
) -> NoReturn:
    """Run file after file, and go without taking down what the first process holds too."""
    try:
        end_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        atexit._clear()  # what is to be done once is done by the first process
        begin(session.config, folder)
        session.config.pluginmanager.register(Teller(session.config, tells))
        work(session, (item for number in taken(queue) for item in files[number]))
        session.config.hook.pytest_sessionfinish(session=session, exitstatus=session.testsfailed)
        atexit._run_exitfuncs()
    except BaseException:
        with suppress(OSError):
            tells.send(("broke", traceback.format_exc()))
    os._exit(0)


def begin(config: pytest.Config, folder: Path) -> None:
    """Have output and temporary folders of one's own, and leave to the first process what is said and kept once."""
    torch.set_num_threads(1)  # first: PyTorch replaces its pool of threads after a fork, without a lock
    os.environ["PYTEST_XDIST_WORKER"] = folder.name
    config.workerinput = {"workerid": folder.name}  # by which pytest's plugins know a worker
    config.pluginmanager.unregister(name="terminalreporter")
    captured = config.pluginmanager.getplugin("capturemanager")._global_capturing
    for stream in (captured.out, captured.err):
        if hasattr(stream, "targetfd"):  # in the same object: handlers of logs hold it
            with TemporaryFile() as own:
                os.dup2(own.fileno(), stream.tmpfile.fileno())
    config.option.basetemp = folder
    config._tmp_path_factory = pytest.TempPathFactory.from_config(config, _ispytest=True)


def taken(queue: int) -> Iterator[int]:
    """Numbers that nobody else takes, until there are none."""
    while number := os.read(queue, NUMBER.size):
        yield NUMBER.unpack(number)[0]


def work(session: pytest.Session, items: Iterator[pytest.Item]) -> None:
    """Run them; each knows which comes next, and so what of its fixtures is still needed."""
    item = next(items, None)
    while item is not None and not session.shouldfail and not session.shouldstop:
        following = next(items, None)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item = following


class Teller:
    """What a worker tells the first process of."""

    def __init__(self, config: pytest.Config, tells: Connection) -> None:
        self.config, self.tells = config, tells

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tells.send(("began", nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tells.send(("report", self.config.hook.pytest_report_to_serializable(config=self.config, report=report)))

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple) -> None:
        self.tells.send(("finished", (nodeid, location)))


def hear_all(session: pytest.Session, workers: list[Worker]) -> None:
    """Report what they tell, until all have ended. A test that none has finished by then is a failure."""
    left = {item.nodeid: item for item in session.items}
    sides = {side: worker for worker in workers for side in (worker.tells, worker.end)}
    at, why = {}, []
    while sides:
        for side in wait(sides):
            if (worker := sides.get(side)) is None:
                continue
            try:
                if not worker.tells.poll():
                    raise EOFError
                kind, told = worker.tells.recv()
            except EOFError:
                del sides[worker.tells], sides[worker.end]
                if worker in at:
                    why.append(f"A worker ended while it ran {at[worker]}.")
                continue
            if kind == "began":
                at[worker] = told
            elif kind == "broke":
                why.append(told)
            elif kind == "finished":
                del at[worker], left[told[0]]
            report(session, kind, told)
    for item in left.values():
        say(session, not_run(item, "\n".join(why)))


def report(session: pytest.Session, kind: str, told: Any) -> None:
    """Say what was told, as if it had been here; raises once that was enough."""
    hook, config = session.config.hook, session.config
    if kind == "report":
        say(session, hook.pytest_report_from_serializable(config=config, data=told))
    elif kind == "finished":
        hook.pytest_runtest_logfinish(nodeid=told[0], location=told[1])


def say(session: pytest.Session, report: pytest.TestReport) -> None:
    session.config.hook.pytest_runtest_logreport(report=report)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)


def not_run(item: pytest.Item, why: str) -> pytest.TestReport:
    """A failure."""
    text = f"No worker finished this test.\n{why}"
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
