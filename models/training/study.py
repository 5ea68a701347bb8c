"""What the terms about routing do: `python -m models.training.study TOKENS OUT [--seeds 3] [--tokens 1e6]`.

A small model is trained on the same tokens with one setting after the other; prints a table in Markdown, a line for
each setting and seed. A run that is there already is read, one that was stopped goes on. The settings: where the load
has to be even (over the batch of many texts, or within each window of one), and the push towards kinds of text.
"""

import argparse
import json
import logging
import sys
from itertools import product
from pathlib import Path

import numpy as np

from models.training.train import DTYPE_HELP, DTYPES, Run, parse, train
from models.training.validation import Report

BALANCING, WITHIN, INFORMATION = (0.2, 0.04), ("batch", "window"), (0.0, 0.05)
PROXY = ["--tokens-per-step=4096", "--long-from=1", "--hidden=128", "--layers=4", "--heads=2"]
HEADER = (
    "load balancing",
    "counted over each",
    "mutual information",
    "seed",
    "nats/token",
    "first choice repeats, by layer",
    "first or second",
    "MI(expert; domain) by layer, bits",
    "busiest / mean, by layer",
)


def row(setting: tuple, report: Report) -> str:
    """One line of the table."""
    figures = report.repeats, report.repeats_any, report.information, report.busiest
    layers = (" ".join(f"{value:.2f}" for value in values) for values in figures)
    nats = np.mean(list(report.nats.values()))
    return " | ".join(["", *map(str, setting), f"{nats:.3f}", *layers, ""]).strip()


def trained(tokens_folder: str, folder: Path, options: list[str]) -> Report:
    """The last report of such a run, which is made or finished where it is not there."""
    run = Run(parse([tokens_folder, str(folder), *PROXY, *options]))
    if run.progress >= 1 and (reports := folder / "reports.jsonl").exists():
        last = json.loads(reports.read_text().splitlines()[-1])
        return Report(**{name: last[name] for name in Report.__dataclass_fields__})
    run.model.compile_parts()
    return train(run)


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training.study", description=__doc__)
    parser.add_argument("tokens_folder", metavar="TOKENS", help="the tokenised corpus")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=float, default=1e6, help="of each run")
    parser.add_argument("--load-balancing", type=float, nargs="+", default=BALANCING, help="coefficients to try")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=DTYPE_HELP)
    asked = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    for seed, *setting in product(range(asked.seeds), asked.load_balancing, WITHIN, INFORMATION):
        balancing, within, information = setting
        options = [f"--load-balancing={balancing}", f"--balance-within={within}", f"--domain-information={information}"]
        folder = asked.out / f"balancing-{balancing:g}-{within}-information-{information:g}-seed-{seed}"
        report = trained(
            asked.tokens_folder,
            folder,
            [*options, f"--tokens={asked.tokens:g}", f"--seed={seed}", f"--dtype={asked.dtype}"],
        )
        print(row((*setting, seed), report), flush=True)


if __name__ == "__main__":
    main()
