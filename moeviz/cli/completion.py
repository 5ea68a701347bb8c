"""Print what completes commands in a shell: `moeviz completion`."""

from argparse import Action, ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator
from importlib.util import find_spec

from moeviz.errors import MoevizError

SHELLS = ("bash", "zsh", "fish")
FILES = ("FILE", "TRACE", "TEXTS", "PLACE", "FROM", "TO", "A", "B", "RUN", "FOLDER", "DATASET")  # as help calls them


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(args: Namespace) -> int:
    if find_spec("shtab") is None:
        raise MoevizError("Completion is written by shtab, which is not installed here: `pip install shtab`.")
    import shtab

    top = args.parser()
    for action in _actions(top):
        words = str(action.metavar or "").split("|")
        if action.choices is None and set(words) & set(FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab asks for it
    print(shtab.complete(top, args.shell))
    return 0


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, _SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
