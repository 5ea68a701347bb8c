"""Costs of serving a routing: expert caches, batches, prefetching, placement, memory, and plans for engines.

Traces become numbers, as in `moeviz.metrics`, and plans become files that engines read. What a step needs of a layer is
a set of experts, so nothing here changes when the slots of a token are permuted. No torch, no charts.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if not TYPE_CHECKING:  # a type checker wants the import of the topic

    def __getattr__(name: str) -> Any:  # a topic, after `import moeviz` alone
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")
