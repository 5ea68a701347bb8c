"""What does a stranger get out of a public server? A script that knows how moeviz was broken before.

    python -m tests.attack.attack [--links 136] [--uploads 60]

It starts `--public` on this machine and attacks it: links that name folders, other models and devices; forged choices
in widgets; requests that say they were handed on; pages that frame it; Streamlit's own endpoints; paths that climb;
messages and links without end; files, one after the other. What counts is measured from outside the app: the kernel
says whether the folder of a model that is not listed was opened, `/metrics` how many models were loaded and how much
memory the process holds. Printed are the four figures that have to be 0 or within the budget; then, of each crowd of
`tests/attack/crowds.py`, how many times as slow it makes the runs of others. Beyond any limit it ends with 1.
"""

import argparse
import http.client
import io
import itertools
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.exceptions import ConnectionClosed, InvalidStatus

from moeviz.embedded import embedded_path
from moeviz.formats.exports import export_for
from moeviz.testing import sample_trace
from tests.support.servers import served
from tests.support.visit import Visit
from tests.support.waiting import SECONDS
from tests.support.watched_folder import WatchedFolder

TOKEN = "a-token-for-the-figures-alone"
PUBLIC = {"MOEVIZ_SERVE": "public", "MOEVIZ_METRICS_TOKEN": TOKEN, "STREAMLIT_SERVER_ENABLE_AGENT_API": "true"}
MB = 2**20
MORE_MB = 900  # above the server at rest: its model, one run, and a quarter of the traces' budget in uploaded files
PROXY = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Real-IP": "127.0.0.1",
    "Forwarded": "for=127.0.0.1;host=localhost",
    "Via": "1",
}
ENDPOINTS = (
    "/_stcore/metrics",
    "/_stcore/script-health-check",
    "/_stcore/agent/interact",
    "/_stcore/agent/mcp",
    "/_stcore/agent/openapi.json",
    "/metrics",
)
CLIMBS = (
    "/media/../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/component/x/../../../etc/passwd",
    "/app/static/x",
)
PAGES = ("", "what-if", "many-texts", "compare", "files", "expert")


@dataclass(slots=True)
class Found:
    """What the attack got, and what it did not expect."""

    loaded: int = 0
    read: int = 0
    framed: int = 0
    more_mb: float = 0.0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AttackedServer:
    """The server, the folder of a model that it does not list, and how far to go."""

    url: str
    decoy: Path
    links: int
    uploads: int


def ask(url: str, method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> tuple[int, dict, bytes]:
    """A plain request, its path as it is written."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)
    try:
        connection.request(
            method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def figure(url: str, name: str) -> float:
    """A figure of `/metrics`: the sum of its parts."""
    _, _, text = ask(url, path="/metrics", Authorization=f"Bearer {TOKEN}")
    lines = [line for line in text.decode().splitlines() if line.startswith(f"moeviz_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def links(target: AttackedServer, found: Found) -> None:
    """Links that name what is not listed, on devices that there may not be."""
    for number, asked in enumerate(hostile_links(target.decoy)):
        if number == target.links:
            return
        with Visit(target.url) as tab:
            said = tab.open(urlencode(asked), PAGES[number % len(PAGES)])
        if "This app has encountered an error" in said:
            found.errors.append(f"an error page: {urlencode(asked)[:120]}")


def hostile_links(decoy: Path) -> Iterator[dict[str, str]]:
    """They go on for ever; the first are the worst."""
    names = [
        str(decoy),
        f"{decoy}/",
        f"./{decoy.name}",
        f"{decoy}/../{decoy.name}",
        "some/model",
        "file://x",
        "\0",
        "é" * 300,
    ]
    devices = ["cuda:0", "auto", "cpu", "meta", "disk", "mps", "cuda:99999999999999999999", "'", ""]
    number = 0
    while True:
        name, device = names[number % len(names)], devices[number % len(devices)]
        asked = {"prompt": "Once " * (number % 7 + 1), "model": name, "device_map": device, "new_tokens": "10"}
        asked |= {"dtype": ("float16", "int4", "")[number % 3], "layer": str(10**number)[:40], "expert": "-1"}
        if number % 3 == 0:
            asked["model"] = "embedded"
        yield asked | {"seed": str(number), "temperature": ("nan", "inf", "1e999", "-0")[number % 4]}
        number += 1


def forged_choices(target: AttackedServer, found: Found) -> None:
    """A browser may send what no menu offers: the folder as the choice of every menu of each page."""
    for page in PAGES:
        with Visit(target.url) as tab:
            tab.open("", page)
            asked = BackMsg()
            asked.rerun_script.page_name = page
            for element in (said.delta.new_element for said in tab.said if said.WhichOneof("type") == "delta"):
                if element.WhichOneof("type") == "selectbox":
                    state = asked.rerun_script.widget_states.widgets.add()
                    state.id, state.string_value = element.selectbox.id, str(target.decoy)
            tab.socket.send(asked.SerializeToString())
            tab.hear()


def forged_rows(target: AttackedServer, found: Found) -> None:
    """A million new rows, three megabytes, as the state of every field and table of a page that takes texts.

    A table that can be edited applies them row by row, and holds the whole process for minutes: then `hear` gives up.
    The server closes the tab.
    """
    rows = '{"edited_rows":{},"deleted_rows":[],"added_rows":[' + ",".join(["{}"] * 1_000_000) + "]}"
    for number in itertools.count():
        with Visit(target.url) as tab:
            tab.open("", "many-texts")
            if number == len(widgets := fields(tab)):
                return
            asked = BackMsg()
            asked.rerun_script.page_name = "many-texts"
            state = asked.rerun_script.widget_states.widgets.add()
            state.id, state.string_value = widgets[number], rows
            try:
                tab.socket.send(asked.SerializeToString())
                tab.hear()
            except ConnectionClosed:
                continue
            found.errors.append(f"a million forged rows were taken: {widgets[number]}")


def fields(tab: Visit) -> list[str]:
    """The ids of a page's text fields and editable tables."""
    elements = [said.delta.new_element for said in tab.said if said.WhichOneof("type") == "delta"]
    kinds = ("text_input", "text_area", "dataframe")
    ids = (getattr(element, kind).id for element in elements for kind in kinds if element.WhichOneof("type") == kind)
    return [widget for widget in ids if widget]  # a table that is only shown has none


def handed_on(target: AttackedServer, found: Found) -> None:
    """Whoever says that a proxy sent him from this very machine is no less a stranger."""
    with Visit(target.url, headers=PROXY) as tab:
        tab.open(urlencode({"prompt": "Once", "model": str(target.decoy)}))
        said = tab.open("", "what-if")
        if "type a folder" in said:
            found.errors.append("a stranger behind a proxy may type a folder")


def frames(target: AttackedServer, found: Found) -> None:
    """Nothing that the server sends may stand in another page's frame."""
    for path in ("/", "/load", "/?embed=true", "/_stcore/health", "/healthz", "/nowhere", "/media/x", *ENDPOINTS):
        _, headers, _ = ask(target.url, path=path)
        policy = headers.get("content-security-policy", "")
        found.framed += "frame-ancestors 'none'" not in policy or headers.get("x-frame-options") != "DENY"


def other_sites(target: AttackedServer, found: Found) -> None:
    """A page of another site connects with the visitor's own browser."""
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        try:
            with Visit(target.url, origin=origin):
                found.errors.append(f"a page of {origin} may connect")
        except InvalidStatus:
            pass


def endpoints(target: AttackedServer, found: Found) -> None:
    """What is Streamlit's own, and what climbs out of its folders."""
    for path in ENDPOINTS:
        for method in ("GET", "POST"):
            status, _, _ = ask(target.url, method, path, b"{}" if method == "POST" else b"")
            if status not in (404, 405, 401 if path == "/metrics" else 404):
                found.errors.append(f"{method} {path} answers {status}")
    for path in CLIMBS:
        status, _, body = ask(target.url, path=path)
        if b"root:" in body:
            found.errors.append(f"{path} reads a file of the machine")


def without_end(target: AttackedServer, found: Found) -> None:
    """A link and a message that are longer than anybody needs."""
    for size in (10_000, 3 * MB, 30 * MB):
        try:
            with Visit(target.url) as tab:
                tab.open(f"prompt={'x' * size}&model=embedded")
        except ConnectionClosed:
            pass  # the server hung up on us
    ask(target.url, path="/?prompt=" + "x" * 60_000)


def bomb() -> bytes:
    """A trace of one megabyte whose logits unpack to a gigabyte."""
    plain, packed = io.BytesIO(export_for("x.npz").write(sample_trace())), io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as file:
                if name != "logits.npy":
                    file.write(old.read(name))
                    continue
                shape = {"descr": "<f4", "fortran_order": False, "shape": (4, 2**20 * 8, 8)}
                np.lib.format.write_array_header_1_0(file, shape)
                for _ in range(64):
                    file.write(bytes(16 * MB))
    return packed.getvalue()


def bombs(target: AttackedServer, found: Found) -> None:
    """Files that unpack to a thousand times their size are opened, eight in one tab."""
    token, file = xsrf(target.url), bomb()
    with Visit(target.url) as tab:
        tab.open("", "files")
        elements = [said.delta.new_element for said in tab.said if said.WhichOneof("type") == "delta"]
        (widget,) = [each.file_uploader.id for each in elements if each.WhichOneof("type") == "file_uploader"]
        for number in range(8):
            put(target.url, tab.session, str(number), file, token)
            asked = BackMsg()
            asked.rerun_script.page_name = "files"
            state = asked.rerun_script.widget_states.widgets.add()
            state.id = widget
            info = state.file_uploader_state_value.uploaded_file_info.add()
            info.file_id, info.name, info.size = str(number), "bomb.npz", len(file)
            info.file_urls.file_id = str(number)
            tab.socket.send(asked.SerializeToString())
            said = tab.hear()
            if "The file unpacks to" not in said:
                found.errors.append("a file that unpacks to a gigabyte was not refused as one")


def xsrf(url: str) -> dict[str, str]:
    """What a browser sends with an upload, to show that it has read the page."""
    _, headers, _ = ask(url, path="/_stcore/health")
    cookie = headers.get("set-cookie", "").partition(";")[0]
    return {"Cookie": cookie, "X-Xsrftoken": cookie.partition("=")[2]}


def put(url: str, tab: str, name: str, data: bytes, token: dict[str, str]) -> int:
    """Upload a file, as a page does: the status, or 0 where the server hung up before all was sent."""
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.npz"\r\n\r\n'
    path, kind = f"/_stcore/upload_file/{tab}/{name}", "multipart/form-data; boundary=b"
    try:
        return ask(url, "PUT", path, head + data + b"\r\n--b--\r\n", Content_Type=kind, **token)[0]
    except OSError:
        return 0


def uploads(target: AttackedServer, found: Found) -> None:
    """Files, one after the other, that nobody opens."""
    token = xsrf(target.url)
    taken = 0
    with Visit(target.url) as tab:
        tab.open()
        for number in range(target.uploads):
            taken += put(target.url, tab.session, str(number), bytes(19 * MB), token) == 204
        held = figure(target.url, "resident_bytes")
    if target.uploads and not 0 < taken <= 4:
        found.errors.append(f"{taken} files of 19 MB were taken from one tab")
    print(f"  {taken} of {target.uploads} files of 19 MB taken; the process holds {held / MB:.0f} MB")


ATTACKS: dict[str, Callable[[AttackedServer, Found], None]] = {
    "links": links,
    "forged choices": forged_choices,
    "forged rows": forged_rows,
    "handed on": handed_on,
    "frames": frames,
    "other sites": other_sites,
    "endpoints": endpoints,
    "without end": without_end,
    "bombs": bombs,
    "uploads": uploads,
}


def unlisted_model(folder: Path) -> Path:
    """A model that works, in a folder that no server lists."""
    decoy = folder / "unlisted"
    decoy.mkdir()
    for file in embedded_path().iterdir():
        if file.is_file():
            (decoy / file.name).write_bytes(file.read_bytes())
    return decoy


def attack(url: str, decoy: Path, links: int, uploads: int) -> Found:
    """All of it, one after the other."""
    found, target = Found(), AttackedServer(url, decoy, links, uploads)
    with Visit(url) as tab:  # what a first visitor brings into memory is not the attack's
        tab.open("prompt=Once&model=embedded")
    loads, rest = figure(url, "loads_total"), figure(url, "resident_bytes")
    with WatchedFolder(decoy) as folder:
        for name, one in ATTACKS.items():
            one(target, found)
            held = (figure(url, "resident_bytes") - rest) / MB
            found.more_mb = max(found.more_mb, held)
            print(
                f"{name:15} read {folder.seen}, loaded {figure(url, 'loads_total') - loads:.0f}, {held:+.0f} MB",
                flush=True,
            )
        found.read = folder.seen
    found.loaded = round(figure(url, "loads_total") - loads)
    return found


def main() -> int:
    """Attack, and print what came of it."""
    from tests.attack import crowds  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--links", type=int, default=136, help="how many hostile links to open (default: 136)")
    parser.add_argument("--uploads", type=int, default=60, help="how many files to send (default: 60)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(**PUBLIC) as server:
        found = attack(server.url, unlisted_model(Path(folder)), args.links, args.uploads)
    print(f"models loaded by strangers   {found.loaded}")
    print(f"opened in an unlisted folder {found.read}")
    print(f"responses that may be framed {found.framed}")
    print(f"memory above rest, MB        {found.more_mb:.0f} (at most {MORE_MB})")
    for error in found.errors:
        print(f"unexpected: {error}")
    bad = found.loaded or found.read or found.framed or found.errors or found.more_mb > MORE_MB
    with served(**crowds.SETTINGS) as server:
        good = crowds.report(server)
    return 1 if bad or not good else 0


if __name__ == "__main__":
    sys.exit(main())
