"""Well-known models, as serving sees them: what their memory depends on, by their configurations.

It was worked out beforehand, so the first answer needs neither torch nor a network; `pytest --update-golden
tests/serving/test_serving.py` writes the table anew.
"""

import json
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from moeviz.footprint import LayerCache, ServedModel
from moeviz.model_info import ParameterCounts

TABLE = "known_models.json"


def known_models() -> tuple[str, ...]:
    """The names of the models in the table."""
    return tuple(_table())


def known_model(name: str) -> ServedModel | None:
    """A well-known model, or one that ships; None for any other.

    >>> known_model("mistralai/Mixtral-8x7B-v0.1").num_experts
    8
    """
    row = _table().get(name)
    if row is None:
        return None
    counts = ParameterCounts(**row["parameters"] | {"per_expert": tuple(_spread(row["parameters"]["per_expert"]))})
    caches = tuple(LayerCache(*layer) for layer in _spread(row["caches"]))
    facts = {field: row[field] for field in ("num_experts", "top_k", "hidden", "vocabulary")}
    return ServedModel(name=name, parameters=counts, caches=caches, **facts)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files(__package__).joinpath(TABLE).read_text("utf-8"))
    return table


def as_row(model: ServedModel) -> dict[str, Any]:
    """A model as a row of the table: equal layers in a row stand there once, with their number."""
    counts = {field: getattr(model.parameters, field) for field in ParameterCounts.__annotations__}
    caches = [[layer.constant, layer.per_token, layer.window] for layer in model.caches]
    facts = {field: getattr(model, field) for field in ("num_experts", "top_k", "hidden", "vocabulary")}
    parameters = counts | {"per_expert": _together(list(model.parameters.per_expert))}
    return facts | {"parameters": parameters, "caches": _together(caches)}


def _together(layers: list[Any]) -> list[list[Any]]:
    return [[len([*same]), layer] for layer, same in groupby(layers)]


def _spread(pairs: list[list[Any]]) -> list[Any]:
    return [layer for number, layer in pairs for _ in range(number)]
