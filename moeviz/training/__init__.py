"""Routing while a model trains: figures of its routers, and a sentence when something goes wrong.

    from moeviz.training import watch

    watch(trainer, out="run/routing")                    # transformers' Trainer, and those of TRL

    health = RoutingHealth(model, out="run/routing")     # any other loop
    loss.backward(); optimizer.step(); health.step()
    health.report(loss)                                  # when a log is due, on every rank

    run = read_run("run/routing")                        # what was written, while it grows or afterwards

Names that need torch are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moeviz.training.reading import read_run, read_run_file
from moeviz.training.recorded.rules import Rules
from moeviz.training.recorded.run import TrainingRun

if TYPE_CHECKING:
    from moeviz.training.callback import RoutingCallback, watch
    from moeviz.training.routing_health import RoutingHealth

__all__ = ["RoutingCallback", "RoutingHealth", "Rules", "TrainingRun", "read_run", "read_run_file", "watch"]

_HOMES = {"RoutingCallback": "callback", "watch": "callback", "RoutingHealth": "routing_health"}


if not TYPE_CHECKING:  # a type checker knows the names above

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'moeviz.training' has no attribute {name!r}")
        return getattr(import_module(f"moeviz.training.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(__all__)
