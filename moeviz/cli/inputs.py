"""Open what a command is given: a prompt, a model, a file, or the folder of a dataset."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import import_options
from moeviz.cli.output import note
from moeviz.errors import InvalidPrompt, MoevizError
from moeviz.text import cut

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.importers.importer import Opened
    from moeviz.routing_trace import Counted, RoutingTrace


def read_prompt(given: str) -> str:
    """Return the prompt as it was given, or from standard input. Raises `InvalidPrompt` for what is not text."""
    try:
        text = sys.stdin.read() if given == "-" else given
        text.encode()
    except UnicodeError as error:
        raise InvalidPrompt("The prompt is not text in UTF-8. Save the file in that encoding.") from error
    return text


def load(args: Namespace, name: str | None = None, **options: Any) -> "LoadedModel | EngineModel":
    """Open the model of a command, or the one of that name, in the engine that runs it, and note it."""
    from moeviz.capture.opening import load_model

    name = args.model if name is None else name
    note(f"loading {cut(name)}")
    given = {option: value for option, value in options.items() if value is not None}
    if args.ignore_memory:
        given["check_memory"] = False
    return load_model(name, backend=args.backend if name == args.model else None, **given)


def load_inside(args: Namespace) -> "LoadedModel":
    """Open the model of a command that looks into it. Raises `MoevizError` for one that another engine runs."""
    from moeviz.capture.models.load import LoadedModel

    model = load(args)
    if not isinstance(model, LoadedModel):
        raise MoevizError(
            f"{model.name} runs in {model.info.backend}, where moeviz cannot see what experts put out or change them. "
            "Load the transformers checkpoint."
        )
    return model


def read(path: str, args: Namespace) -> "Counted":
    """Read the trace, or the counts, in a file."""
    from moeviz.formats.exports import read_counted

    return read_counted(path, format=args.format, options=import_options(args))


def read_one_trace(path: str, args: Namespace) -> "RoutingTrace":
    """Read the trace in a file. Raises `InvalidTrace` if it holds counts alone."""
    from moeviz.formats.exports import read_trace

    return read_trace(path, format=args.format, options=import_options(args))


def open_file(path: str, args: Namespace) -> "Opened":
    """Read a file with the doctor's findings, and note that it is being read: a large file takes seconds."""
    from moeviz.formats.exports import open_path

    note(f"reading {cut(path)}")
    return open_path(path, format=args.format, options=import_options(args))


def open_dataset(path: str, args: Namespace) -> "Dataset":
    """Open a dataset where it lies, and note the shards that are left out of it."""
    from moeviz.formats.dataset.opening import read_dataset

    dataset = read_dataset(path, partial=args.partial)
    for sentence in dataset.left_out:
        note(f"left out: {sentence}")
    return dataset


def counted_at(args: Namespace) -> "Counted":
    """Read the trace or the counts in a file; of a dataset its counts, from its small tables."""
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import read_counted

    return open_dataset(args.file, args).counts() if is_dataset(args.file) else read_counted(args.file)
