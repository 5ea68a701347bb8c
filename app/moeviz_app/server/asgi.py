"""The server: Streamlit's own app, with our routes and middleware around it. Who gets in is in `access.py`.

| route      | answers                                                                                             |
|------------|-----------------------------------------------------------------------------------------------------|
| `/healthz` | 200 while the process serves: restart it if it does not                                             |
| `/readyz`  | 200 if a new visitor's run would be taken; 503 while the queue is full or the server is stopping    |
| `/metrics` | what `metrics.py` counts, for Prometheus; to whom, MOEVIZ_METRICS_TOKEN says                        |
"""

import asyncio
import base64
import gc
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime import Runtime
from streamlit.runtime.app_session import AppSession
from streamlit.web.server.server_util import get_url

from moeviz.own_folder import own_token
from moeviz.report.pictures import without_checks
from moeviz_app import settings
from moeviz_app.server import metrics
from moeviz_app.server.access import IN_ADDRESS, METRICS, AccessControl
from moeviz_app.server.client_address import is_from_a_proxy, is_loopback
from moeviz_app.server.compression import CompressedScripts
from moeviz_app.server.downloads import DeletedDownloads, keep_deleted_downloads
from moeviz_app.server.identity import VisitorCookie, visitor_of
from moeviz_app.server.logs import error_facts, is_new, write_lines
from moeviz_app.server.tabs import Tabs
from moeviz_app.server.uploads import Uploads
from moeviz_app.settings import PRIVATE, PUBLIC, TEAM, Settings


class Headers:
    """ASGI middleware: sends the same headers with every response."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and replace headers of the same name."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def security_headers(ancestors: Sequence[str], page: Path) -> dict[str, str]:
    """Return the security headers. `ancestors` may show the app in a frame; `page` is Streamlit's index.html."""
    headers = {
        "Content-Security-Policy": policy(ancestors, page.read_text(encoding="utf-8")),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",  # an address may hold a prompt
        "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return headers if ancestors else headers | {"X-Frame-Options": "DENY"}


def policy(ancestors: Sequence[str], page: str) -> str:
    """Return the content security policy of a page; the scripts that stand in it are known by their hashes."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    rules = {
        "default-src": ["'none'"],
        "script-src": ["'self'", "blob:", *(f"'sha256-{digest}'" for digest in digests)],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "media-src": ["'self'"],
        "manifest-src": ["'self'"],
        "worker-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
        "frame-src": ["'none'"],
        "frame-ancestors": list(ancestors) or ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in rules.items())


class OneVisitor:
    """ASGI middleware: ends a connection after its answer if the next request may be another visitor's. That is so
    behind a proxy, and for a browser without a cookie, which is another visitor once it has one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and close after it if necessary."""

        async def and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        names = (name.decode("latin-1") for name, _ in scope.get("headers", ()))
        closes = scope["type"] == "http" and (any(map(is_from_a_proxy, names)) or not visitor_of(scope).is_browser)
        await self.app(scope, receive, and_close if closes else send)


log = logging.getLogger("moeviz.app")
WAYS = {
    PRIVATE: "moeviz serves only this machine: any model, any folder, no stranger (private).",
    TEAM: "moeviz serves a team: whoever has the token or is logged in, the models that are listed (team).",
    PUBLIC: "moeviz serves strangers: the models that are listed, no folders, strict limits (public).",
}
SECONDS_TO_STOP = 10.0
SECONDS_BETWEEN_LOOKS = 5.0  # at sessions that are over
MESSAGE_MB = 4  # the longest message that a stranger's browser sends: texts of a corpus, in all
_stopping = threading.Event()


def app_options(stop_jobs: Callable[[float], bool] = lambda _seconds: True) -> dict[str, Any]:
    """Return the options of `st.App`: routes, middleware, what happens at start and end, and the handler of bugs.

    `stop_jobs` is called when the server stops: it cancels all runs, waits that many seconds at most, and returns
    whether they ended.
    """
    ours = checked(settings.SETTINGS)
    settings.SETTINGS = ours
    _tell_streamlit(ours)
    without_checks()
    _drop_requests_of_left_pages()
    page = Path(st.__file__).with_name("static") / "index.html"
    base = config.get_option("server.baseUrlPath").strip("/")
    origins = config.get_option("server.corsAllowedOrigins")
    return {
        "routes": ROUTES,
        "middleware": [
            Middleware(Headers, headers=security_headers(ours.frame_ancestors, page)),
            Middleware(AccessControl, settings=ours, origins=origins),
            Middleware(Tabs, settings=ours),
            Middleware(Uploads, settings=ours),
            Middleware(VisitorCookie),
            Middleware(CompressedScripts, folder=page.parent / "static", address=f"/{base}/static".replace("//", "/")),
            *([Middleware(OneVisitor)] if settings.process() is not None else []),
        ],
        "lifespan": partial(_life, stop_jobs=stop_jobs),
        "on_script_error": _count_error,
    }


def checked(ours: Settings) -> Settings:
    """Return the settings, with the token if one is needed. Exits with a sentence if others could get in unasked."""
    address = config.get_option("server.address")
    host = f"[{address}]" if ":" in (address or "") else address or ""
    if ours.serve == PRIVATE and not is_loopback(host):
        sys.exit(
            f"moeviz: MOEVIZ_SERVE is private, and server.address is {address or 'not set'}, which lets other machines "
            "in. Leave the address out, or start it with `moeviz app --team --behind HOST` or `moeviz app --public`."
        )
    if ours.processes > 1 and settings.process() is None:
        sys.exit(
            f"moeviz: MOEVIZ_PROCESSES is {ours.processes}, and `streamlit run` serves in one. Start it with "
            "`moeviz app --public` or `moeviz app --team --behind HOST`."
        )
    if ours.processes > 1 and config.get_option("server.sslCertFile"):
        sys.exit(
            "moeviz: MOEVIZ_PROCESSES is more than 1, and encrypted requests do not show whose process they are for. "
            "Let a proxy before it speak https, or leave MOEVIZ_PROCESSES out."
        )
    if ours.serve == TEAM and ours.login_header is None and ours.token is None:
        return replace(ours, token=secrets.token_urlsafe(24))
    if ours.serve == PRIVATE and ours.ask_token and ours.token is None:
        return replace(ours, token=own_token())
    return ours


def _tell_streamlit(ours: Settings) -> None:
    """Set Streamlit's own options unless somebody has set them."""
    if not config.is_manually_set("server.disconnectedSessionTTL"):
        config.set_option("server.disconnectedSessionTTL", ours.seconds_idle)
    if ours.serve == PUBLIC:
        config.set_option("server.enableAgentApi", False)
        config.set_option("server.maxWidgetStateSize", MESSAGE_MB)
    most = min(config.get_option("server.maxUploadSize"), ours.max_upload_mb)
    config.set_option("server.maxUploadSize", most)


def _drop_requests_of_left_pages() -> None:
    """Let sessions of this process pass over what a part of a page asks that they do not show.

    A part of a page (a fragment of Streamlit's) that asks to be drawn anew says which page it is of. If its session has
    gone on to another page meanwhile, Streamlit answers under the name of the old one: the browser takes the new page
    away, and a part that both pages have is drawn where it has no place, which ends all drawing ("Bad delta path
    index"). A click on a link waits for such requests (leaving.js); a choice after which the server changes the page
    cannot.
    """
    request = AppSession.request_rerun

    @wraps(request)
    def of_this_page(session: AppSession, client_state: ClientState | None) -> None:
        is_part = client_state is not None and client_state.fragment_id
        if is_part and client_state.page_script_hash != session._pages_manager.current_page_script_hash:
            return
        request(session, client_state)

    AppSession.request_rerun = of_this_page


@asynccontextmanager
async def _life(app: st.App, stop_jobs: Callable[[float], bool]) -> AsyncIterator[None]:
    """Log at start who is let in; at the end cancel the runs that go on, each within a token."""
    if settings.SETTINGS.log == "json":
        write_lines()
    metrics.read_gauge("threads", threading.active_count)
    metrics.read_gauge("resident_bytes", resident_bytes)
    if not settings.process():
        announce(settings.SETTINGS)
    idle = asyncio.create_task(let_go(keep_deleted_downloads()))
    try:
        yield
    finally:
        idle.cancel()
        _stopping.set()
        ended = await asyncio.to_thread(stop_jobs, SECONDS_TO_STOP)
        log.info("moeviz stops" if ended else "moeviz stops, though a run did not end in time")


def announce(ours: Settings) -> None:
    """Print who is let in, and how. The token is printed only there, and never logged."""
    lines = [WAYS[ours.serve]] if ours.log != "json" else []
    if ours.log == "json":
        log.info(WAYS[ours.serve])
    if ours.hosts and ours.serve != PRIVATE:
        lines.append(f"Open it as {' or '.join(ours.hosts)}; other names are refused.")
    if ours.serve == TEAM and ours.login_header is None:
        lines.append(f"Token: {ours.token}")
    if ours.serve == PRIVATE and ours.ask_token:
        lines.append(f"Open {get_url('localhost').rstrip('/')}/?{IN_ADDRESS}={quote(ours.token or '')}")
    sys.stderr.write("\n".join(f"  {line}" for line in lines) + "\n\n")
    sys.stderr.flush()


def resident_bytes() -> float:
    """Return the memory that this process holds; 0 if the system does not report it as Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def readiness() -> str:
    """Return "ready" if a new visitor's run would be taken, else "busy" or "stopping"."""
    if _stopping.is_set():
        return "stopping"
    full = metrics.value("sessions") >= settings.SETTINGS.max_sessions
    return "busy" if full or metrics.value("waiting") >= settings.SETTINGS.max_waiting else "ready"


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _ready(request: Request) -> Response:
    word = readiness()
    return PlainTextResponse(f"{word}\n", 200 if word == "ready" else 503)


async def _metrics(request: Request) -> Response:
    """Serve metrics to holders of their token; without one, to nobody in public, and otherwise to all visitors."""
    token = settings.SETTINGS.metrics_token
    if token is None and settings.SETTINGS.serve == PUBLIC:
        return PlainTextResponse("Nobody may read this here: MOEVIZ_METRICS_TOKEN is not set.\n", 404)
    given = request.headers.get("Authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return PlainTextResponse("Send the token: Authorization: Bearer …\n", 401, {"WWW-Authenticate": "Bearer"})
    return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _count_error(error: Exception) -> None:
    """Count a bug in a page: the visitor reads that there was one, the log has the place."""
    metrics.count("script_errors")
    if is_new(error):
        log.error("a page failed", extra=error_facts(error))


ROUTES = [Route("/healthz", _healthy), Route("/readyz", _ready), Route(METRICS, _metrics)]


async def let_go(downloads: DeletedDownloads | None) -> None:
    """Let go of old downloads, and of tabs that are gone for good, again and again, in the thread of the sessions.

    Streamlit keeps the session of a tab whose connection is lost for `server.disconnectedSessionTTL` seconds, in case
    it comes back, and after that until another tab comes or goes: on a quiet server for ever, with its traces.
    """
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        end_expired_sessions()
        if downloads is not None:
            downloads.drop_old()


def end_expired_sessions() -> int:
    """End the sessions that are over their time; how many there were."""
    if not Runtime.exists():
        return 0
    manager: Any = Runtime.instance()._session_mgr
    over = [kept for _, kept in manager._session_storage._cache.expire()]
    for kept in over:
        kept.session.shutdown()
    number = len(over)
    if over:
        del over, kept
        gc.collect()  # a session is in circles, and Streamlit collects only after a script
    return number
