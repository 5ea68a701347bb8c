"""Answers of libraries that tests ask for again and again, and that never change: worked out once a process."""

import marshal
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from altair.utils import schemapi
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import local_script_runner


def ask_once() -> None:
    """From now on, in this process.

    Altair checks every axis, scale and channel against its schema whenever one is made, which takes longer than all
    else that is done to a chart, and lists its 500 classes for each channel that is given as a word. Of each word and
    number in a chart it asks a protocol whether that is a part of a chart. Streamlit reads what all installed packages
    say of themselves for each page that a test opens, and looks a thousand times a second whether the page is drawn,
    which holds up whoever draws it.
    """
    schemapi.SchemaLike = PartOfChart
    schemapi.validate_jsonschema = remembering_what_is_right(schemapi.validate_jsonschema)
    by_schema = cache(schemapi._FromDict)
    schemapi._FromDict = lambda classes: by_schema(tuple(classes))
    manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
    local_script_runner.require_widgets_deltas = wait_for_script


def wait_for_script(runner: Any, timeout: float = 3) -> None:
    """Streamlit's `require_widgets_deltas`, which sleeps until the script's thread has ended."""
    runner._script_thread.join(timeout)
    if runner._script_thread.is_alive():
        runner.request_stop()
        runner.join()
        raise RuntimeError(f"AppTest script run timed out after {timeout}(s)")


class _ByTwoNames(type):
    def __instancecheck__(cls, value: object) -> bool:
        return hasattr(value, "_schema") and hasattr(value, "to_dict")


class PartOfChart(metaclass=_ByTwoNames):
    """What altair's protocol is fulfilled by: its members are looked for, and nothing else."""


def remembering_what_is_right(check: Callable[..., Any]) -> Callable[..., Any]:
    """`validate_jsonschema`, which does not check again what it found nothing wrong with."""
    right: set[tuple[int, bytes]] = set()
    schemas: dict[int, object] = {}  # kept, so that a number stands for one of them

    @wraps(check)
    def checked(spec: Any, schema: dict[str, Any], *of: Any, **how: Any) -> Any:
        try:
            key = id(schema), marshal.dumps(spec, 0)  # in this version, equal values have equal bytes
        except ValueError:  # it holds something that is not of JSON
            return check(spec, schema, *of, **how)
        if key not in right:
            if (wrong := check(spec, schema, *of, **how)) is not None:
                return wrong
            schemas[id(schema)] = schema
            right.add(key)
        return None

    return checked
