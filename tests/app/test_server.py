"""The server itself, as a process: its routes, its headers, its log, its end; and the requests that no page sends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

import coroutines
import pytest
import streamlit as st
from servers import ROOT, served
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from streamlit.web.server.app_discovery import discover_asgi_app
from visit import Visit
from waiting import SECONDS
from websockets.exceptions import InvalidStatus

from moeviz_app.server import asgi, metrics, uploads
from moeviz_app.server import asgi as server
from moeviz_app.server.compression import CompressedScripts
from moeviz_app.server.uploads import MB, Uploads
from moeviz_app.settings import read_settings
from tests.attack.attack import ask

TOKEN = "a-token-that-nobody-guesses"
SECRET = "aPromptThatNoLogMayHold"


def test_streamlit_finds_the_app_with_its_routes_in_the_script_that_it_is_told_to_run():
    found = discover_asgi_app(ROOT / "app" / "moeviz_app" / "main.py")
    assert (found.is_asgi_app, found.import_string) == (True, "main:app")


def test_a_private_server_answers_this_machine_and_says_the_same_headers_always():
    with served(MOEVIZ_WARM_UP="0", MOEVIZ_ASK_TOKEN="0") as running:
        for path, status in (
            ("/", 200),
            ("/load", 200),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/_stcore/metrics", 404),
        ):
            answer, found, _ = ask(running.url, path=path)
            assert answer == status, path
            assert "frame-ancestors 'none'" in found["content-security-policy"]
            assert found["x-content-type-options"] == "nosniff" and found["referrer-policy"] == "same-origin"
        answer, found, said = ask(running.url, path="/", X_Real_IP="127.0.0.1")
        assert answer == 403 and b"moeviz app --public" in said and found["x-frame-options"] == "DENY"
        with pytest.raises(InvalidStatus):
            Visit(running.url, headers={"X-Forwarded-For": "127.0.0.1"})
        with Visit(running.url) as tab:
            assert "example of this place" in tab.open()
            _, _, said = ask(running.url, path="/metrics")
            assert b"moeviz_sessions 1.0\n" in said
        script = next(Path(st.__file__).parent.joinpath("static/static/js").glob("index.*.js"))
        _, found, said = ask(running.url, path=f"/static/js/{script.name}", Accept_Encoding="gzip")
        assert found["content-encoding"] == "gzip" and len(said) < script.stat().st_size / 3
        assert "(private)" in "".join(running.lines)


def test_a_private_server_prints_an_address_that_lets_one_s_browser_in_for_good(tmp_path):
    own = {"MOEVIZ_ASK_TOKEN": "1", "MOEVIZ_HOME": str(tmp_path), "MOEVIZ_WARM_UP": "0"}
    with served(ready_at="Open http", **own) as running:
        (line,) = [line for line in running.lines if "Open http" in line]
        address = urlsplit(line.split()[-1])
        assert f"{address.scheme}://localhost:{address.port}" == running.url.replace("127.0.0.1", "localhost")
        assert (tmp_path / "token").stat().st_mode & 0o077 == 0
        status, _, said = ask(running.url)
        assert status == 401 and b"Open the address that moeviz printed" in said and b"Streamlit" not in said
        with pytest.raises(InvalidStatus):
            Visit(running.url)
        status, found, _ = ask(running.url, path=f"{address.path}?{address.query}")
        assert (status, found["location"]) == (303, "/")
        cookie = {"Cookie": found["set-cookie"].partition(";")[0]}
    with served(**own) as running:
        assert ask(running.url, **cookie)[0] == 200
        with Visit(running.url, headers=cookie) as tab:
            assert "example of this place" in tab.open()


def test_a_team_gives_its_token_then_sees_the_page_and_may_type_no_folder(tmp_path):
    (tmp_path / "moeviz.toml").write_text('hosts = ["127.0.0.1"]\n')
    with served(MOEVIZ_SERVE="team", MOEVIZ_WARM_UP="0", folder=tmp_path, ready_at="Token: ") as running:
        (line,) = [line for line in running.lines if "Token: " in line]
        status, _, said = ask(running.url)
        assert status == 401 and b'name="token"' in said and b"Streamlit" not in said
        with pytest.raises(InvalidStatus):
            Visit(running.url)
        body = urlencode({"token": line.partition("Token: ")[2].strip()}).encode()
        status, found, _ = ask(running.url, "POST", "/load", body)
        assert (status, found["location"]) == (303, "/load")
        cookie = {"Cookie": found["set-cookie"].partition(";")[0]}
        assert ask(running.url, **cookie)[0] == 200 and ask(running.url, path="/metrics", **cookie)[0] == 200
        with Visit(running.url, headers=cookie) as tab:
            assert "is not available here" in tab.open(urlencode({"prompt": "Once", "model": str(tmp_path)}))


def test_the_log_of_a_public_server_is_json_and_holds_no_prompt_and_it_ends_in_time_with_tabs_open():
    with served(MOEVIZ_SERVE="public", MOEVIZ_WARM_UP="0") as running:
        ask(running.url, path="/_stcore/metrics?prompt=" + SECRET)
        tab = Visit(running.url)
        with tab:
            tab.open(urlencode({"prompt": SECRET, "model": "embedded"}))
            assert SECRET in str(tab.said)
            with Visit(running.url) as other:
                other.send(urlencode({"prompt": "Once " * 200, "model": "embedded"}))
                running.process.send_signal(signal.SIGTERM)
                running.process.wait(SECONDS)
    text = "".join(running.lines)
    assert SECRET not in text
    lines = [json.loads(line) for line in running.lines if line.startswith("{")]
    assert [line["message"] for line in lines if line["logger"] == "moeviz.app"] == [
        server.WAYS["public"],
        "refused: closed",
        "moeviz stops",
    ]
    assert "Traceback" not in text, text


@pytest.mark.parametrize(
    ("way", "address"), [("private", None), ("private", "0.0.0.0"), ("team", "127.0.0.1")], ids=str
)
def test_a_server_does_not_start_where_it_was_not_said_who_may_come_in(way, address, tmp_path):
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(ROOT / "app" / "moeviz_app" / "main.py"),
        "--server.port",
        "0",
    ]
    command += [] if address is None else ["--server.address", address]
    environment = os.environ | {"MOEVIZ_SERVE": way}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path)
    assert ended.returncode != 0 and "moeviz app --team --behind HOST" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def client(monkeypatch):
    """The routes alone, under settings that a test chooses."""

    def under(**environment):
        monkeypatch.setattr(server.settings, "SETTINGS", read_settings(environment))
        monkeypatch.setattr(metrics, "METRICS", metrics.Metrics())
        app = Starlette(routes=server.ROUTES)
        return TestClient(app)

    return under


def test_metrics_are_closed_to_strangers_unless_they_bring_their_token(client):
    assert client(MOEVIZ_SERVE="public").get("/metrics").status_code == 404
    open_to_some = client(MOEVIZ_SERVE="public", MOEVIZ_METRICS_TOKEN=TOKEN)
    assert open_to_some.get("/metrics").status_code == 401
    assert open_to_some.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    answer = open_to_some.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200 and "# TYPE moeviz_runs_total counter" in answer.text
    assert client(MOEVIZ_SERVE="private").get("/metrics").status_code == 200


def test_a_full_server_is_alive_and_not_ready(client):
    small = client(MOEVIZ_MAX_WAITING="3", MOEVIZ_MAX_SESSIONS="2")
    assert small.get("/readyz").text == "ready\n"
    metrics.gauge("waiting", 3)
    assert small.get("/readyz").status_code == 503 and small.get("/healthz").status_code == 200
    metrics.gauge("waiting", 0)
    metrics.gauge("sessions", 2)
    assert small.get("/readyz").text == "busy\n"


def test_scripts_are_compressed_once_for_browsers_that_ask_and_nobody_else_decides_what_is_kept(tmp_path):
    (tmp_path / "a.js").write_text(script := "let a = 1;\n" * 1_000)
    files = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))])
    compressed = CompressedScripts(files, tmp_path, "/static")
    client = TestClient(compressed, headers={"Accept-Encoding": "gzip"})
    for _ in range(2):
        answer = client.get("/static/a.js")
        assert answer.headers["content-encoding"] == "gzip" and answer.text == script
        assert int(answer.headers["content-length"]) < len(script) / 10
    assert client.get("/static/a.js", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    plain = [{"Accept-Encoding": "identity"}, {"Range": "bytes=0-3"}]
    answers = [client.get("/static/a.js", headers=headers) for headers in plain]
    answers += [client.get("/static/%2e/a.js"), client.head("/static/a.js"), client.get("/static/b.js")]
    assert not any("content-encoding" in answer.headers for answer in answers)
    assert [answer.status_code for answer in answers] == [200, 206, 200, 200, 404]
    assert [*compressed.kept] == ["/static/a.js"]


def test_sites_that_a_setting_names_may_frame_the_app_and_no_others():
    page = Path(st.__file__).with_name("static") / "index.html"
    found = asgi.security_headers(("https://huggingface.co", "https://*.hf.space"), page)
    assert "frame-ancestors https://huggingface.co https://*.hf.space" in found["Content-Security-Policy"]
    assert "X-Frame-Options" not in found


def test_no_rule_lets_a_script_of_another_host_run_or_one_that_is_made_of_text():
    rules = dict(rule.split(" ", 1) for rule in asgi.policy((), "<script>a</script>").split("; "))
    assert rules["script-src"].startswith("'self' blob: 'sha256-") and rules["default-src"] == "'none'"
    assert "unsafe-eval" not in str(rules) and "http" not in str(rules) and "*" not in str(rules)
    assert [name for name, value in rules.items() if "unsafe-inline" in value] == ["style-src"]


@pytest.fixture
def budget(monkeypatch):
    """Upload a file into a tab: the status. Files of 1 MB at most, so 4 MB a tab, and a quarter of 40 MB in all."""
    kept: dict = {}
    manager = SimpleNamespace(file_storage=kept)
    monkeypatch.setattr(uploads.Runtime, "exists", lambda: True)
    monkeypatch.setattr(uploads.Runtime, "instance", lambda: SimpleNamespace(uploaded_file_mgr=manager))
    ours = read_settings({"MOEVIZ_MAX_UPLOAD_MB": "1", "MOEVIZ_PROCESS_MB": "40"})

    async def app(scope, receive, send):
        tab, data, more = scope["path"].split("/")[-2], b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data, more = data + message["body"], message.get("more_body", False)
        kept.setdefault(tab, {})[len(kept.get(tab, ()))] = SimpleNamespace(data=data)
        await send({"type": "http.response.start", "status": 204, "headers": []})

    door = Uploads(app, ours)

    def put(tab, length=str(MB), method="PUT", peer=None, parts=(bytes(MB),)):
        """`parts` come one after the other; where nothing comes after them, None is the last."""
        sent, left = [], list(parts)

        async def receive():
            if left[:1] == [None]:
                await asyncio.Event().wait()
            if not left:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message):
            sent.append(message)

        lengths = [] if length is None else [(b"content-length", length.encode())]
        scope = {"type": "http", "method": method, "path": f"/_stcore/upload_file/{tab}/f", "headers": lengths}
        coroutines.run(door(scope | {"client": (peer or tab, 1)}, receive, send))
        return sent[0]["status"] if sent else None

    put.kept, put.door = kept, door
    return put


def test_a_tab_keeps_four_files_and_all_tabs_a_quarter_of_the_traces_budget(budget):
    assert [budget("one") for _ in range(5)] == [204, 204, 204, 204, 413]
    assert [budget("two", None) for _ in range(5)] == [204, 204, 204, 204, 413]  # one that does not say how long it is
    assert [budget("three") for _ in range(3)] == [204, 204, 503]
    budget.kept.pop("one")  # its tab is gone
    assert budget("three") == 204
    assert not budget.door.on_their_way


def test_one_address_has_half_of_that(budget):
    assert [budget(f"tab {n % 2}", peer="192.0.2.7") for n in range(6)] == [204] * 5 + [503]
    assert budget("tab 2", peer="192.0.2.8") == 204


def test_what_is_announced_and_does_not_come_takes_no_room_and_is_given_up(budget, monkeypatch):
    held = []
    monkeypatch.setattr(uploads, "SECONDS_TO_BEGIN", 0.01)
    monkeypatch.setattr(uploads, "LEAST_RATE", MB)

    def meanwhile(tab, more):
        held.append(budget.door.on_their_way.total())
        return judged(tab, more)

    judged = budget.door._check_budget
    monkeypatch.setattr(budget.door, "_check_budget", meanwhile)
    for n in range(28):
        assert budget(f"tab {n}", peer="192.0.2.7", parts=(b"x", None)) == 408
    assert max(held) == 1 and not budget.kept and not budget.door.on_their_way
    assert budget("honest", peer="192.0.2.7") == 204


def test_more_than_was_announced_is_cut_off_and_a_visitor_who_leaves_is_no_error(budget):
    assert budget("one", "9", parts=[bytes(MB)] * 5) == 413 and not budget.kept
    assert budget("one", parts=()) is None and not budget.door.on_their_way


def test_a_file_that_says_it_is_too_long_is_not_begun(budget):
    assert budget("one", str(3 * MB)) == 413 and not budget.kept
    assert budget("one", "9" * 5000) == 204  # no number: as long as may be, and Streamlit judges it
    assert budget("one", str(3 * MB), method="DELETE") == 204
