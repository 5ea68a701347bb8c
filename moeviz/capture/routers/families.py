"""The MoE families of transformers and how moeviz records each: a table that ships, made and checked by the survey."""

from pathlib import Path

import pandas as pd

TABLE = Path(__file__).with_name("families.csv")
INTERVENTIONS = TABLE.with_name("interventions.csv")
OBEYED = "obeyed"
NOT_RECORDED = "not recorded: "  # and why, in the column `exact`


def surveyed_version() -> str:
    """Return the version of transformers that the table describes."""
    return TABLE.read_text().partition("\n")[0].removeprefix("# transformers ")


def families() -> pd.DataFrame:
    """Return how the routers of each architecture decide and are recorded; one row per class of router and site.

    Columns, all str: architecture · opened_as (class of the model that the name of a checkpoint opens) · router (its
    class) · site (if a model has routers of several kinds) · score (softmax, sigmoid, sqrt softplus, or unknown) · bias
    (a selection bias: yes or empty) · groups (how groups of experts are ranked, if they limit the choice) ·
    renormalised (yes, by config, or empty) · scaled · shared (shared experts in addition to the routed ones) · kernels
    (yes, or why not) · exact (yes, or how the trace differs from what the experts received, or why this site is not
    recorded) · images (of a model that takes them: yes, with the box of each token; without boxes; or not tried, for
    lack of a processor) · remark (how the router differs from most). "–" if the kernels do not run a router, so that
    these steps have not been read off it.

    Source: `python tests/survey`, which saved a tiny random checkpoint of each and opened it by name.
    """
    return pd.read_csv(TABLE, comment="#", dtype="str", keep_default_na=False)


def interventions() -> pd.DataFrame:
    """Return which changes of the routing each architecture obeys; one row per class of router and site.

    Columns, all str: architecture · router (its class) · site · Mute · Mute, no rerouting · Force · Bias · TopK ·
    Swap · Replay (each "obeyed", or the sentence of the refusal) · kernels ("equal" if moeviz's kernels record the
    trace that hooks record, or why they do not run this router).

    Source: `python tests/survey --interventions`, which held each change of a tiny random model against the
    same change made by other means.
    """
    return pd.read_csv(INTERVENTIONS, comment="#", dtype="str", keep_default_na=False)


def whole_architectures(column: str, table: pd.DataFrame | None = None) -> pd.Series:
    """Return for each architecture whether `column` is "yes" at every site that moeviz records."""
    table = families() if table is None else table
    recorded = table[~table["exact"].str.startswith(NOT_RECORDED)]
    return recorded[column].eq("yes").groupby(recorded["architecture"]).all()
