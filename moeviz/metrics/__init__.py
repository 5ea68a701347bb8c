"""Numbers about a RoutingTrace: each public function takes one and returns a tidy frame. No charts, no torch."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if not TYPE_CHECKING:  # a type checker wants the import of the topic

    def __getattr__(name: str) -> Any:  # a topic, after `import moeviz` alone
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")
