"""The documentation site as tests see it: built once into a folder of its own, without a network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# A socket that reaches out is an error, as it is on a machine without a network.
WITHOUT_NETWORK = """
import socket, sys
def refuse(self, address):
    raise OSError(f"The site asked for {address} while it was built.")
socket.socket.connect = socket.socket.connect_ex = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""
STRAIGHT = str.maketrans("‘’“”", "''\"\"")  # Sphinx sets quotes as a printer does
LOADS = {"script": ("src",), "img": ("src", "srcset"), "source": ("src", "srcset"), "iframe": ("src",)}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest"}
FOREIGN = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""")


@dataclass(frozen=True)
class Site:
    """A built site."""

    folder: Path

    @cached_property
    def pages(self) -> dict[str, str]:
        """The HTML of every page, by its path."""
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in self.folder.rglob("*.html")}

    @cached_property
    def texts(self) -> dict[str, str]:
        """What a reader sees of every page, with each run of blanks as one."""
        return {name: text_of(html) for name, html in self.pages.items()}

    @cached_property
    def anchors(self) -> set[str]:
        """Every place that a link can lead to: names of the reference are such."""
        return {name for html in self.pages.values() for name in re.findall(r'\bid="([^"]+)"', html)}


def build(folder: Path, source: Path = DOCS) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does, where every connection is refused."""
    options = ["-W", "--keep-going", "-q", "-d", str(folder / "doctrees"), str(source), str(folder / "site")]
    command = [sys.executable, "-c", WITHOUT_NETWORK, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, on a port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def text_of(html: str) -> str:
    """The words of a page, without its tags.

    >>> text_of("<p>top-<b>k</b> &amp;\\n more</p>")
    'top-k & more'
    """
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", bare)).translate(STRAIGHT)).strip()


def foreign(html: str) -> list[str]:
    """What a page loads from another host, before anybody clicks."""
    return [url for url in _loaded(html) if FOREIGN.match(url)]


def foreign_in_style(css: str) -> list[str]:
    """What a style sheet loads from another host."""
    return [url for url in IN_STYLE.findall(css) if FOREIGN.match(url)]


def _loaded(html: str) -> Iterator[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            found.extend(values.get(name) or "" for name in LOADS.get(tag, ()))
            found.extend(IN_STYLE.findall(values.get("style") or ""))
            if tag == "link" and LOADED_LINKS & set((values.get("rel") or "").split()):
                found.append(values.get("href") or "")

        def handle_data(self, data: str) -> None:
            if self.lasttag == "style":
                found.extend(IN_STYLE.findall(data))

    Reader().feed(html)
    yield from found


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of a Markdown page that are in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]
