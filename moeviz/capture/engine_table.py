"""The engines that run models, a row each. An engine is imported when a model of it is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moeviz.capture.engines.mlx.folder import is_of_mlx
from moeviz.errors import ModelNotFound
from moeviz.text import quoted

if TYPE_CHECKING:  # torch comes with an engine, not with the question which one it is
    import moeviz.capture.engines.engine


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine that runs models.

    `module` has `open_model(name, **how) -> EngineModel` and `before_opening(name) -> BeforeOpening`.
    """

    name: str  # as `load_model(backend=…)` and `--backend` take it
    module: str
    knows: Callable[[str], bool]  # whether a name can be of no other engine
    elsewhere: bool = False  # whether a server runs it, which answers when a run is done, and not before


ENGINES: tuple[EngineEntry, ...] = (
    EngineEntry("llama.cpp", "moeviz.capture.engines.llama_cpp.model", lambda name: name.lower().endswith(".gguf")),
    EngineEntry("mlx", "moeviz.capture.engines.mlx.model", is_of_mlx),
    EngineEntry("vllm", "moeviz.capture.engines.served.vllm", lambda name: name.startswith("vllm+"), True),
    EngineEntry("sglang", "moeviz.capture.engines.served.sglang", lambda name: name.startswith("sglang+"), True),
)
TRANSFORMERS = "transformers"


def engine_of(name: str, backend: str | None = None) -> EngineEntry | None:
    """Return the engine that runs the model of that name; None for transformers.

    Raises `ModelNotFound` for an unknown backend.
    """
    if backend is None:
        return next((engine for engine in ENGINES if engine.knows(name)), None)
    if backend == TRANSFORMERS:
        return None
    for engine in ENGINES:
        if engine.name == backend:
            return engine
    known = ", ".join([TRANSFORMERS, *(engine.name for engine in ENGINES)])
    raise ModelNotFound(f"There is no backend {quoted(backend)}. Choose one of {known}.")


def open_model(engine: EngineEntry, name: str, **how: Any) -> "moeviz.capture.engines.engine.EngineModel":
    """Open the model of that name in an engine. Raises what `load_model` raises."""
    model: moeviz.capture.engines.engine.EngineModel = import_module(engine.module).open_model(name, **how)
    return model


def before_opening(engine: EngineEntry, name: str) -> "moeviz.capture.engines.engine.BeforeOpening":
    """Look at the model of that name without opening it. Raises what `load_model` raises before it reads weights."""
    facts: moeviz.capture.engines.engine.BeforeOpening = import_module(engine.module).before_opening(name)
    return facts
