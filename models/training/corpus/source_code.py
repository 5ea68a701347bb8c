"""Source code: which files are read for Python, C and JavaScript."""

from collections.abc import Iterator

from models.training.corpus.sources import Document
from models.training.corpus.text_files import Folder, Packages, read_folders, read_in_pieces

PIECE = 12_000  # characters of the libraries that come as one file

# Tables of data, generated code and tests, which are not what people mean by Python.
NOT_STDLIB = (
    *("/site-packages/", "/dist-packages/", "/idlelib/", "/encodings/", "/test/", "/lib2to3/tests"),
    *("pydoc_data", "__phello__", "/_sysconfigdata"),
)
NOT_LIBRARY = (
    *("/locale/", "/parsing/autolev", "/parsing/latex/_antlr"),
    *("_data/", "_unicode_data", "_cell_widths", "_emoji"),
)
SMALLEST_FILE = 300  # bytes: what is smaller is an empty __init__.py or nearly
BIGGEST_ADD_ON = 150_000  # bytes: what is bigger among three's add-ons is a table

PYTHON = (
    *(
        Folder("cpython-stdlib", f"libpython3.13-{part}", "usr/lib/python3.13", (".py",), without=NOT_STDLIB)
        for part in ("minimal", "stdlib")
    ),
    *(
        Folder(name, name, "", (".py",), inside=name, without=NOT_LIBRARY, file_bytes=(SMALLEST_FILE, 2**40))
        for name in ("networkx", "rich", "django", "sqlglot", "sympy")
    ),
)
C_CODE = (
    Folder("re2", "re2", "package/vendor", (".c", ".h", ".cc"), without=("unicode_", "/testing/", "_test.cc")),
    Folder("cpython-include", "libpython3.13-dev", "usr/include/python3.13", (".h",)),
)
THREE = (
    Folder("three", "three", "package", (".js",), inside="src"),
    Folder(
        "three",
        "three",
        "package",
        (".js",),
        inside="examples/jsm",
        without=("/libs/",),  # other people's, under other licences
        file_bytes=(0, BIGGEST_ADD_ON),
    ),
)
NODE_TYPES = Folder("types-node", "@types/node", "", (".d.ts",))


def c_code(packages: Packages) -> Iterator[Document]:
    """SQLite, RE2 with Abseil, and Python's headers. There is C++ among it."""
    sqlite = packages["better-sqlite3"] / "package/deps/sqlite3/sqlite3.c"
    yield from read_in_pieces("better-sqlite3", sqlite, PIECE)
    yield from read_folders(packages, C_CODE)


def javascript_code(packages: Packages) -> Iterator[Document]:
    """three.js, D3 and Lodash, and the TypeScript declarations of Node.js."""
    yield from read_folders(packages, THREE)
    yield from read_in_pieces("d3", packages["d3"] / "package/dist/d3.js", PIECE)
    yield from read_in_pieces("lodash", packages["lodash"] / "package/lodash.js", PIECE)
    yield from read_folders(packages, [NODE_TYPES])
