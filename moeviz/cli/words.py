"""A parser whose errors are one line of usage and one sentence, and which takes options anywhere among other words.

argparse gives an option of several values every word up to the next option, the prompt too; and words of one list that
stand apart are errors. So an option takes one value, may be given again, and other words come first.
"""

import re
from argparse import (
    PARSER,
    REMAINDER,
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    _SubParsersAction,
)
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from moeviz.text import cut, like, with_and, with_or

NEGATIVE = re.compile(r"-\d+$|-\d*\.\d+$")  # as argparse has it
# argparse's messages about an argument, and ours, which follow the argument's name.
OURS = (
    (r"expected one argument", "needs a value"),
    (r"expected (\d+) arguments", r"needs \1 values"),
    (r"expected at (?:least|most) one argument", "needs a value"),
    (r"not allowed with argument (.*)", r"cannot be combined with \1"),
    (r"ignored explicit argument (.*)", r"takes no value, and got \1"),
    (r"invalid (?:int|whole number) value: (.*)", r"needs a whole number, and got \1"),
    (r"invalid (?:float|number) value: (.*)", r"needs a number, and got \1"),
)


class Parser(ArgumentParser):
    """An `ArgumentParser` that names an argument, what it needs and what it got, and does not guess abbreviations."""

    def __init__(self, *given: Any, **how: Any) -> None:
        super().__init__(*given, allow_abbrev=False, **how)

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise ArgumentError(action, one_of_these(value, [*map(str, action.choices)]))

    def error(self, message: str) -> NoReturn:
        """Print a line of usage and the message as a sentence, and exit with 2."""
        sentence = in_our_words(message).rstrip(".")
        end = "" if sentence.endswith("?") else "."
        self.exit(2, f"{self.usage_line()}\nmoeviz: {sentence}{end}\n")

    def usage_line(self) -> str:
        """Return the usage in one line: the words that are not options, and where the options are listed."""
        names = []
        for action in self._get_positional_actions():
            if action.nargs == PARSER:
                names.append(str(action.metavar))
                continue
            name = str(action.metavar or action.dest)
            optional = action.nargs in ("?", "*", REMAINDER) and not self._needs(action)
            name = f"[{name}]" if optional else name
            names.append(f"{name} …" if action.nargs in ("*", "+", REMAINDER) else name)
        return f"usage: {' '.join([self.prog, *names])} [options]; {self.prog} --help lists them"

    def _needs(self, action: Action) -> bool:
        return any(group.required and action in group._group_actions for group in self._mutually_exclusive_groups)


def one_of_these(value: object, names: Sequence[str]) -> str:
    """Return the message for a value that is not among some names, with those that it is like.

    >>> one_of_these("loads", ["load", "layers"])
    "cannot be 'loads'. Did you mean load? It is one of load and layers."
    """
    return f"cannot be {cut(str(value))!r}.{like(str(value), names)} It is one of {with_and(names)}."


def in_our_words(message: str) -> str:
    """Return argparse's message as a sentence that begins with the argument's name.

    >>> in_our_words("argument -o/--output: expected one argument")
    '--output needs a value'
    >>> in_our_words("one of the arguments PROMPT -f/--prompt-file is required")
    'PROMPT or --prompt-file is missing'
    """
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = [_long(name) for name in found[1].split(", ")]
        return f"{with_and(names)} {'is' if len(names) == 1 else 'are'} missing"
    if found := re.fullmatch(r"one of the arguments (.*) is required", message):
        return f"{with_or([_long(name) for name in found[1].split()])} is missing"
    found = re.fullmatch(r"argument ([^:]*): (.*)", message, re.DOTALL)
    if found is None:
        return message
    says = found[2]
    for pattern, ours in OURS:
        if matched := re.fullmatch(pattern, says, re.DOTALL):
            says = matched.expand(ours)
            break
    return f"{_long(found[1])} {_long(says) if 'combined' in says else says}"


def _long(name: str) -> str:
    """Return the long name of an option that has a short one too.

    >>> _long("-f/--prompt-file"), _long("PROMPT")
    ('--prompt-file', 'PROMPT')
    """
    return re.sub(r"-\w/--", "--", name)


class Several(Action):
    """Collect the values of an option that may be given again, such as `--layers 2 --layers 3` or `--layers 2,3`.

    `split` separates values in one word ("": nothing does); `read` reads one of them. A further word that matches
    `pattern`, as in `--layers 2 3`, is a value too, unless the command needs it for something else.
    """

    def __init__(
        self, *given: Any, split: str = "", pattern: str = ".+", read: Callable[[str], Any] = str, **how: Any
    ) -> None:
        super().__init__(*given, **how)
        self.split, self.pattern, self.read = split, re.compile(pattern, re.DOTALL), read

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Add the values in one word; the first replace the default."""
        held = getattr(namespace, self.dest)
        parts = values.split(self.split) if self.split else [values]
        try:
            read = [self.read(part) for part in parts]
        except ArgumentTypeError as error:
            raise ArgumentError(self, str(error)) from error
        except ValueError as error:
            raise ArgumentError(self, f"invalid {self.read.__name__} value: {cut(values)!r}") from error
        setattr(namespace, self.dest, [*([] if held is self.default else held), *read])


def in_order(parser: ArgumentParser, words: Sequence[str]) -> list[str]:
    """Put other words before the options, each of which is followed by its values.

    >>> parser = ArgumentParser()
    >>> _, _ = parser.add_argument("prompt"), parser.add_argument("--layers", action=Several, pattern="[0-9,]+")
    >>> in_order(parser, ["--layers", "3", "12 + 30"]), in_order(parser, ["12 + 30", "--layers", "3", "5"])
    (['12 + 30', '--layers=3'], ['12 + 30', '--layers=3', '--layers=5'])
    """
    for at, word in enumerate(words):  # a command with commands: order the words of the one that is named
        commands = _commands(parser)
        if commands is None or is_option(parser, word):
            continue
        rest = list(words[at + 1 :])
        return [*words[: at + 1], *(in_order(commands[word], rest) if word in commands else rest)]
    options, seen, others, last = _split_words(parser, list(words))
    sure = [word for word, option in others if option is None]
    if len(sure) + len(last) >= _count_needed(parser, seen):  # the rest can be options' values
        options += [f"{option}={word}" for word, option in others if option is not None]
        others = [pair for pair in others if pair[1] is None]
    given = [word for word, _ in others]
    return [*options, "--", *given, *last] if last else [*given, *options]


def _split_words(
    parser: ArgumentParser, words: list[str]
) -> tuple[list[str], set[Action], list[tuple[str, str | None]], list[str]]:
    """Split words into options with values; their actions; other words, with their possible options; words after --."""
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
    """Return the words that are an option's values: the number that it takes.

    An optional value is a word that the option can read, or any word after other words.
    """
    many = {None: 1, "?": 1}.get(action.nargs, action.nargs)
    taken = list(words[: many if isinstance(many, int) else 0])
    if any(word == "--" or is_option(parser, word) for word in taken):
        return []  # argparse reports what is missing
    if action.nargs == "?" and taken and callable(action.type) and not has_others:
        try:
            action.type(taken[0])
        except (ArgumentTypeError, ValueError):
            return []
    return taken


def is_option(parser: ArgumentParser, word: str) -> bool:
    """Return whether a word is an option, and not a text with spaces, - for standard input, or a negative number."""
    if _action(parser, word) is not None:
        return True
    return len(word) > 1 and word.startswith("-") and " " not in word and not NEGATIVE.match(word)


def _action(parser: ArgumentParser, word: str) -> Action | None:
    known, name = parser._option_string_actions, word.partition("=")[0]
    if name in known or not word.startswith("-") or len(word) == 1 or word.startswith("--"):
        return known.get(name)
    return known.get(word[:2])


def _count_needed(parser: ArgumentParser, seen: set[Action]) -> int:
    """Return the number of positional words that a command needs, given these options."""
    must = sum(not action.option_strings and action.nargs in (None, "+") for action in parser._actions)
    for group in parser._mutually_exclusive_groups:
        has = any(not action.option_strings for action in group._group_actions)
        must += group.required and has and not seen & set(group._group_actions)
    return must


def _commands(parser: ArgumentParser) -> dict[str, ArgumentParser] | None:
    found = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    return found[0].choices if found else None  # type: ignore[return-value]


def called(parser: ArgumentParser, words: Sequence[str]) -> ArgumentParser:
    """Return the parser of the innermost command that the words name: its usage helps if a word is wrong."""
    names = iter(word for word in words if not word.startswith("-"))
    while (commands := _commands(parser)) is not None and (found := commands.get(next(names, ""))) is not None:
        parser = found
    return parser


def options_of(parser: ArgumentParser) -> Iterator[str]:
    """Yield the long options that a command's help shows."""
    for action in parser._actions:
        if action.help != SUPPRESS:
            yield from (option for option in action.option_strings if option.startswith("--"))


def unknown_words(parser: ArgumentParser, words: Sequence[str], args: Namespace) -> str:
    """Return a sentence on words that a command does not take: unknown options, or a prompt without quotes."""
    options = [word for word in words if word.startswith("-")]
    if options:
        name = options[0].partition("=")[0]
        return f"There is no option {cut(name)}.{like(name, [*options_of(parser)])}"
    prompt = getattr(args, "prompt", None)
    if isinstance(prompt, str):
        whole = cut(" ".join([prompt, *words])).replace('"', '\\"')
        return f'The prompt is one argument, and {1 + len(words)} were given. Put it in quotes: {parser.prog} "{whole}"'
    words_taken = [action.nargs for action in parser._get_positional_actions()]
    if {"*", "+"} & set(words_taken):
        return f"{cut(' '.join(words))!r} stands apart from the other arguments. Put it next to them"
    taken = sum(many != PARSER for many in words_taken)
    return f"{cut(' '.join(words))!r} is one argument too many: {parser.prog} takes {taken or 'none'}"
