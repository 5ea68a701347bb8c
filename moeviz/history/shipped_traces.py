"""The traces of the gallery's systems as they ship: nothing is trained for them."""

from typing import get_type_hints

from moeviz.history.shared.results import shipped
from moeviz.history.systems import part
from moeviz.routing_trace import RoutingTrace


def shipped_trace(name: str) -> RoutingTrace:
    """How the system of that name routes, trained with its default settings and seed 0.

    Raises `MoevizError` for a system that there is not.
    """
    kind = get_type_hints(part(name, "model").train)["return"]
    return part(name, "trace").trace_of(shipped(kind))
