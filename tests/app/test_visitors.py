"""Who is asking: the cookie that a browser gets, the address behind proxies, and runs a minute."""

from http.cookies import SimpleCookie
from types import SimpleNamespace

import coroutines
import pytest
from moeviz_app.server import identity
from moeviz_app.server.client_address import address_behind
from moeviz_app.server.identity import COOKIE, RateLimiter, TooOften, VisitorCookie


def answered(headers=(), scheme="http", content=b"text/html; charset=utf-8", kind="http"):
    """The headers of a page that passes through the middleware, as a dict."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content)]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "scheme": scheme,
        "headers": [(key.lower().encode(), value.encode()) for key, value in headers],
    }
    coroutines.run(VisitorCookie(app)(scope, None, send))
    return dict(sent[0]["headers"])


def given(**request):
    """The cookie that a response brings; None without one."""
    header = answered(**request).get(b"set-cookie")
    return None if header is None else SimpleCookie(header.decode())[COOKIE]


def test_a_page_brings_a_browser_without_a_cookie_one_that_nobody_guesses_and_no_script_reads():
    first, second = given(), given()
    assert first.value != second.value and len(first.value) == 43
    assert first["httponly"] and first["samesite"] == "Lax" and not first["secure"] and first["path"] == "/"


def test_over_https_the_cookie_is_for_https_alone():
    assert given(scheme="https")["secure"]
    assert given(headers=[("X-Forwarded-Proto", "https")])["secure"]


def test_who_has_a_cookie_keeps_it_and_one_that_is_not_ours_is_replaced():
    assert given(headers=[("Cookie", f"other=1; {COOKIE}={given().value}")]) is None
    assert given(headers=[("Cookie", f"{COOKIE}=me")]) is not None


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


def test_tabs_of_one_browser_are_one_visitor_and_sessions_without_cookies_are_not(monkeypatch):
    context, session = SimpleNamespace(cookies={COOKIE: given().value}), SimpleNamespace(session_id="one")
    monkeypatch.setattr(identity.st, "context", context)
    monkeypatch.setattr(identity, "get_script_run_ctx", lambda: session)
    first = identity.visitor_id()
    session.session_id = "two"
    assert identity.visitor_id() == first and context.cookies[COOKIE] not in first
    context.cookies = {COOKIE: "chosen by hand"}
    without = identity.visitor_id()
    session.session_id = "three"
    assert len({first, without, identity.visitor_id()}) == 3


def test_runs_a_minute_are_counted_for_each_visitor():
    now = [0.0]
    pace = RateLimiter(2, clock=lambda: now[0])
    pace.begin("one")
    now[0] = 20
    pace.begin("one")
    with pytest.raises(TooOften, match=r"You have begun 2 runs within a minute, .* Try again in 40 s\."):
        pace.begin("one")
    pace.begin("another")
    now[0] = 60
    pace.begin("one")
    with pytest.raises(TooOften):
        pace.begin("one")


def test_visitors_who_left_are_not_remembered():
    now = [0.0]
    pace = RateLimiter(2, clock=lambda: now[0])
    for who in range(100):
        pace.begin(str(who))
    now[0] = 61
    pace.begin("last")
    assert list(pace._begun) == ["last"]
