"""The door in a real browser: no frame of another page shows the app, and a team's token is asked for once."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import drawn, served
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
TOKEN = "a-token-that-nobody-guesses"


class Other(BaseHTTPRequestHandler):
    """Another site: its one page shows the app in a frame."""

    def do_GET(self):
        body = f'<iframe src="{self.server.shows}" width="900" height="700"></iframe>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def other():
    """That site, and its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.shutdown()


def framed(browser, other, url):
    """The page of the other site, and what the browser says of it."""
    other.shows = url
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://127.0.0.1:{other.server_port}/", wait_until="load")
    return page, said


def test_no_page_of_another_site_shows_the_app_in_a_frame(server, browser, other):
    page, said = framed(browser, other, server.url)
    assert any("frame-ancestors 'none'" in line for line in said), said
    assert page.frame_locator("iframe").get_by_text("See which experts fire").count() == 0
    page.close()


def test_a_site_that_a_setting_names_shows_it(browser, other):
    site = f"http://127.0.0.1:{other.server_port}"
    with served(MOEVIZ_FRAME_ANCESTORS=site, MOEVIZ_WARM_UP="0") as running:
        page, _ = framed(browser, other, running.url)
        expect(page.frame_locator("iframe").get_by_text("See which experts fire").first).to_be_visible()
        page.close()


def test_a_team_s_visitor_gives_the_token_and_comes_to_the_page_that_was_asked_for(browser):
    hosts = {"MOEVIZ_SERVE": "team", "MOEVIZ_HOSTS": "127.0.0.1", "MOEVIZ_TOKEN": TOKEN, "MOEVIZ_WARM_UP": "0"}
    with served(**hosts) as running:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{running.url}/load?layer=2")
        page.get_by_label("Token").fill("not the token")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("This is not the token of this server")).to_be_visible()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        expect(page.get_by_role("heading", name="Load", exact=True)).to_be_visible()
        assert "/load?layer=2" in page.url
        page.goto(running.url)
        drawn(page)
        context.close()
