"""Settings of a deployment, read once: from environment variables, or from `moeviz.toml`.

MOEVIZ_SERVE says for whom the app is served: `private` is one person on their own machine (`moeviz app`), `team` is a
group on its own network, `public` is strangers. Each setting is a field of `Settings`, with what holds where it is not
set, in private, for a team and in public.

`moeviz.toml` lies in the folder that the app is started in. It holds the same names without MOEVIZ_, in lower case, but
not `serve`; the environment counts before it:

    models = ["embedded", "/models/OLMoE", "vllm+http://gpu-1:8000"]
    max_new_tokens = 64

The key of the servers that are among the models may only be in the environment: MOEVIZ_API_KEY, or VLLM_API_KEY and
SGLANG_API_KEY.
"""

import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from moeviz.embedded.own_models import installed

HIGHEST_TEMPERATURE = 2.0
HIGHEST_SEED = 2**31 - 1
FILE = "moeviz.toml"
PRIVATE, TEAM, PUBLIC = "private", "team", "public"
WAYS = (PRIVATE, TEAM, PUBLIC)
MOST_IMAGES = 4  # of one prompt
IMAGE_MB = {PRIVATE: 32, TEAM: 16, PUBLIC: 4}
MOST_PIXELS = {PRIVATE: 50_000_000, TEAM: 25_000_000, PUBLIC: 6_000_000}  # of one image
SHORTEST_TOKEN = 16  # characters
PROCESS = "MOEVIZ_PROCESS"  # set in each of several processes: how many were forked before it
OF_ALL = (  # what all visitors together may have
    "max_sessions",
    "sessions_per_address",
    "max_waiting",
    "runs_per_address",
    "process_mb",
    "model_memory_mb",
)

USUAL = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))  # of each field of `Settings`
Read = Callable[[Mapping[str, str], str, str], Any]  # of what was given, a variable, and what holds otherwise


def _text(found: Mapping[str, str], name: str, _usual: str) -> str | None:
    return found.get(name)


def _names(found: Mapping[str, str], name: str, _usual: str = "") -> tuple[str, ...]:
    return tuple(part.strip() for part in found.get(name, "").split(",") if part.strip())


def _models(found: Mapping[str, str], name: str, _usual: str) -> tuple[str, ...]:
    return _names(found, name) or installed()


def _lines(found: Mapping[str, str], name: str, _usual: str) -> tuple[str, ...]:
    return tuple(filter(None, found.get(name, "").split("\n")))


def _one_of(*values: str) -> Read:
    def read(found: Mapping[str, str], name: str, usual: str) -> str:
        value = found.get(name, usual)
        if value not in values:
            raise ValueError(f"{name} is {value!r}; it must be {', '.join(values[:-1])} or {values[-1]}, or not set.")
        return value

    return read


def _secret(found: Mapping[str, str], name: str, _usual: str) -> str | None:
    value = found.get(name)
    if value is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},}}", value):
        raise ValueError(
            f"{name} must have at least {SHORTEST_TOKEN} characters, letters, digits and signs without a space, so "
            'that nobody guesses it: python -c "import secrets; print(secrets.token_urlsafe())" makes one.'
        )
    return value


def _switch(found: Mapping[str, str], name: str, _usual: str = "") -> bool | None:
    value = found.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} is {value!r}; it must be 0 or 1, or not set.")
    return value == "1" if value else None


def _on(found: Mapping[str, str], name: str, usual: str) -> bool:
    value = _switch(found, name)
    return usual == "1" if value is None else value


def _count(found: Mapping[str, str], name: str, usual: str) -> int:
    value = found.get(name, usual)
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1, or not set.")
    return int(value)


def _count_if_set(found: Mapping[str, str], name: str, usual: str) -> int | None:
    return _count(found, name, usual) if name in found else None


def _read_by(read: Read) -> Any:
    """Declare a setting by how its text is read; its default and its meaning are in `settings.toml`."""
    return field(metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a deployment. A field is the variable of its name; `files` is MOEVIZ_OPEN."""

    serve: str = _read_by(_one_of(*WAYS))
    hosts: tuple[str, ...] = _read_by(_names)
    trusted_proxies: tuple[str, ...] = _read_by(_names)
    token: str | None = _read_by(_secret)
    ask_token: bool = _read_by(_on)
    login_header: str | None = _read_by(_text)
    models: tuple[str, ...] = _read_by(_models)
    allow_any_model: bool | None = _read_by(_switch)
    max_prompt_chars: int = _read_by(_count)
    max_new_tokens: int = _read_by(_count)
    max_corpus_chars: int = _read_by(_count)
    processes: int = _read_by(_count)
    seconds_to_answer: int = _read_by(_count)
    max_sessions: int = _read_by(_count)
    sessions_per_visitor: int = _read_by(_count)
    sessions_per_address: int = _read_by(_count)
    max_waiting: int = _read_by(_count)
    runs_per_visitor: int = _read_by(_count)
    runs_per_address: int = _read_by(_count)
    runs_a_minute: int = _read_by(_count)
    max_upload_mb: int = _read_by(_count)
    max_unpacked_mb: int = _read_by(_count)
    seconds_to_read: int = _read_by(_count)
    session_mb: int = _read_by(_count)
    process_mb: int = _read_by(_count)
    model_memory_mb: int | None = _read_by(_count_if_set)
    seconds_idle: int = _read_by(_count)
    prompts_in_links: bool = _read_by(_on)
    frame_ancestors: tuple[str, ...] = _read_by(_names)
    cookie_secret: str | None = _read_by(_secret)
    metrics_token: str | None = _read_by(_secret)
    files: tuple[str, ...] = _read_by(_lines)
    keep_traces: bool = _read_by(_on)
    warm_up: bool = _read_by(_on)
    log: str = _read_by(_one_of("plain", "json"))


def table() -> list[tuple[str, str, str, str, str]]:
    """Return a row a setting: its variable, what holds in private, for a team and in public, and what it means."""
    return [(_variable(name), *row["usual"], row["meaning"]) for name, row in USUAL.items()]


def _variable(name: str) -> str:
    return f"MOEVIZ_{'OPEN' if name == 'files' else name.upper()}"


def read_settings(environment: Mapping[str, str], file: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings in these variables and, if they are not set, in a `moeviz.toml`. Raises `ValueError` with
    the name of a setting that is invalid, or unknown in the file.
    """
    found = _from_file(file or {}) | {name: value for name, value in environment.items() if value}
    way = WAYS.index(_one_of(*WAYS)(found, "MOEVIZ_SERVE", PUBLIC))
    values = {
        row.name: row.metadata["read"](found, _variable(row.name), USUAL[row.name]["usual"][way])
        for row in fields(Settings)
    }
    values["keep_traces"] = values["keep_traces"] and values["serve"] == PRIVATE
    values["ask_token"] = values["serve"] == TEAM or (values["ask_token"] and values["serve"] == PRIVATE)
    settings = Settings(**values)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """Raise `ValueError` for settings that no mode of serving may have, or lack."""
    if settings.serve == PUBLIC and settings.allow_any_model:
        raise ValueError(
            "MOEVIZ_ALLOW_ANY_MODEL is 1 where strangers are served: they would open folders of this machine. List the "
            "models in MOEVIZ_MODELS, or serve a team (moeviz app --team)."
        )
    if settings.serve == TEAM and not settings.hosts:
        raise ValueError(
            "For a team, MOEVIZ_HOSTS must name the host that browsers ask for: moeviz app --team --behind HOST."
        )
    if settings.login_header and not settings.trusted_proxies:
        raise ValueError(
            "MOEVIZ_LOGIN_HEADER counts only from a proxy that is listed, since anyone could send that header: set "
            "MOEVIZ_TRUSTED_PROXIES to the proxy's address, 127.0.0.1 for one on this machine."
        )
    if settings.processes > 1 and (why := _why_one_process(settings)):
        raise ValueError(f"MOEVIZ_PROCESSES is {settings.processes}, and {why}")
    for proxy in settings.trusted_proxies:
        try:
            ip_network(proxy, strict=False)
        except ValueError:
            raise ValueError(
                f"MOEVIZ_TRUSTED_PROXIES has {proxy!r}; it must be addresses or networks: 10.0.0.0/8."
            ) from None
    if bad := [site for site in settings.frame_ancestors if not re.fullmatch(r"[\w.:/*'-]+", site)]:
        raise ValueError(f"MOEVIZ_FRAME_ANCESTORS has {bad[0]!r}; it must be sites such as https://huggingface.co.")


def _why_one_process(settings: Settings) -> str:
    """Explain why these settings allow only one process; empty if they allow more."""
    if sys.platform != "linux":
        return "only on Linux can a process that has imported torch be forked. Leave it out."
    if settings.serve == PRIVATE:
        return "one's own app is one process. Serve a team or strangers (moeviz app --team, --public), or leave it out."
    if not settings.prompts_in_links:
        return "each process would know only its own short links: MOEVIZ_PROMPTS_IN_LINKS must be 1 then."
    return ""


def process() -> int | None:
    """Return how many processes were forked before this one; None if nobody forked it."""
    return int(os.environ[PROCESS]) if PROCESS in os.environ else None


def share_of(settings: Settings, processes: int) -> Settings:
    """Return the settings of one of `processes` processes: its part of what all visitors share, rounded up."""
    limits = {name: getattr(settings, name) for name in OF_ALL}
    return replace(settings, **{name: -(-limit // processes) for name, limit in limits.items() if limit is not None})


def settings_file(folder: Path) -> dict[str, Any]:
    """Return what the `moeviz.toml` in that folder holds, if there is one. `ValueError` where it cannot be read."""
    try:
        return tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{FILE} cannot be read: {error}") from error


def _from_file(file: Mapping[str, Any]) -> dict[str, str]:
    """Return a file's settings as environment variables. It cannot set for whom the app is served."""
    names = {_variable(row.name).removeprefix("MOEVIZ_").lower() for row in fields(Settings)} - {"serve"}
    if unknown := sorted(file.keys() - names):
        raise ValueError(f"{FILE} has {unknown[0]!r}, which is not a setting; there are {', '.join(sorted(names))}.")
    return {f"MOEVIZ_{name.upper()}": _as_text(value, "\n" if name == "open" else ",") for name, value in file.items()}


def _as_text(value: Any, between: str) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return between.join(map(str, value)) if isinstance(value, list) else str(value)


def _read_or_end() -> Settings:
    """Return the settings of this process. If they are invalid, end it with a sentence rather than serve others."""
    try:
        return read_settings(os.environ, settings_file(Path()))
    except ValueError as error:
        sys.exit(f"moeviz: {error}")


SETTINGS = _read_or_end()
