"""What a deployment decides, read once: from environment variables, or from `moeviz.toml`.

MOEVIZ_SERVE says for whom the app is served: `private` is one person on their own machine (`moeviz app`), `team` is a
group on its own network, `public` is strangers. What is not set is as the column of that way says.

| variable                | private  | team      | public   | meaning                                                |
|-------------------------|----------|-----------|----------|--------------------------------------------------------|
| MOEVIZ_SERVE            |          |           | public   | `private`, `team` or `public`; not set: public, but    |
|                         |          |           |          | `moeviz app` sets it by its options                    |
| MOEVIZ_HOSTS            | loopback | must be   | any      | names by which browsers reach the server, separated by |
|                         |          | set       |          | commas: what `--behind` names. Requests to others are  |
|                         |          |           |          | refused                                                |
| MOEVIZ_TRUSTED_PROXIES  | none     | none      | none     | addresses or networks of proxies, separated by commas: |
|                         |          |           |          | what these say in `X-Forwarded-For` is a visitor's     |
|                         |          |           |          | address                                                |
| MOEVIZ_TOKEN            | none     | made anew | none     | what a visitor must give once, 16 characters or more;  |
|                         |          |           |          | for a team a new one is made at each start and printed |
| MOEVIZ_LOGIN_HEADER     | none     | none      | none     | header in which a trusted proxy names who has logged   |
|                         |          |           |          | in, in place of the token                              |
| MOEVIZ_MODELS           | embedded | embedded  | embedded | models on offer, separated by commas: folders, Hugging |
|                         |          |           |          | Face ids, .gguf files, servers, `embedded`. Not set:   |
|                         |          |           |          | `embedded`, and its siblings where they are installed  |
| MOEVIZ_ALLOW_ANY_MODEL  | own      | 0         | 0        | 1: anyone may type a folder or an id, never in public; |
|                         | browser  |           |          | a server in private alone · 0: nobody · not set: in    |
|                         |          |           |          | private, a browser on this machine                     |
| MOEVIZ_MAX_PROMPT_CHARS | 8000     | 8000      | 4000     | longest prompt, in characters                          |
| MOEVIZ_MAX_NEW_TOKENS   | 128      | 128       | 64       | most tokens that one run may generate                  |
| MOEVIZ_MAX_CORPUS_CHARS | 300000   | 300000    | 50000    | characters of all the texts of one corpus              |
| MOEVIZ_MAX_SESSIONS     | 100      | 500       | 300      | tabs that may be connected at once                     |
| MOEVIZ_MAX_WAITING      | 50       | 200       | 200      | runs in the line of one device; more are told that     |
|                         |          |           |          | it is busy                                             |
| MOEVIZ_RUNS_PER_VISITOR | 50       | 8         | 2        | runs of one browser in line at once, begun or not      |
| MOEVIZ_RUNS_PER_ADDRESS | 50       | 200       | 100      | runs of one address in line at once; many              |
|                         |          |           |          | browsers may share one                                 |
| MOEVIZ_RUNS_A_MINUTE    | 600      | 60        | 20       | runs that one browser may begin in a minute            |
| MOEVIZ_MAX_UPLOAD_MB    | 50       | 50        | 20       | largest trace file to open, in MB; at most             |
|                         |          |           |          | `server.maxUploadSize`                                 |
| MOEVIZ_MAX_UNPACKED_MB  | 1000     | 500       | 200      | largest trace that such a file may unpack to, in MB    |
| MOEVIZ_SECONDS_TO_READ  | 60       | 30        | 10       | seconds that reading such a file may take              |
| MOEVIZ_SESSION_MB       | 4000     | 1000      | 300      | traces that one browser tab may keep, in MB            |
| MOEVIZ_PROCESS_MB       | 8000     | 8000      | 2000     | traces that all tabs may keep together, in MB          |
| MOEVIZ_MODEL_MEMORY_MB  | free     | free      | free     | memory for models on each device, in MB; not set: what |
|                         |          |           |          | is free there                                          |
| MOEVIZ_SECONDS_IDLE     | 3600     | 600       | 120      | seconds that a tab whose connection is gone keeps its  |
|                         |          |           |          | traces, in case it comes back                          |
| MOEVIZ_PROMPTS_IN_LINKS | 1        | 1         | 1        | 1: addresses hold the prompt, and can be passed on ·   |
|                         |          |           |          | 0: they hold a short key, which this server knows for  |
|                         |          |           |          | a day                                                  |
| MOEVIZ_FRAME_ANCESTORS  | none     | none      | none     | sites that may show the app in a frame, separated by   |
|                         |          |           |          | commas: `https://huggingface.co`                       |
| MOEVIZ_METRICS_TOKEN    | none     | none      | none     | what a reader of `/metrics` must send (`Authorization: |
|                         |          |           |          | Bearer …`); not set: closed in public, else as the     |
|                         |          |           |          | pages are                                              |
| MOEVIZ_OPEN             | none     | none      | none     | files of traces, counts or runs, and folders of        |
|                         |          |           |          | datasets, one a line, that each visitor begins with;   |
|                         |          |           |          | the first is on screen until they run or open          |
|                         |          |           |          | something: what `moeviz app FILE` sets                 |
| MOEVIZ_KEEP_TRACES      | 1        | 0         | 0        | 1: in private, recent traces are kept in the own       |
|                         |          |           |          | folder, and are there again after a restart · 0: not   |
| MOEVIZ_WARM_UP          | 1        | 1         | 1        | 1: the embedded model is loaded while the first        |
|                         |          |           |          | visitor reads the example                              |
| MOEVIZ_LOG              | plain    | json      | json     | `json`: the log is one JSON object a line, without     |
|                         |          |           |          | prompts                                                |
| MOEVIZ_TIMING           | 0        | 0         | 0        | 1: lines on stderr say when a run begins, the model    |
|                         |          |           |          | ends, the chart is sent                                |

`moeviz.toml` lies in the folder that the app is started in. It holds the same names without MOEVIZ_, in lower case, but
not `serve`; the environment counts before it:

    models = ["embedded", "/models/OLMoE", "vllm+http://gpu-1:8000"]
    max_new_tokens = 64

The key of the servers that are among the models stands in the environment alone: MOEVIZ_API_KEY, or VLLM_API_KEY and
SGLANG_API_KEY.
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from moeviz.embedded.own_models import installed

HIGHEST_TEMPERATURE = 2.0
HIGHEST_SEED = 2**31 - 1
FILE = "moeviz.toml"
PRIVATE, TEAM, PUBLIC = "private", "team", "public"
WAYS = (PRIVATE, TEAM, PUBLIC)
SHORTEST_TOKEN = 16  # characters

LIMITS = {  # whole numbers of at least 1, where nothing else is set: in private, for a team, in public
    "max_prompt_chars": (8000, 8000, 4000),
    "max_new_tokens": (128, 128, 64),
    "max_corpus_chars": (300_000, 300_000, 50_000),
    "max_sessions": (100, 500, 300),
    "max_waiting": (50, 200, 200),
    "runs_per_visitor": (50, 8, 2),
    "runs_per_address": (50, 200, 100),
    "runs_a_minute": (600, 60, 20),
    "max_upload_mb": (50, 50, 20),
    "max_unpacked_mb": (1000, 500, 200),
    "seconds_to_read": (60, 30, 10),
    "session_mb": (4000, 1000, 300),
    "process_mb": (8000, 8000, 2000),
    "seconds_idle": (3600, 600, 120),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a deployment decides. A field is the variable of its name; `files` is MOEVIZ_OPEN."""

    serve: str  # one of WAYS
    hosts: tuple[str, ...]  # none: any in public, loopback alone in private
    trusted_proxies: tuple[str, ...]
    token: str | None
    login_header: str | None
    models: tuple[str, ...]
    allow_any_model: bool | None  # None: in private, and only to a browser on the server's own machine
    max_prompt_chars: int
    max_new_tokens: int
    max_corpus_chars: int
    max_sessions: int
    max_waiting: int
    runs_per_visitor: int
    runs_per_address: int
    runs_a_minute: int
    max_upload_mb: int
    max_unpacked_mb: int
    seconds_to_read: int
    session_mb: int
    process_mb: int
    model_memory_mb: int | None  # None: what is free
    seconds_idle: int
    prompts_in_links: bool
    frame_ancestors: tuple[str, ...]
    metrics_token: str | None
    files: tuple[str, ...]  # what is there at first, the first of them on screen; none: the example that ships
    keep_traces: bool
    warm_up: bool
    log: str  # plain or json
    timing: bool


def read_settings(environment: Mapping[str, str], file: Mapping[str, Any] | None = None) -> Settings:
    """The settings in these variables and, where they say nothing, in what a `moeviz.toml` holds.

    `ValueError` says which one holds something else, or is unknown to the file.
    """
    found = _from_file(file or {}) | {name: value for name, value in environment.items() if value}
    serve = _one_of(found, "MOEVIZ_SERVE", WAYS, PUBLIC)
    settings = Settings(
        serve=serve,
        hosts=_names(found, "MOEVIZ_HOSTS"),
        trusted_proxies=_names(found, "MOEVIZ_TRUSTED_PROXIES"),
        token=_secret(found, "MOEVIZ_TOKEN"),
        login_header=found.get("MOEVIZ_LOGIN_HEADER"),
        models=_names(found, "MOEVIZ_MODELS") or installed(),
        allow_any_model=_switch(found, "MOEVIZ_ALLOW_ANY_MODEL"),
        model_memory_mb=_count(found, "MOEVIZ_MODEL_MEMORY_MB", 1) if "MOEVIZ_MODEL_MEMORY_MB" in found else None,
        prompts_in_links=_switch(found, "MOEVIZ_PROMPTS_IN_LINKS") is not False,
        frame_ancestors=_names(found, "MOEVIZ_FRAME_ANCESTORS"),
        metrics_token=_secret(found, "MOEVIZ_METRICS_TOKEN"),
        files=tuple(filter(None, found.get("MOEVIZ_OPEN", "").split("\n"))),
        keep_traces=_switch(found, "MOEVIZ_KEEP_TRACES") is not False and serve == PRIVATE,
        warm_up=_switch(found, "MOEVIZ_WARM_UP") is not False,
        log=_one_of(found, "MOEVIZ_LOG", ("plain", "json"), "plain" if serve == PRIVATE else "json"),
        timing=_switch(found, "MOEVIZ_TIMING") or False,
        **{name: _count(found, f"MOEVIZ_{name.upper()}", usual[WAYS.index(serve)]) for name, usual in LIMITS.items()},
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """What no way of serving may be without, or may have."""
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
    for proxy in settings.trusted_proxies:
        try:
            ip_network(proxy, strict=False)
        except ValueError:
            raise ValueError(
                f"MOEVIZ_TRUSTED_PROXIES has {proxy!r}; it must be addresses or networks: 10.0.0.0/8."
            ) from None
    if bad := [site for site in settings.frame_ancestors if not re.fullmatch(r"[\w.:/*'-]+", site)]:
        raise ValueError(f"MOEVIZ_FRAME_ANCESTORS has {bad[0]!r}; it must be sites such as https://huggingface.co.")


def settings_file(folder: Path) -> dict[str, Any]:
    """What the `moeviz.toml` in that folder holds, if there is one. `ValueError` where it cannot be read."""
    try:
        return tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{FILE} cannot be read: {error}") from error


def _from_file(file: Mapping[str, Any]) -> dict[str, str]:
    """The same as environment variables. A file cannot say for whom the app is served: nobody opens it by one."""
    names = {"open" if name == "files" else name for name in Settings.__dataclass_fields__} - {"serve"}
    if unknown := sorted(file.keys() - names):
        raise ValueError(f"{FILE} has {unknown[0]!r}, which is no setting; there are {', '.join(sorted(names))}.")
    return {f"MOEVIZ_{name.upper()}": _as_text(value, "\n" if name == "open" else ",") for name, value in file.items()}


def _as_text(value: Any, between: str) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return between.join(map(str, value)) if isinstance(value, list) else str(value)


def _names(found: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in found.get(name, "").split(",") if part.strip())


def _one_of(found: Mapping[str, str], name: str, values: tuple[str, ...], default: str) -> str:
    value = found.get(name, default)
    if value not in values:
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(values[:-1])} or {values[-1]}, or not set.")
    return value


def _secret(found: Mapping[str, str], name: str) -> str | None:
    value = found.get(name)
    if value is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},}}", value):
        raise ValueError(
            f"{name} must have at least {SHORTEST_TOKEN} characters, letters, digits and signs without a space, so "
            'that nobody guesses it: python -c "import secrets; print(secrets.token_urlsafe())" makes one.'
        )
    return value


def _switch(found: Mapping[str, str], name: str) -> bool | None:
    value = found.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} is {value!r}; it must be 0 or 1, or not set.")
    return value == "1" if value else None


def _count(found: Mapping[str, str], name: str, default: int) -> int:
    value = found.get(name, str(default))
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1, or not set.")
    return int(value)


def _read_or_end() -> Settings:
    """The settings of this process. A sentence ends it where they cannot be had: nothing may be served by others."""
    try:
        return read_settings(os.environ, settings_file(Path()))
    except ValueError as error:
        sys.exit(f"moeviz: {error}")


SETTINGS = _read_or_end()
