"""What the survey of interventions found, as the table that ships beside the table of families."""

from collections.abc import Iterator, Sequence

import pandas as pd
import transformers

from moeviz.capture.routers.families import INTERVENTIONS, OBEYED
from moeviz.capture.survey.interventions import EQUAL, ERROR, KINDS, WRONG, by_kernels, outcome, subjects


def intervention_rows(architecture: str) -> Iterator[dict[str, str]]:
    """A row per class of router and site."""
    for subject in subjects(architecture):
        names = {"architecture": architecture, "router": subject.routers[0].kind, "site": subject.site}
        yield names | {kind: outcome(subject, kind) for kind in KINDS} | {"kernels": by_kernels(subject)}


def interventions_of(architectures: Sequence[str]) -> pd.DataFrame:
    """The table of these architectures, from a survey of each."""
    return pd.DataFrame([row for name in architectures for row in intervention_rows(name)])


def write_interventions(table: pd.DataFrame) -> None:
    """Put the table where it ships."""
    INTERVENTIONS.write_text(f"# transformers {transformers.__version__}\n{table.to_csv(index=False)}")


def counts(table: pd.DataFrame) -> str:
    """How many changes were obeyed, refused, wrong or failed otherwise; and how many traces kernels recorded alike."""
    changes = _counted(pd.Series(table[list(KINDS)].to_numpy().ravel()), OBEYED)
    return f"interventions: {changes}\nkernels: {_counted(table['kernels'], EQUAL)}"


def _counted(cells: pd.Series, right: str) -> str:
    is_right, wrong, errors = cells == right, cells.str.startswith(WRONG), cells.str.startswith(ERROR)
    refused = ~(is_right | wrong | errors)
    return (
        f"{is_right.sum()} {right} of {len(cells)}, {refused.sum()} refused, {wrong.sum()} wrong, {errors.sum()} other "
        "exceptions"
    )
