"""Survey the installed transformers. Each table is written anew with --write.

python tests/survey [--write]           every architecture against what its experts receive
python tests/survey --ways [NAME ...]   every way of running, on all architectures or on those named
python tests/survey --interventions     changes of the routing, and the kernels, against other means
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import pandas as pd
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "kernels"),
    str(ROOT / "tests"),
    str(ROOT / "tests" / "support"),
]  # of this checkout

from moeviz.capture.routers.families import whole_architectures  # noqa: E402
from survey.architectures import table_of, write_table  # noqa: E402
from survey.checkpoints import every_architecture  # noqa: E402
from survey.interventions import counts, interventions_of, write_interventions  # noqa: E402
from survey.tiny_models import architectures  # noqa: E402


def _families(write: bool) -> tuple[pd.DataFrame, str]:
    found = table_of(every_architecture())
    if write:
        write_table(found)
    exact, kernels = (whole_architectures(column, found) for column in ("exact", "kernels"))
    return found, f"{exact.sum()} of {len(exact)} architectures exact, {kernels.sum()} run by moeviz's kernels"


def _interventions(write: bool) -> tuple[pd.DataFrame, str]:
    found = interventions_of(architectures())
    if write:
        write_interventions(found)
    return found, counts(found)


def _ways(names: list[str], only: str, write: bool) -> tuple[pd.DataFrame, str]:
    from survey.compare import EQUAL
    from survey.ways import WAYS, cells, counted, summed, write_ways

    warnings.simplefilter("ignore")  # of compilers and accelerate, about models as tiny as these
    logging.disable(logging.CRITICAL)
    rows = []
    for way in (way for way in WAYS if only in way):
        found = list(cells([way], names))
        rows.append(summed(found))
        for cell in found:
            if cell.outcome != EQUAL:
                sys.stdout.write(f"    {cell.architecture}: {cell.outcome}: {cell.says.splitlines()[0]}\n")
        sys.stdout.write(f"{way}: {counted(rows[-1])}\n")
        sys.stdout.flush()
    table = pd.concat(rows, ignore_index=True)
    if write:
        write_ways(table)
    return table, counted(table)


parser = argparse.ArgumentParser(
    prog="python tests/survey", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("names", nargs="*", metavar="NAME", help="architectures, for --ways")
parser.add_argument("--ways", action="store_true", help="the ways of running")
parser.add_argument("--interventions", action="store_true", help="changes of the routing, and the kernels")
parser.add_argument("--only", default="", metavar="WORD", help="ways of running whose name has this in it")
parser.add_argument("--write", action="store_true", help="make the table anew, or its rows of these ways")
arguments = parser.parse_args()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
if arguments.ways:
    table, says = _ways(arguments.names, arguments.only, arguments.write)
else:
    table, says = (_interventions if arguments.interventions else _families)(arguments.write)
sys.stdout.write(f"{table.to_string(index=False)}\ntransformers {transformers.__version__}: {says}\n")
