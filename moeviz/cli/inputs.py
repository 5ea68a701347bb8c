"""Open what a command is given: a prompt, a model, a file, or the folder of a dataset."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import import_options
from moeviz.cli.output import note, watched
from moeviz.errors import InvalidPrompt, MoevizError
from moeviz.text import cut, quoted, why_no_file

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.importers.importer import Opened
    from moeviz.routing_trace import Counted, RoutingTrace


def read_prompt(args: Namespace) -> str:
    """Return the prompt as it was given, from the file of -f, or from standard input.

    Raises `InvalidPrompt` for what is not text, and for a file that there is not.
    """
    given, path = args.prompt, args.prompt_file
    try:
        if path is not None:
            return prompt_in(path)
        text = sys.stdin.read() if given == "-" else given
        text.encode()
    except UnicodeError as error:
        raise InvalidPrompt("The prompt is not text in UTF-8. Save the file in that encoding.") from error
    if not why_no_file(given) and Path(given).is_file():
        note(f"{quoted(given)} is taken as the text itself, though a file is called so. To read that: -f {cut(given)}")
    return text


def prompt_in(path: str) -> str:
    """Return the text of a file. Raises `InvalidPrompt` where there is none, `UnicodeError` for what is not UTF-8."""
    if why := why_no_file(path):
        raise InvalidPrompt(f"No file can be called {quoted(path)}: the name {why}.")
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidPrompt(f"The prompt's file {quoted(path)} cannot be read: {error.strerror}.") from error


def loading(args: Namespace) -> dict[str, Any]:
    """Return the options by which a model is loaded, as `moeviz.load_model` takes them: those that were given."""
    given = {name: getattr(args, name) for name in ("device_map", "dtype", "offload_folder")}
    given["check_memory"] = False if args.ignore_memory else None
    return {name: value for name, value in given.items() if value is not None}


def load(args: Namespace, name: str | None = None) -> "LoadedModel | EngineModel":
    """Open the model of a command, or the one of that name, in the engine that runs it, and note it."""
    from transformers.utils.logging import disable_progress_bar

    from moeviz.capture.opening import load_model

    if not watched():
        disable_progress_bar()
    name = args.model if name is None else name
    note(f"loading {cut(name)}")
    return load_model(name, backend=args.backend if name == args.model else None, **loading(args))


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


def counted_at(file: str, args: Namespace) -> "Counted":
    """Read the trace or the counts in a file; of a dataset its counts, from its small tables."""
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import read_counted

    return open_dataset(file, args).counts() if is_dataset(file) else read_counted(file)
