"""Which engine runs a model of that name: a row for each. An engine is imported when a model of its is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from moeviz.capture.engines.engine import EngineModel
from moeviz.errors import ModelNotFound
from moeviz.names import quoted


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that runs models. `module` has `open_model(name, **how) -> EngineModel` and `model_facts(name)`."""

    name: str  # as `load_model(backend=…)` and `--backend` take it
    module: str
    knows: Callable[[str], bool]  # whether a name can be of no other engine


ENGINES: tuple[Engine, ...] = (
    Engine("vllm", "moeviz.capture.served.vllm", lambda name: name.startswith("vllm+")),
    Engine("sglang", "moeviz.capture.served.sglang", lambda name: name.startswith("sglang+")),
)
TRANSFORMERS = "transformers"


def engine_of(name: str, backend: str | None = None) -> Engine | None:
    """The engine that runs the model of that name; None for transformers.

    Raises `ModelNotFound` for a backend that there is not.
    """
    if backend is None:
        return next((engine for engine in ENGINES if engine.knows(name)), None)
    if backend == TRANSFORMERS:
        return None
    for engine in ENGINES:
        if engine.name == backend:
            return engine
    known = ", ".join([TRANSFORMERS, *(engine.name for engine in ENGINES)])
    raise ModelNotFound(f"There is no backend {quoted(backend)}. Choose from {known}.")


def open_model(engine: Engine, name: str, **how: Any) -> EngineModel:
    """The model of that name in that engine's hands. Raises what `load_model` raises."""
    model: EngineModel = import_module(engine.module).open_model(name, **how)
    return model
