"""Python processes of their own for tests, forked from a warm one: what all of them import is imported once a worker.

`python(...)` is for what must run apart: it is killed, its memory is measured, its environment or its limits are other
ones, or nothing checks its annotations. What an import brings is seen in a fresh process alone: take `subprocess`.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

# What the warm process imports before it forks: modules that take long, and hold nothing that a test sets.
COMMANDS = ("pyarrow.parquet", "moeviz.cli.main", "moeviz.formats.exports", "moeviz.testing")
MODELS = (
    *COMMANDS,
    "torch",
    "transformers.generation",
    "transformers.modeling_utils",
    "transformers.models.auto",
    "transformers.models.mixtral.modeling_mixtral",
    "moeviz.capture.models.load",
    "moeviz.capture.trace",
    "moeviz.corpus.run",
)
# What an app has imported once somebody has run a prompt in it, but for its own modules, which read its environment.
APP = (
    *MODELS,
    "altair",
    "streamlit.web.bootstrap",
    "streamlit.web.cli",
    "streamlit.web.server.starlette.starlette_server",
    "uvicorn",
)
DEADLINE = 900  # seconds of wall time: whoever takes longer hangs, on a busy machine too
PR_SET_PDEATHSIG = 1
MESSAGE = 4096


def python(
    *words: str,
    warm: tuple[str, ...] = COMMANDS,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    deadline: float = DEADLINE,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `python -c CODE …` or `python -m MODULE …` to its end, as `subprocess.run` does, and read what it wrote.

    Modules in `warm` are imported already: MODELS, for what runs one.
    Where the system cannot fork, or not safely, it is a fresh process.
    """
    if sys.platform != "linux":
        how = {"env": env, "cwd": cwd, "stdout": stdout or subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run([sys.executable, *words], text=True, timeout=deadline, check=check, **how)
    with TemporaryFile("w+", encoding="utf-8") as said, TemporaryFile("w+", encoding="utf-8") as errors:
        outputs = said.fileno() if stdout is None else stdout, errors.fileno()
        child = Child(words, *outputs, warm=warm, env=env, cwd=cwd)
        try:
            code = child.wait(deadline)
        finally:
            child.kill()
            texts = [file.read() for file in (said, errors) if not file.seek(0)]
    done = subprocess.CompletedProcess([sys.executable, *words], code, *texts)
    if check:
        done.check_returncode()
    return done


class Child:
    """A process that the warm one forked; its parent is that one, which says how it ended."""

    def __init__(
        self,
        words: tuple[str, ...],
        *outputs: int,
        warm: tuple[str, ...] = COMMANDS,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        of: str = "python",
    ) -> None:
        """Start it, and know its `pid`. It writes to these two file descriptors.

        `of` names the warm process that forks it; whoever looks at memory or imports shares one with its like alone.
        """
        asked = {"words": words, "warm": warm, "env": dict(os.environ if env is None else env)}
        asked["cwd"] = str(cwd or Path.cwd())
        self.words, self.code = words, None
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, TemporaryFile("w+", encoding="utf-8") as request:
            json.dump(asked, request)
            request.flush()
            socket.send_fds(_warm_process(of)[0], [b"+"], [request.fileno(), *outputs, theirs.fileno()])
        self.pid = int(self._answer(DEADLINE))

    def _answer(self, deadline: float) -> bytes:
        self._answers.settimeout(deadline)
        try:
            answer = self._answers.recv(MESSAGE)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.words, deadline) from None
        if not answer:
            raise RuntimeError("the warm process has ended, and all that it had forked")
        return answer

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for the exit status, or minus the signal that ended it. Raises `TimeoutExpired` if it takes longer."""
        if self.code is None:
            self.code = int(self._answer(deadline))
            self._answers.close()
        return self.code

    def poll(self) -> int | None:
        """Say how it ended, as `wait` does; None if it has not."""
        return self.wait() if self.code is not None or select.select([self._answers], [], [], 0)[0] else None

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it started, if it has not ended."""
        if self.code is None:
            os.killpg(self.pid, signal.SIGKILL)  # not reaped before its end is told, so the number is its own
            self.wait()


@cache
def _warm_process(of: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A warm process and the way to it. It ends when this one has, and all that this one has forked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(theirs.fileno()), *(APP if of == "app" else ())]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with theirs:
        warm = subprocess.Popen(command, pass_fds=[theirs.fileno()], **quiet)
    atexit.register(lambda: (warm.kill(), warm.wait(), ours.close()))
    return ours, warm


def warm_up(*of: str) -> None:
    """Have warm processes now, so that whatever this process forks shares them."""
    for each in of:
        _warm_process(each)


def bring(modules: list[str]) -> None:
    """Import what is not there yet, and leave the memory that it takes as it is."""
    if missing := [each for each in modules if each not in sys.modules]:
        for each in missing:
            import_module(each)
        gc.freeze()  # pages that a collection would write to are shared
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)  # memory that a child takes is to come from the system, where its peak shows it


def serve(control: socket.socket) -> list[str]:
    """Fork for each request that comes; returns in what was forked alone, and there what it is to run."""
    poll, running, own = select.poll(), {}, os.getpid()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                pid, answers = running.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                with answers, suppress(BrokenPipeError):  # who asked has ended
                    answers.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                continue
            word, given, *_ = socket.recv_fds(control, 1, 4)
            if not word:
                os._exit(0)  # and what is running is killed
            request, *outputs, answers = given
            with os.fdopen(request, encoding="utf-8") as file:
                file.seek(0)
                asked = json.load(file)
            bring(asked["warm"])
            if not (pid := os.fork()):
                control.close()
                begin(asked, own, *outputs, answers)
                return asked["words"]
            with suppress(ProcessLookupError):  # it may have ended
                os.setpgid(pid, pid)  # as it does itself: whoever is first, it can be killed by its group from here on
            for output in outputs:
                os.close(output)
            answers = socket.socket(fileno=answers)
            with suppress(BrokenPipeError):
                answers.send(str(pid).encode())
            end = os.pidfd_open(pid)
            running[end] = pid, answers
            poll.register(end, select.POLLIN)


def begin(asked: dict[str, Any], parent: int, out: int, errors: int, answers: int) -> None:
    """Give this process a group, files, a folder and an environment of its own; with its parent it ends."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.close(answers)
    for name, given, number, how in (("stdout", out, 1, "strict"), ("stderr", errors, 2, "backslashreplace")):
        os.dup2(given, number)
        os.close(given)
        stream = os.fdopen(number, "w", encoding="utf-8", errors=how, closefd=False)  # which knows whether it is a pipe
        stream.reconfigure(line_buffering=number == 2)
        setattr(sys, name, stream)
    if torch := sys.modules.get("torch"):
        # First, and in one thread: PyTorch replaces its pool of threads after a fork, without a lock.
        torch.set_num_threads(torch.get_num_threads())
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])


def run(words: list[str]) -> None:
    """As `python` runs them, in this process."""
    kind, what, *arguments = words if words[0] in ("-c", "-m") else ("", *words)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path.pop(0)  # this file's folder
    first = {"-c": "", "-m": str(Path.cwd())}.get(kind, str(Path(what).parent))
    sys.path[:0] = [first, *(path for path in paths if path not in sys.path)]
    sys.argv = [kind or what, *arguments]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), vars(main))
    elif kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(what, run_name="__main__")


def run_and_end(words: list[str]) -> NoReturn:
    """Without taking down all that was imported, which would take longer than most tests."""
    code: object = 0
    try:
        try:
            run(words)
        finally:
            threading._shutdown()
            atexit._run_exitfuncs()
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code
        sys.stdout.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    bring(sys.argv[2:])
    run_and_end(serve(socket.socket(fileno=int(sys.argv[1]))))
