"""What draws a trace or counts, as a plot or as HTML. It stands above them, unknown to them: the front door,
`moeviz/__init__.py`, puts it here.
"""

from collections.abc import Callable
from typing import Any, Literal

VIEWERS: dict[Literal["plot", "html"], Callable[[Any], Any]] = {}
