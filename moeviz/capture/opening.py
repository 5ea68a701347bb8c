"""Open a model by its name, in whichever engine runs it.

An engine is imported when a model of its is opened, and torch with it: the question which engine it is needs neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from moeviz.capture.engines.mlx.folder import is_of_mlx
from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.model_info import ModelInfo
from moeviz.parameters import ServedModel
from moeviz.text import quoted

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import BeforeOpening, EngineModel
    from moeviz.capture.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine that runs models. `module` has `open_model(name, **how) -> EngineModel` and `model_facts(name)`.

    Where bytes, context or weights are known before a model is opened, it has `before_opening(name)` too.
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

    Raises `ModelNotFound` for a backend that does not exist.
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


@overload
def load_model(
    name: Literal["embedded", "embedded-natural", "embedded-fine"] = ..., *, backend: None = None, **how: Any
) -> "LoadedModel": ...
@overload
def load_model(name: str, *, backend: Literal["transformers"], **how: Any) -> "LoadedModel": ...
@overload
def load_model(name: str, *, backend: str | None = None, **how: Any) -> "LoadedModel | EngineModel": ...


def load_model(name: str = EMBEDDED, *, backend: str | None = None, **how: Any) -> "LoadedModel | EngineModel":
    """Open a MoE by its name: the embedded model, a transformers checkpoint, or what another engine runs.

    name     "embedded"; one of its siblings, "embedded-natural" and "embedded-fine", where they are installed; the path
             of a folder, or an id on the hub, of a transformers model; or a name that one of `ENGINES` knows.
    backend  which engine; default: the one that the name belongs to. "transformers" runs folders and hub ids.
    how      options of that engine. For transformers: device_map, dtype, revision, check_memory, as
             `moeviz.capture.models.load.load_model` takes them.

    Raises
    ------
    ModelNotFound: there is no model there, its files are damaged, or there is no such backend. CaptureError: a dense
    model, or one that moeviz cannot record, or that does not fit into memory.

    >>> import moeviz
    >>> model = moeviz.load_model("embedded", dtype="float32")
    >>> model.name, model.info.num_experts[0], model.info.top_k
    ('embedded', 8, 2)
    """
    engine = engine_of(name, backend)
    if engine is None:
        from moeviz.capture.models import load

        return load.load_model(name, **how)
    return cast("EngineModel", import_module(engine.module).open_model(name, **how))


def model_facts(name: str, backend: str | None = None) -> ModelInfo:
    """Read a model's facts without opening it: layers, experts, parameters. Raises what `load_model` raises."""
    from moeviz.capture.models import load

    known = known_before(name, backend)
    return load.model_facts(name) if known is None else known.info


def known_before(name: str, backend: str | None = None) -> "BeforeOpening | None":
    """Look at another engine's model without opening it; None for a transformers model."""
    engine = engine_of(name, backend)
    if engine is None:
        return None
    from moeviz.capture.engines.engine import BeforeOpening
    from moeviz.capture.models.memory import bytes_needed

    module = import_module(engine.module)
    if hasattr(module, "before_opening"):
        return cast(BeforeOpening, module.before_opening(name))
    info = module.model_facts(name)
    size = 0 if info.parameters is None else bytes_needed(info.parameters.total, info.dtype)
    return BeforeOpening(info, size, None, None)


def served_model(name: str) -> ServedModel:
    """Read what serving a model takes, by the same names as `load_model`. No weights are loaded.

    Raises `CaptureError` where moeviz cannot tell what the model keeps of a text, and what `model_facts` raises.
    """
    from moeviz.capture.models import kv_cache

    engine = engine_of(name)
    if engine is None or engine.name == "mlx":  # whose folders have a config of transformers' kind
        return kv_cache.served_model(name)
    known = None if engine.elsewhere else known_before(name)  # a name in a file calls no server
    if known is None or known.served is None:
        raise CaptureError(
            f"moeviz cannot tell how much memory {quoted(name)} keeps of a text: {engine.name} does not say. Give the "
            "transformers checkpoint of the model, or its id on the hub."
        )
    return known.served
