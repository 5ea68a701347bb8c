"""What a person does while the server's answer is still on its way: nothing of it is lost, and no page stays empty."""

import re
from pathlib import Path

import pytest
from browser import eventually, go_to, settled
from browser_pages import PROMPT, box, run, tokens
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

import moeviz_app

pytestmark = pytest.mark.browser


class Line:
    """The line between a page and the server. What the server says can be held back, and then comes all at once; and
    so can what parts of a page ask.
    """

    def __init__(self, page: Page, *, holds_parts: bool = False) -> None:
        self.page, self.told, self.ended, self.held, self.holds = page, 0, 0, [], False
        self.holds_parts, self.asked = holds_parts, []
        page.route_web_socket(re.compile("_stcore/stream"), self._connect)

    def _connect(self, browser: WebSocketRoute) -> None:
        server = browser.connect_to_server()
        browser.on_message(lambda message: self._tell(server, message))
        server.on_message(lambda message: self._answer(browser, message))

    def _tell(self, server: WebSocketRoute, message: str | bytes) -> None:
        self.told += 1
        if self.holds_parts and BackMsg.FromString(message).rerun_script.fragment_id:
            self.asked.append((server, message))
        else:
            server.send(message)

    def _answer(self, browser: WebSocketRoute, message: str | bytes) -> None:
        self.ended += ForwardMsg.FromString(message).WhichOneof("type") == "script_finished"
        if self.holds:
            self.held.append((browser, message))
        else:
            browser.send(message)

    def hold(self) -> None:
        """From now on, and count anew what is told and which scripts end."""
        self.holds, self.told, self.ended = True, 0, 0

    def wait(self, *, told: int = 0, ended: int = 0) -> None:
        """Until the page has told so much, and the server has ended so many scripts."""
        eventually(self.page, lambda: (self.told, self.ended), lambda so_far: so_far[0] >= told and so_far[1] >= ended)

    def let_go(self) -> None:
        self.holds = False
        for browser, message in self.held:
            browser.send(message)
        self.held.clear()


@pytest.fixture
def line(visit):
    """That of a page that shows PROMPT."""
    lines = []
    run(visit(own=True, before=lambda page: lines.append(Line(page))), PROMPT)
    return lines[0]


def leave(page: Page) -> None:
    page.locator(".st-key-submenu").get_by_role("link", name="Tokens", exact=True).click()


def test_a_page_is_not_empty_though_a_token_was_chosen_a_moment_before(line):
    line.hold()
    tokens(line.page).nth(3).click()
    leave(line.page)
    line.wait(told=2)
    line.let_go()
    expect(line.page.get_by_role("heading", name="Tokens", exact=True)).to_be_visible()
    settled(line.page)
    expect(tokens(line.page).nth(3)).to_be_visible()


def test_a_page_is_not_empty_though_somebody_typed_a_moment_before_and_the_text_is_kept(line):
    line.hold()
    box(line.page).fill("Two days")
    leave(line.page)
    line.wait(told=2)
    line.let_go()
    expect(line.page.get_by_role("heading", name="Tokens", exact=True)).to_be_visible()
    settled(line.page)
    expect(tokens(line.page).nth(3)).to_be_visible()
    go_to(line.page, "Explore")
    expect(box(line.page)).to_have_value("Two days")


def test_a_page_stays_though_a_part_of_the_one_before_asks_late(visit):
    """A choice of an exhibit: the server changes the page, while a part of the old page asks to be drawn."""
    lines = []
    page = visit("/switch", own=True, before=lambda page: lines.append(Line(page, holds_parts=True)))
    (line,) = lines
    eventually(page, lambda: len(line.asked) > 0, True)
    go_to(page, "Mixtral")
    settled(page)
    ended, late = line.ended, line.asked.copy()
    line.holds_parts = False
    for server, message in late:
        server.send(message)
    line.wait(ended=ended + 1)  # a part of this page, which asks again
    settled(page)
    expect(page.get_by_role("heading", name="Mixtral", exact=True)).to_be_visible()


def walk_to_the_fourth_token(page: Page) -> None:
    """On the page of tokens, where the third is chosen."""
    go_to(page, "Tokens")
    settled(page)
    tokens(page).nth(2).click()
    expect(page).to_have_url(re.compile("token=2$"))
    settled(page)
    page.keyboard.press("ArrowRight")
    expect(tokens(page).nth(3)).to_be_focused()


def test_who_walks_on_with_the_keys_is_not_moved_back_by_a_late_answer(line):
    page = line.page
    walk_to_the_fourth_token(page)
    line.hold()
    page.keyboard.press("Enter")
    line.wait(told=1, ended=1)
    page.keyboard.press("End")
    expect(tokens(page).last).to_be_focused()
    line.let_go()
    expect(page).to_have_url(re.compile("token=3$"))
    settled(page)
    expect(tokens(page).last).to_be_focused()


TWICE = """async (script) => {
    const { default: draw } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    const token = { text: "a", expert: "0", choice: "expert 0", phase: "prompt", position: 0, newlines: 0 };
    const data = { tokens: [token, token], start: 0, selected: null, name: "Tokens" };
    Object.assign(data, { given: "a", continued: "b", run: 1 });
    const said = [];
    window.addEventListener("moeviz:running", (event) => said.push(event.detail));
    const toTell = { data, parentElement: document, setTriggerValue: (name) => said.push(name) };
    const [first, second] = [draw(toTell), draw(toTell)];
    first?.();
    window.said = said;
    window.second = second;
}"""


@pytest.mark.parametrize("name", ["strip", "written"])
def test_a_component_lives_on_where_the_end_of_an_earlier_answer_comes_late(visit, name):
    """Where two answers arrive at once, Streamlit ends the first of them after it has drawn the second."""
    page = visit.blank().page
    page.set_content("<div class=strip role=listbox></div><div class=said></div><p class=written></p>")
    page.evaluate(
        TWICE, (Path(moeviz_app.__file__).parent / "widgets" / "components" / f"{name}.js").read_text("utf-8")
    )
    if name == "strip":
        tokens(page).last.click()
        eventually(page, lambda: page.evaluate("said"), ["pick"])
    else:
        assert page.evaluate("said.at(-1)") is True  # the prompt box still says Stop
        page.evaluate("dispatchEvent(new Event('moeviz:stop'))")
        assert page.evaluate("said.filter((what) => what === 'stop').length") == 1
        page.evaluate("second()")
        assert page.evaluate("said.at(-1)") is False
