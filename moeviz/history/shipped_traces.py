"""The traces of the gallery's systems, as they ship: nothing is trained to get them."""

from typing import Any, get_type_hints

from moeviz.errors import MoevizError
from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, shipped
from moeviz.history.systems import part
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

# What a run without balance is trained with, by system: each ships, and is shown beside the usual one.
BESIDE: dict[str, dict[str, Any]] = {
    "deep-mixture": {"constraint": False},
    "sparsely-gated": {"importance": 0.0, "load": 0.0},
}


def shipped_trace(name: str) -> RoutingTrace:
    """The routing of the system of that name, trained with its default settings and seed 0.

    Raises `MoevizError` for an unknown system.
    """
    return part(name, "model").trace_of(shipped_result(name))


def trace_beside(name: str) -> RoutingTrace:
    """The routing of a system trained with seed 0 without what keeps its experts balanced: a constraint, or losses.

    Raises `MoevizError` for a system of which no such run ships.
    """
    if name not in BESIDE:
        raise MoevizError(f"Of {quoted(name)}, no run without balance ships. There is one of {', '.join(BESIDE)}.")
    return part(name, "model").trace_of(shipped_result(name, WITHOUT_BALANCE))


def shipped_result(name: str, file: str = SHIPPED) -> Any:
    """The result of training that system that ships in `file`, beside its model."""
    return shipped(kind_of(name), file)


def kind_of(name: str) -> type:
    """The class of the result of training that system."""
    kind: type = get_type_hints(part(name, "model").train)["return"]
    return kind
