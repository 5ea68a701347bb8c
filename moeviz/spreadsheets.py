"""Tables for spreadsheets, which run a cell that starts with = + - or @ as a formula: a token may be just that.

An apostrophe in front makes a text of it, in any of their forms and behind any blanks and invisible characters.
"""

import unicodedata

import pandas as pd

FORMULA = ("=", "+", "-", "@")
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of Unicode: controls, formats, blanks. They stop no spreadsheet


def escape_formula(text: str) -> str:
    """Return the text as a spreadsheet shows it without running it: with an apostrophe in front if it needs one.

    >>> escape_formula("=1+1"), escape_formula("two"), escape_formula("'s")
    ("'=1+1", 'two', "''s")
    """
    return f"'{text}" if text.startswith(("'", "\t", "\r", "\n")) or _is_formula(text) else text


def _is_formula(text: str) -> bool:
    seen = next((character for character in text if unicodedata.category(character) not in UNSEEN), "")
    return unicodedata.normalize("NFKC", seen) in FORMULA  # full-width, small and raised forms too


def table_as_csv(frame: pd.DataFrame) -> bytes:
    """Return the numbers behind a chart as CSV in UTF-8: no text in it runs as a formula."""
    texts = [name for name, column in frame.items() if not pd.api.types.is_numeric_dtype(column)]
    safe = frame.assign(**{str(name): frame[name].astype(str).map(escape_formula) for name in texts})
    return safe.to_csv(index=False, lineterminator="\r\n").encode()
