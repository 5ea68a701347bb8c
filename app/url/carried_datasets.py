"""What pages of topics and the page Corpus carry in their address: a dataset, by its name as listed, and a layer."""

from collections.abc import Mapping

from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import datasets, session

from moeviz.charts import TOPICS

DATASET = "dataset"
PAGES = frozenset({"corpus", *(topic.lower().replace(" ", "-") for topic in TOPICS)})


def written() -> dict[str, str]:
    """The dataset on screen, and the layer that is looked at."""
    if (name := datasets.chosen()) is None:
        return {}
    layer = session.value(session.CORPUS_LAYER)
    return {DATASET: name} | ({} if layer is None else {"layer": str(layer)})


def fill_in(query: Mapping[str, str]) -> None:
    """Show what a link names, where it is listed here; the pages put right what the dataset does not have.

    Raises `MissingField` for a dataset that is not open here.
    """
    if (name := query.get(DATASET)) is None:
        return
    if name not in datasets.offered():
        datasets.named(name)
    session.set_value(session.DATASET, name)
    if (layer := number_in(query.get("layer"))) is not None:
        session.set_value(session.CORPUS_LAYER, layer)
