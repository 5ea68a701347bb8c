"""What `moeviz doctor` says of a file."""

import pandas as pd

from moeviz.cli.terminal import visible_line

ROWS = 200  # findings that are listed


def doctor_text(found: pd.DataFrame) -> str:
    """A line a finding."""
    if not len(found):
        return "Nothing implausible was found."
    lines = [f"{row['check']}: {visible_line(row['says'])}" for row in found.head(ROWS).to_dict("records")]
    more = [f"and {len(found) - ROWS:,} more"] if len(found) > ROWS else []
    return "\n".join([*lines, *more])
