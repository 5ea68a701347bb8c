"""The name of a served model: its engine, the address, the model's id there, and facts that the user gives.

    vllm+http://localhost:8000
    sglang+https://host:30000/prefix?facts=Qwen/Qwen3-30B-A3B#model-id

After “?” come facts that no server gives, after “#” the model's id; neither is sent as part of the address.
"""

from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from moeviz.errors import InvalidTrace, ModelNotFound
from moeviz.formats.importers.importer import NOTHING_TOLD, ImportOptions, layers_of
from moeviz.text import is_text, quoted

NUMBERS = ("experts", "top_k", "hidden_layers", "start")
LONGEST = 2048


@dataclass(frozen=True, slots=True)
class ServerName:
    """A name, taken apart."""

    name: str  # as it was asked for
    engine: str
    url: str  # of the server, without a slash at its end
    model: str | None = None  # None: the only one that the server has
    facts: str | None = None  # a folder or hub id, the config of which says how many experts there are
    told: ImportOptions = NOTHING_TOLD


def server_name(engine: str, name: str, facts: str | None = None, **told: Any) -> ServerName:
    """Parse a name. `facts` and `told` override what is in the name.

    Raises `ModelNotFound` for a name that is not the address of a server.
    """
    address = name.removeprefix(f"{engine}+")
    if len(name) > LONGEST or not is_text(name) or not name.isprintable() or " " in name:
        raise ModelNotFound(f"{quoted(name)} is not an address: it has a space in it, or is too long. {_like(engine)}")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ModelNotFound(f"{quoted(name)} is no address: {error}. {_like(engine)}") from error
    if parts.username is not None or parts.password is not None:
        raise ModelNotFound(
            f"The address of the server has a user or a key in it, and names are shown and kept. {_like(engine)} Put "
            "the key into the environment variable MOEVIZ_API_KEY."
        )
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ModelNotFound(f"{quoted(name)} is not the http or https address of a server. {_like(engine)}")
    path = parts.path.rstrip("/").removesuffix("/v1")  # if the address of the OpenAI client was given
    found = ServerName(name, engine, f"{parts.scheme}://{parts.netloc}{path}", parts.fragment or None, facts)
    return _add_facts(found, parts.query, told)


def _add_facts(found: ServerName, query: str, told: dict[str, Any]) -> ServerName:
    known = dict(parse_qsl(query, keep_blank_values=True))
    facts = known.pop("facts", None)
    told = {key: value for key, value in told.items() if value is not None}
    if strange := [
        *set(known) - {*NUMBERS, "moe_layers"},
        *set(told) - {field.name for field in fields(ImportOptions)},
    ]:
        raise ModelNotFound(
            f"{quoted(strange[0])} is not an option of a served model. Give facts, moe_layers, "
            f"{', '.join(NUMBERS)}, or nothing."
        )
    try:
        numbers: dict[str, Any] = {key: int(value) for key, value in known.items() if key != "moe_layers"}
        if "moe_layers" in known:
            listed = known["moe_layers"].replace(" ", ",")  # a “+” behind the “?” of an address is a space
            numbers["moe_layers"] = tuple(sorted(set(layers_of(listed, "moe_layers"))))
        options = ImportOptions(**numbers | told)
    except (ValueError, TypeError, InvalidTrace) as error:
        raise ModelNotFound(f"In {quoted(found.name)} a number is wrong: {error}") from error
    return replace(found, facts=found.facts or facts or None, told=options)


def _like(engine: str) -> str:
    return f"A served model is named as in {engine}+http://localhost:8000 or {engine}+https://host:8000#model-id."
