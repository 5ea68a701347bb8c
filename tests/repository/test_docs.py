"""What the documents say is so: their examples run, their commands are read, and the model card is about the model."""

import doctest
import hashlib
import importlib.util
import inspect
import json
import pkgutil
import pydoc
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from site_of_docs import DOCS, ROOT, blocks

import models.training
import moeviz
from moeviz.charts import TOPICS
from moeviz.cli.main import main, read_arguments
from moeviz.embedded import embedded_path
from moeviz.embedded.recorded_routing import traces_over_training

sys.path.append(str(DOCS))
from _ext import gallery, reference

CARD = (embedded_path() / "MODEL_CARD.md").read_text()
MODULES = [
    "moeviz",
    *(
        module.name
        for package in (moeviz, models.training)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith("__main__")
    ),
]
EXTENSIONS = [f"_ext.{module.name}" for module in pkgutil.iter_modules([str(DOCS / "_ext")])]


def has_examples(name: str) -> bool:
    return ">>> " in Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")


# What is written in the pages' own words, and the examples of `--help`, which the reference shows.
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
TEXTS["moeviz --help"] = reference.commands()
SHELL = ("", "console", "sh", "bash", "shell")
ELSEWHERE = (
    "install",
    "index",
    "tutorials/",
    "how-to/",
)  # run in test_readme.py, where what they print is looked at too
WITH_PYTHON = [name for name, text in TEXTS.items() if blocks(text, "python") and not name.startswith(ELSEWHERE)]


@pytest.mark.parametrize("name", [*filter(has_examples, [*MODULES, *EXTENSIONS, "history_checks.claims"])])
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", [name for name in moeviz.__all__ if not name.startswith("_")])
def test_every_name_of_the_front_door_has_an_example_and_one_line_that_stands_alone(name):
    public = getattr(moeviz, name)
    said = inspect.getdoc(public) or ""
    assert "another day" not in pydoc.render_doc(public), "help shows the comments of the standard library."
    assert ">>> " in said, f"help(moeviz.{name}) shows no example."
    assert said.splitlines()[0].endswith((".", ":")) and not said.startswith(("What", "The same", "That"))


def commands_of(text: str) -> Iterator[list[str]]:
    """The arguments of every `moeviz …` in a page's blocks, up to where a pipe or a file takes over."""
    for block in blocks(text, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith("moeviz "):
                words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
                yield words[: next((at for at, word in enumerate(words) if word in ("|", "<", ">")), len(words))]


WITH_COMMANDS = [name for name, text in TEXTS.items() if list(commands_of(text)) and not name.startswith(ELSEWHERE)]


@pytest.mark.docs
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_in_the_pages_runs(name, tmp_path, monkeypatch):
    """All blocks of a page one after the other, as somebody would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(TEXTS[name], "python"):
        exec(compile(block, name, "exec"), names)


@pytest.mark.docs
def test_the_calls_beside_the_topics_of_the_gallery_draw_their_charts():
    """What comes before them on the page, the building of the site runs (test_site.py)."""
    names = {"trace": traced(), "labelled": [*traces_over_training().values()][-1]}
    for topic in TOPICS:
        call = gallery.call("labelled" if topic == gallery.OF_LABELS else "trace", topic)
        assert len(eval(call, names).vconcat) == len(TOPICS[topic])


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_in_the_pages_are_read(name):
    for words in commands_of(TEXTS[name]):
        args = read_arguments(words)
        assert not args.extra or args.command == "app", f"moeviz {shlex.join(words)}"


def test_a_command_with_an_option_that_there_is_not_would_be_noticed():
    (words,) = commands_of("```console\n$ moeviz trace Once \\\n    --no-such-option x | head  # why\n```")
    assert words == ["trace", "Once", "--no-such-option", "x"]
    for wrong in (words, ["no-such-command"]):
        with pytest.raises(SystemExit):
            read_arguments(wrong)


def why_not(words: list[str]) -> str:
    """Why a command of the pages is not run here; nothing where it is."""
    args = read_arguments(words)
    given = {name: value for name, value in vars(args).items() if value not in (None, False)}
    if args.command in ("app", "corpus", "history", "prune", "bits") or given.get("texts"):
        return "serves, or trains, or reads many texts"
    if given.get("check") or given.get("known"):
        return "takes minutes"
    if args.command == "routes" and given.get("json"):
        return "runs the model as the example before it"
    if given.get("prompt") == "-":
        return "reads what somebody types"
    if given.get("model", "embedded") != "embedded":
        return "asks the hub, or a folder"
    files = [given[name] for name in ("source", "other", "replay", "trace", "run", "judged_on") if name in given]
    files += given.get("labels") or ()
    files += [word for word in given.get("bias", ()) if word.endswith(".json")]
    return "" if all(Path(file).exists() for file in files) else "reads a file of somebody's own"


@pytest.mark.docs
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_in_the_pages_run(name, tmp_path, monkeypatch, capsys):
    """One after the other, in a folder where `trace.*` are traces; without those that need a network or minutes."""
    monkeypatch.chdir(tmp_path)
    for suffix in ("npz", "csv", "json", "parquet"):
        moeviz.write_trace(traced(), f"trace.{suffix}")
    for words in commands_of(TEXTS[name]):
        if not why_not(words):
            assert main(words) == 0, f"moeviz {shlex.join(words)}: {capsys.readouterr().err[-1000:]}"


@cache
def traced() -> moeviz.RoutingTrace:
    return moeviz.trace(moeviz.load_model(), "Il fait froid à Paris.", max_new_tokens=4)


def test_most_examples_of_the_command_line_are_run(tmp_path, monkeypatch):
    """What is left out is so for a reason: if everything were, the test above would say nothing."""
    monkeypatch.chdir(tmp_path)
    for suffix in ("npz", "csv", "json"):
        Path(f"trace.{suffix}").touch()
    found = list(commands_of(TEXTS["moeviz --help"]))
    run = {words[0] for words in found if not why_not(words)}
    assert run >= {"trace", "what-if", "ablate", "precision", "params", "families", "metrics", "convert"}


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".md")])
def test_commands_of_make_and_of_python_in_the_pages_are_there(name):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = "\n".join(blocks(TEXTS[name], *SHELL)) + "\n".join(re.findall(r"`([^`\n]+)`", TEXTS[name]))
    assert {
        word for line in re.findall(r"\bmake ((?:[\w-]+ ?)+)$", shell, re.MULTILINE) for word in line.split()
    } <= targets
    for module in re.findall(r"python -m ((?:moeviz|benchmarks|models)[\w.]*)", shell):
        assert importlib.util.find_spec(module), module


def test_the_model_card_is_about_the_weights_that_ship():
    weights = (embedded_path() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in CARD
    assert f"{len(weights):,} bytes" in CARD
    config = json.loads((embedded_path() / "config.json").read_text())
    assert f"{config['num_hidden_layers']} layers, hidden {config['hidden_size']}" in CARD
    assert f"{config['num_local_experts']} experts of width {config['intermediate_size']}" in CARD


def test_the_model_card_counts_its_parameters():
    from moeviz.capture.models.load import model_facts
    from moeviz.parameters import active_parameters

    facts = model_facts("embedded")
    assert f"{facts.parameters.total:,} in all" in CARD
    assert f"{active_parameters(facts.parameters, facts.top_k):,} active" in CARD
