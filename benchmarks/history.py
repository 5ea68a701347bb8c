"""Train the systems of the history gallery, and write what ships: python -m benchmarks.history [NAME ...] [--sweeps]

    python -m benchmarks.history phone-book        the table of the phone book anew, with its seeds and controls, and
                                                   the runs that the story shows, in a quarter of an hour
    python -m benchmarks.history --phone-book      print that table as it ships

    python -m benchmarks.history --table-1991      table 1 of the paper of 1991 next to ours, trained anew with 25 seeds
                                                   of each, in half a minute; nothing is written. With
                                                   praat-parselmouth installed, of the measured vowels too.

With --sweeps also the tables over many settings, which takes a quarter of an hour. If a run without balance ships
too, it is written as well. One thread, so that the files depend only on the seed; the seconds of each are printed.
"""

import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from benchmarks.history_tables import SWEEPS, table_1
from benchmarks.phone_book import measure
from moeviz.history.phone_book.runs import COUNTS, TABLE, book_table
from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, save
from moeviz.history.systems import BESIDE, SYSTEMS, part, train


def folder(name: str) -> Path:
    """Return the folder of a system's files."""
    return Path(part(name, "model").__file__).parent


def write(frame: pd.DataFrame, name: str) -> None:
    """A table that ships, in as many digits as anybody reads."""
    frame.to_csv(folder(name) / "sweep.csv", index=False, float_format="%.5g")


def timed(what: str, make, keep) -> None:
    """Make something, keep it, and say how long that took."""
    began = time.perf_counter()
    keep(make())
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def phone_book() -> None:
    """Train all that ships of the phone book, and print it row by row; the table is written as it grows."""
    rows: list[pd.DataFrame] = []
    began = time.process_time()
    for row in measure():
        rows.append(row)
        table = pd.concat(rows, ignore_index=True).astype(dict.fromkeys(COUNTS, "Int64"))
        table.to_csv(TABLE, index=False, float_format="%.5g")
        part, name, seed, remembered, unseen = row[["part", "name", "seed", "remembered", "unseen"]].iloc[0]
        took = time.process_time() - began
        print(f"{part}: {name}, seed {seed}: {remembered:.4f}, unseen {unseen:.4f}; {took:.1f} s of CPU", flush=True)
        began = time.process_time()


def main(words: list[str]) -> None:
    """Train the systems that are named, or all; or print the table of 1991, or that of the phone book."""
    if words == ["--phone-book"]:
        print(book_table().drop(columns=["task", "router"]).to_string(index=False, na_rep=""))
        return
    if words == ["--table-1991"]:
        with pd.option_context("display.float_format", "{:,.2f}".format):
            print(table_1().to_string(index=False))
        return
    torch.set_num_threads(1)
    names = [name for name in words if name != "--sweeps"] or [*SYSTEMS, "phone-book"]
    if "phone-book" in names:
        names.remove("phone-book")
        phone_book()
    for name in names:
        timed(name, lambda name=name: train(name), lambda result, name=name: save(result, folder(name) / SHIPPED))
        if name in BESIDE:
            make, file = partial(part(name, "model").train, **BESIDE[name]), WITHOUT_BALANCE
            timed(f"{name}, {file}", make, lambda result, name=name, file=file: save(result, folder(name) / file))
        if "--sweeps" in words and name in SWEEPS:
            timed(f"{name}, sweep", SWEEPS[name], lambda frame, name=name: write(frame, name))


if __name__ == "__main__":
    main(sys.argv[1:])
