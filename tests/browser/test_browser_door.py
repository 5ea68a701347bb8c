"""The door in a real browser: no frame of another page shows the app, and a team's token is asked for once."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import drawn, eventually
from playwright.sync_api import expect
from servers import Server

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


@pytest.fixture
def framed(visit, other):
    """The page of the other site that shows an address, and what the browser says of it."""

    def show(url: str, **more):
        other.shows = url
        said = []
        site = Server(f"http://127.0.0.1:{other.server_port}", [], None)

        def listen(page):
            page.on("console", lambda message: said.append(message.text))

        return visit("/", at=site, before=listen, ready=None, **more), said

    return show


def test_no_page_of_another_site_shows_the_app_in_a_frame(framed, server):
    page, said = framed(server.url, may_say="frame-ancestors")
    eventually(page, lambda: any("frame-ancestors 'none'" in line for line in said))
    expect(page.frame_locator("iframe").get_by_text("See which experts fire")).to_have_count(0)


def test_a_site_that_a_setting_names_shows_it(framed, serve, other):
    running = serve(MOEVIZ_FRAME_ANCESTORS=f"http://127.0.0.1:{other.server_port}")
    page, _ = framed(running.url)
    expect(page.frame_locator("iframe").get_by_text("See which experts fire").first).to_be_visible()


def test_a_team_s_visitor_gives_the_token_and_comes_to_the_page_that_was_asked_for(visit, serve):
    running = serve(MOEVIZ_SERVE="team", MOEVIZ_HOSTS="127.0.0.1", MOEVIZ_TOKEN=TOKEN)
    page = visit("/balance?group=0&counted_layer=7", at=running, ready=None, may_say="status of 401")
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("This is not the token of this server")).to_be_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Token").press("Enter")
    expect(page.get_by_role("heading", name="Balance", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/balance\?group=0&counted_layer=7"))
    expect(page.get_by_text("Layer 7, all groups together")).to_be_visible()
    page.goto(running.url)
    drawn(page)
