"""Short `help` of public values: dataclasses with slots explain their pickling by forty lines of comments."""

import dataclasses
from typing import Any


def with_plain_help(found: Any) -> Any:
    """Give a class the same pickling as `dataclasses` gave it, with docstrings; return whatever was given.

    >>> import copy, pickle, moeviz
    >>> copy.deepcopy(pickle.loads(pickle.dumps(moeviz.Swap(2, 0, 5))))
    Swap(layer=2, one=0, other=5)
    """
    given = vars(found).get("__getstate__") if isinstance(found, type) else None
    if getattr(given, "__module__", "") == "dataclasses":
        found.__getstate__, found.__setstate__ = _values, _set_values
    return found


def _values(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_values(self: Any, values: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), values, strict=True):
        object.__setattr__(self, field.name, value)
