"""What can be typed after `moeviz`. The options of each command are in `of_models.py` and `of_traces.py`."""

import argparse
import re
from collections.abc import Sequence

from moeviz.cli.examples import EXAMPLES
from moeviz.cli.of_models import (
    ablate_arguments,
    app_arguments,
    corpus_arguments,
    families_arguments,
    history_arguments,
    params_arguments,
    precision_arguments,
    trace_arguments,
    what_if_arguments,
)
from moeviz.cli.of_traces import (
    compare_arguments,
    convert_arguments,
    diff_arguments,
    doctor_arguments,
    metrics_arguments,
    plan_arguments,
    serve_arguments,
    training_arguments,
)

COMMANDS = {
    "app": ("Open the app in a browser. Options that moeviz does not know are passed on to Streamlit.", app_arguments),
    "trace": ("Run a prompt through a model and record what every router decides.", trace_arguments),
    "what-if": ("Run a prompt with the routing changed, and show the effect.", what_if_arguments),
    "ablate": ("Mute each expert that a prompt uses, one at a time, and rank them by the effect.", ablate_arguments),
    "precision": ("Run a prompt in other precisions: which tokens go to other experts?", precision_arguments),
    "corpus": ("Trace labelled texts and show which experts each kind of text uses.", corpus_arguments),
    "params": ("Count a model's parameters, total and active, from its config alone.", params_arguments),
    "families": ("List the MoE families of transformers that moeviz can record, and how.", families_arguments),
    "history": ("Train the systems of the past, and check them against their papers.", history_arguments),
    "metrics": ("Print the numbers behind the app's charts, for a trace in any format.", metrics_arguments),
    "serve": ("Say what routing costs to serve. This starts no server; the command app does.", serve_arguments),
    "plan": ("Write the placement of experts that an inference engine reads.", plan_arguments),
    "convert": (
        "Convert a trace, counts, or what another program wrote, to a format given by the suffix.",
        convert_arguments,
    ),
    "doctor": (
        "Look for what is not plausible in a trace, or in counts; exit code 1 if there is any.",
        doctor_arguments,
    ),
    "diff": (
        "Compare two recordings of the same text: two engines, precisions, training and serving.",
        diff_arguments,
    ),
    "compare": (
        "Show two traces or more side by side, of models that may have nothing in common.",
        compare_arguments,
    ),
    "training": (
        "Say how the routers of a training run are: its alarms, and its last logs. Exit code 3 if an alarm is on.",
        training_arguments,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; `command` says which it is."""
    kind = argparse.RawDescriptionHelpFormatter
    says = "See which experts of a Mixture-of-Experts language model fire."
    top = argparse.ArgumentParser("moeviz", description=says, epilog=EXAMPLES["moeviz"], formatter_class=kind)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (says, fill) in COMMANDS.items():
        fill(commands.add_parser(name, help=says, description=says, epilog=EXAMPLES[name], formatter_class=kind))
    return top


def with_values(words: Sequence[str]) -> list[str]:
    """The words of a command, each of Streamlit's options joined to its value, which would else be taken for FILE.

    >>> with_values(["app", "--server.address", "0.0.0.0", "trace.npz"])
    ['app', '--server.address=0.0.0.0', 'trace.npz']
    """
    joined: list[str] = []
    for word in words:
        if joined and re.fullmatch(r"--\w+\.\w+", joined[-1]) and not word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
