"""Access control by the way of serving: one's own machine or a team, each by its token, or anybody, at the right host.

No Streamlit here. A request is judged before anything else sees it, HTTP and web socket alike; a refusal explains in
one sentence why, and what to do.
"""

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from moeviz.own_folder import token_file
from moeviz.text import cut
from moeviz_app.server import metrics
from moeviz_app.server.client_address import is_among, is_from_a_proxy, is_loopback, is_this_machine
from moeviz_app.settings import PRIVATE, PUBLIC, TEAM, Settings

COOKIE = "moeviz_token"
COOKIE_SECONDS = 180 * 24 * 60 * 60
MOST_BYTES = 4096  # of what the form sends
ALIVE = "/_stcore/health"  # Streamlit's own, which says "ok": whatever started the app asks it
HEALTH = ("/healthz", "/readyz")  # asked for by the address of the machine, from anywhere; they tell nothing
METRICS = "/metrics"
CLOSED = ("/_stcore/metrics", "/_stcore/script-health-check")  # Streamlit's own: of no use to a visitor
AGENT = "/_stcore/agent"
ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>moeviz</title><style>
body {font: 1.1rem system-ui, sans-serif; max-width: 30rem; margin: 15vh auto; padding: 1rem}
input, button {font: inherit; padding: .4rem .6rem} label, p {display: block; margin-bottom: .6rem}</style>
<h1>moeviz</h1><p>{said}</p><form method="post"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Open</button></form></html>"""
GIVE = "This server is for a team. Its token was printed when it started; ask whoever started it."
GIVE_OWN = "Open the address that moeviz printed when it started; it holds a token, so that nobody else gets in."
GIVE_FILE = " Or give the token here: it is in the file {file}, unless MOEVIZ_TOKEN sets another."
WRONG = "This is not the token of this server. It was printed when the server started last."
LOG_IN = "Log in first, at the proxy before this server."
IN_ADDRESS = "access"  # the part of the printed address that holds the token; `token` is one of the text
OTHERS = "To serve others, start it with `moeviz app --team --behind HOST` or with `moeviz app --public`."
log = logging.getLogger("moeviz.app")


class Refusal(NamedTuple):
    """A reason for a refusal: a word for the counter, and the sentence."""

    why: str
    sentence: str
    status: int = 403


class AccessControl:
    """ASGI middleware: lets a request through, or answers it. `origins` are others' sites that may connect too."""

    def __init__(self, app: ASGIApp, settings: Settings, origins: Collection[str] = ()) -> None:
        self.app, self.settings, self.origins = app, settings, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        refused = check_request(scope, self.settings, self.origins)
        if refused is not None:
            await refuse(refused, scope, receive, send)
        elif self._is_with_token(scope):
            await self._go_on(scope, receive, send)
        elif self.settings.ask_token and not self._may_pass(scope):
            await self._ask(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        settings = self.settings
        if settings.serve == PRIVATE and scope["path"] == ALIVE:
            return True
        if settings.metrics_token and scope["path"] == METRICS:  # which asks for a token of its own
            return True
        if settings.login_header and is_among(_peer(scope), settings.trusted_proxies):
            return bool(header(scope, settings.login_header).strip())
        given = cookie(scope, COOKIE)
        return settings.token is not None and hmac.compare_digest(given.encode(), token_digest(settings.token).encode())

    def _is_with_token(self, scope: Scope) -> bool:
        """Return whether it is the address that was printed in private, which holds the token."""
        if not (self.settings.ask_token and self.settings.serve == PRIVATE and scope["type"] == "http"):
            return False
        return scope["method"] == "GET" and self._is_token(parse_qs(_query(scope)).get(IN_ADDRESS, [None])[0])

    def _is_token(self, given: str | None) -> bool:
        ours = self.settings.token
        return None not in (given, ours) and hmac.compare_digest(str(given).encode(), str(ours).encode())

    async def _go_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the browser to the same page with a cookie, and the token no longer in its address."""
        held = f"{COOKIE}={token_digest(self.settings.token or '')}; Max-Age={COOKIE_SECONDS}; Path=/"
        held += f"; HttpOnly; SameSite=Lax{'; Secure' if is_https(scope) else ''}"
        again = RedirectResponse(_same_page(scope), 303, {"Set-Cookie": held, "Cache-Control": "no-store"})
        await again(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask for the token; if the right one was given, go on to the same page with a cookie."""
        give = GIVE if self.settings.serve == TEAM else _where_it_is(token_file())
        if scope["type"] == "websocket" or self.settings.token is None:
            login = Refusal("login", LOG_IN if self.settings.token is None else give, 401)
            await refuse(login, scope, receive, send)
            return
        given = await _read_token(receive) if scope["method"] == "POST" else None
        if self._is_token(given):
            await self._go_on(scope, receive, send)
            return
        if given is not None:
            note(Refusal("token", WRONG), scope)
        form = ASK.replace("{said}", escape(give if given is None else WRONG))
        await HTMLResponse(form, 401, {"Cache-Control": "no-store"})(scope, receive, send)


def check_request(scope: Scope, settings: Settings, origins: Collection[str] = ()) -> Refusal | None:
    """Return why this request is refused; None if it is not, apart from the token."""
    path, host = scope["path"], header(scope, "host")
    if path.endswith(CLOSED) or (AGENT in path and settings.serve == PUBLIC):
        return Refusal("closed", "There is nothing here.", 404)
    refused = _not_this_machine(scope) if settings.serve == PRIVATE else None
    if refused is None and settings.hosts and settings.serve != PRIVATE and not _is_named(host, settings.hosts):
        refused = Refusal(
            "host",
            f"This server is not {cut(host)!r}. Whoever started it can add that name: --behind {cut(host)}, or "
            "MOEVIZ_HOSTS; a proxy has to hand on the Host that the browser sent.",
        )
    return refused or _from_elsewhere(scope, settings, origins)


def _not_this_machine(scope: Scope) -> Refusal | None:
    """Refuse a request that is not from a browser on this machine under this machine's own name."""
    mine = "This moeviz serves the machine that it runs on alone, and this request"
    peer, host = _peer(scope), header(scope, "host")
    proxy = next(filter(is_from_a_proxy, (name.decode("latin-1") for name, _ in scope["headers"])), None)
    if proxy is not None:
        return Refusal("proxy", f"{mine} was handed on by a proxy, which says so in {cut(proxy)}. {OTHERS}")
    if not is_this_machine(peer):
        return Refusal("address", f"{mine} comes from {cut(peer) or 'nowhere'}. {OTHERS}")
    if not is_loopback(host):
        return Refusal("host", f"{mine} asks for {cut(host)!r}. Open it as http://localhost. {OTHERS}")
    return None


def _from_elsewhere(scope: Scope, settings: Settings, origins: Collection[str]) -> Refusal | None:
    """Refuse requests from a page of another site, links aside. Streamlit would ask the network for our address."""
    origin = header(scope, "origin")
    if not origin or origin in origins or (scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")):
        return None
    at, host = origin.partition("://")[2].lower(), header(scope, "host").lower()
    if at and (_bare(at) == _bare(host) or _is_named(at, settings.hosts)):
        return None
    return Refusal("origin", f"A page of {cut(origin)!r} may not connect to {cut(host)!r}.")


def token_digest(token: str) -> str:
    """Return the digest of the token that the cookie holds: the token cannot be recovered from it."""
    return hmac.new(token.encode(), b"moeviz cookie", hashlib.sha256).hexdigest()


def header(scope: Scope, name: str) -> str:
    """Return the first header of that name; empty without one."""
    return Headers(scope=scope).get(name, "")


def cookie(scope: Scope, name: str) -> str:
    """Return the cookie of that name; empty without one."""
    return cookie_parser(header(scope, "cookie")).get(name, "")


def is_https(scope: Scope) -> bool:
    """Return whether the browser asked over https, here or at a proxy before us."""
    return scope["scheme"] == "https" or header(scope, "x-forwarded-proto") == "https"


def _peer(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _bare(host: str) -> str:
    """Return a host without the port that its scheme has anyway."""
    return host.removesuffix(":80").removesuffix(":443")


def _is_named(host: str, names: Collection[str]) -> bool:
    name = _name(host)
    return bool(name) and name in set(map(_name, names))


def _name(host: str) -> str:
    """Return a host without its port; empty for anything else."""
    try:
        return "" if "@" in host else (urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return ""


def _query(scope: Scope) -> str:
    return str(scope.get("query_string", b"").decode("latin-1"))


def _same_page(scope: Scope) -> str:
    """Return the page that was asked for, without this server's token in its address."""
    query = "&".join(part for part in _query(scope).split("&") if not part.startswith(f"{IN_ADDRESS}="))
    return quote("/" + scope["path"].lstrip("/")) + (f"?{query}" if query else "")


async def _read_token(receive: Receive) -> str:
    body, more = b"", True
    while more and len(body) <= MOST_BYTES:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return parse_qs(body[:MOST_BYTES].decode("latin-1")).get("token", [""])[0].strip()


def _where_it_is(file: Path | None) -> str:
    """Say where the token of one's own app is, without the name of the home folder: somebody else may ask."""
    if file is None:
        return GIVE_OWN
    home = os.environ.get("HOME", "~")
    return GIVE_OWN + GIVE_FILE.replace("{file}", re.sub(f"^{re.escape(home)}(?=/)", "~", file.as_posix()))


def note(refused: Refusal, scope: Scope) -> None:
    """Count what is refused, and log it without what was asked."""
    metrics.count("refusals", why=refused.why)
    log.info("refused: %s", refused.why, extra={"address": cut(_peer(scope)), "path": cut(scope["path"])})


async def refuse(refused: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Count the refusal, and answer with its sentence."""
    note(refused, scope)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": cut(refused.sentence, 100)})
    else:
        await PlainTextResponse(refused.sentence + "\n", refused.status)(scope, receive, send)
