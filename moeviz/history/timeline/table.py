"""The Mixture-of-Experts systems since 1991, with what was published about their size: a table that ships."""

from pathlib import Path

import numpy as np
import pandas as pd

TABLE = Path(__file__).with_name("timeline.csv")
SOFT = "a soft gate runs every expert"  # a remark of the table
NUMBERS = ("total", "active", "experts", "top_k")


def timeline() -> pd.DataFrame:
    """The systems since 1991, by date, with their published sizes and the sources.

    Active parameters are those that one input runs through, by each maker's own convention: makers differ on whether
    embeddings count. Nothing is filled in: if no source gives a number, it is missing.

    `status` says how the least checked number of the row was checked: "read" means in the primary text, "secondary" in
    a text that quotes it, "memory" not at all.

    One row per system. Columns: date str ("2017-01", or "1991" if the month is not known) · year float64 (decimal; the
    middle of the month, or the year itself) · name, family str · total, active float64 (parameters) · experts float64
    (routed experts in one MoE layer) · top_k float64 (experts that one input runs through) · source, status str ·
    remark str (what the numbers leave out, or where the sources disagree; may be empty). Missing numbers are NaN.

    Source: the papers and announcements named in the column `source`.
    """
    frame = pd.read_csv(TABLE, dtype=dict.fromkeys(NUMBERS, np.float64) | {"date": "str"})
    frame["remark"] = frame["remark"].fillna("")
    frame.insert(1, "year", frame["date"].map(_decimal))
    words = frame.columns.difference([*NUMBERS, "year"])
    return frame.astype(dict.fromkeys(words, "str"))


def experts_at_work() -> pd.DataFrame:
    """The systems of the timeline whose number of experts is published, with how many of them one input runs through.

    Behind a soft gate those are all. Systems that switch each expert by itself, or do not say, are left out.

    One row per system. Columns: those of `timeline` · at_work float64 (experts).

    Source: the papers and announcements named in the column `source`.
    """
    frame = timeline()
    soft = frame["remark"].str.contains(SOFT)
    at_work = frame["top_k"].where(~soft, frame["experts"])
    return frame.assign(at_work=at_work)[frame["experts"].notna() & at_work.notna()].reset_index(drop=True)


def _decimal(date: str) -> float:
    """A date as a decimal year.

    >>> _decimal("1991"), _decimal("2017-07")
    (1991.0, 2017.5416666666667)
    """
    year, _, month = date.partition("-")
    return int(year) + ((int(month) - 0.5) / 12 if month else 0.0)
