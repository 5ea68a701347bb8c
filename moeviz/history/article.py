"""The article that moeviz grew from, point by point: which page shows which sentence at work, and what it got wrong.

*The History of Mixture of Experts*, 26 April 2024; the quotations and what is said of them are in `article.toml`.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Point(NamedTuple):
    """A sentence of the article, and what to look at."""

    quotation: str  # in the article's words
    page: str  # of the app, as its menu has it
    look: str  # at what makes it visible there


class Correction(NamedTuple):
    """A statement of the article, what is true, and the source of that."""

    quotation: str
    in_fact: str
    source: str


_TEXTS = {
    kind: [{name: " ".join(text.split()) for name, text in row.items()} for row in rows]
    for kind, rows in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
POINTS = tuple(Point(**row) for row in _TEXTS["points"])
CORRECTIONS = tuple(Correction(**row) for row in _TEXTS["corrections"])


def corrections() -> pd.DataFrame:
    """The errors of the article, corrected. Columns: the article says, in fact, source, all str."""
    return pd.DataFrame(CORRECTIONS).rename(columns={"quotation": "the article says", "in_fact": "in fact"})
