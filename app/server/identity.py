"""The identity of visitors: a browser, known by a cookie of ours, with the address that it comes from.

One browser is one visitor, however many tabs it has. The cookie holds a random number and nothing about anybody; it is
never shown, logged or written: what the rest of the app is given is a hash of it.
"""

import hashlib
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

import streamlit as st
from moeviz_app import settings
from moeviz_app.server.access import cookie, is_https
from moeviz_app.server.client_address import address_behind, is_from_a_proxy, is_loopback
from moeviz_app.settings import PRIVATE
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime.scriptrunner import get_script_run_ctx

from moeviz.errors import MoevizError

COOKIE = "moeviz_visitor"
COOKIE_SECONDS = 180 * 24 * 60 * 60
RANDOM_BYTES = 32
SHAPE = re.compile(r"[A-Za-z0-9_-]{43}")  # of so many random bytes
A_MINUTE = 60.0
HERE = "127.0.0.1"


class TooOften(MoevizError):
    """A visitor has begun as many runs in a minute as are allowed."""


class VisitorCookie:
    """ASGI middleware: a page that is sent to a browser without our cookie brings it one.

    Scripts cannot read it (HttpOnly), other sites cannot send it along (SameSite=Lax), and a page that came over https
    gives it to https alone. It goes with pages only: the files of one page arrive at the same time, and would each
    bring another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; add the cookie to a page that needs it."""
        if scope["type"] != "http" or SHAPE.fullmatch(cookie(scope, COOKIE)):
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("set-cookie", _new_cookie(https=is_https(scope)))
            await send(message)

        await self.app(scope, receive, with_cookie)


def _new_cookie(https: bool) -> str:
    value = secrets.token_urlsafe(RANDOM_BYTES)
    given = f"{COOKIE}={value}; Max-Age={COOKIE_SECONDS}; Path=/; HttpOnly; SameSite=Lax"
    return f"{given}; Secure" if https else given


def visitor_id() -> str:
    """The visitor of this page, as a hash that is the same in all of a browser's tabs.

    A browser that keeps no cookies is as many visitors as it has tabs; their address still counts them together.
    """
    value = dict(st.context.cookies).get(COOKIE, "")
    who = f"cookie {value}" if SHAPE.fullmatch(value) else f"session {session_id()}"
    return hashlib.sha256(who.encode()).hexdigest()


def address(trusted: Collection[str] = ()) -> str:
    """The network address that this page's visitor comes from; `trusted` are the proxies whose word counts."""
    peer = st.context.ip_address or HERE
    return address_behind(peer, ",".join(st.context.headers.get_all("X-Forwarded-For")), trusted)


def session_id() -> str:
    """The id of this tab's session; empty where no page is being drawn."""
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


class RateLimiter:
    """A limit on the runs that each visitor begins within a minute. The wall clock does not matter."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._begun: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    def begin(self, who: str) -> None:
        """Count a run. Raises `TooOften` where that is one too many; it is not counted then."""
        now = self._clock()
        with self._guard:
            self._forget(now - A_MINUTE)
            begun = self._begun.setdefault(who, deque())
            if len(begun) >= self.most:
                wait = max(1, round(begun[0] + A_MINUTE - now))
                raise TooOften(
                    f"You have begun {len(begun)} runs within a minute, and that is as many as are allowed here. "
                    f"Try again in {wait} s."
                )
            begun.append(now)

    def _forget(self, before: float) -> None:
        for who, begun in list(self._begun.items()):
            while begun and begun[0] <= before:
                begun.popleft()
            if not begun:
                del self._begun[who]


def may_name_any_model() -> bool:
    """Return whether this visitor may load a folder or an id that the deployment does not list."""
    if settings.SETTINGS.allow_any_model is not None:
        return settings.SETTINGS.allow_any_model
    return settings.SETTINGS.serve == PRIVATE and is_local()


def may_keep_on_disk() -> bool:
    """Return whether this visitor is the machine's own user, whose folder keeps what took long."""
    return settings.SETTINGS.serve == PRIVATE and settings.SETTINGS.allow_any_model is not False and is_local()


def may_keep_traces() -> bool:
    """Return whether this visitor's traces are kept there too."""
    return settings.SETTINGS.keep_traces and may_keep_on_disk()


def is_local() -> bool:
    """Return whether the visitor's browser is on the server's own machine, as far as that can be told.

    The server lets nobody else in where it is private (see `moeviz_app.server.asgi`); this is the second lock.
    """
    headers = st.context.headers
    return (
        st.context.ip_address in (None, "::ffff:127.0.0.1")  # None is Streamlit's way to say: this machine
        and is_loopback(headers.get("Host", ""))
        and not any(map(is_from_a_proxy, headers))
    )
