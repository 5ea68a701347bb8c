"""Visitors in Chromium. A tab is kept from test to test and comes back as new; what goes wrong in it fails the test.

In no test may an error reach the console, a dialog open, or a request leave the machine. Of a test that fails, the
picture, the console and the end of the server's log lie under `build/failed/`, and the report says where.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from browser import MILLISECONDS, SIZES, arrived, is_fault, is_foreign
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request
from playwright.sync_api import Error as PlaywrightError
from servers import ROOT, Server

FAILED = ROOT / "build" / "failed"
LAST_LINES = 200  # of a server's log
KEY = pytest.StashKey["Tabs"]()
# What Playwright cannot take back from a page. A test that needs it asks for a tab of its own.
FOR_GOOD = ("add_init_script", "expose_binding", "expose_function", "route_web_socket")
# Whether the page has the machine's clock, and not one of a test, which stays for good too.
EMPTY = """() => {
  try { localStorage.clear(); sessionStorage.clear(); } catch { /* a page without an origin has none */ }
  return globalThis.__pwClock === undefined;
}"""

# The address of an empty page of the same site, which no server is asked for. On about:blank, the process that has
# drawn the site would end, and for the next visitor all scripts be compiled anew: a third of what a visit costs.
NOTHING = """() => URL.createObjectURL(new Blob([], { type: "text/html" }))"""


@dataclass(eq=False)
class Tab:
    """A page of a visitor whom nobody else shares cookies with, and what was said in it since it was taken."""

    context: BrowserContext
    page: Page
    size: str
    kept: bool = True
    server: Server | None = None
    may_say: str | None = None  # a pattern of errors that are as they should be
    console: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    handlers: list[tuple] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what was before."""
        self.server, self.may_say = None, None
        self.console, self.wrong, self.origins = [], [], set()

    def hear(self, said: ConsoleMessage) -> None:
        """Of the console."""
        self.console.append(f"{said.type}: {said.text} ({said.location['url']})")
        if is_fault(said):
            self.blame(said.text)

    def blame(self, what: str) -> None:
        """It is wrong, unless a test said that it would come."""
        if self.may_say is None or re.search(self.may_say, what) is None:
            self.wrong.append(what)

    def ask(self, request: Request) -> None:
        """Of the network."""
        if is_foreign(request.url):
            self.blame(request.url)
        if request.is_navigation_request():
            self.origins.add(origin_of(request.url))

    def dismiss(self, dialog: Dialog) -> None:
        """A dialog is wrong, and would hold everything up."""
        self.blame(dialog.message)
        dialog.dismiss()


class Tabs:
    """All tabs of a browser: those that a test has, and those that wait for one."""

    def __init__(self, browser: Browser) -> None:
        self.browser, self.taken = browser, []
        self.free: dict[str, list[Tab]] = {size: [] for size in SIZES}

    def take(self, size: str = "desktop", *, own: bool = False) -> Tab:
        """A tab as new: another one than those that are taken. `own`: one that is closed afterwards."""
        tab = self._open(size) if own or not self.free[size] else self.free[size].pop()
        tab.kept = not own
        tab.begin()
        self.taken.append(tab)
        return tab

    def give_back(self, tab: Tab) -> list[str]:
        """It leaves its page, and is made as new; what was wrong in it, up to that."""
        self.taken.remove(tab)
        if tab.kept and len(tab.origins) <= 1 and is_as_new(tab):
            self.free[tab.size].append(tab)
        else:
            tab.context.close()
        return tab.wrong

    def _open(self, size: str) -> Tab:
        context = self.browser.new_context(**SIZES[size])
        context.set_default_timeout(MILLISECONDS)
        tab = Tab(context, context.new_page(), size)
        context.on("console", tab.hear)
        context.on("weberror", lambda error: tab.blame(str(error.error)))
        context.on("request", tab.ask)
        context.on("dialog", tab.dismiss)
        guard(tab)
        return tab


def guard(tab: Tab) -> None:
    """Remember what a test adds to the page, so that it can be taken off again, and refuse what cannot."""
    page = tab.page
    listen = page.on

    def on(event: str, handler: Callable) -> None:
        tab.handlers.append((event, handler))
        listen(event, handler)

    def refuse(name: str, allowed: Callable) -> Callable:
        def given(*words, **more):
            if tab.kept:
                raise RuntimeError(f"{name} stays on a page for good, and this one is kept: visit(own=True).")
            return allowed(*words, **more)

        return given

    page.on = on
    for name in FOR_GOOD:
        setattr(page, name, refuse(name, getattr(page, name)))


def is_as_new(tab: Tab) -> bool:
    """Make it so. Whether that went well: a page that has crashed or was closed is not used again."""
    page, context = tab.page, tab.context
    try:
        for other in context.pages:
            if other is not page:
                other.close()
        has_our_clock = page.evaluate(EMPTY)
        page.goto(page.evaluate(NOTHING) if tab.origins else "about:blank")
        page.evaluate("window.name = ''")
        while tab.handlers:
            page.remove_listener(*tab.handlers.pop())
        page.unroute_all()
        context.unroute_all()
        context.clear_cookies()
        context.clear_permissions()
        context.set_offline(False)
        if page.viewport_size != SIZES[tab.size]["viewport"]:
            page.set_viewport_size(SIZES[tab.size]["viewport"])
        page.emulate_media(media="null", color_scheme="null", reduced_motion="null", forced_colors="null")
        devtools = context.new_cdp_session(page)
        for origin in filter(re.compile("https?:").match, tab.origins):
            devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        devtools.send("Page.resetNavigationHistory")
        devtools.detach()
    except PlaywrightError:
        return False
    return bool(has_our_clock)


def origin_of(url: str) -> str:
    """Scheme, host and port."""
    at = urlsplit(url)
    return f"{at.scheme}://{at.netloc}"


class Visits:
    """The visitors of one test, or of one module: each call is another one."""

    def __init__(self, tabs: Tabs, server: Callable[[], Server]) -> None:
        self.tabs, self.server, self.mine = tabs, server, []

    def __call__(
        self,
        path: str = "",
        *,
        size: str = "desktop",
        scheme: str = "light",
        at: Server | None = None,
        own: bool = False,
        before: Callable[[Page], None] | None = None,
        ready: Callable[[Page], None] | None = arrived,
        may_say: str | None = None,
    ) -> Page:
        """A visitor who has come to that path of a server, by default the one that tests share.

        `before` is done to the page before it goes there, and `ready` waits until it has arrived. Errors that match
        `may_say` are as they should be.
        """
        tab = self.blank(size=size, scheme=scheme, own=own)
        tab.server, tab.may_say = at or self.server(), may_say
        if before is not None:
            before(tab.page)
        tab.page.goto(tab.server.url + path)
        if ready is not None:
            ready(tab.page)
        return tab.page

    def blank(self, size: str = "desktop", scheme: str = "light", *, own: bool = False) -> Tab:
        """A tab that shows nothing yet."""
        tab = self.tabs.take(size, own=own)
        self.mine.append(tab)
        tab.page.emulate_media(color_scheme=scheme)
        return tab

    def check(self, name: str) -> None:
        """So far, nothing was wrong."""
        wrong = [what for tab in self.mine for what in tab.wrong]
        if wrong:
            where = keep_what_is_seen(self.tabs, name)
            for tab in self.mine:
                tab.wrong.clear()
            raise AssertionError(f"{wrong}: {where}")

    def leave(self, name: str) -> None:
        """All go, and nothing was wrong."""
        try:
            self.check(name)
        finally:
            left = [what for tab in self.mine for what in self.tabs.give_back(tab)]
            self.mine.clear()
        assert not left, f"{left}, when the page was left"


def keep_what_is_seen(tabs: Tabs, name: str) -> str:
    """Picture and HTML of each open tab, its console, and the end of its server's log; a line that says where."""
    folder = FAILED / re.sub(r"\W+", "-", name.partition("::")[2] or name).strip("-")[:120]
    folder.mkdir(parents=True, exist_ok=True)
    for number, tab in enumerate(tabs.taken):
        console = [tab.page.url, *tab.console, *(f"wrong: {what}" for what in tab.wrong)]
        try:
            tab.page.screenshot(path=folder / f"{number}.png", timeout=20_000)
            (folder / f"{number}.html").write_text(tab.page.content(), "utf-8")
        except PlaywrightError as error:
            console.append(f"There is no picture: {error}")
        (folder / f"{number}-console.txt").write_text("\n".join(console) + "\n", "utf-8")
        if tab.server is not None:
            (folder / f"{number}-server.txt").write_text("".join(tab.server.lines[-LAST_LINES:]), "utf-8")
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    said = "".join(
        f"\n{trace}" for trace in {last_traceback(tab.server.lines) for tab in tabs.taken if tab.server} - {""}
    )
    return f"the page, its console and its server's log are in {shown}{said}"


def last_traceback(lines: Sequence[str]) -> str:
    """The last error that a server wrote, with where it came from; empty where it wrote none."""
    begins = max((at for at, line in enumerate(lines) if "Traceback (most recent call last)" in line), default=None)
    return "" if begins is None else "".join(lines[begins : begins + LAST_LINES])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """While a test that failed still has its pages open, keep what is seen there, and say where it is."""
    report = yield
    tabs = item.config.stash.get(KEY, None)
    if report.failed and call.when != "teardown" and tabs is not None and tabs.taken:
        report.sections.append(("Browser", keep_what_is_seen(tabs, item.nodeid)))
    return report
