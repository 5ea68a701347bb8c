"""The words of a command line in an order that argparse reads, so that options may stand anywhere among the others.

argparse gives an option of several values every word up to the next option, the prompt too; and words of one list that
stand apart are errors. So an option takes one value, may be given again, and what is not an option's comes first.
"""

import re
from argparse import Action, ArgumentError, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")  # as argparse has it


class Several(Action):
    """Collect the values of an option that may be given again, such as `--layers 2 --layers 3` or `--layers 2,3`.

    `split` separates values in one word, "" where nothing does; `read` reads one of them. `pattern` is what a further
    word must look like to be one too, as in `--layers 2 3`: the spelling of before, where the command has all else.
    """

    def __init__(
        self, *given: Any, split: str = "", pattern: str = ".+", read: Callable[[str], Any] = str, **how: Any
    ) -> None:
        super().__init__(*given, **how)
        self.split, self.pattern, self.read = split, re.compile(pattern, re.DOTALL), read

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Add what one word holds; the first takes the place of the default."""
        held = getattr(namespace, self.dest)
        parts = values.split(self.split) if self.split else [values]
        try:
            read = [self.read(part) for part in parts]
        except ArgumentTypeError as error:
            raise ArgumentError(self, str(error)) from error
        except ValueError as error:
            raise ArgumentError(self, f"invalid {self.read.__name__} value: {values!r}") from error
        setattr(namespace, self.dest, [*([] if held is self.default else held), *read])


def in_order(parser: ArgumentParser, words: Sequence[str]) -> list[str]:
    """Put the words that are no option's before the options, each of which has its value.

    >>> parser = ArgumentParser()
    >>> _, _ = parser.add_argument("prompt"), parser.add_argument("--layers", action=Several, pattern="[0-9,]+")
    >>> in_order(parser, ["--layers", "3", "12 + 30"]), in_order(parser, ["12 + 30", "--layers", "3", "5"])
    (['12 + 30', '--layers=3'], ['12 + 30', '--layers=3', '--layers=5'])
    """
    for at, word in enumerate(words):  # of a command that has commands, the words of the one that is named
        commands = _commands(parser)
        if commands is None or is_option(parser, word):
            continue
        rest = list(words[at + 1 :])
        return [*words[: at + 1], *(in_order(commands[word], rest) if word in commands else rest)]
    options, seen, others, last = _divided(parser, list(words))
    sure = [word for word, option in others if option is None]
    if len(sure) + len(last) >= _needed(parser, seen):  # the rest can be options' values
        options += [f"{option}={word}" for word, option in others if option is not None]
        others = [pair for pair in others if pair[1] is None]
    given = [word for word, _ in others]
    return [*options, "--", *given, *last] if last else [*given, *options]


def _divided(
    parser: ArgumentParser, words: list[str]
) -> tuple[list[str], set[Action], list[tuple[str, str | None]], list[str]]:
    """Options with their values; their actions; other words, each with the option that may have it; those after --."""
    options: list[str] = []
    seen: set[Action] = set()
    others: list[tuple[str, str | None]] = []
    claims: tuple[str, Several] | None = None
    while words:
        word = words.pop(0)
        if word == "--":
            return options, seen, others, words
        if not is_option(parser, word):
            claims = claims if claims and claims[1].pattern.fullmatch(word) else None
            others.append((word, claims[0] if claims else None))
            continue
        claims, action = None, _action(parser, word)
        options.append(word)
        if action is None:
            continue
        seen.add(action)
        if "=" in word or (not word.startswith("--") and len(word) > 2):
            continue  # it has its value
        values = _values(parser, action, words, bool(others))
        del words[: len(values)]
        if len(values) == 1 and word.startswith("--"):
            options[-1] += f"={values[0]}"  # which may begin with a dash
        else:
            options += values
        claims = (word, action) if isinstance(action, Several) and values else None
    return options, seen, others, []


def _values(parser: ArgumentParser, action: Action, words: list[str], has_others: bool) -> list[str]:
    """Return the words that are an option's values: as many as it takes.

    Where it may have one, that is a word that it can read; or any, where words that are no option's came before.
    """
    many = {None: 1, "?": 1}.get(action.nargs, action.nargs)
    taken = list(words[: many if isinstance(many, int) else 0])
    if any(word == "--" or is_option(parser, word) for word in taken):
        return []  # argparse says what is missing
    if action.nargs == "?" and taken and callable(action.type) and not has_others:
        try:
            action.type(taken[0])
        except (ArgumentTypeError, ValueError):
            return []
    return taken


def is_option(parser: ArgumentParser, word: str) -> bool:
    """Return whether a word is an option: not a text with spaces, nor - for standard input, nor a number below 0."""
    if _action(parser, word) is not None:
        return True
    return len(word) > 1 and word.startswith("-") and " " not in word and not NEGATIVE.match(word)


def _action(parser: ArgumentParser, word: str) -> Action | None:
    """Return what an option does, also by the beginning of its name; None for other words."""
    known, name = parser._option_string_actions, word.partition("=")[0]
    if name in known or not word.startswith("-") or len(word) == 1:
        return known.get(name)
    if not word.startswith("--"):
        return known.get(word[:2])
    found = {id(action): action for option, action in known.items() if option.startswith(name)}
    return next(iter(found.values())) if len(found) == 1 and len(name) > 2 else None


def _needed(parser: ArgumentParser, seen: set[Action]) -> int:
    """Return how many words that are no option's a command must have, when these options were given."""
    must = sum(not action.option_strings and action.nargs in (None, "+") for action in parser._actions)
    for group in parser._mutually_exclusive_groups:
        has = any(not action.option_strings for action in group._group_actions)
        must += group.required and has and not seen & set(group._group_actions)
    return must


def _commands(parser: ArgumentParser) -> dict[str, ArgumentParser] | None:
    found = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    return found[0].choices if found else None  # type: ignore[return-value]


def called(parser: ArgumentParser, words: Sequence[str]) -> ArgumentParser:
    """Return the parser of the command that the words call, the innermost: its usage helps where a word is wrong."""
    names = iter(word for word in words if not word.startswith("-"))
    while (commands := _commands(parser)) is not None and (found := commands.get(next(names, ""))) is not None:
        parser = found
    return parser


def options_of(parser: ArgumentParser) -> Iterator[str]:
    """Yield the long options that a command's help shows."""
    for action in parser._actions:
        if action.help != "==SUPPRESS==":
            yield from (option for option in action.option_strings if option.startswith("--"))


def like(word: str, known: Sequence[str]) -> str:
    """Say which known word somebody may have meant, as the end of a sentence; "" where none is near.

    >>> like("metric", ["trace", "metrics"]), like("x", ["trace"])
    (' Did you mean metrics?', '')
    """
    near = get_close_matches(word.partition("=")[0], known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""
