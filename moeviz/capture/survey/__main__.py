"""Survey the installed transformers: `python -m moeviz.capture.survey`; --write makes the table of families anew."""

import argparse
import sys

import transformers

from moeviz.capture.survey.table import YES, table_of, write_table
from moeviz.capture.survey.tiny_models import architectures

parser = argparse.ArgumentParser(prog="python -m moeviz.capture.survey", description=__doc__)
parser.add_argument("--write", action="store_true", help="make the table of families anew")
arguments = parser.parse_args()
transformers.logging.set_verbosity_error()
found = table_of(architectures())
if arguments.write:
    write_table(found)
exact = found.groupby("architecture")["exact"].agg(lambda answers: (answers == YES).all())
kernels = found.groupby("architecture")["kernels"].agg(lambda answers: (answers == YES).all())
sys.stdout.write(found.to_string(index=False) + "\n")
sys.stdout.write(
    f"transformers {transformers.__version__}: {exact.sum()} of {len(exact)} architectures exact, "
    f"{kernels.sum()} run by moeviz's kernels\n"
)
