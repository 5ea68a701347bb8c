"""Runs of the phone book that ship: a table with seeds and controls, and six that say how they learned, for the wall.

`python -m benchmarks.history phone-book` makes them anew. Nothing here needs torch.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int8

from moeviz.history.shared.results import load

HERE = Path(__file__).parent
TABLE = HERE / "runs.csv"
COUNTS = ("parameters", "expert_parameters", "at_work")  # columns of the table
NAMES, NUMBERS = 256, 64  # first names, and as many second names; numbers from 0 on
WIDTH, HIDDEN = 48, 48  # of the network, and of an expert
HELD_OUT = 4000  # pairs of names that no network learns
TASKS = {"book": 40_000, "rule": 2_000}  # and how many facts are learned of it
MANY = 10_000  # examples of the rule, of which no network needs more
NETWORKS = {"dense": 2, "8 experts": 8, "32 experts": 32}  # and how many experts of one size each has in all
RECORDED = {f"{task}-{experts}": (task, experts) for task in TASKS for experts in NETWORKS.values()}
WALL = (16, 24)  # the first of the first names and of the second names: those that are drawn
FIRST_NAMES = "Ada Ben Cleo Dov Eli Fay Gus Hana Ida Jon Kai Lea Max Nia Otto Pia"
SECOND_NAMES = (
    "Abel Bohr Cruz Diaz Eden Fox Gray Hahn Ito Jung Kahn Lin Moor Nash Ong Park Quist Rao Sato Tran Uhl Vega Wong Yu"
)


@dataclass(frozen=True, slots=True, eq=False)
class BookRun:
    """A network that has learned: how much of it after how many steps, and which of the W names on the wall."""

    settings: dict[str, int | float | str]  # task, facts, experts, top_k, router, steps, learning_rate, seed, book
    parameters: int
    expert_parameters: int
    at_work: int  # parameters of the experts that work on one fact
    recorded: tuple[int, ...]  # R steps: 0, before training, first
    remembered: Float64[np.ndarray, " R"]  # share of what it learned that it answers correctly
    unseen: Float64[np.ndarray, " R"]  # share of 4,000 pairs it never saw that it answers correctly
    right: Bool[np.ndarray, "R W"] = field(repr=False)  # on the wall, row by row
    seen: Bool[np.ndarray, " W"] = field(repr=False)  # True if it learned that name
    numbers: Int8[np.ndarray, " W"] = field(repr=False)
    answers: Int8[np.ndarray, " W"] = field(repr=False)  # after the last step
    experts: Int8[np.ndarray, "R W K"] = field(repr=False)  # highest weight first; K is 0 in a dense network

    @property
    def shares(self) -> Float64[np.ndarray, " R"]:
        """The task's measure: the share of a book that is remembered, or that a rule gets right for new names."""
        return self.remembered if self.settings["task"] == "book" else self.unseen


def shipped_run(name: str) -> BookRun:
    """Return the run of that name in RECORDED, of seed 0."""
    return load(BookRun, HERE / f"{name}.npz")


def book_table() -> pd.DataFrame:
    """Return the runs that ship, a row a run.

    Columns: part str (book, rule, controls: of the book, decoder: of a smaller book, in a decoder) · name str · task
    str · facts int64 (learned) · experts, top_k int64 (equal in a dense network) · router str · steps int64 ·
    learning_rate float64 · seed int64 · remembered float64 (share of what was learned that is answered correctly) ·
    unseen float64 (the same of 4,000 pairs never seen; NaN in a decoder) · best float64 (the highest `unseen` of all
    recorded steps; NaN where it was not kept) · parameters, expert_parameters, at_work
    Int64 (in all, of all experts, and of those that work on one fact; missing in a decoder).
    """
    return pd.read_csv(TABLE, dtype=dict.fromkeys(COUNTS, "Int64"))


def book_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a row for all seeds of the same run.

    Columns: part, name str · facts int64 · share, lowest, highest float64 (of `unseen` where the task is the rule, else
    of `remembered`: the mean, the lowest and the highest) · best float64 (mean of the column of that name) · seeds
    int64 (their number) · sparse bool (True if a router chooses).
    """
    share = table["unseen"].where(table["task"] == "rule", table["remembered"])
    rows = table.assign(share=share, sparse=table["top_k"] < table["experts"])
    found = rows.groupby(["part", "name", "facts"], sort=False).agg(
        **{name: ("share", how) for name, how in (("share", "mean"), ("lowest", "min"), ("highest", "max"))},
        best=("best", "mean"),
        seeds=("seed", "nunique"),
        sparse=("sparse", "first"),
    )
    return found.reset_index()


def router_work(experts: int) -> float:
    """Return the multiplications that the router adds, as a share of those of the dense network that is as fast.

    >>> f"{router_work(32):.3f}"
    '0.125'
    """
    return WIDTH * experts / (2 * WIDTH * 2 * HIDDEN + WIDTH * NUMBERS)
