"""Every MoE architecture of the installed transformers is read as the table of families says, or the table is old."""

import pytest
import transformers

from moeviz.capture.routers.families import families, surveyed_version
from moeviz.capture.survey.survey import survey
from moeviz.capture.survey.table import YES, rows_of
from moeviz.capture.survey.tiny_models import architectures

AGAIN = "run `python -m moeviz.capture.survey --write`, read what changed, and give what is new a reader"
TABLE = families()


def test_the_table_has_every_architecture_of_the_installed_transformers():
    """A new release of transformers fails here, before anything of it is misread."""
    known, here = set(TABLE["architecture"]), set(architectures())
    assert here <= known, f"transformers {transformers.__version__} has {sorted(here - known)}: {AGAIN}."
    if transformers.__version__ == surveyed_version():
        assert known == here


@pytest.mark.survey
@pytest.mark.parametrize("architecture", architectures())
def test_an_architecture_is_read_as_the_table_says(architecture):
    found = list(rows_of(survey(architecture)))
    told = TABLE[TABLE["architecture"] == architecture].to_dict("records")
    assert found == told, f"In transformers {transformers.__version__} it is otherwise: {AGAIN}."


def test_what_is_not_exact_is_named_with_its_reason():
    inexact = TABLE[TABLE["exact"] != YES]
    assert set(inexact["architecture"]) == {"nllb_moe"}
    assert inexact["exact"].str.startswith("no: ").all()
