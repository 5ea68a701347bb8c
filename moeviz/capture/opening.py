"""Open a model by its name, in whichever engine runs it."""

from typing import Any, Literal, overload

from moeviz.capture.engine_table import before_opening, engine_of, open_model
from moeviz.capture.engines.engine import BeforeOpening, EngineModel
from moeviz.capture.models import load
from moeviz.capture.models.load import LoadedModel
from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.parameters import ServedModel
from moeviz.text import quoted


@overload
def load_model(
    name: Literal["embedded", "embedded-natural", "embedded-fine"] = ..., *, backend: None = None, **how: Any
) -> LoadedModel: ...
@overload
def load_model(name: str, *, backend: Literal["transformers"], **how: Any) -> LoadedModel: ...
@overload
def load_model(name: str, *, backend: str | None = None, **how: Any) -> LoadedModel | EngineModel: ...


def load_model(name: str = EMBEDDED, *, backend: str | None = None, **how: Any) -> LoadedModel | EngineModel:
    """Open a MoE by its name: the embedded model, a transformers checkpoint, or what another engine runs.

    name     "embedded"; one of its siblings, "embedded-natural" and "embedded-fine", if they are installed; the path
             of a folder, or an id on the hub, of a transformers model; or what an engine of
             `moeviz.capture.engine_table` knows.
    backend  which engine; default: the one that the name belongs to. "transformers" runs folders and hub ids.
    how      options of that engine. For transformers: device_map, dtype, revision, check_memory, as
             `moeviz.capture.models.load.load_model` takes them.

    Raises
    ------
    ModelNotFound: no model is there, its files are damaged, or the backend is unknown. CaptureError: a dense
    model, or one that moeviz cannot record, or that does not fit into memory.

    >>> import moeviz
    >>> model = moeviz.load_model("embedded", dtype="float32")
    >>> model.name, model.info.num_experts[0], model.info.top_k
    ('embedded', 8, 2)
    """
    engine = engine_of(name, backend)
    return load.load_model(name, **how) if engine is None else open_model(engine, name, **how)


def model_facts(name: str, backend: str | None = None) -> ModelInfo:
    """Read a model's facts without opening it: layers, experts, parameters. Raises what `load_model` raises."""
    known = known_before(name, backend)
    return load.model_facts(name) if known is None else known.info


def known_before(name: str, backend: str | None = None) -> BeforeOpening | None:
    """Look at another engine's model without opening it; None for a transformers model."""
    engine = engine_of(name, backend)
    return None if engine is None else before_opening(engine, name)


def served_model(name: str) -> ServedModel:
    """Read what serving a model takes, by the same names as `load_model`. No weights are loaded.

    Raises `CaptureError` if moeviz does not know what the model keeps of a text, and what `model_facts` raises.
    """
    from moeviz.capture.models import kv_cache

    engine = engine_of(name)
    if engine is None or engine.name == "mlx":  # whose folders have a config of transformers' kind
        return kv_cache.served_model(name)
    served = None if engine.elsewhere else before_opening(engine, name).served  # a name in a file calls no server
    if served is None:
        raise CaptureError(
            f"moeviz cannot tell how much memory {quoted(name)} keeps of a text: {engine.name} does not say. Give the "
            "transformers checkpoint of the model, or its id on the hub."
        )
    return served
