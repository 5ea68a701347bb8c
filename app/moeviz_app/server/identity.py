"""The identity of visitors: a browser, known by a cookie of ours, with the address that it comes from.

One browser is one visitor, however many tabs it has. The cookie holds a random number, signed, and nothing about
anybody; it is never shown, logged or written: what the rest of the app is given is a hash of it. Who makes a cookie up,
or has none, is one visitor with all others of that address who do: limits are no stranger's to choose.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime.scriptrunner import get_script_run_ctx

from moeviz.errors import MoevizError
from moeviz_app import settings
from moeviz_app.server.access import cookie, is_https
from moeviz_app.server.client_address import address_behind, is_from_a_proxy, is_loopback, network_behind, network_of
from moeviz_app.settings import PRIVATE

COOKIE = "moeviz_visitor"
COOKIE_SECONDS = 180 * 24 * 60 * 60
RANDOM_BYTES = 32
NEW_A_MINUTE = 120  # new browsers of one address: a class that comes at once, with some tabs each
A_MINUTE = 60.0
BROWSERS = 10  # times the runs of one browser that those of an address without our cookie may begin
KEY = settings.SETTINGS.cookie_secret or secrets.token_urlsafe(RANDOM_BYTES)
HERE = "127.0.0.1"


class TooOften(MoevizError):
    """A visitor has begun as many runs in a minute as are allowed."""


class VisitorCookie:
    """ASGI middleware: a page that is sent to a browser without our cookie brings it one.

    Scripts cannot read it (HttpOnly), other sites cannot send it along (SameSite=Lax), and a page that came over https
    gives it only to https. A site that may show the app in a frame has one of its own (Partitioned): browsers send
    no other from there. It goes with pages only: the files of one page arrive at once, and would each bring another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.new = app, RateLimiter(NEW_A_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; add the cookie to a page that needs it."""
        if scope["type"] != "http" or is_signed(cookie(scope, COOKIE)):
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html") and self._may_have_one(scope):
                    headers.append("set-cookie", _new_cookie(https=is_https(scope)))
            await send(message)

        await self.app(scope, receive, with_cookie)

    def _may_have_one(self, scope: Scope) -> bool:
        try:
            self.new.begin(network_behind(scope, settings.SETTINGS.trusted_proxies))
        except TooOften:
            return False
        return True


def _new_cookie(https: bool) -> str:
    value = signed(secrets.token_urlsafe(RANDOM_BYTES), KEY)
    given = f"{COOKIE}={value}; Max-Age={COOKIE_SECONDS}; Path=/; HttpOnly"
    if https and settings.SETTINGS.frame_ancestors:
        return f"{given}; SameSite=None; Secure; Partitioned"
    return f"{given}; SameSite=Lax{'; Secure' if https else ''}"


def signed(value: str, key: str) -> str:
    """Return a cookie's value with its signature: that of another key, or none, is not ours."""
    return f"{value}.{hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()}"


def is_signed(value: str) -> bool:
    """Return whether a cookie is one that this server gave."""
    return hmac.compare_digest(signed(value.partition(".")[0], KEY).encode(), value.encode())


class Visitor(NamedTuple):
    """A visitor, as limits count them: the hash of a browser's cookie, or of the address that all without one share."""

    id: str
    address: str
    is_browser: bool


def _visitor(value: str, network: str) -> Visitor:
    known = is_signed(value)
    who = f"cookie {value}" if known else f"address {network}"
    return Visitor(hashlib.sha256(who.encode()).hexdigest(), network, known)


def visitor_of(scope: Scope) -> Visitor:
    """Return the visitor of a request."""
    return _visitor(cookie(scope, COOKIE), network_behind(scope, settings.SETTINGS.trusted_proxies))


def visitor() -> Visitor:
    """Return the visitor of this page, who is the same in all of a browser's tabs."""
    forwarded = ",".join(st.context.headers.get_all("X-Forwarded-For"))
    found = address_behind(st.context.ip_address or HERE, forwarded, settings.SETTINGS.trusted_proxies)
    return _visitor(dict(st.context.cookies).get(COOKIE, ""), network_of(found))


def session_id() -> str:
    """Return the id of this tab's session; empty where no page is being drawn."""
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


class RateLimiter:
    """A limit on the runs that each visitor begins within a minute. The wall clock does not matter."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._begun: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    def begin(self, who: str, times: int = 1) -> None:
        """Count a run of a visitor who may begin `times` the usual. Raises `TooOften` if it is one too many."""
        now = self._clock()
        with self._guard:
            self._forget(now - A_MINUTE)
            begun = self._begun.setdefault(who, deque())
            if len(begun) >= self.most * times:
                wait = max(1, round((begun[0] if begun else now) + A_MINUTE - now))
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
    """Return whether the visitor's browser is on the server's own machine, as far as can be known.

    The server lets nobody else in where it is private (see `moeviz_app.server.asgi`); this is the second lock.
    """
    headers = st.context.headers
    return (
        st.context.ip_address in (None, "::ffff:127.0.0.1")  # None is Streamlit's way to say: this machine
        and is_loopback(headers.get("Host", ""))
        and not any(map(is_from_a_proxy, headers))
    )
