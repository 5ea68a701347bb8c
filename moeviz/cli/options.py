"""The options that several commands have, and opening what they name: a prompt, a model, a file or a dataset.

Nothing heavy is imported here or at the top of a command's file, so `moeviz --help` is there at once.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer, _MutuallyExclusiveGroup
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moeviz.cli.output import note, progress, watched
from moeviz.cli.words import Several, one_of_these
from moeviz.errors import InvalidPrompt, MissingField, MoevizError
from moeviz.text import cut, quoted, why_no_file, why_not_read

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.run.chat import Conversation, Prompt
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.importers.importer import ImportOptions, Opened
    from moeviz.routing_trace import Counted, RoutingTrace

LARGEST = 2**63  # what numpy and torch count to
DTYPES = ("auto", "float32", "bfloat16", "float16")
# moeviz.formats.importers.importer.SAYS, known without loading numpy
IMPORT_OPTIONS = {"top_k": "K", "hidden_layers": "N", "experts": "E", "start": "N", "expert_parallel": "N"}
# moeviz.formats.importers.importer.CALLED, as other commands call the same
CALLED = {"top_k": "experts_per_token", "hidden_layers": "num_layers"}


def number(kind: type, low: int, high: int | None = None) -> Callable[[str], int | float]:
    """Return a reader of numbers of that kind from `low` to `high`, for argparse's `type=`."""
    what = "a whole number" if kind is int else "a number"
    bounds = f"{what} from {low} to {high}" if high is not None else f"{what}, {low} or more"

    def read(text: str) -> int | float:
        try:
            number = kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"needs {bounds}, and got {cut(text)!r}") from error
        if not low <= number <= (LARGEST if high is None else high):  # neither does not-a-number pass
            raise ArgumentTypeError(f"needs {bounds}, and got {cut(text)!r}")
        return number

    return read


def numbers(kind: type, low: int, high: int | None = None) -> dict[str, Any]:
    """Return how argparse reads an option of several such numbers: 2,3 at once, or the option again."""
    return {"action": Several, "split": ",", "pattern": r"-?[\d.,]+", "read": number(kind, low, high), "metavar": "N"}


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of one of these names."""

    def read(text: str) -> str:
        if text not in names:
            raise ArgumentTypeError(one_of_these(text, names))
        return text

    return read


def add_prompt(parser: ArgumentParser) -> _MutuallyExclusiveGroup:
    """Add the prompt: a text, or a file that holds it. Returns the group of what may be given instead."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("prompt", metavar="PROMPT", nargs="?")
    given.add_argument("-f", "--prompt-file", metavar="FILE")
    given.add_argument("--messages", metavar="FILE")
    parser.add_argument("--chat", action="store_true")
    return given


def add_json(parser: ArgumentParser, *, table: bool = True) -> None:
    """Add --json, and --all to a command that prints a `table`."""
    parser.add_argument("--json", action="store_true")
    if table:
        parser.add_argument("--all", action="store_true")


def add_quiet(parser: ArgumentParser) -> None:
    """Add -q."""
    says = "print only the result and errors"
    parser.add_argument("-q", "--quiet", action="store_true", default=SUPPRESS, help=says)


def add_model(parser: ArgumentParser) -> None:
    """Add the options that choose a model and the engine that runs it."""
    from moeviz.embedded.own_models import installed

    own = "".join(f"'{name}', " for name in installed() if name != "embedded")
    says = f"'embedded' (the default), {own}a folder, a Hugging Face id, a .gguf file, or a server: vllm+http://localhost:8000"
    parser.add_argument("--model", default="embedded", help=says)
    add_loading(parser)


def add_loading(parser: ArgumentParser) -> None:
    """Add the options that say how a model is loaded."""
    add_backend(parser)
    parser.add_argument("--device-map", metavar="MAP")
    parser.add_argument("--offload-folder", metavar="DIR")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--ignore-memory", action="store_true")
    add_adapter(parser)


def add_adapter(parser: ArgumentParser) -> None:
    """Add --adapter."""
    parser.add_argument("--adapter", metavar="FILE", action=Several, pattern=r".+\.py", default=[])


def run_adapters(args: Namespace) -> None:
    """Run the files with adapters that the command line names, once."""
    from moeviz.adapters import run_file

    for file in args.adapter:
        run_file(file)
    args.adapter = []


def add_divided_texts(parser: ArgumentParser) -> None:
    """Add a model, and texts of which some make a choice and others judge it."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("texts", metavar="TEXTS", nargs="*", default=[])
    parser.add_argument("--draws", type=number(int, 2), default=5, metavar="N")
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N")
    parser.add_argument("--tokens", type=number(int, 16), metavar="N")
    add_segment(parser)


def add_backend(parser: ArgumentParser) -> None:
    """Add the option that names an engine."""
    parser.add_argument("--backend", metavar="ENGINE")


def add_counts_only(parser: _ActionsContainer) -> None:
    """Add --counts-only."""
    parser.add_argument("--counts-only", action="store_true")


def add_phase(parser: ArgumentParser) -> None:
    """Add the options that say on which tokens of a trace a cost of serving is judged."""
    parser.add_argument("--phase", choices=("auto", "generated", "prompt", "all"), default="auto")
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--no-repeats", action="store_true")
    add_segment(parser)


def add_segment(parser: ArgumentParser) -> None:
    """Add the option that chooses the tokens of one segment of a chat; what reads traces or texts follows it."""
    parser.add_argument("--segment", metavar="NAME")


def add_judged_on(parser: ArgumentParser) -> None:
    """Add --judged-on."""
    parser.add_argument("--judged-on", metavar="OTHER")


def add_import_options(parser: ArgumentParser) -> None:
    """Add the options for facts that a file of another program leaves out."""
    group = parser.add_argument_group(
        "files of other programs", "They are recognised by their content. What a file lacks is asked for:"
    )
    group.add_argument("--format", metavar="NAME")
    for name, metavar in IMPORT_OPTIONS.items():
        option = "--" + CALLED.get(name, name).replace("_", "-")
        group.add_argument(option, dest=name, type=int, metavar=metavar)
    group.add_argument("--moe-layers", metavar="LAYERS")
    group.add_argument("--first-axis", choices=("layers", "tokens"))


def import_options(args: Namespace) -> "ImportOptions":
    """Return the `ImportOptions` given on the command line. Raises `InvalidTrace` for a value that cannot be."""
    from moeviz.formats.importers.importer import ImportOptions, layers_of

    given = {name: getattr(args, name) for name in (*IMPORT_OPTIONS, "first_axis")}
    return ImportOptions(**given, moe_layers=layers_of(args.moe_layers) if args.moe_layers is not None else None)


def read_prompts(args: Namespace) -> "tuple[Prompt, ...]":
    """Return the prompt; or the conversations in the file of --messages, which turn --chat on.

    Raises `InvalidPrompt` for what cannot be read.
    """
    if args.messages is None:
        return (read_prompt(args),)
    args.chat = True
    return conversations_at(args.messages)


def conversations_at(path: str) -> "tuple[Conversation, ...]":
    """Read the conversations in a file. Raises `InvalidPrompt` if it cannot be read or holds none."""
    from moeviz.capture.run.chat import conversations_in

    try:
        return conversations_in(prompt_in(path))
    except UnicodeError as error:
        raise InvalidPrompt(f"{quoted(path)} is not text in UTF-8. Save the file in that encoding.") from error


def read_prompt(args: Namespace) -> str:
    """Return the prompt as it was given, or from the file of -f or standard input without the newline at its end.

    Raises `InvalidPrompt` for what is not text, and for a file that does not exist.
    """
    given, path = args.prompt, args.prompt_file
    try:
        if path is not None:
            return without_last_newline(prompt_in(path))
        text = without_last_newline(sys.stdin.read()) if given == "-" else given
        text.encode()
    except UnicodeError as error:
        raise InvalidPrompt("The prompt is not text in UTF-8. Save the file in that encoding.") from error
    if not why_no_file(given) and Path(given).is_file():
        note(f"{quoted(given)} is the prompt itself, and also the name of a file. To read the file: -f {cut(given)}")
    return text


def without_last_newline(text: str) -> str:
    """Return a text without the newline with which editors and `echo` end it: that would be a token of its own."""
    return text.removesuffix("\n").removesuffix("\r")


def prompt_in(path: str) -> str:
    """Return the text of a file. Raises `InvalidPrompt` if it cannot be read, `UnicodeError` if it is not UTF-8."""
    if why := why_no_file(path):
        raise InvalidPrompt(f"No file can be called {quoted(path)}: the name {why}.")
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidPrompt(why_not_read(path, error)) from error


def loading(args: Namespace) -> dict[str, Any]:
    """Return the options by which a model is loaded, as `moeviz.load_model` takes them: those that were given."""
    given = {name: getattr(args, name) for name in ("device_map", "dtype", "offload_folder")}
    given["check_memory"] = False if args.ignore_memory else None
    return {name: value for name, value in given.items() if value is not None}


def load(args: Namespace, name: str | None = None) -> "LoadedModel | EngineModel":
    """Open the model of a command, or the one of that name, in the engine that runs it, and note it."""
    from transformers.utils.logging import EmptyTqdm, disable_progress_bar, set_tqdm_hook

    from moeviz.capture.opening import load_model

    run_adapters(args)

    class Shown(EmptyTqdm):
        """Shows how many of the weights are loaded."""

        def __iter__(self) -> Iterator[Any]:
            parts = list(self._iterator)
            for done, part in enumerate(parts, start=1):
                yield part
                progress(done, len(parts), "loaded {:,} of {:,} tensors")

    if not watched():
        disable_progress_bar()
    set_tqdm_hook(lambda bar, given, how: Shown(*given) if given else bar(*given, **how))
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

    return _of_segment(read_counted(path, format=args.format, options=import_options(args)), args)


def read_one_trace(path: str, args: Namespace) -> "RoutingTrace":
    """Read the trace in a file or a dataset. Raises `InvalidTrace` if it holds only counts."""
    from moeviz.formats.dataset.convert import trace_of
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import read_trace

    if is_dataset(path):
        return trace_of(open_dataset(path, args))
    trace = read_trace(path, format=args.format, options=import_options(args))
    return cast("RoutingTrace", _of_segment(trace, args))


def _of_segment(counted: "Counted", args: Namespace) -> "Counted":
    """Return the tokens of the segment that was asked for; all if none was."""
    from moeviz.serving.requests import with_tokens

    if (segment := getattr(args, "segment", None)) is None:
        return counted
    return with_tokens(counted, f"The segment {quoted(segment)}").of_segment(segment)


def open_file(path: str, args: Namespace) -> "Opened":
    """Read a file with the doctor's findings, and note that it is being read: a large file takes seconds."""
    from moeviz.formats.exports import open_path

    note(f"reading {cut(path)}")
    return open_path(path, format=args.format, options=import_options(args))


def open_dataset(path: str, args: Namespace) -> "Dataset":
    """Open a dataset where it lies, and note the shards that are left out of it."""
    from moeviz.formats.dataset.opening import read_dataset

    if getattr(args, "segment", None) is not None:
        raise MissingField("A dataset does not keep the segments of chats. Give a .npz, .json, .csv or .parquet file.")
    dataset = read_dataset(path, partial=getattr(args, "partial", False))
    for sentence in dataset.left_out:
        note(f"left out: {sentence}")
    return dataset


def counted_at(file: str, args: Namespace) -> "Counted":
    """Read the trace or the counts in a file; of a dataset its counts, from its small tables."""
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import read_counted

    return open_dataset(file, args).counts() if is_dataset(file) else read_counted(file)
