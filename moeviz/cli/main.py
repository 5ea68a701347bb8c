"""The command `moeviz`. Each command has its words in `commands.toml`, and a file of this folder with two functions:

    arguments(parser)   adds its arguments
    run(args)           runs it, and returns the exit code

`-` in a name is `_` in its file. An option without `help` has it in the table.

Results go to stdout and everything else to stderr. Exit codes: 0 done; 1 a check found something (`check`, `watch`,
`families --check`, `history check`); 2 wrong usage; 3 an error, with a sentence on stderr. A command is imported when
it is named; heavy modules are imported in its `arguments` or `run`.
"""

import logging
import os
import re
import signal
import sys
import tomllib
import warnings
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from moeviz.cli.options import add_quiet
from moeviz.cli.output import ALL, DONE, ERROR, QUIET, STOPPED, complain, end_keeping, note
from moeviz.cli.words import Parser, called, in_order, unknown_words
from moeviz.errors import MoevizError, StopReading
from moeviz.interrupted import CODE, stop_at_once
from moeviz.text import cut, like, why_not_read

_TABLE = tomllib.loads(Path(__file__).with_name("commands.toml").read_text("utf-8"))
# In the order of `moeviz --help`.
COMMANDS = {name: row for name, row in _TABLE.items() if isinstance(row, dict) and name != "shared"}
STREAMLIT = re.compile(r"--\w+\.\w+")  # as Streamlit names its options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `moeviz` and return its exit code."""
    try:
        if argv is None:  # until here, and from the last line on, Ctrl-C ends it at once
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if not sys.warnoptions:  # what libraries remark on a stranger's file is not for the user, and not escaped
                warnings.simplefilter("ignore")
        return _run(argv)
    except (KeyboardInterrupt, StopReading):
        note("stopped")
        return CODE
    finally:
        end_keeping()
        if argv is None:
            signal.signal(signal.SIGINT, stop_at_once)


def _run(argv: Sequence[str] | None) -> int:
    args = read_arguments(sys.argv[1:] if argv is None else argv)
    if args.command is None:
        parser().print_help()
        return DONE
    (QUIET.set if getattr(args, "quiet", False) else QUIET.clear)()
    (ALL.set if getattr(args, "all", False) else ALL.clear)()
    logging.basicConfig(format="moeviz: %(message)s")
    logging.getLogger("moeviz").setLevel(logging.WARNING if QUIET.is_set() else logging.INFO)
    for stream in (sys.stdout, sys.stderr):  # a terminal may not know every character that a token has
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args.parser = parser  # of all commands, for the one that completes them
    try:
        code: int = command(args.command).run(args)
        sys.stdout.flush()
        if STOPPED.is_set():
            raise KeyboardInterrupt
        return code
    except BrokenPipeError:  # `moeviz … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MoevizError as error:
        complain(str(error))
    except OSError as error:
        named = error.errno is not None and isinstance(error.filename, str)
        complain(why_not_read(error.filename, error) if named else f"{error.strerror or error}.")
    return ERROR


def read_arguments(given: Sequence[str]) -> Namespace:
    """Read the words of a command line, options anywhere among them. Exits with 2 and a sentence if they are wrong.

    Streamlit's options are in `extra`.
    """
    words = as_options(with_values(given))
    top = parser(words)
    typed = next((word for word in words if not word.startswith("-")), None)
    if typed is not None and typed not in COMMANDS:
        top.error(f"There is no command {cut(typed)!r}.{like(typed, [*COMMANDS])}")
    args, args.extra = top.parse_known_args(words if typed == "app" else in_order(top, words))
    if unknown := [word for word in args.extra if args.command != "app" or not STREAMLIT.match(word)]:
        one = called(top, words)
        one.error(unknown_words(one, unknown, args))
    return args


def command(name: str) -> ModuleType:
    """Return the module of a command, one of `COMMANDS`."""
    return import_module(f"moeviz.cli.{name.replace('-', '_')}")


def parser(words: Sequence[str] | None = None) -> ArgumentParser:
    """Return the parser of all commands; `args.command` is the one that was typed.

    Given the `words` to parse, it is as small as they allow: only the command that they name has its arguments, and if
    they begin with it, the other commands are only names.
    """
    shape = RawDescriptionHelpFormatter
    says = "See which experts of a Mixture-of-Experts language model fire."
    top = Parser("moeviz", description=says, epilog=examples_of(_TABLE), formatter_class=shape)
    top.add_argument("-V", "--version", action=Version)
    add_quiet(top)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    typed = None if words is None else next((word for word in words if not word.startswith("-")), "")
    alone = bool(words) and words[0] == typed and typed in COMMANDS
    for name, row in COMMANDS.items():
        if alone and name != typed:
            commands.add_parser(name)
            continue
        says, examples = row["help"], examples_of(row)
        one = commands.add_parser(name, help=says, description=says, epilog=examples, formatter_class=shape)
        if typed is None or name == typed:
            add_arguments(name, one)
            add_quiet(one)
    return top


def add_arguments(name: str, parser: ArgumentParser) -> None:
    """Add the arguments of a command, with the words that its row of `COMMANDS` has for them."""
    command(name).arguments(parser)
    _add_words(parser, _TABLE["shared"] | COMMANDS[name].get("options", {}))


def _add_words(parser: ArgumentParser, words: dict[str, str]) -> None:
    for action in parser._actions:
        if isinstance(action.choices, dict):  # of commands within a command
            for one in action.choices.values():
                _add_words(one, words)
        elif action.help is None:
            action.help = next((words[name] for name in (*action.option_strings, action.dest) if name in words), None)


def examples_of(row: dict[str, Any]) -> str:
    """Return the lines that end a `--help`, of a row of `COMMANDS` or of the whole table."""
    return "\n  ".join(["examples:", *row["examples"].splitlines()])


def as_options(words: Sequence[str]) -> list[str]:
    """Read the commands that other programs have for help and versions as options.

    >>> as_options(["help", "trace"]), as_options(["version"])
    (['trace', '--help'], ['--version'])
    """
    if words and words[0] in ("help", "version"):
        return [*words[1:2], f"--{words[0]}"] if words[0] == "help" else ["--version"]
    return [*words]


class Version(Action):
    """Print the versions of moeviz and of what runs models."""

    def __init__(self, *given: Any, **how: Any) -> None:
        super().__init__(
            *given, nargs=0, default=SUPPRESS, help="print the versions of moeviz and what it runs on", **how
        )

    def __call__(self, parser: ArgumentParser, *_given: Any) -> None:
        """Print the version and exit."""
        from importlib.metadata import PackageNotFoundError, version

        print(f"moeviz {import_module('moeviz').__version__}")
        for name in ("torch", "transformers"):
            with suppress(PackageNotFoundError):
                print(f"{name} {version(name)}")
        parser.exit()


def with_values(words: Sequence[str]) -> list[str]:
    """Join each of Streamlit's options to its value, which would otherwise be read as a FILE.

    >>> with_values(["app", "--server.address", "0.0.0.0", "trace.npz"])
    ['app', '--server.address=0.0.0.0', 'trace.npz']
    """
    joined: list[str] = []
    for word in words:
        if joined and STREAMLIT.fullmatch(joined[-1]) and not word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
