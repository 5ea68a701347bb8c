"""What `deploy/` holds: nginx in front of the app, run; the rest, read."""

import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from http.client import HTTPSConnection
from urllib.parse import urlencode

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from servers import ROOT, free_port, started
from visit import Visit
from waiting import SECONDS
from websockets.exceptions import InvalidStatus

DEPLOY = ROOT / "deploy"
DOCKERFILES = (DEPLOY / "Dockerfile", DEPLOY / "huggingface" / "Dockerfile")
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
TOKEN = "a-token-that-nobody-guesses"
needs_nginx = pytest.mark.skipif(not (NGINX and shutil.which("openssl")), reason="nginx or openssl is not installed")


@pytest.fixture
def tls(tmp_path):
    """A certificate for localhost, made for this test; and what trusts it alone."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(certificate))


@contextmanager
def behind_nginx(folder, app_port):
    """Our configuration, its ports and paths aside; the address that browsers use."""
    port = free_port()
    site = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("http://moeviz:8501", f"http://127.0.0.1:{app_port}"),
        ("/etc/nginx/tls/", f"{folder}/"),
    ):
        assert old in site
        site = site.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    site += "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    ours = f"daemon off; master_process off; pid {folder}/pid; error_log stderr notice; events {{}} http {{ {site} }}"
    (folder / "nginx.conf").write_text(ours)
    command = [NGINX, "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with started(command, f"https://localhost:{port}", ready_at="getrlimit") as running:  # said once it listens
        yield running


@contextmanager
def app(*options, **environment):
    """`moeviz app` with these options; its port."""
    port = free_port()
    command = [sys.executable, "-m", "moeviz", "app", "--no-browser", "--port", str(port), *options]
    environment = {"MOEVIZ_SERVE": "", "MOEVIZ_WARM_UP": "0", "MOEVIZ_TRUSTED_PROXIES": "127.0.0.1"} | environment
    with started(command, f"http://127.0.0.1:{port}", ready_at="moeviz serves", environment=environment) as running:
        yield port, running


def ask(url, tls, method="GET", path="/", body=None, **headers):
    connection = HTTPSConnection(url.partition("://")[2], context=tls, timeout=SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@needs_nginx
def test_a_team_works_through_nginx_by_its_token_and_a_web_socket(tmp_path, tls):
    with app("--team", "--behind", "localhost", MOEVIZ_TOKEN=TOKEN) as (port, _), behind_nginx(tmp_path, port) as proxy:
        assert ask(proxy.url, tls)[0] == 401
        with pytest.raises(InvalidStatus):
            Visit(proxy.url, ssl=tls)
        status, headers, _ = ask(proxy.url, tls, "POST", "/load", urlencode({"token": TOKEN}))
        assert status == 303 and "Secure" in headers["set-cookie"]
        cookie = headers["set-cookie"].partition(";")[0]
        status, headers, said = ask(proxy.url, tls, Cookie=cookie)
        assert status == 200 and b"Streamlit" in said and "strict-transport-security" in headers
        assert "Secure" in headers["set-cookie"]  # the visitor's own
        with Visit(proxy.url, ssl=tls, origin=proxy.url, headers={"Cookie": cookie}) as tab:
            said = tab.open(urlencode({"prompt": "Il fait froid.", "model": "embedded"}))
            assert "tokens through embedded" in said
        with pytest.raises(InvalidStatus):
            Visit(proxy.url, ssl=tls, origin="https://evil.example", headers={"Cookie": cookie})
        assert ask(proxy.url, tls, Cookie=cookie, Host="evil.example")[0] == 403


@needs_nginx
def test_strangers_come_through_nginx_and_see_no_figures(tmp_path, tls):
    with app("--public") as (port, running), behind_nginx(tmp_path, port) as proxy:
        with Visit(proxy.url, ssl=tls, origin=proxy.url) as tab:
            tab.open(urlencode({"prompt": "aPromptOfAStranger", "model": "embedded"}))
            assert "is not available here" in tab.open(urlencode({"prompt": "Once", "model": str(tmp_path)}))
        assert ask(proxy.url, tls, path="/metrics")[0] == 404
        assert ask(proxy.url, tls, path="/?prompt=aPromptOfAStranger")[0] == 200
        assert ask(proxy.url, tls, path="/_stcore/agent/openapi.json")[0] == 404
    assert "aPromptOfAStranger" not in "".join(running.lines + proxy.lines)
    assert '"GET / ' not in "".join(proxy.lines) or "prompt" not in "".join(proxy.lines)


@needs_nginx
def test_a_private_app_behind_nginx_lets_nobody_in(tmp_path, tls):
    """A proxy of the same machine makes every stranger look like it; that is what was wrong once."""
    with app() as (port, _), behind_nginx(tmp_path, port) as proxy:
        status, _, said = ask(proxy.url, tls)
        assert status == 403 and b"moeviz app --team --behind HOST" in said
        with pytest.raises(InvalidStatus):
            Visit(proxy.url, ssl=tls)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_containers_run_as_nobody_in_particular_pinned_and_watched(file):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert all(
        re.match(r"FROM python:\d+\.\d+\.\d+-slim-\w+( AS \w+)?$", line) for line in lines if line.startswith("FROM")
    )
    (user,) = [line.split()[1] for line in lines if line.startswith("USER")]
    assert user not in ("root", "0", "0:0")
    assert lines.index(f"USER {user}") < min(
        n for n, line in enumerate(lines) if line.startswith(("CMD", "ENTRYPOINT"))
    )
    assert any(line.startswith("HEALTHCHECK") for line in lines) and "/healthz" in file.read_text()
    assert all("constraints.txt" in line for line in lines if "pip install" in line)


def test_the_versions_of_the_image_are_among_those_that_the_package_admits():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (DEPLOY / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        Requirement(each) for each in project["dependencies"] + extras["app"] + extras["history"] + extras["report"]
    ]
    for each in wanted:
        assert each.specifier.contains(Version(pinned[each.name.lower()])), each


def front_matter(space: str) -> dict:
    _, head, page = (DEPLOY / space / "README.md").read_text("utf-8").split("---\n", 2)
    assert page.strip()
    return yaml.safe_load(head)


@pytest.mark.parametrize(("space", "sdk"), [("huggingface", "docker"), ("huggingface-static", "static")])
def test_a_space_s_front_matter_is_what_hugging_face_reads(space, sdk):
    facts = front_matter(space)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert facts["sdk"] == sdk and {facts["colorFrom"], facts["colorTo"]} <= colours
    assert len(facts["short_description"]) <= 60 and facts["license"] == "apache-2.0"  # longer ones are refused
    assert ("app_port" in facts) == (sdk == "docker") and ("app_file" in facts) == (sdk == "static")


def test_the_docker_space_serves_on_its_port_as_the_user_who_owns_all_that_is_written():
    text = DOCKERFILES[1].read_text("utf-8")
    port = str(front_matter("huggingface")["app_port"])
    assert {*re.findall(r"EXPOSE (\d+)", text), *re.findall(r'--port", "(\d+)"', text)} == {port}
    assert re.findall(r"127\.0\.0\.1:(\d+)/healthz", text) == [port] and '"--server.address", "0.0.0.0"' in text
    assert "useradd --create-home --uid 1000 user" in text
    written = dict(re.findall(r"(HOME|HF_HOME|MOEVIZ_HOME)=(\S+)", text))
    assert written.keys() == {"HOME", "HF_HOME", "MOEVIZ_HOME"}
    assert all(place.startswith("/home/user") for place in written.values())
    assert text.index("USER user") < text.index("WORKDIR /home/user")  # else it would be root's


def test_what_is_copied_into_a_space_is_there():
    copies = re.findall(r"^cp (.*) \S+$", (DEPLOY / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(copies) == 2 and all((ROOT / file).is_file() for files in copies for file in files.split())


def test_a_space_may_be_framed_by_its_own_site_and_by_no_other():
    (line,) = re.findall(r'MOEVIZ_FRAME_ANCESTORS="(.*)"', DOCKERFILES[1].read_text())
    assert line.split(",") == ["https://huggingface.co", "https://*.hf.space"]
    assert "--public" in DOCKERFILES[1].read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_the_service(tmp_path):
    unit = (DEPLOY / "moeviz.service").read_text().replace("/opt/moeviz/bin/moeviz", sys.executable)
    (tmp_path / "moeviz.service").write_text(unit)
    said = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "moeviz.service")], capture_output=True, text=True
    )
    assert "moeviz.service" not in said.stderr, said.stderr


def test_every_promise_names_tests_that_there_are():
    rows = re.findall(r"^\| \*\*.*$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)`", row)
        assert named and all((ROOT / path).exists() for path in named), row
