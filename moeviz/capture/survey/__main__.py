"""Survey the installed transformers: `python -m moeviz.capture.survey`; --write makes the table of families anew.

With --interventions it is the changes of the routing, and the kernels, that are held against other means.
"""

import argparse
import sys

import pandas as pd
import transformers

from moeviz.capture.survey.interventions_table import counts, interventions_of, write_interventions
from moeviz.capture.survey.table import YES, table_of, write_table
from moeviz.capture.survey.tiny_models import architectures


def _families(write: bool) -> tuple[pd.DataFrame, str]:
    found = table_of(architectures())
    if write:
        write_table(found)
    exact = found.groupby("architecture")["exact"].agg(lambda answers: (answers == YES).all())
    kernels = found.groupby("architecture")["kernels"].agg(lambda answers: (answers == YES).all())
    return found, f"{exact.sum()} of {len(exact)} architectures exact, {kernels.sum()} run by moeviz's kernels"


def _interventions(write: bool) -> tuple[pd.DataFrame, str]:
    found = interventions_of(architectures())
    if write:
        write_interventions(found)
    return found, counts(found)


parser = argparse.ArgumentParser(prog="python -m moeviz.capture.survey", description=__doc__)
parser.add_argument("--interventions", action="store_true", help="survey changes of the routing, and the kernels")
parser.add_argument("--write", action="store_true", help="make the table that ships anew")
arguments = parser.parse_args()
transformers.logging.set_verbosity_error()
table, says = (_interventions if arguments.interventions else _families)(arguments.write)
sys.stdout.write(f"{table.to_string(index=False)}\ntransformers {transformers.__version__}: {says}\n")
