"""The traces of the gallery's systems, as they ship: nothing is trained to get them."""

from typing import get_type_hints

from moeviz.history.shared.results import shipped
from moeviz.history.systems import part
from moeviz.routing_trace import RoutingTrace


def shipped_trace(name: str) -> RoutingTrace:
    """How the system of that name routes, trained with its default settings and seed 0.

    Raises `MoevizError` for an unknown system.
    """
    kind = get_type_hints(part(name, "model").train)["return"]
    return part(name, "trace").trace_of(shipped(kind))
