"""Serve the app from this process: `moeviz app`."""

import atexit
import os
import re
import runpy
import shutil
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from moeviz.cli.options import add_adapter, add_import_options, number, open_file, run_adapters
from moeviz.cli.output import note
from moeviz.errors import MoevizError
from moeviz.text import quoted

if TYPE_CHECKING:
    from moeviz.formats.importers.importer import Opened

SECONDS_TO_START = 60
MOST_FILES = 8  # as many traces as a visit keeps
FILES = "MOEVIZ_OPEN"  # the app's setting: the files to begin with, one a line
MODELS = "MOEVIZ_MODELS"  # the models on offer, the usual one first
WAY, HOSTS, LOGIN_HEADER = "MOEVIZ_SERVE", "MOEVIZ_HOSTS", "MOEVIZ_LOGIN_HEADER"  # and for whom it is served
PRIVATE = "private"
TOKEN, ASK_TOKEN = "MOEVIZ_TOKEN", "MOEVIZ_ASK_TOKEN"  # what a browser must bring to it, and whether it must
UVICORN_TRUSTS = "FORWARDED_ALLOW_IPS"  # whose X-Forwarded-For uvicorn takes for the peer's address, before the app


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*")
    parser.add_argument("--port", type=number(int, 1, 65535), default=8501)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--no-token", action="store_true")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--team", action="store_true")
    ways.add_argument("--public", action="store_true")
    parser.add_argument("--behind", action="append", default=[], metavar="HOST")
    parser.add_argument("--login-header", metavar="NAME")
    add_adapter(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    way = "team" if args.team else "public" if args.public else None
    if args.no_token:
        os.environ[ASK_TOKEN] = "0"
    if args.adapter and (way or os.environ.get(WAY) or PRIVATE) != PRIVATE:
        raise MoevizError("An adapter is code, and runs only in an app of your own. Leave out --adapter.")
    run_adapters(args)
    serve_app(
        args.port,
        args.extra,
        browser=not args.no_browser and way is None,
        files=args.files,
        read=partial(open_file, args=args),
        way=way,
        behind=args.behind,
        login_header=args.login_header,
    )
    return 0


def serve_app(
    port: int,
    options: Sequence[str] = (),
    browser: bool = True,
    files: Sequence[str] = (),
    read: "Callable[[str], Opened] | None" = None,
    *,
    way: str | None = None,
    behind: Sequence[str] = (),
    login_header: str | None = None,
) -> None:
    """Serve the app until it is stopped, and open it in a browser, with these files or models.

    `read` reads a file; default: `moeviz.formats.exports.open_path`. `way` says for whom: "private" is this machine
    only, "team" a group, "public" strangers; None reads the variable MOEVIZ_SERVE, and is private without it.
    `behind` are the names by which browsers reach it, `login_header` is the header in which a proxy names the user
    who has logged in. `options` are Streamlit's. Serves in this process, so that stopping it stops the server, and
    from the current folder, so that relative paths typed on a page work. Streamlit reads the app's settings next to
    its `main.py`.

    Raises `MoevizError` if Streamlit is missing, if an option would let others in while it is private, and for more
    than eight files; and what `read` raises, before anything is served.
    """
    check_streamlit()
    give_home()
    way = way or os.environ.get(WAY) or PRIVATE
    check_address(way, options)
    begin_with(files, read)
    os.environ[WAY] = way
    os.environ[UVICORN_TRUSTS] = "none"  # the app asks MOEVIZ_TRUSTED_PROXIES
    if behind:
        os.environ[HOSTS] = ",".join(behind)
    if login_header:
        os.environ[LOGIN_HEADER] = login_header
    sys.argv = ["streamlit", "run", str(main_script()), "--server.port", str(port)]
    sys.argv += ["--logger.hideWelcomeMessage", "true"] * (way == PRIVATE)  # which has an address without the token
    sys.argv += ["--server.address", "localhost", *options]  # of two, the last counts
    if browser:
        threading.Thread(target=open_browser, args=(port,), daemon=True).start()
    if way == PRIVATE:
        runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(main_script()), run_name="first process")  # which starts Streamlit, once or several times


def give_home() -> None:
    """Give a user without a home folder one that ends with this process: Streamlit wants one."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="moeviz-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
        note("this user has no home folder, so traces are kept until the server stops. Set HOME, or MOEVIZ_HOME")


def begin_with(files: Sequence[str], read: "Callable[[str], Opened] | None" = None) -> None:
    """Have the app begin with these files, runs, datasets and models. Raises the error of the first that is wrong."""
    from moeviz.embedded import EMBEDDED
    from moeviz.formats.dataset.opening import is_dataset, read_dataset
    from moeviz.formats.exports import keep_opened, open_path
    from moeviz.training.reading import is_run, run_at

    read = read or open_path
    if len(files) > MOST_FILES:
        raise MoevizError(f"The app begins with up to {MOST_FILES} files, and {len(files)} are named. Leave some out.")
    models = [file for file in files if _is_model(file)]
    shown = [file for file in files if file not in models]
    for path in shown:
        if is_run(path):
            run_at(path)
        elif is_dataset(path):
            read_dataset(path, partial=True)  # its page reports what is not whole
        else:
            keep_opened(path, read(path))
    if shown:
        os.environ[FILES] = "\n".join(str(Path(path).resolve()) for path in shown)
    if models:
        others = os.environ.get(MODELS) or EMBEDDED
        os.environ[MODELS] = ",".join([*map(_model_on_offer, models), others])


OF_FILES = {".npz", ".npy", ".csv", ".json", ".jsonl", ".parquet", ".pt", ".gguf", ".html"}  # which no hub id ends in
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def _is_model(file: str) -> bool:
    """Return whether this is a model: a GGUF file, a folder with a config.json, or an id on the hub."""
    from moeviz.gguf_file import is_a_model

    path = Path(file)
    if path.is_dir():
        return (path / "config.json").is_file()
    if path.exists() or path.parent.exists() or path.suffix.lower() in OF_FILES:
        return is_a_model(file)
    return HUB_ID.fullmatch(file) is not None


def _model_on_offer(file: str) -> str:
    """Return a model as the app's setting names it. Raises `MoevizError` if it cannot be opened."""
    place = str(Path(file).resolve()) if Path(file).exists() else file
    if "," in place:
        raise MoevizError(f"The path {quoted(place)} has a comma in it, and commas separate models. Rename the file.")
    from moeviz.capture.opening import model_facts

    model_facts(place)
    return place


def check_streamlit() -> None:
    """Raise `MoevizError` if what serves the app is missing."""
    if find_spec("streamlit") is None:
        raise MoevizError('The app needs Streamlit, which is not installed here: `pip install "moeviz[app]"`.')


def check_address(way: str, options: Sequence[str]) -> None:
    """Raise `MoevizError` if one of Streamlit's options opens a private app to other machines."""
    given = [option.partition("=")[2] for option in options if option.startswith("--server.address=")]
    if way == PRIVATE and given and given[-1] not in ("localhost", "127.0.0.1", "::1"):
        raise MoevizError(
            f"`moeviz app` serves this machine alone, and --server.address {given[-1]} would let others in. For a "
            "group: moeviz app --team --behind HOST, where HOST is the name that they type into their browsers. For "
            "strangers: moeviz app --public. Then give the address too."
        )


def main_script() -> Path:
    """Return the main file of the app: in `moeviz_app` next to moeviz if it is installed, in `app/` in a checkout."""
    home = Path(__file__).parents[2]
    installed = home / "moeviz_app" / "main.py"
    return installed if installed.exists() else home / "app" / "moeviz_app" / "main.py"


def open_browser(port: int) -> None:
    """Open the app once it answers. Streamlit could do that too, but puts advertisements on the page when it does."""
    if sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        return  # the only browser here would take over the terminal
    for _ in range(SECONDS_TO_START):
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            time.sleep(1)
        else:
            webbrowser.open(own_address(port))
            return


def own_address(port: int) -> str:
    """Return the address by which this user's browsers open their own app, with the token if it asks for one."""
    token = asked_token()
    return f"http://localhost:{port}" + (f"/?access={quote(token)}" if token else "")


def asked_token() -> str | None:
    """Return the token that one's own app asks for; None if it asks for none, or is served to others."""
    if (os.environ.get(WAY) or PRIVATE) != PRIVATE or os.environ.get(ASK_TOKEN) == "0":
        return None
    from moeviz.own_folder import own_token

    return os.environ.get(TOKEN) or own_token()
