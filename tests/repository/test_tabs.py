"""A tab of Chromium that is kept from test to test: nothing stays in it, and nothing that goes wrong goes unseen."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import tabs as module
from browser import eventually
from servers import Server
from tabs import KEY, Tabs, Visits, keep_what_is_seen, pytest_runtest_makereport

pytestmark = pytest.mark.browser
LEAVE_ALL = """async () => {
  document.cookie = "who=me";
  localStorage.who = sessionStorage.who = window.name = window.who = "me";
  await new Promise((done) => { indexedDB.open("mine").onsuccess = (event) => done(event.target.result.close()); });
  history.pushState(1, "", "/two");
  history.pushState(2, "", "/three");
}"""
FOUND = """async () => ({
  cookies: document.cookie,
  kept: localStorage.length + sessionStorage.length,
  called: window.name + window.who,
  databases: (await indexedDB.databases()).length,
  steps: history.length,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  width: innerWidth,
  place: (await navigator.permissions.query({ name: "geolocation" })).state,
  routed: await (await fetch("/routed")).text(),
})"""


PLAIN = b"""<!doctype html><title>Plain</title>
<meta name=viewport content="width=device-width"><link rel=icon href="data:,">"""


class Plain(BaseHTTPRequestHandler):
    """A site of empty pages."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PLAIN)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Server(f"http://127.0.0.1:{running.server_port}", ["A line of the log.\n"], None)
        running.shutdown()


@pytest.fixture
def own_tabs(browser):
    """Tabs of this test alone."""
    tabs = Tabs(browser)
    yield tabs
    for tab in [*tabs.taken, *(tab for free in tabs.free.values() for tab in free)]:
        tab.context.close()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_a_kept_tab_comes_back_as_new(own_tabs, site, size):
    tab, heard = own_tabs.take(size), []
    tab.page.goto(site.url)
    new = tab.page.evaluate(FOUND)
    tab.page.evaluate(LEAVE_ALL)
    tab.page.on("console", lambda said: heard.append(said.text))
    tab.page.route("**/routed", lambda route: route.fulfill(body="by a test"))
    tab.context.grant_permissions(["geolocation"])
    tab.page.set_viewport_size({"width": 700, "height": 500})
    tab.page.emulate_media(color_scheme="dark")
    tab.context.new_page().goto(site.url)
    left = tab.page.evaluate(FOUND)
    assert all(left[what] != new[what] for what in new), "else nothing is shown by what follows"
    assert own_tabs.give_back(tab) == []

    again = own_tabs.take(size)
    assert again is tab and tab.page.locator("body").inner_html() == "" and len(tab.context.pages) == 1
    tab.page.goto(site.url)
    assert tab.page.evaluate(FOUND) == new
    tab.page.evaluate("console.log('something')")
    eventually(tab.page, lambda: tab.console)
    assert heard == []


def test_a_tab_that_was_closed_or_saw_two_sites_or_another_clock_is_not_used_again(own_tabs, site):
    closed = own_tabs.take()
    closed.page.close()
    own_tabs.give_back(closed)
    far = own_tabs.take()
    far.page.goto(site.url)
    far.page.goto(site.url.replace("127.0.0.1", "localhost"))
    own_tabs.give_back(far)
    late = own_tabs.take()
    late.page.clock.install()
    late.page.goto(site.url)
    own_tabs.give_back(late)
    fourth = own_tabs.take()
    assert fourth not in (closed, far, late) and not fourth.page.is_closed()


def test_two_visitors_at_once_share_no_cookies(own_tabs, site):
    one, other = own_tabs.take(), own_tabs.take()
    for tab in (one, other):
        tab.page.goto(site.url)
    one.page.evaluate("document.cookie = 'who=me'")
    assert other.page.evaluate("document.cookie") == ""


@pytest.mark.parametrize(
    "script",
    [
        "console.error('it went wrong')",
        "setTimeout(() => { throw Error('it went wrong'); })",
        "setTimeout(() => alert('it went wrong'))",
        "fetch('http://example.invalid/it-went-wrong').catch(() => 0)",
        "window.open('/').console.error('it went wrong')",
    ],
)
def test_what_goes_wrong_fails_the_test(own_tabs, site, script):
    visits = Visits(own_tabs, lambda: site)
    page = visits(ready=None, before=lambda page: page.route("**/it-went-wrong", lambda route: route.abort()))
    page.evaluate(f"() => {{ {script} }}")
    (tab,) = own_tabs.taken
    eventually(page, lambda: any("it" in what and "went" in what for what in tab.wrong))
    with pytest.raises(AssertionError, match=r"went.wrong.*the page, its console and its server's log are in"):
        visits.leave("tests/repository/test_tabs.py::what goes wrong")
    assert not own_tabs.taken


def test_an_error_that_a_test_foresees_does_not_fail_it(own_tabs, site):
    visits = Visits(own_tabs, lambda: site)
    page = visits(ready=None, may_say="^foreseen$")
    page.evaluate("console.error('foreseen')")
    (tab,) = own_tabs.taken
    eventually(page, lambda: tab.console)
    visits.leave("foreseen")


def test_what_would_stay_for_good_is_refused_on_a_kept_page_alone(own_tabs):
    with pytest.raises(RuntimeError, match=r"add_init_script stays on a page for good.*visit\(own=True\)"):
        own_tabs.take().page.add_init_script("1")
    own = own_tabs.take(own=True)
    own.page.add_init_script("1")
    own_tabs.give_back(own)
    assert own not in own_tabs.free["desktop"]


def test_a_test_that_fails_leaves_what_was_seen_where_its_report_says(own_tabs, site, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "FAILED", tmp_path)
    page = Visits(own_tabs, lambda: site)(ready=None)
    page.evaluate("console.log('something')")
    eventually(page, lambda: own_tabs.taken[0].console)
    report = SimpleNamespace(failed=True, sections=[])
    item = SimpleNamespace(config=SimpleNamespace(stash={KEY: own_tabs}), nodeid="tests/test_x.py::test_it[dark/er]")
    hook = pytest_runtest_makereport(item, SimpleNamespace(when="call"))
    next(hook)
    with suppress(StopIteration):
        hook.send(report)
    folder = tmp_path / "test_it-dark-er"
    assert report.sections == [("Browser", f"the page, its console and its server's log are in {folder}")]
    assert (folder / "0.png").read_bytes().startswith(b"\x89PNG")
    assert "log: something" in (folder / "0-console.txt").read_text()
    assert (folder / "0-server.txt").read_text() == "A line of the log.\n"
    assert keep_what_is_seen(own_tabs, "no node").endswith("no-node")
