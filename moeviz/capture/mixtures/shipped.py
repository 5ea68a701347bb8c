"""The traces of the gallery's systems as they ship: nothing is trained for them."""

from importlib import import_module
from typing import get_type_hints

from moeviz.history.results import shipped
from moeviz.history.systems import system
from moeviz.routing_trace import RoutingTrace


def shipped_trace(name: str) -> RoutingTrace:
    """How the system of that name routes, trained with its default settings and seed 0.

    Raises `MoevizError` for a system that there is not.
    """
    module = system(name).module
    kind = get_type_hints(import_module(f"moeviz.history.{module}").train)["return"]
    return import_module(f"moeviz.capture.mixtures.{module}").trace_of(shipped(kind, name))
