"""Each option of each command reaches what it is for: one table, made from the commands' own parsers."""

import ast
from argparse import Action, ArgumentParser, ArgumentTypeError
from dataclasses import replace
from importlib import import_module
from inspect import getsource, isfunction
from types import ModuleType

import pytest

from moeviz.cli.main import COMMANDS, main, parser, read_arguments
from moeviz.cli.options import loading, number
from moeviz.cli.trace import request_of
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace

OF_MAIN = {"help", "quiet", "command", "extra"}  # which the command line itself takes


def actions_of(command: str) -> list[Action]:
    """The options and arguments of a command, those of its own subcommands included."""
    (commands,) = (one for one in parser()._actions if isinstance(one.choices, dict))
    found, left = [], [commands.choices[command]]
    while left:
        one: ArgumentParser = left.pop()
        for action in one._actions:
            found.append(action)
            left += action.choices.values() if isinstance(action.choices, dict) else []
    return [action for action in found if action.dest not in OF_MAIN and action.dest != "==SUPPRESS=="]


def module_of(command: str) -> ModuleType:
    return import_module(f"moeviz.cli.{command.replace('-', '_')}")


def names_read(command: str) -> set[str]:
    """Names that the command, and what it calls in moeviz.cli, read from its arguments: as attributes or by words."""
    left, seen, names = [module_of(command)], set(), set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        tree = ast.parse(getsource(one))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "arguments":
                node.body = []  # where an option is named is not where it is read
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.Name):
                home = one if isinstance(one, ModuleType) else import_module(one.__module__)
                called = getattr(home, node.id, None)
                if isfunction(called) and called.__module__.startswith("moeviz.cli") and "add_" not in node.id:
                    left.append(called)
                elif isinstance(called, dict):
                    names.update(key for key in called if isinstance(key, str))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moeviz."):
                for name in node.names:
                    part = getattr(import_module(node.module), name.name, None)
                    if isfunction(part) and part.__module__.startswith("moeviz.cli"):
                        left.append(part)
                    elif isinstance(part, tuple):  # the table of the interventions
                        rows = [row for row in part if hasattr(row, "make")]
                        names.update(row.name for row in rows)
                        left += [import_module(row.make.__module__) for row in rows]
    return names


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_read_by_it(command):
    unread = {action.dest for action in actions_of(command)} - names_read(command) - {"all"}  # which `main` reads
    assert not unread, f"moeviz {command} takes these, and nothing looks at them"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_words_and_all_words_of_the_table_are_of_an_option(command):
    actions = actions_of(command)
    assert all(action.help for action in actions if not isinstance(action.choices, dict))
    assert {*COMMANDS[command].get("options", {})} <= {n for each in actions for n in (*each.option_strings, each.dest)}


# What an option of `moeviz trace` changes beside the request and the loading of the model, or what must be a file.
OF_THE_OUTPUT = {"output", "json", "all", "prompt", "prompt_file", "image", "messages"}
NEEDS = {"system": ["--chat"], "sample_top_k": ["--temperature", "1"], "top_p": ["--temperature", "1"]}
NEEDS["num_return_sequences"] = ["--num-beams", "9"]
WORDS = {"cache": "static", "dtype": "float16", "decoding": "checkpoint", "top_p": "0.5", "temperature": "0.5"}


def asked(words: list[str]) -> tuple:
    """What `moeviz trace` with these words asks for, and of which model."""
    args = read_arguments(["trace", "a text", *words])
    return request_of(args, ("a text",)), loading(args), args.model, args.backend, args.adapter


def value_of(action: Action) -> list[str]:
    """A value that the option does not have by itself."""
    if action.nargs == 0:
        return []
    return [WORDS.get(action.dest) or ("7" if action.type is not None else "somewhere")]


TRACE_OPTIONS = [one for one in actions_of("trace") if one.option_strings and one.dest not in OF_THE_OUTPUT]


@pytest.mark.parametrize("option", TRACE_OPTIONS, ids=lambda one: one.dest)
def test_every_option_of_a_trace_changes_what_is_asked_for_and_has_the_value_that_was_given(option):
    before, given = NEEDS.get(option.dest, []), value_of(option)
    plain, changed = asked(before), asked([*before, option.option_strings[-1 if option.nargs != 0 else 0], *given])
    assert plain != changed
    if given and option.dest != "decoding":
        assert given[0] in repr(changed) and given[0] not in repr(plain)


@pytest.mark.parametrize("text", ["nan", "-inf", "inf", "-0.1", "1.1"])
def test_a_number_outside_its_range_or_none_at_all_is_refused(text):
    with pytest.raises(ArgumentTypeError):
        number(float, 0, 1)(text)
    assert number(float, 0, 1)("0.5") == 0.5


def test_a_difference_names_the_first_file_first(tmp_path, capsys):
    trace = sample_trace(tokens=40)
    for name in ("first", "second"):
        write_trace(replace(trace, model=replace(trace.model, name=f"the {name} engine")), tmp_path / f"{name}.npz")
    assert main(["diff", str(tmp_path / "first.npz"), str(tmp_path / "second.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the first engine" in lines[0] and "the second engine" in lines[1]
