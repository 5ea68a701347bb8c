"""The models on offer, and what is known of one before it is loaded."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import streamlit as st

from moeviz.capture.engine_table import engine_of
from moeviz.embedded import EMBEDDED
from moeviz.errors import ModelNotFound, MoevizError
from moeviz.model_info import ModelInfo
from moeviz.parameters import ServedModel
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.jobs import recorded
from moeviz_app.jobs.render_lock import give_up_slot
from moeviz_app.server import identity

LOOK_UP_SECONDS = 8.0
MOST_LOOK_UPS = 4  # at a time; each may go on for a while after nobody waits for it
NO_HUB = (
    "It is not a folder on this machine, and the Hugging Face hub does not answer. Try again, or give the folder of a "
    "model."
)
T = TypeVar("T")
_places = threading.BoundedSemaphore(MOST_LOOK_UPS)


def call_with_timeout(name: str, ask: Callable[[], T], seconds: float = LOOK_UP_SECONDS, silent: str = NO_HUB) -> T:
    """Return what `ask` finds out about a model, within a number of seconds.

    Raises what it raises; `ModelNotFound` where it takes longer, with `silent`; and `MoevizError` where too many are
    looked up.
    """
    places = _places
    if not places.acquire(blocking=False):
        raise MoevizError(f"{MOST_LOOK_UPS} other models are being looked up already. Try again in a moment.")
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(ask())
        except BaseException as error:  # raised again where somebody waits
            found.set_exception(error)
        finally:
            places.release()

    try:
        threading.Thread(target=work, name="moeviz-look-up", daemon=True).start()
    except RuntimeError as error:
        places.release()
        raise MoevizError("This server has run out of threads. Try again in a moment.") from error
    give_up_slot()
    try:
        return found.result(seconds)
    except TimeoutError as error:
        if found.done():  # it was its own
            raise
        raise ModelNotFound(f"No answer from {quoted(name)} within {seconds:g} s. {silent}") from error


if TYPE_CHECKING:
    from moeviz.capture.engines.engine import BeforeOpening
    from moeviz.capture.run.images import PromptImage

FACTS_IN_MEMORY = 32
SECONDS_OF_A_SERVER = 30.0  # to say what it runs
building = threading.Lock()  # counting parameters swaps how torch makes them, for every thread at once
_arrived, _bringing = threading.Event(), threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options for loading a model. None: as the checkpoint says, and on a device with enough memory."""

    dtype: str | None = None
    device_map: str | None = None


DEFAULT_LOAD = LoadOptions()


def check_on_offer(name: str) -> None:
    """Raise `ModelNotFound` if this visitor may not have that model."""
    listed = settings.SETTINGS.models
    private = settings.SETTINGS.serve == settings.PRIVATE  # a server may be named only by the machine's owner
    if name not in listed and not (identity.may_name_any_model() and (private or not answers_at_once(name))):
        raise ModelNotFound(f"{quoted(name)} is not available here. Choose one of {', '.join(listed)}.")


def check_in_link(name: str) -> None:
    """Raise `ModelNotFound` for a server that only a link names: a stranger's page would choose whom we ask."""
    if answers_at_once(name) and name not in settings.SETTINGS.models:
        raise ModelNotFound(
            f"This link names the server {quoted(name)}, which is not listed here. Links lead to listed servers alone: "
            "if you know that server, type its name under “Model and options”."
        )


def why_only_read(name: str) -> str | None:
    """Return why nothing can be changed in a model: another engine runs it. None if transformers does."""
    if (engine := engine_of(name)) is None:
        return None
    return (
        f"{quoted(name)} runs in {engine.name}, where moeviz reads what the routers decide and changes nothing. For "
        "what changes a model, or looks into its weights, choose its transformers checkpoint."
    )


def answers_at_once(name: str) -> bool:
    """Return whether a server elsewhere runs the model of that name: nothing of a run is known before its end."""
    return (engine := engine_of(name)) is not None and engine.elsewhere


def facts(name: str) -> ModelInfo:
    """Return what a model's config says; no weights are loaded."""
    check_on_offer(name)
    return facts_of_any(name)


def facts_at_hand(name: str) -> ModelInfo:
    """Return the facts of a model; of the one that ships, until torch is imported, from the example's trace."""
    return recorded.example().model if name == EMBEDDED and not torch_is_here() else facts(name)


def served_facts(name: str) -> ServedModel:
    """Return what a served model's memory depends on, for one on offer or well known. Nothing is loaded.

    Raises `ModelNotFound` for any other, and `CaptureError` where nobody can tell what it keeps of a text.
    """
    bring_torch()
    from moeviz.capture.models.known_models import KNOWN_MODELS

    if name not in KNOWN_MODELS:
        check_on_offer(name)
    return _served(name)


def memory(name: str, how: LoadOptions) -> tuple[int, int | None]:
    """Bytes that a model needs, and bytes that are free for it on its device (None: the system does not say)."""
    bring_torch()
    from moeviz.capture.models.memory import bytes_free, bytes_needed

    found = facts(name)
    if (known := known_before_opening(name)) is not None:
        return known.memory, bytes_free("cpu") if known.memory else None
    return bytes_needed(found.parameters.total, how.dtype or found.dtype), bytes_free(how.device_map)


def context_length(name: str) -> int | None:
    """Tokens that fit into a model's context, by its config; None if that sets no limit."""
    check_on_offer(name)
    if (known := known_before_opening(name)) is not None:
        return known.max_tokens
    config = config_of(name)
    from moeviz.capture.models.load import context_length

    return context_length(config)


@st.cache_resource(show_spinner="Counting …")
def known_models() -> pd.DataFrame:
    """Exact parameter counts of the models whose configurations ship, with what their makers say."""
    bring_torch()
    from moeviz.capture.models.known_models import known_counts

    with building:
        return known_counts()


def torch_is_here() -> bool:
    """Return whether what runs models has been imported, so that asking for its facts takes no time."""
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
    """Return what is known of another engine's model before it is opened; None for a transformers model."""
    if engine_of(name) is None:
        return None
    bring_torch()
    from moeviz.capture.opening import known_before

    if answers_at_once(name):
        return call_with_timeout(name, lambda: known_before(name), SECONDS_OF_A_SERVER, "Its server does not answer.")
    return call_with_timeout(name, lambda: known_before(name))


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def facts_of_any(name: str) -> ModelInfo:
    """Return the facts of a model, on offer here or not: of a well-known one, whose config ships with moeviz."""
    if (known := known_before_opening(name)) is not None:
        return known.info
    config = config_of(name)
    from moeviz.capture.models.parameters import parameters_of_config

    with building:
        return parameters_of_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _served(name: str) -> ServedModel:
    config = config_of(name)
    from moeviz.capture.models.kv_cache import served_by_config

    with building:
        return served_by_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def config_of(name: str) -> Any:
    """Read from a file or from the hub: the one look-up that may take long, so nobody else waits for it."""
    bring_torch()
    from moeviz.capture.models.load import model_config

    return call_with_timeout(name, lambda: model_config(name))


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def takes_images(name: str) -> bool:
    """Return whether a transformers model takes images, by the class that its config opens."""
    if known_before_opening(name) is not None:
        return False
    config = config_of(name)
    from moeviz.capture.models.load import takes_images
    from moeviz.capture.models.parameters import class_of

    return takes_images(class_of(config))


def image_sizes(name: str, images: "Sequence[PromptImage]") -> str:
    """Return how many tokens each image will be for a model, by its processor."""
    from moeviz.capture.run.images import sizes_before_run

    return call_with_timeout(name, lambda: sizes_before_run(name, images))


def dtype_of(name: str) -> str:
    """Return the dtype in which a model's weights are opened by default."""
    config = config_of(name)
    from moeviz.capture.models.load import own_dtype

    return own_dtype(name, config)


def device(how: LoadOptions) -> str:
    """Return the device of a model that is loaded with these options."""
    bring_torch()
    from moeviz.capture.models.memory import device_of

    return device_of(how.device_map)
