"""Who is asking: the cookie that a browser gets, the address behind proxies, runs a minute, and tabs at once."""

import asyncio
import secrets
from http.cookies import SimpleCookie
from types import SimpleNamespace

import coroutines
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from waiting import SECONDS

from moeviz_app.server import identity, metrics, tabs
from moeviz_app.server.client_address import address_behind, network_of
from moeviz_app.server.identity import COOKIE, RateLimiter, TooOften, VisitorCookie, signed
from moeviz_app.server.tabs import Tabs
from moeviz_app.settings import read_settings


def answered(headers=(), scheme="http", content=b"text/html; charset=utf-8", kind="http", peer="192.0.2.7", door=None):
    """The headers of a page that passes through the middleware, as a dict; `door` is one that has seen others."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content)]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "scheme": scheme,
        "client": (peer, 1),
        "headers": [(key.lower().encode(), value.encode()) for key, value in headers],
    }
    door = door or VisitorCookie(app)
    door.app = app
    coroutines.run(door(scope, None, send))
    return dict(sent[0]["headers"])


def given(**request):
    """The cookie that a response brings; None without one."""
    header = answered(**request).get(b"set-cookie")
    return None if header is None else SimpleCookie(header.decode())[COOKIE]


def test_a_page_brings_a_browser_without_a_cookie_one_that_nobody_guesses_and_no_script_reads():
    first, second = given(), given()
    assert first.value != second.value and len(first.value.partition(".")[0]) == 43
    assert first["httponly"] and first["samesite"] == "Lax" and not first["secure"] and first["path"] == "/"


def test_over_https_the_cookie_is_for_https_alone():
    assert given(scheme="https")["secure"]
    assert given(headers=[("X-Forwarded-Proto", "https")])["secure"]


def test_in_a_frame_of_another_site_a_browser_keeps_a_cookie_for_that_site(monkeypatch):
    framed = read_settings({"MOEVIZ_FRAME_ANCESTORS": "https://huggingface.co"})
    monkeypatch.setattr(identity.settings, "SETTINGS", framed)
    rules = answered(scheme="https")[b"set-cookie"].decode().split("; ")
    assert {"SameSite=None", "Secure", "Partitioned", "HttpOnly"} <= set(rules)
    assert "SameSite=Lax" in answered()[b"set-cookie"].decode()  # not over http


def test_who_has_a_cookie_keeps_it_and_one_that_is_not_ours_is_replaced():
    assert given(headers=[("Cookie", f"other=1; {COOKIE}={given().value}")]) is None
    for made_up in ("me", secrets.token_urlsafe(32), signed(secrets.token_urlsafe(32), "another key"), "\xe9.", "."):
        assert given(headers=[("Cookie", f"{COOKIE}={made_up}")]) is not None


def test_of_one_address_so_many_new_browsers_get_a_cookie_in_a_minute():
    door = VisitorCookie(None)
    many = [given(door=door) for _ in range(identity.NEW_A_MINUTE + 1)]
    assert None not in many[:-1] and many[-1] is None
    assert given(door=door, peer="192.0.2.8") is not None
    assert given(door=door, peer="2001:db8::1") is not None and given(door=door, headers=[("Cookie", "x=1")]) is None


def test_only_pages_bring_a_cookie():
    assert given(content=b"text/javascript") is None
    assert given(kind="websocket") is None


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "found"),
    [
        ("192.0.2.7", "", [], "192.0.2.7"),
        ("192.0.2.7", "6.6.6.6", [], "192.0.2.7"),  # nobody is trusted
        ("10.0.0.2", "192.0.2.7", ["10.0.0.2"], "192.0.2.7"),
        ("::ffff:10.0.0.2", "192.0.2.7", ["10.0.0.2"], "192.0.2.7"),
        ("10.0.0.2", "6.6.6.6, 192.0.2.7", ["10.0.0.2"], "192.0.2.7"),  # what the visitor wrote is on the left
        ("10.0.0.2", "6.6.6.6, 192.0.2.7, 10.0.0.3", ["10.0.0.0/24"], "192.0.2.7"),
        ("10.0.0.2", "2001:db8::1", ["10.0.0.2"], "2001:db8::1"),
        ("10.0.0.2", "nonsense", ["10.0.0.2"], "nonsense"),
        ("10.0.0.2", "6.6.6.6, nonsense", ["10.0.0.2"], "nonsense"),  # no address is no proxy
    ],
)
def test_forwarded_addresses_count_from_listed_proxies_alone(peer, forwarded, trusted, found):
    assert address_behind(peer, forwarded, trusted) == found


def test_tabs_of_one_browser_are_one_visitor_and_all_without_our_cookie_are_one_of_their_address(monkeypatch):
    value = given().value
    context = SimpleNamespace(
        cookies={COOKIE: value}, ip_address="192.0.2.7", headers=SimpleNamespace(get_all=lambda _name: [])
    )
    monkeypatch.setattr(identity.st, "context", context)
    browser = identity.visitor()
    assert browser.is_browser and browser.address == "192.0.2.7" and value not in browser.id
    context.ip_address = "192.0.2.8"
    assert identity.visitor().id == browser.id
    without = set()
    for made_up in ({}, {COOKIE: "chosen by hand"}, {COOKIE: secrets.token_urlsafe(32)}):
        context.cookies = made_up
        without.add(identity.visitor())
    (nobody,) = without
    assert not nobody.is_browser and nobody.id != browser.id
    context.ip_address = "192.0.2.9"
    assert identity.visitor().id != nobody.id


def test_limits_count_the_network_of_one_customer_as_one_address(monkeypatch):
    assert network_of("2001:db8::1:2") == network_of("2001:db8::3:4") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.7") != network_of("192.0.2.8") and network_of("nonsense") == "nonsense"


def test_runs_a_minute_are_counted_for_each_visitor():
    now = [0.0]
    pace = RateLimiter(2, clock=lambda: now[0])
    pace.begin("one")
    now[0] = 20
    pace.begin("one")
    with pytest.raises(TooOften, match=r"begun 2.*40"):
        pace.begin("one")
    pace.begin("another")
    now[0] = 60
    pace.begin("one")
    with pytest.raises(TooOften):
        pace.begin("one")


def test_those_without_a_cookie_may_begin_several_times_the_runs_of_one():
    pace = RateLimiter(2, clock=lambda: 0.0)
    for _ in range(6):
        pace.begin("all of an address", 3)
    with pytest.raises(TooOften):
        pace.begin("all of an address", 3)


def test_visitors_who_left_are_not_remembered():
    now = [0.0]
    pace = RateLimiter(2, clock=lambda: now[0])
    for who in range(100):
        pace.begin(str(who))
    now[0] = 61
    pace.begin("last")
    assert list(pace._begun) == ["last"]


SPEAKS = BackMsg(rerun_script={"page_name": "load"}).SerializeToString()


class Sockets:
    """Web sockets to the middleware, in one event loop: each is opened, may speak, and may be closed."""

    def __init__(self, **more):
        self.door = Tabs(self.app, read_settings({"MOEVIZ_SERVE": "public"} | more))

    async def app(self, scope, receive, send):
        """Streamlit, as far as sockets go: it accepts, and reads until there is nobody."""
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            scope["heard"].put_nowait(message["bytes"])

    async def open(self, peer="192.0.2.7", browser=None, says=None):
        """Open one, and wait until it is let in or refused."""
        headers = [] if browser is None else [(b"cookie", f"{COOKIE}={signed(browser, identity.KEY)}".encode())]
        one = Socket(headers, peer)
        one.task = asyncio.ensure_future(self.door(one.scope, one.sent.get, one.answers.put))
        one.first = (await one.answers.get())["type"]
        if says is not None:
            await one.say(says)
        return one


class Socket:
    """One of them."""

    def __init__(self, headers, peer):
        self.sent, self.answers, self.task, self.first = asyncio.Queue(), asyncio.Queue(), None, None
        self.scope = {"type": "websocket", "headers": headers, "client": (peer, 1), "path": "/_stcore/stream"}
        self.scope |= {"heard": asyncio.Queue()}
        self.sent.put_nowait({"type": "websocket.connect"})

    async def say(self, data):
        """Send a message, and wait until the app has it or the socket ends."""
        await self.sent.put({"type": "websocket.receive", "bytes": data})
        heard = asyncio.ensure_future(self.scope["heard"].get())
        await asyncio.wait({heard, self.task}, return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()

    @property
    def is_in(self):
        """Whether it was let in and goes on."""
        return self.first == "websocket.accept" and not self.task.done()

    async def ends(self):
        """Wait for its end: why it was closed."""
        await asyncio.wait_for(self.task, SECONDS)
        return self.answers.get_nowait()["reason"]


def in_a_loop(test):
    """Run an async test in a thread of its own."""

    def run():
        coroutines.run(asyncio.wait_for(test(), SECONDS))

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_fifty_browsers_of_one_address_have_three_tabs_each_and_three_hundred_idle_sockets_shut_nobody_out():
    sockets = Sockets()
    idle = [await sockets.open() for _ in range(300)]
    tabs_of_class = [await sockets.open(browser=str(n % 50), says=SPEAKS) for n in range(150)]
    assert all(tab.is_in for tab in tabs_of_class)
    assert (await sockets.open()).is_in and (await sockets.open(peer="192.0.2.8", says=SPEAKS)).is_in
    assert await idle[0].ends() == tabs.SILENT.sentence
    assert sum(one.is_in for one in idle) < 100


@in_a_loop
async def test_silent_sockets_do_not_count_as_tabs_and_are_closed_after_a_while():
    tabs.SECONDS_TO_SPEAK, before = 0.01, (tabs.SECONDS_TO_SPEAK, metrics.value("sessions"))
    try:
        sockets = Sockets()
        silent, speaks = await sockets.open(), await sockets.open(says=SPEAKS)
        assert metrics.value("sessions") == before[1] + 1
        assert await silent.ends() == tabs.SILENT.sentence
        assert speaks.is_in
    finally:
        tabs.SECONDS_TO_SPEAK = before[0]


@in_a_loop
async def test_a_browser_an_address_and_all_without_a_cookie_have_so_many_tabs():
    limits = {"MOEVIZ_SESSIONS_PER_VISITOR": "2", "MOEVIZ_SESSIONS_PER_ADDRESS": "8", "MOEVIZ_MAX_SESSIONS": "10"}
    sockets = Sockets(**limits)
    mine = [await sockets.open(browser="me", says=SPEAKS) for _ in range(3)]
    assert [one.is_in for one in mine] == [True, True, False]
    nobody = [await sockets.open(says=SPEAKS) for _ in range(5)]
    assert [one.is_in for one in nobody] == [True] * 4 + [False]  # half of the address's
    others = [await sockets.open(browser=f"{n}", says=SPEAKS) for n in range(3)]
    assert [one.is_in for one in others] == [True, True, False]
    elsewhere = [await sockets.open(peer=f"192.0.3.{n}", browser=f"there {n}", says=SPEAKS) for n in range(3)]
    assert [one.is_in for one in elsewhere] == [True, True, False]
    mine[0].sent.put_nowait({"type": "websocket.disconnect"})
    await mine[0].task
    assert (await sockets.open(browser="me", says=SPEAKS)).is_in


@in_a_loop
async def test_a_tab_that_sends_what_no_page_sends_is_closed_before_the_app_reads_it():
    sockets = Sockets()
    for forged in (b"\xff\xff", None):
        tab = await sockets.open(says=SPEAKS)
        await tab.say(forged)
        assert (await tab.ends()).startswith("No page sends this message.") and tab.scope["heard"].empty()
