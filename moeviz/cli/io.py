"""What the commands of `moeviz` read and write: models, prompts, traces; progress and notes, to stderr."""

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from moeviz.errors import InvalidPrompt
from moeviz.names import cut

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel
    from moeviz.routing_trace import RoutingTrace


def load(args: Namespace, name: str | None = None, **options: Any) -> "LoadedModel | EngineModel":
    """Open the model of a command, or the one of that name, in the engine that runs it; and say so."""
    from moeviz.capture.opening import load_model

    name = args.model if name is None else name
    note(f"loading {cut(name)}")
    given = {option: value for option, value in options.items() if value is not None}
    if args.ignore_memory:
        given["check_memory"] = False
    return load_model(name, backend=args.backend if name == args.model else None, **given)


def read_prompt(given: str) -> str:
    """The prompt as it was given, or from standard input. Raises `InvalidPrompt` for what is not text."""
    try:
        text = sys.stdin.read() if given == "-" else given
        text.encode()
    except UnicodeError as error:
        raise InvalidPrompt("The prompt is not text in UTF-8. Save the file in that encoding.") from error
    return text


def check_output(path: str | None) -> None:
    """What cannot be written is reported now, not after the model has run. Raises `MoevizError`."""
    from moeviz.formats.exports import check_target

    if path is not None:
        check_target(path)


def write(trace: "RoutingTrace", path: str | None) -> None:
    """Write a trace, where that was asked for, and say so."""
    from moeviz.formats.exports import write_trace

    if path is not None:
        write_trace(trace, path)
        note(f"wrote {path}")


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table, for JSON."""
    return json.loads(frame.to_json(orient="records", double_precision=15))  # NaN is null


def progress(done: int, total: int, says: str = "generated {} of {} tokens") -> None:
    """How far a run has come, where a person watches."""
    if sys.stderr.isatty():
        print(f"\rmoeviz: {says.format(done, total)}", end="\n" * (done == total), file=sys.stderr, flush=True)


def note(sentence: str) -> None:
    """Tell a person something that is no result."""
    print(f"moeviz: {sentence}", file=sys.stderr, flush=True)
