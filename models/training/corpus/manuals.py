"""Manuals and help: which folders are read for technical English, for other languages, and for HTML and SQL as such."""

import json
import re
from collections.abc import Iterator

from models.training.corpus.markup import (
    after_tag,
    before,
    html_to_lines,
    html_to_text,
    manual_to_text,
    plain,
    without_scripts,
)
from models.training.corpus.sources import Document
from models.training.corpus.text_files import Folder, Packages, files_below, read_text

PYTHON_DOC = ("python3.13-doc", "python3.13-doc", "usr/share/doc/python3.13/html", (".html",))
SQLITE_DOC = ("sqlite3-doc", "sqlite3-doc", "usr/share/doc/sqlite3", (".html",))
POSTGRESQL_DOC = ("postgresql-doc", "postgresql-doc-17", "usr/share/doc/postgresql-doc-17/html", (".html",))
MESSAGES_PER_DOCUMENT = 40
EXAMPLE = re.compile(r'(?s)<pre class="(?:programlisting|synopsis|screen)">(.*?)</pre>')
SHORTEST_EXAMPLE = 80
SQL_VERB = re.compile(r"\b(SELECT|CREATE|INSERT|UPDATE|ALTER|DELETE)\b")


def python_page(page: str) -> str:
    """A page of Python's documentation without its frame and the paragraph signs of its headings."""
    return html_to_lines(before(after_tag(page, 'role="main"'), 'class="sphinxsidebar"')).replace("¶", "")


def postgresql_page(page: str) -> str:
    """A page of PostgreSQL's documentation without its links to the neighbours."""
    return html_to_lines(re.sub(r'(?s)<div class="nav(header|footer)".*?</div>', "", page))


def libreoffice_page(page: str) -> str:
    """The article of a LibreOffice help page."""
    return html_to_text(before(after_tag(page, 'id="DisplayArea"', "<h1"), "<footer"))


def gnome_page(page: str) -> str:
    """A page of GNOME help (Mallard or DocBook) without its authors and translators."""
    for pattern in (r"(?s)<info>.*?</info>", r"(?s)<(mal:)?credit.*?</(mal:)?credit>", r"(?s)<\?.*?\?>"):
        page = re.sub(pattern, "", page)
    return html_to_text(page)


def handbook_page(page: str) -> str:
    """A page of the Debian handbook without its links to the neighbours."""
    return html_to_text(re.sub(r'(?s)<ul class="docnav.*?</ul>', "", after_tag(page, "<body")))


def libreoffice_help(locale: str) -> Folder:
    """LibreOffice help in one locale."""
    package, base = f"libreoffice-help-{locale.lower()}", f"usr/share/libreoffice/help/{locale}/text"
    return Folder("libreoffice-help", package, base, (".html",), extract=libreoffice_page)


def gnome_help(locale: str) -> Folder:
    """GNOME help in one locale."""
    base = f"usr/share/help/{locale}"
    return Folder("gnome-user-docs", "gnome-user-docs", base, (".page", ".docbook"), extract=gnome_page)


def debian_handbook(locale: str) -> Folder:
    """The Debian handbook in one locale."""
    base = f"usr/share/doc/debian-handbook/html/{locale}"
    return Folder("debian-handbook", "debian-handbook", base, (".html",), extract=handbook_page)


TECHNICAL_ENGLISH = (
    Folder(
        *PYTHON_DOC,
        without=("/whatsnew/changelog", "genindex", "py-modindex"),
        extract=python_page,
        piece=8_000,
    ),
    Folder(*SQLITE_DOC, without=("/releaselog/", "/syntax/", "changes.html"), extract=html_to_lines),
    Folder(*POSTGRESQL_DOC, without=("/release-", "bookindex"), extract=postgresql_page),
    libreoffice_help("en-US"),
    gnome_help("C"),
    debian_handbook("en-US"),
    Folder("freebsd-manpages", "freebsd-manpages", "usr/share/man", (".gz",), extract=manual_to_text),
)


def _node_markup(page: str) -> str:
    page = without_scripts(page)
    return page[max(page.find('<div id="apicontent"'), 0) :][:100_000]


def _libreoffice_markup(page: str) -> str:
    page = without_scripts(page)
    return page[max(page.find('id="DisplayArea"') - len("<div "), 0) :][:7_000]


ENGLISH_HELP = "usr/share/libreoffice/help/en-US/text"
# Long pages are cut, so that there is room for many: their markup says the same over and over.
HTML = (
    Folder(
        "nodejs-doc",
        "nodejs-doc",
        "usr/share/doc/nodejs/api",
        (".html",),
        without=("all.html",),
        extract=_node_markup,
        piece=12_000,
        most_pieces=8,
    ),
    Folder(
        "libreoffice-help", "libreoffice-help-en-us", ENGLISH_HELP, (".html",), "swriter", extract=_libreoffice_markup
    ),
    Folder(*POSTGRESQL_DOC, extract=lambda page: without_scripts(page)[:8_000]),
    Folder(*PYTHON_DOC, inside="library", extract=lambda page: page[20_000:30_000]),
    Folder(*SQLITE_DOC, without=("/releaselog/", "/c3ref/"), extract=lambda page: without_scripts(page)[:9_000]),
    Folder("gnome-user-docs", "gnome-user-docs", "usr/share/help/C", (".page",)),
)


def sql_examples(packages: Packages) -> Iterator[Document]:
    """The SQL in PostgreSQL's documentation: listings, synopses and sessions."""
    source, package, base, suffixes = POSTGRESQL_DOC
    folder = packages[package] / base
    for path in files_below(folder, suffixes):
        for match in EXAMPLE.finditer(read_text(path)):
            example = plain(match[1]).strip()
            if len(example) > SHORTEST_EXAMPLE and SQL_VERB.search(example):
                yield Document(source, path.relative_to(folder).as_posix(), example)


def typescript_messages(packages: Packages, locale: str) -> Iterator[Document]:
    """The messages of the TypeScript compiler in one language, 40 a document."""
    path = packages["typescript"] / f"package/lib/{locale}/diagnosticMessages.generated.json"
    messages = [message.replace("\xa0", " ") for message in json.loads(path.read_bytes()).values()]
    for number, start in enumerate(range(0, len(messages), MESSAGES_PER_DOCUMENT)):
        document = "\n".join(messages[start : start + MESSAGES_PER_DOCUMENT])
        yield Document("typescript", f"messages {number}", document)
