"""A stranger's file, read in a process of its own: what it does to its reader, it does not do to whoever asked.

The child has no secrets in its environment, no open files but its own, and limited memory and time. It answers
with a line of JSON, which says what follows, and a trace file or a file of counts. Both are read here as if they were a
stranger's too. It imports neither torch nor streamlit.

| limit                   | Linux | macOS | Windows |
|-------------------------|-------|-------|---------|
| seconds until it ends   | yes   | yes   | yes     |
| budget of the readers   | yes   | yes   | yes     |
| bytes of its answer     | yes   | yes   | when it has ended |
| memory (`RLIMIT_DATA`)  | yes   | no: the system takes the limit and does not keep it | no |
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import IO, Any, NoReturn

from moeviz.errors import InvalidTrace, MoevizError, NotSaid
from moeviz.formats.counts_file import counts_in, to_counts_json
from moeviz.formats.exports import open_bytes
from moeviz.formats.importers.importer import NOTHING_TOLD, SAYS, ImportOptions, Opened, Source
from moeviz.formats.trace_facts import check_size
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.routing_trace import RoutingTrace
from moeviz.text import is_text

log = logging.getLogger("moeviz.formats")
MODULE = "moeviz.formats.sandboxed_read"
REFUSED, TOO_LARGE, BUG, NOT_SAID = 3, 4, 5, 6  # exit codes of the child
OF_ITS_OWN = 2**29  # bytes for Python, numpy, pandas and Arrow themselves
TIMES = 6  # copies of the data that may be in memory at once, with its checks
MORE = 2**20  # of an answer: what a trace file has in addition to its budget
LONGEST_SENTENCE = 2000
MOST_FINDINGS = 200
FEW = "Save fewer tokens or layers, or leave the logits out."
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of reading a file: bytes that it may have and unpack to, and seconds; memory follows from the bytes."""

    max_bytes: int
    seconds: int | float

    @property
    def memory(self) -> int:
        """Bytes that the child may have."""
        return OF_ITS_OWN + TIMES * self.max_bytes


def read_sandboxed(data: bytes, filename: str, limits: Limits, options: ImportOptions = NOTHING_TOLD) -> Opened:
    """Read a trace, or counts, as `open_bytes` does, in a process of its own.

    Raises what `open_bytes` raises; `InvalidTrace` too if the file takes more time or memory than `limits` allow; and
    `MoevizError` if no process can be started.
    """
    return _open_answer(answered(data, filename, limits, options), filename, limits.max_bytes)


def answered(
    data: bytes, filename: str, limits: Limits, options: ImportOptions = NOTHING_TOLD, module: str = MODULE
) -> bytes:
    """Run `module` on a stranger's file in a process of its own, and return its answer. Errors of `read_sandboxed`."""
    check_size(data, limits.max_bytes)
    name = repr(PurePath(filename).name[:200])
    try:
        with _answer_file() as file:
            code = _run_child(data, filename, limits, options, file, module)
            answer = _read_answer(file, limits.max_bytes + MORE)
    except subprocess.TimeoutExpired as error:
        raise InvalidTrace(
            f"{name} takes longer than {limits.seconds:,.0f} seconds to read, so it was given up. {FEW}"
        ) from error
    except OSError as error:
        raise MoevizError(
            f"No process can be started to read {name}: {error.strerror or error}. Try again later."
        ) from error
    if code == 0:
        return answer
    raise _error_of(code, answer, name)


def _open_answer(answer: bytes, filename: str, max_bytes: int) -> Opened:
    """Open the answer of a child. All of it is checked, since a stranger's file made it."""
    line, _, body = answer.partition(b"\n")
    facts = _facts_in(line)
    kind, label, findings = facts.get("kind"), facts.get("label"), facts.get("findings")
    if (
        kind not in ("trace", "counts")
        or not is_text(label)
        or not isinstance(findings, list)
        or not all(map(is_text, findings))
    ):
        raise InvalidTrace(f"The process that read {PurePath(filename).name[:200]!r} gave no answer. {FEW}")
    if kind == "trace":
        return Opened(from_trace_file(body, max_bytes), str(label), tuple(findings))
    return Opened(counts_in(Source(filename, {filename: body}, max_bytes)), str(label), tuple(findings))


def _facts_in(line: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _error_of(code: int, answer: bytes, name: str) -> InvalidTrace:
    if code == NOT_SAID:
        facts = _facts_in(answer)
        names = facts["names"] if isinstance(facts.get("names"), list) else []
        return NotSaid(str(facts.get("says"))[:LONGEST_SENTENCE], tuple(option for option in SAYS if option in names))
    sentence = answer[: 4 * LONGEST_SENTENCE].decode(errors="replace")[:LONGEST_SENTENCE]
    if code == REFUSED:
        return InvalidTrace(sentence)
    if code == TOO_LARGE:
        return InvalidTrace(f"{name} needs more memory to read than a file may take here. {FEW}")
    if code == BUG:
        log.error("a file was not read because of a bug: %s", sentence)
        return InvalidTrace(f"{name} cannot be read: moeviz stumbled over it ({sentence[:200]}). Please report that.")
    log.error("the process that read a file ended with code %d", code)
    return InvalidTrace(
        f"{name} cannot be read: the process that read it was ended (code {code}), as happens where memory is short. "
        f"{FEW}"
    )


def _run_child(
    data: bytes, filename: str, limits: Limits, options: ImportOptions, answer: IO[bytes], module: str
) -> int:
    """Run the child and return its exit code; its answer is in the file."""
    asked = {"name": filename, "max_bytes": limits.max_bytes, "memory": limits.memory, "seconds": limits.seconds}
    asked["options"] = asdict(options)
    command = [sys.executable, "-P", "-m", module]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=answer, stderr=subprocess.DEVNULL, env=_environment()
    ) as child:
        try:
            child.communicate(json.dumps(asked).encode() + b"\n" + data, timeout=limits.seconds)
        except BaseException:
            child.kill()
            raise
        return child.returncode


def _environment() -> dict[str, str]:
    """Return a child's environment: what Python needs to start, and where moeviz is; no tokens."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    paths = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)}


def _answer_file() -> IO[bytes]:
    """Open a file in memory if the system can: a visitor's data is then on no disk, and a full disk does not matter."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("moeviz-answer"), "w+b", buffering=0)  # noqa: PTH123
    return tempfile.TemporaryFile(buffering=0)


def _read_answer(answer: IO[bytes], most: int) -> bytes:
    size = answer.seek(0, os.SEEK_END)
    answer.seek(0)
    if size > most:
        raise InvalidTrace(f"The file unpacks to {size:,} bytes, and at most {most:,} are read. {FEW}")
    return answer.read(size)


Read = Callable[[bytes, str, int, ImportOptions], bytes]


def read_and_answer(data: bytes, filename: str, max_bytes: int, options: ImportOptions) -> bytes:
    """Read a trace, or counts, and return the answer about it."""
    opened = open_bytes(data, filename, max_bytes, options)
    findings = [sentence[:LONGEST_SENTENCE] for sentence in opened.findings[:MOST_FINDINGS]]
    counted = opened.counted
    if isinstance(counted, RoutingTrace):
        kind, body = "trace", to_trace_file(counted, zipfile.ZIP_STORED)
    else:
        kind, body = "counts", to_counts_json(counted)
    facts = {"kind": kind, "label": opened.label, "findings": findings}
    return json.dumps(facts).encode() + b"\n" + body


def main(read: Read = read_and_answer) -> int:
    """Run as the child: limit this process, read one file from standard input, answer on standard output."""
    asked = json.loads(sys.stdin.buffer.readline())
    _limit(asked)
    try:
        data, options = sys.stdin.buffer.read(asked["max_bytes"] + 1), _options(asked.get("options", {}))
        code, answer = 0, read(data, asked["name"], asked["max_bytes"], options)
    except MemoryError:
        code, answer = TOO_LARGE, b""
    except NotSaid as error:
        code, answer = NOT_SAID, json.dumps({"says": str(error)[:LONGEST_SENTENCE], "names": error.names}).encode()
    except InvalidTrace as error:
        code, answer = REFUSED, str(error)[:LONGEST_SENTENCE].encode(errors="replace")
        if isinstance(error.__cause__, MemoryError):
            code, answer = TOO_LARGE, b""
    except Exception as error:  # the parent logs it: where, and of what kind, and nothing that the file says
        last = traceback.extract_tb(error.__traceback__)[-1]
        code, answer = BUG, f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}".encode()
    try:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    except OSError:
        code = TOO_LARGE
    return code


def _options(asked: dict[str, Any]) -> ImportOptions:
    layers = asked.get("moe_layers")
    return ImportOptions(**asked | {"moe_layers": None if layers is None else tuple(layers)})


def _limit(asked: dict[str, Any]) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's clock, and the readers' budget
        return
    seconds, most = int(asked["seconds"]) + 1, asked["max_bytes"] + MORE
    limits = {"RLIMIT_DATA": asked["memory"], "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": most, "RLIMIT_CORE": 0}
    for name, value in limits.items():
        with suppress(ValueError, OSError):  # a lower one holds already
            resource.setrlimit(getattr(resource, name), (value, value))


def end(code: int) -> NoReturn:
    """End the child."""
    sys.stdout.flush()
    os._exit(code)  # nothing is left to tidy up, and what a file has made of memory takes seconds to free


if __name__ == "__main__":
    end(main())
