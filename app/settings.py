"""What a deployment decides, read once from environment variables.

| variable                | default    | meaning                                                                       |
|-------------------------|------------|-------------------------------------------------------------------------------|
| MOEVIZ_MODELS           | `embedded` | models on offer, separated by commas: folders, Hugging Face ids, `embedded`   |
| MOEVIZ_ALLOW_ANY_MODEL  | not set    | 1: anyone may type a folder or an id · 0: nobody · not set: only a browser on |
|                         |            | the server's own machine. Set it to 0 behind a proxy.                         |
| MOEVIZ_MAX_PROMPT_CHARS | 8000       | longest prompt, in characters                                                 |
| MOEVIZ_MAX_NEW_TOKENS   | 128        | most tokens that one run may generate                                         |
| MOEVIZ_MAX_WAITING      | 20         | runs that may wait for one model; more are told that it is busy               |
| MOEVIZ_MAX_CORPUS_CHARS | 300000     | characters of all the texts of one corpus                                     |
| MOEVIZ_MAX_UPLOAD_MB    | 50         | largest trace file to open, in MB; at most `server.maxUploadSize`             |
| MOEVIZ_OPEN             | not set    | a trace file that every visitor sees until they run or open something: what   |
|                         |            | `moeviz app FILE` sets                                                        |
| MOEVIZ_WARM_UP          | 1          | 1: the embedded model is loaded while the first visitor reads the example     |
| MOEVIZ_TIMING           | 0          | 1: lines on stderr say when a run begins, the model ends, the chart is sent   |
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

HIGHEST_TEMPERATURE = 2.0
HIGHEST_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a deployment decides."""

    models: tuple[str, ...]
    allow_any_model: bool | None  # None: only to a browser on the server's own machine
    max_prompt_chars: int
    max_new_tokens: int
    max_waiting: int
    max_corpus_chars: int
    max_upload_mb: int
    trace_file: str | None  # what is on screen at first; None: the example that ships
    warm_up: bool
    timing: bool


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in these environment variables. `ValueError` says which variable holds something else."""
    models = tuple(name.strip() for name in environment.get("MOEVIZ_MODELS", "").split(",") if name.strip())
    return Settings(
        models=models or ("embedded",),
        allow_any_model=_switch(environment, "MOEVIZ_ALLOW_ANY_MODEL"),
        max_prompt_chars=_count(environment, "MOEVIZ_MAX_PROMPT_CHARS", 8000),
        max_new_tokens=_count(environment, "MOEVIZ_MAX_NEW_TOKENS", 128),
        max_waiting=_count(environment, "MOEVIZ_MAX_WAITING", 20),
        max_corpus_chars=_count(environment, "MOEVIZ_MAX_CORPUS_CHARS", 300_000),
        max_upload_mb=_count(environment, "MOEVIZ_MAX_UPLOAD_MB", 50),
        trace_file=environment.get("MOEVIZ_OPEN") or None,
        warm_up=_switch(environment, "MOEVIZ_WARM_UP") is not False,
        timing=_switch(environment, "MOEVIZ_TIMING") or False,
    )


def _switch(environment: Mapping[str, str], name: str) -> bool | None:
    value = environment.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} is {value!r}; it must be 0 or 1, or not set.")
    return value == "1" if value else None


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1, or not set.")
    return int(value)


SETTINGS = read_settings(os.environ)


def may_name_any_model() -> bool:
    """Whether this visitor may load a folder or an id that the deployment does not list."""
    if SETTINGS.allow_any_model is not None:
        return SETTINGS.allow_any_model
    return is_local()


def may_keep_on_disk() -> bool:
    """Whether this visitor is the machine's own user, whose folder keeps what took long; not on a server for others."""
    return SETTINGS.allow_any_model is not False and is_local()


def is_local() -> bool:
    """Whether the visitor's browser is on the server's own machine, as far as that can be told."""
    headers = st.context.headers
    host = re.sub(r":\d+$", "", headers.get("Host", ""))
    return (
        st.context.ip_address in (None, "::ffff:127.0.0.1")  # None is Streamlit's way to say: this machine
        and host in ("localhost", "127.0.0.1", "[::1]")
        and "X-Forwarded-For" not in headers
    )
