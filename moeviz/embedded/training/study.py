"""What the terms about routing do: `python -m moeviz.embedded.training.study TOKENS OUT`.

A small model is trained on the same tokens with one setting after the other; prints a table in Markdown. Each line is
one run of one seed, early in training: read the order, not the second digit.
"""

import argparse
import logging
import sys
from itertools import product
from pathlib import Path

import numpy as np

from moeviz.embedded.training.train import Run, parse, train
from moeviz.embedded.training.validation import Report

BALANCING = (0.001, 0.01, 0.05, 0.2)
INFORMATION = (0.0, 0.05)
PROXY = ["--tokens=600000", "--tokens-per-step=4096", "--long-from=1", "--hidden=128", "--layers=4", "--heads=2"]
HEADER = (
    "load balancing",
    "mutual information",
    "nats/token",
    "MI(expert; domain) by layer, bits",
    "busiest / mean, by layer",
    "idlest / mean, by layer",
)


def row(balancing: float, information: float, report: Report) -> str:
    """One line of the table."""
    layers = (" ".join(f"{v:.2f}" for v in values) for values in (report.information, report.busiest, report.idlest))
    nats = np.mean(list(report.nats.values()))
    return " | ".join(["", f"{balancing:g}", f"{information:g}", f"{nats:.3f}", *layers, ""]).strip()


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m moeviz.embedded.training.study", description=__doc__)
    parser.add_argument("tokens", metavar="TOKENS", help="the tokenised corpus")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    for balancing, information in product(BALANCING, INFORMATION):
        setting = ["--load-balancing", str(balancing), "--domain-information", str(information)]
        folder = arguments.out / f"balancing-{balancing:g}-information-{information:g}"
        run = Run(parse([arguments.tokens, str(folder), *PROXY, *setting]))
        run.model.compile_parts()
        print(row(balancing, information, train(run)), flush=True)


if __name__ == "__main__":
    main()
