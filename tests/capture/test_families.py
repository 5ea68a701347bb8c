"""Every MoE architecture of the installed transformers is read as the table of families says, or the table is old."""

import pytest
import transformers
from survey.architectures import YES, rows_of, survey
from survey.checkpoints import every_architecture
from survey.interventions import EQUAL, ERROR, KINDS, WRONG, intervention_rows
from survey.mechanisms import MECHANISMS, OPENED_AS, each
from survey.tiny_models import architectures

from moeviz.capture.routers.families import NOT_RECORDED, OBEYED, families, interventions, surveyed_version

AGAIN = "run `python tests/survey --write`, read what changed, and give what is new a reader"
CHANGED = "run `python tests/survey --interventions --write`, and read what changed"
TABLE, INTERVENTIONS = families(), interventions()


def test_the_table_has_every_architecture_of_the_installed_transformers():
    """A new release of transformers fails here, before anything of it is misread."""
    known, here = set(TABLE["architecture"]), set(every_architecture())
    assert here <= known, f"transformers {transformers.__version__} has {sorted(here - known)}: {AGAIN}."
    if transformers.__version__ == surveyed_version():
        assert known == here


@pytest.mark.parametrize("architecture", each(every_architecture(), [*MECHANISMS, *OPENED_AS]))
def test_an_architecture_opens_by_name_and_is_read_as_the_table_says(architecture):
    found = list(rows_of(survey(architecture)))
    told = TABLE[TABLE["architecture"] == architecture].to_dict("records")
    assert found == told, f"In transformers {transformers.__version__} it is otherwise: {AGAIN}."


def test_what_is_not_exact_is_named_with_its_reason():
    inexact = TABLE[TABLE["exact"] != YES]
    assert set(inexact["architecture"]) == {"nllb_moe", "ernie4_5_vl_moe", "diffusion_gemma"}
    assert inexact["exact"].str.startswith(("no: ", NOT_RECORDED)).all()


def test_every_change_is_obeyed_or_refused_with_a_sentence():
    cells = INTERVENTIONS[[*KINDS, "kernels"]].to_numpy().ravel().tolist()
    assert not [cell for cell in cells if cell.startswith((WRONG, ERROR))]
    refused = {cell for cell in cells if cell not in (OBEYED, EQUAL)}
    assert all(len(cell.split()) > 3 for cell in refused)
    changed = set(zip(*(INTERVENTIONS[n] for n in ("architecture", "router")), strict=True))
    own = TABLE[TABLE["architecture"].isin(architectures()) & ~TABLE["exact"].str.startswith(NOT_RECORDED)]
    assert changed == set(zip(*(own[n] for n in ("architecture", "router")), strict=True))


def test_the_kernels_column_of_both_tables_says_the_same():
    recorded = TABLE[~TABLE["exact"].str.startswith(NOT_RECORDED)]
    both = INTERVENTIONS.merge(recorded, on=["architecture", "router"], suffixes=("", " of the table"))
    assert len(both) >= len(INTERVENTIONS)
    assert (both["kernels"] == EQUAL).tolist() == (both["kernels of the table"] == YES).tolist()


@pytest.mark.parametrize("architecture", each())
def test_an_architecture_obeys_changes_as_the_table_says(architecture):
    told = INTERVENTIONS[INTERVENTIONS["architecture"] == architecture].to_dict("records")
    assert list(intervention_rows(architecture)) == told, f"It is otherwise now: {CHANGED}."
