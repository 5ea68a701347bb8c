"""Check what somebody gets who installs moeviz, in an environment of its own and without this repository.

    python -m tools.package      (make package)

Builds the source distribution and the wheel (a file in dist/ is not built again), checks what a package index would
show of them, and installs the wheel twice, plain and with [app], each into a fresh environment and used from an empty
folder. A real Chromium opens the app; what the server says of its settings is read from what it sends. At the end the
plain environment gets the source distribution instead of the wheel. Prints a table; exit code 1 if something is not as
it should be.
"""

import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.NewSession_pb2 import NewSession

from tests.support.browser import chromium, is_foreign
from tests.support.reading import blocks, commands

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "build" / "package"
PROMPT = "Il fait froid."
EXTRAS = ("streamlit", "scikit-learn", "scipy", "hmmlearn", "vl-convert-python")
IMPORTS = 9
SECONDS_TO_START = 90
IMPORT = "import time; start = time.process_time(); import moeviz; print(time.process_time() - start)"
HAS = f"""
from importlib.metadata import PackageNotFoundError, version
for name in {EXTRAS}:
    try: print(name, version(name))
    except PackageNotFoundError: pass
"""
DRAW = """
from moeviz.history.systems import shipped_trace
from moeviz.history.systems import SYSTEMS
for name in SYSTEMS: shipped_trace(name).plot.load().to_dict()
print(len(SYSTEMS))
"""
SETTINGS = """
import sys
from pathlib import Path
import moeviz_app
from streamlit import config
config._main_script_path = str(Path(moeviz_app.__file__).with_name("main.py"))  # as `streamlit run` sets it
print(*map(config.get_option, ("client.showErrorDetails", "server.maxUploadSize", "browser.gatherUsageStats")))
"""
Row = tuple[str, object, bool]


class Environment:
    """A fresh environment, used from an empty folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.home, self.folder = PLACE / name, folder
        shutil.rmtree(self.home, ignore_errors=True)
        venv.create(self.home, with_pip=True)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, to the end."""
        command = [self.home / "bin" / program, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def install(self, *what: str) -> float:
        """Install by pip, and return the seconds that it took. `RuntimeError` says why it failed."""
        start = time.monotonic()
        if (done := self.run("python", "-m", "pip", "install", *what)).returncode:
            raise RuntimeError(done.stderr)
        return time.monotonic() - start

    def megabytes(self, without: str = "") -> float:
        """Return the MB in its site-packages, without the folders whose names begin with `without`."""
        (packages,) = self.home.glob("lib/python*/site-packages")
        files = (path for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
        kept = (path for path in files if not without or not re.match(without, path.relative_to(packages).parts[0]))
        return sum(path.stat().st_size for path in kept) / 1e6


def main() -> int:
    """Build, install, use, and print."""
    all_good = True
    with TemporaryDirectory() as empty:
        for name, value, good in rows(Path(empty)):
            print(f"{'ok' if good else 'NO':3} {name:62} {value}", flush=True)
            all_good &= good
    return int(not all_good)


def rows(empty: Path) -> Iterator[Row]:
    """Yield a measurement: its name, its value, and whether it is as expected."""
    wheel, sdist = built()
    for file in (wheel, sdist):
        yield file.name, f"{file.stat().st_size / 1e6:.1f} MB", True
    tools = Environment("tools", empty)
    tools.install("twine>=6")
    checked = tools.run("python", "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    yield (
        "twine check --strict",
        "failed: " + checked.stdout if checked.returncode else "passed",
        not checked.returncode,
    )
    yield from plain(Environment("plain", empty), wheel, sdist)
    yield from with_app(Environment("app", empty), wheel)


def built() -> tuple[Path, Path]:
    """Return the wheel and the source distribution in dist/."""
    if not list((ROOT / "dist").glob("*.whl")):
        subprocess.run([sys.executable, "-m", "build", str(ROOT)], check=True)
    (wheel,), (sdist,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    return wheel, sdist


def plain(env: Environment, wheel: Path, sdist: Path) -> Iterator[Row]:
    """Yield the library and its command line, and what they say of the rest."""
    yield "plain: pip install, s", f"{env.install(str(wheel)):.0f}", True
    has = env.run("python", "-c", HAS).stdout.split()
    yield "plain: brings of the extras", " ".join(has) or "nothing", not has
    yield from sizes("plain", env)
    yield "plain: moeviz trace", *traced(env)
    drawn = env.run("python", "-c", DRAW)
    yield "plain: systems of the gallery that draw", drawn.stdout.strip() or drawn.stderr, not drawn.returncode
    for command in (("app",), ("history", "run", "svm-experts"), ("convert", "t.csv", "t.html")):
        said = env.run("moeviz", *command)
        sentence = said.stderr.strip().splitlines()[-1]
        yield f"plain: moeviz {' '.join(command)}", sentence, said.returncode == 3 and "pip install" in sentence
    extra = env.run("python", "-m", "pip", "install", "--dry-run", "moeviz[report]")
    yield "plain: pip install moeviz[report], as the sentence says", extra.stdout.splitlines()[-1], not extra.returncode
    yield from of_readme(env)
    env.install("--force-reinstall", "--no-deps", str(sdist))
    yield "sdist in its place: moeviz trace", *traced(env)


def of_readme(env: Environment) -> Iterator[Row]:
    """Run the README's commands and Python to the letter, by a shell in an empty folder."""
    home = env.folder / "readme"
    home.mkdir()
    activated = f"PATH={shlex.quote(str(env.home / 'bin'))}:$PATH"
    for block in blocks(ROOT / "README.md"):
        typed = [command for command, _ in commands(block)] if block.language == "console" else []
        typed += [f"python -c {shlex.quote(block.code)}"] if block.language == "python" else []
        for line in typed:
            done = subprocess.run(["bash", "-c", f"{activated}; {line}"], cwd=home, capture_output=True, text=True)
            said = (done.stdout if not done.returncode else done.stderr).strip().splitlines()
            yield f"README: {line.splitlines()[0][:50]}", (said or ["nothing printed"])[-1][:80], not done.returncode


def sizes(name: str, env: Environment) -> Iterator[Row]:
    """Measure the size of an installation, and the time of `import moeviz`."""
    torch = "torch$|torch-|torchgen|functorch|nvidia|triton"
    yield f"{name}: site-packages, MB", f"{env.megabytes():,.0f} ({env.megabytes(torch):,.0f} without torch)", True
    times = [float(env.run("python", "-c", IMPORT).stdout) for _ in range(IMPORTS)]
    yield f"{name}: import moeviz, CPU s (median, least)", f"{statistics.median(times):.2f}, {min(times):.2f}", True


def traced(env: Environment) -> tuple[str, bool]:
    """Return what `moeviz trace` wrote."""
    table = env.folder / "t.csv"
    table.unlink(missing_ok=True)
    done = env.run("moeviz", "trace", PROMPT, "-o", "t.csv")
    if done.returncode or not table.exists():
        return done.stderr, False
    return f"t.csv, {len(table.read_text().splitlines()) - 1} rows", True


def with_app(env: Environment, wheel: Path) -> Iterator[Row]:
    """Yield the app, from an empty folder, in a browser."""
    yield "[app]: pip install, s", f"{env.install(f'{wheel}[app]'):.0f}", True
    has = env.run("python", "-c", HAS).stdout.split()
    yield "[app]: brings of the extras", " ".join(has), has[::2] == ["streamlit"]
    yield from sizes("[app]", env)
    said = env.run("python", "-c", SETTINGS).stdout.split()
    yield "[app]: error details, upload limit in MB, usage statistics", " ".join(said), said == ["none", "50", "False"]
    with served(env) as url, sync_playwright() as playwright:
        browser = chromium(playwright)
        page, foreign, frames = browser.new_page(), [], []
        page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
        answer = page.goto(url)
        page.get_by_text("Five likeliest next tokens", exact=True).wait_for(timeout=SECONDS_TO_START * 1000)
        page.screenshot(path=PLACE / "app.png")
        yield "[app]: the page answers", answer.status, answer.status == 200
        yield from server_settings(frames)
        yield "[app]: background on the page", background(page), background(page) == "rgb(253, 253, 251)"
        yield "[app]: requests to other hosts", len(foreign), not foreign
        browser.close()


def server_settings(frames: list[bytes]) -> Iterator[Row]:
    """Return the settings that the server sends to every browser."""
    session = next(filter(None, map(new_session, frames)))
    colour = session.custom_theme.light.primary_color
    yield "[app]: theme, colour of buttons in the light", colour, colour == "#332288"
    counted = session.config.gather_usage_stats
    yield "[app]: usage statistics", "on" if counted else "off", not counted


def new_session(frame: bytes) -> NewSession | None:
    """Return the beginning of a visit, if a frame holds it."""
    message = ForwardMsg.FromString(frame)
    return message.new_session if message.WhichOneof("type") == "new_session" else None


def background(page: Page) -> str:
    """Return the colour behind the page, as the browser draws it."""
    return page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")


@contextmanager
def served(env: Environment) -> Iterator[str]:
    """`moeviz app` on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [env.home / "bin" / "moeviz", "app", "--no-browser", "--no-token", "--port", str(port)]
    server = subprocess.Popen(command, cwd=env.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout:
            if "moeviz serves" in line:
                break
        else:
            raise RuntimeError("The app did not start.")
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
