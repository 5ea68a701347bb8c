"""The functions that draw a trace or counts, as a plot or as HTML. They stand above both, unknown to them: the front
door, `moeviz/__init__.py`, puts them here.
"""

from collections.abc import Callable
from typing import Any, Literal

VIEWERS: dict[Literal["plot", "html"], Callable[[Any], Any]] = {}
