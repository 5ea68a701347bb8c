"""In which ways of running do the traces of which families tell what the experts received?

    python -m benchmarks.families [ARCHITECTURE ...]

Tiny random models; every cell is a run, held against what the experts receive of the finished sequences
(`moeviz.capture.survey.modes`). Where torchao is installed, int8 and int4 are tried too.
"""

import sys

import pandas as pd
import transformers

from moeviz.capture.survey.modes import EQUAL, FAMILIES, WAYS, outcome


def main(families: list[str]) -> None:
    """Print the matrix, and what its cells that are not equal say."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cells = {way: {family: outcome(family, way) for family in families} for way in WAYS}
    table = pd.DataFrame(cells).T
    print(table.map(lambda cell: cell if len(cell) <= len(EQUAL) + 3 else "no: see below").to_string())
    for (way, family), cell in table.stack().items():
        if len(cell) > len(EQUAL) + 3:
            print(f"{way}, {family}: {cell}")
    print(f"{(table == EQUAL).sum().sum()} of {table.size} cells equal")


if __name__ == "__main__":
    main(sys.argv[1:] or list(FAMILIES))
