"""Who gets in, judged request by request: HTTP and web socket alike, in each way of serving."""

from urllib.parse import quote

import coroutines
import pytest

from moeviz_app.server import access, metrics
from moeviz_app.server.access import AccessControl, token_digest
from moeviz_app.settings import read_settings

TOKEN = "a-token-that-nobody-guesses"
HOST = "lab.example"


def settings(way, **more):
    hosts = {"MOEVIZ_HOSTS": HOST} if way == "team" else {}
    token = {"MOEVIZ_TOKEN": TOKEN} if way == "team" else {"MOEVIZ_ASK_TOKEN": "0"}
    return read_settings({"MOEVIZ_SERVE": way} | hosts | token | more)


def with_token():
    """Settings of a private server that asks for its token, as it does unless told otherwise."""
    return settings("private", MOEVIZ_TOKEN=TOKEN, MOEVIZ_ASK_TOKEN="")


class Answer:
    """What came back: `status` is 101 where the app behind the door was reached by a web socket."""

    def __init__(self, sent):
        first = sent[0]
        self.status = {"websocket.accept": 101, "websocket.close": 403}.get(first["type"]) or first["status"]
        self.headers = {name.decode(): value.decode() for name, value in first.get("headers", ())}
        self.text = b"".join(message.get("body", b"") for message in sent).decode()


def ask(ours, path="/", *, kind="http", method="GET", peer="127.0.0.1", body=b"", query=b"", **headers):
    """Send a request to the door; a keyword is a header, with _ for -."""
    sent = []

    async def app(scope, receive, send):
        if kind == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"the app"})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    headers = {"host": "localhost:8501" if ours.serve != "team" else HOST} | headers
    scope = {
        "type": kind,
        "scheme": "http",
        "path": path,
        "query_string": query,
        "client": peer and (peer, 1),
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    if kind == "http":
        scope["method"] = method
    coroutines.run(AccessControl(app, ours)(scope, receive, send))
    return Answer(sent)


@pytest.fixture(params=["http", "websocket"])
def kind(request):
    return request.param


def reached(answer):
    return answer.status in (101, 200)


def test_one_s_own_browser_gets_in(kind):
    for host in ("localhost:8501", "127.0.0.1:8501", "[::1]:8501"):
        assert reached(ask(settings("private"), kind=kind, host=host))


@pytest.mark.parametrize("peer", ["192.168.1.7", "203.0.113.5", "::ffff:10.0.0.1", "2001:db8::1", None])
def test_in_private_no_other_machine_gets_in_whatever_it_says(kind, peer):
    assert ask(settings("private"), kind=kind, peer=peer).status == 403


PROXIES = {
    "x_forwarded_for": "127.0.0.1",
    "x_forwarded_proto": "https",
    "x_forwarded_host": "localhost",
    "x_forwarded_prefix": "/user/me",
    "forwarded": "for=127.0.0.1",
    "x_real_ip": "127.0.0.1",
    "via": "1.1 proxy",
    "cf_connecting_ip": "127.0.0.1",
    "true_client_ip": "127.0.0.1",
    "fly_client_ip": "127.0.0.1",
    "x_envoy_external_address": "127.0.0.1",
}


@pytest.mark.parametrize("name", PROXIES)
def test_in_private_a_proxy_of_any_kind_is_refused_and_told_what_to_do(kind, name):
    answer = ask(settings("private"), kind=kind, **{name: PROXIES[name]})
    assert answer.status == 403
    if kind == "http":
        assert "moeviz app --team --behind HOST" in answer.text and "moeviz app --public" in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8501", "", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_in_private_a_name_that_was_bent_to_this_machine_is_refused(kind, host):
    """DNS rebinding: the page's own name leads to 127.0.0.1, so the browser takes us for that site."""
    assert ask(settings("private"), kind=kind, host=host, origin=f"http://{host}").status == 403


def test_in_private_a_browser_comes_by_the_printed_address_once_and_then_by_any(kind):
    """What a forwarder that says nothing of itself hands on looks as if it came from this machine."""
    ours = with_token()
    assert not reached(ask(ours, kind=kind))
    first = ask(ours, "/load", query=f"layer=2&access={quote(TOKEN)}&token=3&prompt=%C3%A9".encode())
    assert (first.status, first.headers["location"]) == (303, "/load?layer=2&token=3&prompt=%C3%A9")
    cookie = first.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/")) and TOKEN not in cookie
    assert reached(ask(ours, kind=kind, cookie=cookie.partition(";")[0]))
    assert not reached(ask(ours, kind=kind, cookie=cookie.partition(";")[0], host="evil.example"))
    assert reached(ask(settings("private"), kind=kind))  # which does not ask


def test_in_private_who_brings_no_token_is_told_in_one_sentence_where_it_is(monkeypatch):
    monkeypatch.setenv("MOEVIZ_HOME", "/data/mine")
    for query in (b"", b"access=wrong", b"access=", f"access={TOKEN}x".encode()):
        answer = ask(with_token(), query=query)
        assert answer.status == 401 and "set-cookie" not in answer.headers
        assert "Open the address that moeviz printed" in answer.text and "the file /data/mine/token" in answer.text
    given = ask(with_token(), method="POST", body=f"token={quote(TOKEN)}".encode())
    assert given.status == 303 and "set-cookie" in given.headers
    monkeypatch.delenv("MOEVIZ_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert "ada" not in ask(with_token()).text


@pytest.mark.parametrize("way", ["team", "public"])
def test_a_token_in_an_address_counts_in_private_alone(way):
    answer = ask(settings(way), query=f"access={TOKEN}".encode())
    assert "set-cookie" not in answer.headers and answer.status == {"team": 401, "public": 200}[way]


@pytest.mark.parametrize("way", ["private", "team", "public"])
def test_a_page_of_another_site_opens_no_web_socket_and_sends_no_file(way):
    ours, cookie = settings(way), f"moeviz_token={token_digest(TOKEN)}"
    for origin in ("https://evil.example", "null", "https://lab.example.evil.example", "http://localhost:9999"):
        assert ask(ours, kind="websocket", origin=origin, cookie=cookie).status == 403
        assert ask(ours, method="PUT", path="/_stcore/upload_file/a/b", origin=origin, cookie=cookie).status == 403
        assert reached(ask(ours, origin=origin, cookie=cookie))  # a link


def test_one_s_own_page_opens_its_web_socket():
    assert reached(ask(settings("private"), kind="websocket", origin="http://localhost:8501"))
    assert reached(ask(settings("public"), kind="websocket", host="moe.example", origin="https://moe.example"))
    assert reached(ask(settings("public"), kind="websocket", host="moe.example:443", origin="https://moe.example"))
    cookie = f"moeviz_token={token_digest(TOKEN)}"
    assert reached(ask(settings("team"), kind="websocket", host=HOST, origin=f"https://{HOST}", cookie=cookie))


def test_a_team_gives_its_token_once(kind):
    ours = settings("team")
    assert not reached(ask(ours, kind=kind))
    asked = ask(ours, query=b"layer=2")
    assert asked.status == 401 and 'type="password"' in asked.text and asked.headers["cache-control"] == "no-store"
    given = ask(ours, "/load", method="POST", body=f"token={quote(TOKEN)}".encode(), query=b"layer=2")
    assert (given.status, given.headers["location"]) == (303, "/load?layer=2")
    cookie = given.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/")) and TOKEN not in cookie
    assert reached(ask(ours, kind=kind, cookie=cookie.partition(";")[0]))


def test_over_https_the_token_s_cookie_is_for_https_alone():
    body = f"token={TOKEN}".encode()
    assert "Secure" not in ask(settings("team"), method="POST", body=body).headers["set-cookie"]
    assert "Secure" in ask(settings("team"), method="POST", body=body, x_forwarded_proto="https").headers["set-cookie"]


@pytest.mark.parametrize("body", [b"", b"token=", b"token=wrong", f"token={TOKEN}x".encode(), b"x" * 100_000, b"\xff"])
def test_a_wrong_token_gets_nobody_in(body):
    answer = ask(settings("team"), method="POST", body=body)
    assert answer.status == 401 and "set-cookie" not in answer.headers
    for cookie in ("moeviz_token=", "moeviz_token=wrong", f"moeviz_token={TOKEN}", "moeviz_token=\xe9", "=;;="):
        assert ask(settings("team"), cookie=cookie).status == 401


def test_the_way_back_after_the_token_leads_to_this_server_alone():
    body = f"token={TOKEN}".encode()
    for path in ("//evil.example/x", "/a\r\nSet-Cookie: x=1", "/\\evil.example"):
        location = ask(settings("team"), path, method="POST", body=body).headers["location"]
        assert location.startswith("/") and not location.startswith("//") and "\\" not in location
        assert "\r" not in location and "\n" not in location


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    ask(settings("team"), method="POST", body=b"token=guess")
    assert (b"guess", TOKEN.encode()) in compared and (b"", token_digest(TOKEN).encode()) in compared


def test_a_proxy_s_log_in_counts_from_a_listed_proxy_alone(kind):
    ours = settings("team", MOEVIZ_LOGIN_HEADER="X-Remote-User", MOEVIZ_TRUSTED_PROXIES="10.0.0.2", MOEVIZ_TOKEN="")
    assert reached(ask(ours, kind=kind, peer="10.0.0.2", x_remote_user="ada"))
    assert not reached(ask(ours, kind=kind, peer="10.0.0.2", x_remote_user=" "))
    assert not reached(ask(ours, kind=kind, peer="10.0.0.2"))
    assert not reached(ask(ours, kind=kind, peer="10.0.0.3", x_remote_user="ada"))
    assert not reached(ask(ours, kind=kind, peer="10.0.0.3", x_remote_user="ada", x_forwarded_for="10.0.0.2"))


@pytest.mark.parametrize("way", ["team", "public"])
def test_a_host_that_was_not_named_is_refused_where_hosts_are_named(kind, way):
    ours, cookie = settings(way, MOEVIZ_HOSTS=f"{HOST}, moe.example:8443"), f"moeviz_token={token_digest(TOKEN)}"
    for host in (HOST, f"{HOST}:8501", "LAB.example", "moe.example:8443"):
        assert reached(ask(ours, kind=kind, host=host, cookie=cookie))
    for host in ("evil.example", "localhost", f"{HOST}.evil.example", f"x@{HOST}", "", "[::1"):
        assert ask(ours, kind=kind, host=host, cookie=cookie).status == 403


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/moe/_stcore/metrics", "/_stcore/script-health-check"])
def test_what_streamlit_tells_about_itself_is_closed_to_all(path):
    for way in ("private", "public"):
        assert ask(settings(way), path).status == 404


@pytest.mark.parametrize("path", ["/_stcore/agent/interact", "/_stcore/agent/mcp", "/moe/_stcore/agent/openapi.json"])
def test_streamlit_s_interface_for_agents_is_closed_to_strangers(path):
    assert ask(settings("public"), path).status == ask(settings("public"), path, method="POST").status == 404
    assert reached(ask(settings("private"), path))  # where Streamlit itself says whether it is on


def test_health_is_told_to_anybody_and_metrics_to_who_has_their_token():
    for path in ("/healthz", "/readyz"):
        assert reached(ask(settings("private"), path, host="10.0.0.9", peer="10.0.0.1"))
        assert reached(ask(settings("team"), path, host="10.0.0.9"))
    assert reached(ask(with_token(), "/_stcore/health")) and not reached(ask(with_token(), "/"))
    assert not reached(ask(with_token(), "/_stcore/health", host="10.0.0.9", peer="10.0.0.1"))
    assert not reached(ask(settings("team"), "/metrics"))
    assert reached(ask(settings("team", MOEVIZ_METRICS_TOKEN="m" * 20), "/metrics"))  # which then asks for it


def test_refusals_are_counted(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", metrics.Metrics())
    ask(settings("private"), via="1.1 x")
    ask(settings("team"), method="POST", body=b"token=guess")
    assert metrics.value("refusals", why="proxy") == metrics.value("refusals", why="token") == 1
