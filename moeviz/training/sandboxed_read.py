"""A stranger's run, read in a process of its own first: damage to its reader does not reach the caller.

If that process stays within the memory and the time that a file may take, the same bytes are read here.
"""

from moeviz.formats.importers.importer import ImportOptions
from moeviz.formats.sandboxed_read import Limits, answered, end, main
from moeviz.training.reading import read_run_file
from moeviz.training.recorded.run import TrainingRun


def read_run_sandboxed(data: bytes, filename: str, limits: Limits) -> TrainingRun:
    """Return the run in the bytes of a `routing.jsonl`.

    Raises `InvalidTrace` if they are not a run, or take more time or memory than `limits` say, and `MoevizError` if no
    process can be started.
    """
    answered(data, filename, limits, module="moeviz.training.sandboxed_read")
    return read_run_file(data, filename, limits.max_bytes)


def _judge(data: bytes, filename: str, max_bytes: int, _options: ImportOptions) -> bytes:
    read_run_file(data, filename, max_bytes)
    return b""


if __name__ == "__main__":
    end(main(_judge))
