"""Train the systems of the history gallery, and write what ships: python -m benchmarks.history [NAME ...] [--sweeps]

    python -m benchmarks.history --table-1991      table 1 of the paper of 1991 beside ours, trained anew with 25 seeds
                                                   of each, in half a minute; nothing is written. With
                                                   praat-parselmouth installed, of the measured vowels too.

With --sweeps also the tables over many settings, which takes a quarter of an hour. Where a run without balance ships
too, it is written as well. One thread, so that what is written depends on the seed alone; the seconds that each takes
are printed.
"""

import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, save
from moeviz.history.systems import BESIDE, SYSTEMS, part, train


def folder(name: str) -> Path:
    """Where a system's files are."""
    return Path(part(name, "model").__file__).parent


def write(frame: pd.DataFrame, name: str) -> None:
    """A table that ships, in as many digits as anybody reads."""
    frame.to_csv(folder(name) / "sweep.csv", index=False, float_format="%.5g")


def timed(what: str, make, keep) -> None:
    """Make something, keep it, and say how long that took."""
    began = time.perf_counter()
    keep(make())
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def main(words: list[str]) -> None:
    """Train what is named, or all; or print the table of 1991."""
    if words == ["--table-1991"]:
        with pd.option_context("display.float_format", "{:,.2f}".format):
            print(part("local-experts", "exhibit").table_1().to_string(index=False))
        return
    torch.set_num_threads(1)
    for name in [name for name in words if name != "--sweeps"] or SYSTEMS:
        timed(name, lambda name=name: train(name), lambda result, name=name: save(result, folder(name) / SHIPPED))
        if name in BESIDE:
            make, file = partial(part(name, "model").train, **BESIDE[name]), WITHOUT_BALANCE
            timed(f"{name}, {file}", make, lambda result, name=name, file=file: save(result, folder(name) / file))
        sweep = part(name, "exhibit").EXHIBIT.sweep
        if "--sweeps" in words and sweep is not None:
            timed(f"{name}, sweep", sweep, lambda frame, name=name: write(frame, name))


if __name__ == "__main__":
    main(sys.argv[1:])
