"""The reference: which names autodoc is asked for, room by room, and what every command says under `--help`."""

import argparse
import inspect
import os
import pkgutil
from collections.abc import Iterator
from importlib import import_module

WIDTH = "88"  # columns of what argparse prints


def commands() -> str:
    """Every command: what it does, its arguments as `--help` tells them, and its examples."""
    from moeviz.cli.main import COMMANDS

    return "\n\n".join(_command(name, row["help"], row["examples"]) for name, row in COMMANDS.items())


def _command(name: str, says: str, examples: str) -> str:
    from moeviz.cli.main import add_arguments

    parser = argparse.ArgumentParser(f"moeviz {name}", formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(name, parser)
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), WIDTH
    try:
        told = parser.format_help()
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    lines = "\n".join(_remark_above(line.strip()) for line in examples.splitlines())
    return f"## moeviz {name}\n\n{says}\n\n```text\n{told.rstrip()}\n```\n\nExamples:\n\n```sh\n{lines}\n```"


def _remark_above(line: str) -> str:
    """An example with what is said beside it in a line of its own, so that it fits on a phone.

    >>> _remark_above("moeviz app --port 80      on another port")
    '# on another port\\nmoeviz app --port 80'
    """
    command, _, remark = line.partition("  ")
    return f"# {remark.strip()}\n{command}" if remark else command


def front_door() -> str:
    """The names that `moeviz` itself has, and its way in for a router that it does not know."""
    import moeviz

    names = [name for name in moeviz.__all__ if not name.startswith("__")]
    names.sort(key=lambda name: inspect.isclass(getattr(moeviz, name)))  # what one calls comes first
    return "\n\n".join([_named("moeviz", name) for name in names] + [_named("moeviz.adapters", "register")])


def _named(module: str, name: str) -> str:
    subject = getattr(import_module(module), name)
    kind = "class" if inspect.isclass(subject) else "function" if callable(subject) else "data"
    return _rst(f".. auto{kind}:: {module}.{name}")


def middle() -> str:
    """The files between models and pictures."""
    names = (
        "routing_trace",
        "next_tokens",
        "expert_outputs",
        "expert_counts",
        "model_info",
        "errors",
        "parameters",
        "labelled_texts",
        "testing",
        "file_limits",
        "published",
    )
    return "\n\n".join(_module(f"moeviz.{name}") for name in names)


def capture() -> str:
    """Models become traces."""
    return _room("moeviz.capture")


def metrics() -> str:
    """Traces become numbers."""
    return _room("moeviz.metrics")


def serving() -> str:
    """Traces become what they cost to serve, and plans."""
    return _room("moeviz.serving")


def pruning() -> str:
    """Experts are cut."""
    return _room("moeviz.analyses.pruning")


def training() -> str:
    """Routing while a model trains."""
    return _room("moeviz.training")


def charts() -> str:
    """Numbers become pictures."""
    return _room("moeviz.charts")


def formats() -> str:
    """Traces become files."""
    return _room("moeviz.formats")


def report() -> str:
    """Traces become pages."""
    return _room("moeviz.report")


def kernels() -> str:
    """What runs on a GPU."""
    return _room("moe_kernels")


def _room(name: str) -> str:
    return "\n\n".join(_module(module) for module in modules_of(name))


def modules_of(room: str) -> Iterator[str]:
    """The modules of a package that hold something, by name."""
    for module in pkgutil.walk_packages(import_module(room).__path__, f"{room}."):
        if not module.ispkg and not module.name.endswith("__main__"):
            yield module.name


def _module(name: str) -> str:
    return f"## {name}\n\n" + _rst(f".. automodule:: {name}")


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"
