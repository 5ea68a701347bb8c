"""The model of the first page, and how it runs: the visitor's choices in addition to the prompt."""

from dataclasses import asdict
from typing import Any

import streamlit as st

from moeviz.model_info import ModelInfo
from moeviz_app import settings
from moeviz_app.jobs import model_catalog
from moeviz_app.jobs.run_request import DECODING_CHOICES, KERNELS_CHOICES, LOAD_CHOICES, RunRequest, usual_temperature
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.widgets.components import ask
from moeviz_app.widgets.facts import model_facts


def fill_in(run: RunRequest) -> None:
    """Let the first page's widgets hold what a link asks for: the key of a widget is the name of its field."""
    values = asdict(run)
    ask.fill_in(session.BOX, values.pop("chat"), values.pop("system") or "")
    del values["mute"], values["images"]  # choices in the drawing, and files
    if not run.new_tokens:
        values[session.TEMPERATURE] = usual_temperature(run.model)
    for key, value in values.items():
        session.set_value(key, value)


def choose_model() -> str:
    """Choose a model: one of those on offer, or whatever this visitor may type."""
    free = identity.may_name_any_model()
    server = ", or a server (vllm+http://…)" if settings.SETTINGS.serve == settings.PRIVATE else ""
    return st.selectbox(
        f"Model: choose one, or type a folder, a .gguf file or a Hugging Face id{server}" if free else "Model",
        settings.SETTINGS.models,
        accept_new_options=free,
        key=session.MODEL,
        persist_state="session",
        on_change=_as_usual,
    )


def _as_usual() -> None:
    """Reset generation when another model is chosen: it writes by its own defaults."""
    session.set_value(session.TEMPERATURE, usual_temperature(session.value(session.MODEL)))


def choose_options(name: str, info: ModelInfo | None) -> RunRequest:
    """Choose how many tokens to generate and how, which routers to record, and how the model is loaded.

    Returns the run of an empty prompt.
    """
    if info is not None and model_catalog.torch_is_here():
        model_facts(info, model_catalog.memory(name, session.how()), model_catalog.context_length(name))
    sites = [] if info is None else info.site.split(" and ")
    if len(sites) > 1:
        st.radio("Which routers to record", sites, key=session.SITE, horizontal=True, persist_state="session")
    only_read = model_catalog.why_only_read(name) is not None
    chosen = _generation(name, only_read) | ({} if only_read else _loading())
    return RunRequest("", name, site=session.value(session.SITE) if len(sites) > 1 else None, **chosen)


def _generation(name: str, only_read: bool) -> dict[str, Any]:
    """Ask for the number of tokens to generate, temperature and seed; or the checkpoint's own settings. A model that
    another engine runs has none.
    """
    most = settings.SETTINGS.max_new_tokens
    new_tokens = st.slider(
        "Tokens to generate after the prompt", 0, most, key=session.NEW_TOKENS, persist_state="session"
    )
    decoding = None if only_read else _decoding_of_checkpoint(new_tokens == 0)
    session.start_with(session.TEMPERATURE, usual_temperature(name))
    temperature = st.slider(
        "Temperature: 0 always takes the most likely token; higher is more random",
        0.0,
        settings.HIGHEST_TEMPERATURE,
        key=session.TEMPERATURE,
        persist_state="session",
        disabled=new_tokens == 0 or decoding is not None,
    )
    seed = st.number_input(
        "Seed: the same seed gives the same tokens",
        0,
        settings.HIGHEST_SEED,
        key=session.SEED,
        persist_state="session",
        disabled=new_tokens == 0 or (temperature == 0 and decoding is None),
    )
    if new_tokens == 0:
        return {}
    new_tokens = min(new_tokens, most)  # whatever a browser sends
    return {"new_tokens": new_tokens, "temperature": temperature, "seed": seed, "decoding": decoding}


def _decoding_of_checkpoint(disabled: bool) -> str | None:
    return st.selectbox(
        "How each token is chosen",
        DECODING_CHOICES,
        format_func={"checkpoint": "as the checkpoint's own settings say"}.get,
        index=None,
        placeholder="by the temperature and the seed below",
        help="Many checkpoints come with settings for generation: a temperature, penalties for repetition and "
        "others. With them the model writes as it does in transformers' generate().",
        key=session.DECODING,
        persist_state="session",
        disabled=disabled,
    )


def _loading() -> dict[str, Any]:
    for key, label, placeholder in (
        (session.DTYPE, "dtype", "as the checkpoint says"),
        (session.DEVICE, "Device, as accelerate names it", "a GPU if there is one"),
    ):
        st.selectbox(label, LOAD_CHOICES[key], index=None, placeholder=placeholder, key=key, persist_state="session")
    kernels = st.selectbox(
        "Routers run by",
        KERNELS_CHOICES,
        format_func={"on": "moeviz's kernels", "off": "the model's own code"}.get,
        index=None,
        placeholder="moeviz's kernels on a GPU, where they know the model's routers",
        help="The kernels record as they decide, and are compared with the model's own routers in every run.",
        key=session.KERNELS,
        persist_state="session",
    )
    return asdict(session.how()) | {"kernels": kernels}
