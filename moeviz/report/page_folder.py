"""A view of a trace as a folder of files for any web host: no server of ours, and no model.

Its Content-Security-Policy lets in only the files of its own folder: no script inside the page, and no eval.
"""

from pathlib import Path

from moeviz.errors import MoevizError
from moeviz.report.view import check_drawable, data_of, document, file, most_tokens, vega
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted, why_no_file
from moeviz.whole_files import write_file

INDEX = "index.html"
MARK = '<meta name="generator" content="moeviz: the page of a trace">'  # by which a page of ours is known
MARKED_WITHIN = 1_000  # characters of the index: the mark is before anything of the trace
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
HEAD = f'{MARK}<link rel="icon" href="data:,"><link rel="stylesheet" href="view.css">'
SCRIPTS = (
    '<meta id="data" content="data.json"><script defer src="vega.js"></script>'
    '<script type="module" src="view.js"></script>'
)
NO_SERVER = (
    "This page is drawn by JavaScript, in browsers from 2023 on, and has to come from a web server: "
    "<code>python -m http.server</code> in its folder is one."
)


def check_page_folder(folder: str | Path) -> None:
    """Raise `MoevizError` unless a page may be written there: a new or an empty folder, or one with an earlier page."""
    if why := why_no_file(folder):
        raise MoevizError(f"No folder can be called {quoted(folder)}: the name {why}.")
    folder = Path(folder)
    try:
        if folder.exists() and any(folder.iterdir()) and not _is_ours(folder / INDEX):
            raise MoevizError(
                f"{quoted(folder)} holds other files, and no page of moeviz. Give an empty or a new folder."
            )
    except OSError as error:
        raise _cannot(folder, error) from error


def write_page(trace: RoutingTrace, folder: str | Path) -> str:
    """Write a view of a trace as `index.html` and four more files, and return a sentence that says what was written.

    A long trace is shown as far as one view goes, and the page says how far that is. An earlier page is replaced; other
    files in its folder stay. Raises `MoevizError` for a folder with other files, for a place where nothing can be
    written, for a trace that a view cannot show, and if vl-convert-python, which brings Vega, is not installed.

    >>> from tempfile import mkdtemp
    >>> from moeviz.testing import sample_trace
    >>> write_page(sample_trace(tokens=20), mkdtemp())
    '5 files, 0.9 MB: 20 tokens, 4 layers'
    """
    folder = Path(folder)
    check_page_folder(folder)
    files = _files(trace)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():  # the index first: by it, what was begun is known as ours
            write_file(folder / name, data)
    except OSError as error:
        raise _cannot(folder, error) from error
    size = sum(map(len, files.values()))
    return f"{len(files)} files, {size / 1e6:.1f} MB: {_tokens_shown(trace)}, {len(trace.model.layers)} layers"


def _files(trace: RoutingTrace) -> dict[str, bytes]:
    check_drawable(trace)
    part = trace.select(tokens=slice(0, most_tokens(trace)))
    check_drawable(part)  # its beginning may be what was not recorded
    more = "" if len(part.tokens) == len(trace.tokens) else f" This page shows {_tokens_shown(trace)}."
    texts = {
        INDEX: document(part, POLICY, HEAD, SCRIPTS, NO_SERVER, more),
        "view.css": file("view.css"),
        "view.js": file("view.js"),
        "vega.js": vega(),
        "data.json": data_of(part),
    }
    return {name: text.encode() for name, text in texts.items()}


def _tokens_shown(trace: RoutingTrace) -> str:
    tokens, most = len(trace.tokens), most_tokens(trace)
    return f"the first {most} of {tokens:,} tokens" if tokens > most else f"{tokens} token{'s' * (tokens > 1)}"


def _is_ours(index: Path) -> bool:
    if not index.is_file():
        return False
    with index.open(encoding="utf-8", errors="replace") as page:
        return MARK in page.read(MARKED_WITHIN)


def _cannot(folder: Path, error: OSError) -> MoevizError:
    return MoevizError(f"{quoted(folder)} cannot be written: {error.strerror or error}. Give another place.")
