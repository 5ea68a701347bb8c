"""Who is asking: a visitor is a browser, told by a cookie of ours, with the address that it comes from.

One browser is one visitor, however many tabs it has. The cookie holds a random number and nothing about anybody; it is
never shown, logged or written: what the rest of the app is given is a hash of it.
"""

import hashlib
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address, ip_network
from typing import Any

import streamlit as st
from moeviz_app import settings
from moeviz_app.work.worker import Asker
from streamlit.runtime.scriptrunner import get_script_run_ctx

from moeviz.errors import MoevizError

COOKIE = "moeviz_visitor"
COOKIE_SECONDS = 180 * 24 * 60 * 60
RANDOM_BYTES = 32
SHAPE = re.compile(r"[A-Za-z0-9_-]{43}")  # of so many random bytes
A_MINUTE = 60.0
HERE = "127.0.0.1"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooOften(MoevizError):
    """A visitor has begun as many runs in a minute as are allowed."""


class VisitorCookie:
    """ASGI middleware: a page that is sent to a browser without our cookie brings it one.

    Scripts cannot read it (HttpOnly), other sites cannot send it along (SameSite=Lax), and a page that came over https
    gives it to https alone. It goes with pages only: the files of one page arrive at the same time, and would each
    bring another.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; add the cookie to a page that needs it."""
        if scope["type"] != "http" or _cookie_of(scope) is not None:
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and _is_page(message["headers"]):
                cookie = _new_cookie(https=scope["scheme"] == "https" or _header(scope, "x-forwarded-proto") == "https")
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        await self.app(scope, receive, with_cookie)


def _new_cookie(https: bool) -> str:
    value = secrets.token_urlsafe(RANDOM_BYTES)
    cookie = f"{COOKIE}={value}; Max-Age={COOKIE_SECONDS}; Path=/; HttpOnly; SameSite=Lax"
    return f"{cookie}; Secure" if https else cookie


def _cookie_of(scope: Scope) -> str | None:
    try:
        morsel = SimpleCookie(_header(scope, "cookie")).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None and SHAPE.fullmatch(morsel.value) else None


def _header(scope: Scope, name: str) -> str:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), "")


def _is_page(headers: Collection[tuple[bytes, bytes]]) -> bool:
    return any(key.lower() == b"content-type" and value.startswith(b"text/html") for key, value in headers)


def visitor() -> str:
    """The visitor of this page, as a hash that is the same in all of a browser's tabs.

    A browser that keeps no cookies is as many visitors as it has tabs; their address still counts them together.
    """
    cookie = dict(st.context.cookies).get(COOKIE, "")
    who = f"cookie {cookie}" if SHAPE.fullmatch(cookie) else f"session {_session()}"
    return hashlib.sha256(who.encode()).hexdigest()


def address(trusted: Collection[str] = ()) -> str:
    """The network address that this page's visitor comes from; `trusted` are the proxies whose word counts."""
    peer = st.context.ip_address or HERE
    return address_behind(peer, ",".join(st.context.headers.get_all("X-Forwarded-For")), trusted)


def address_behind(peer: str, forwarded: str, trusted: Collection[str]) -> str:
    """Where a request comes from: its peer or, where that is a listed proxy, what the proxy says.

    Every proxy adds the address of its own peer on the right, so the first from the right that is no listed proxy is
    the visitor's; what stands further to the left is what a visitor wrote. `trusted` are addresses or networks.

    >>> address_behind("10.0.0.2", "6.6.6.6, 192.0.2.7", ["10.0.0.0/8"])
    '192.0.2.7'
    >>> address_behind("203.0.113.9", "192.0.2.7", ["10.0.0.0/8"])  # no proxy of ours: it may say what it likes
    '203.0.113.9'
    """
    networks = [ip_network(one, strict=False) for one in trusted]
    found = peer
    for said in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if not _within(found, networks):
            break
        found = said
    return _plain(found)


def _within(address: str, networks: Collection[Any]) -> bool:
    try:
        one = ip_address(_plain(address))
    except ValueError:
        return False
    return any(one in network for network in networks)


def _plain(address: str) -> str:
    """An address as one writes it: without what an IPv6 socket puts before one of IPv4."""
    return address.removeprefix("::ffff:")


def asker(tab: bool = False) -> Asker:
    """This page's visitor as one who waits in line; with `tab`, for one thing at a time in this tab."""
    return Asker(visitor(), address(settings.SETTINGS.trusted_proxies), _session() if tab else None)


def _session() -> str:
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


class Pace:
    """How many runs each visitor has begun within the last minute. The wall clock does not matter."""

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
