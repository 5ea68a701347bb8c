"""Names of experts as the app shows them: of each trace once, from the texts that ship for our own models."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import pandas as pd
from moeviz_app.jobs import recorded

from moeviz.errors import MissingField
from moeviz.metrics.expert_names import expert_names, sample_of_texts, short_name
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

__all__ = ["names_in", "names_of", "names_of_layer", "short_name"]
_names: WeakKeyDictionary[RoutingTrace, pd.DataFrame | None] = WeakKeyDictionary()


def names_of(model: ModelInfo, opened: Iterable[RoutingTrace] = ()) -> pd.DataFrame | None:
    """Return names of a model's experts, as `expert_names` has them: the same wherever they are shown.

    Our own models have them from the held-out texts that ship; others from the first of these `opened` traces that is
    of the model and has labels, or else several texts. None where nothing names them.
    """
    if (texts := recorded.usual(model)) is not None:
        return names_in(texts)
    own = [trace for trace in opened if layout(trace.model) == layout(model)]
    labelled = sorted(own, key=lambda trace: "label" not in trace.tokens)  # stable
    return next((names for trace in labelled if (names := names_in(trace)) is not None), None)


def names_of_layer(names: pd.DataFrame | None, layer: int) -> dict[int, str]:
    """Return the short names that hold of one layer's experts, by expert."""
    if names is None:
        return {}
    held = names[names["holds"] & (names["layer"] == layer)]
    return {int(expert): short_name(name) for expert, name in zip(held["expert"], held["name"], strict=True)}


def names_in(trace: RoutingTrace) -> pd.DataFrame | None:
    """Return the names that the texts of a trace give its experts; None where they give none, as one text alone."""
    if trace not in _names:
        try:
            _names[trace] = expert_names(sample_of_texts(trace))
        except MissingField:
            _names[trace] = None
    return _names[trace]


def layout(model: ModelInfo) -> tuple[object, ...]:
    """Return what two traces of the same model agree in."""
    return model.name, model.layers, model.num_experts, model.top_k
