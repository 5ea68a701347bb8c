"""What pages of topics and the page Corpus carry in their address: a dataset, by its name as listed, and a layer."""

from collections.abc import Mapping

from moeviz_app import datasets, state
from moeviz_app.asked import number_in
from moeviz_app.show import say

from moeviz.charts import TOPICS
from moeviz.errors import MissingField

DATASET = "dataset"
PAGES = frozenset({"corpus", *(topic.lower().replace(" ", "-") for topic in TOPICS)})


def written() -> dict[str, str]:
    """The dataset on screen, and the layer that is looked at."""
    if (name := datasets.chosen()) is None:
        return {}
    layer = state.value(state.CORPUS_LAYER)
    return {DATASET: name} | ({} if layer is None else {"layer": str(layer)})


def fill_in(query: Mapping[str, str]) -> None:
    """Show what a link names, where it is listed here; the pages put right what the dataset does not have."""
    if (name := query.get(DATASET)) is None:
        return
    if name not in datasets.offered():
        try:
            datasets.named(name)
        except MissingField as why:
            say(str(why))
        return
    state.set_value(state.DATASET, name)
    if (layer := number_in(query.get("layer"))) is not None:
        state.set_value(state.CORPUS_LAYER, layer)


def of_expert(name: str, layer: int, expert: int, sample: int = 0) -> dict[str, str]:
    """The query of the page of an expert, as this dataset shows it; `sample` says which of its contexts are drawn."""
    where = {DATASET: name, "layer": str(layer), "expert": str(expert)}
    return where | ({"sample": str(sample)} if sample else {})
