"""The models on offer, and what is known of one before it is loaded."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
from moeviz_app import settings
from moeviz_app.jobs import recorded
from moeviz_app.jobs.render_lock import give_up_slot
from moeviz_app.jobs.timeouts import call_with_timeout
from moeviz_app.server import identity

from moeviz.capture.engine_table import engine_of
from moeviz.embedded import EMBEDDED
from moeviz.errors import ModelNotFound
from moeviz.footprint import ServedModel
from moeviz.model_info import ModelInfo
from moeviz.names import quoted

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import BeforeOpening

FACTS_IN_MEMORY = 32
SECONDS_OF_A_SERVER = 30.0  # to say what it runs
building = threading.Lock()  # counting parameters swaps how torch makes them, for every thread at once
_arrived, _bringing = threading.Event(), threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is opened. None: as the checkpoint says, and where there is room."""

    dtype: str | None = None
    device_map: str | None = None


DEFAULT_LOAD = LoadOptions()


def check_on_offer(name: str) -> None:
    """Raise `ModelNotFound` if this visitor may not have that model."""
    listed = settings.SETTINGS.models
    if name not in listed and not (identity.may_name_any_model() and _may_be_typed(name)):
        raise ModelNotFound(f"{quoted(name)} is not available here. Choose one of {', '.join(listed)}.")


def check_in_link(name: str) -> None:
    """Raise `ModelNotFound` for a server that only a link names: a page of strangers would choose whom we ask."""
    if answers_at_once(name) and name not in settings.SETTINGS.models:
        raise ModelNotFound(
            f"This link names the server {quoted(name)}, which is not listed here. Links lead to listed servers alone: "
            "if you know that server, type its name under “Model and options”."
        )


def _may_be_typed(name: str) -> bool:
    """Whether a model that is not listed may be named: a server only by whoever the machine belongs to."""
    return settings.SETTINGS.serve == settings.PRIVATE or not answers_at_once(name)


def why_only_read(name: str) -> str | None:
    """Why nothing can be changed in the model of that name: another engine runs it. None where transformers does."""
    if (engine := engine_of(name)) is None:
        return None
    return (
        f"{quoted(name)} runs in {engine.name}, where moeviz reads what the routers decide and changes nothing. For "
        "what changes a model, or looks into its weights, choose its transformers checkpoint."
    )


def answers_at_once(name: str) -> bool:
    """Whether a server elsewhere runs the model of that name: nothing of a run is known before its end."""
    return (engine := engine_of(name)) is not None and engine.elsewhere


def facts(name: str) -> ModelInfo:
    """What the config of that model says: no weights are loaded for it."""
    check_on_offer(name)
    return facts_of_any(name)


def facts_at_hand(name: str) -> ModelInfo:
    """The same; of the model that ships, as long as torch is not here, from the example's trace."""
    return recorded.example().model if name == EMBEDDED and not torch_is_here() else facts(name)


def served_facts(name: str) -> ServedModel:
    """What the memory of a served model depends on: of one on offer, or of a well-known one. Nothing is loaded.

    Raises `ModelNotFound` for any other, and `CaptureError` where nobody can tell what it keeps of a text.
    """
    bring_torch()
    from moeviz.capture.models.known_models import KNOWN_MODELS

    if name not in KNOWN_MODELS:
        check_on_offer(name)
    return _served(name)


def memory(name: str, how: LoadOptions) -> tuple[int, int | None]:
    """Bytes that a model takes, and bytes that are free for it where it is to go (None: the system does not say)."""
    bring_torch()
    from moeviz.capture.models.memory import bytes_free, bytes_needed

    found = facts(name)
    if (known := known_before_opening(name)) is not None:
        return known.memory, bytes_free("cpu") if known.memory else None
    return bytes_needed(found.parameters.total, how.dtype or found.dtype), bytes_free(how.device_map)


def context_length(name: str) -> int | None:
    """Tokens that fit into a model's context, by its config alone; None where that sets no limit."""
    check_on_offer(name)
    if (known := known_before_opening(name)) is not None:
        return known.max_tokens
    config = config_of(name)
    from moeviz.capture.models.load import context_length

    return context_length(config)


@st.cache_resource(show_spinner="Counting …")
def known_models() -> pd.DataFrame:
    """Exact parameter counts of the models whose configurations ship, beside what their makers say."""
    bring_torch()
    from moeviz.capture.models.known_counts import known_counts

    with building:
        return known_counts()


def torch_is_here() -> bool:
    """Whether what runs models has been imported, so that asking for its facts takes no time."""
    return _arrived.is_set()


def bring_torch() -> None:
    """Import what runs models: whoever asks first does, and others wait. It takes seconds."""
    if _arrived.is_set():
        return
    give_up_slot()
    with _bringing:
        if not _arrived.is_set():
            import moeviz.capture.models.load
            import moeviz.capture.models.memory
            import moeviz.capture.trace  # noqa: F401

            _arrived.set()


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def known_before_opening(name: str) -> "BeforeOpening | None":
    """What is known of another engine's model before it is opened; None for a transformers model."""
    if engine_of(name) is None:
        return None
    bring_torch()
    from moeviz.capture.opening import known_before

    if answers_at_once(name):
        return call_with_timeout(name, lambda: known_before(name), SECONDS_OF_A_SERVER, "Its server does not answer.")
    return call_with_timeout(name, lambda: known_before(name))


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def facts_of_any(name: str) -> ModelInfo:
    """The same, on offer here or not: of a well-known model, say, whose sizes are moeviz's own copy."""
    if (known := known_before_opening(name)) is not None:
        return known.info
    config = config_of(name)
    from moeviz.capture.models.parameters import parameters_of_config

    with building:
        return parameters_of_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _served(name: str) -> ServedModel:
    config = config_of(name)
    from moeviz.capture.models.served import served_by_config

    with building:
        return served_by_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def config_of(name: str) -> Any:
    """Read from a file or from the hub: the one look-up that may take long, so nobody else waits for it."""
    bring_torch()
    from moeviz.capture.models.load import model_config

    return call_with_timeout(name, lambda: model_config(name))


def dtype_of(name: str) -> str:
    """What its weights are opened in where nobody says."""
    config = config_of(name)
    from moeviz.capture.models.load import own_dtype

    return own_dtype(name, config)


def device(how: LoadOptions) -> str:
    """Where a model goes that is opened like this."""
    bring_torch()
    from moeviz.capture.models.memory import device_of

    return device_of(how.device_map)
