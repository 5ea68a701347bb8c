"""Walks through the app in a real Chromium, as people take them: by mouse, by the keyboard alone, and on a phone.

In none may an error reach the console or a request leave the machine: tests/support/tabs.py sees to that.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from browser import all_drawn, drawn, eventually, settled
from browser_pages import (
    DRAWN,
    box,
    choose_layer,
    chosen,
    layer,
    path_of,
    ran,
    run,
    subject,
    tokens,
)
from playwright.sync_api import Locator, Page, expect

import moeviz
from moeviz.formats.exports import read_trace
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs.recorded import EXAMPLES
from moeviz_app.views.menu import MENU

pytestmark = pytest.mark.browser
OWN_TEXT = "Le chat dort sur le lit.\nfor i in range(3):\n    print(i)\n7 + 5 = 12"
HAS_THE_KEYBOARD = "wanted => wanted.getRootNode().activeElement === wanted"


@pytest.fixture(scope="module")
def own_trace() -> RoutingTrace:
    """What the library says about OWN_TEXT."""
    return moeviz.trace(moeviz.load_model(), OWN_TEXT)


@dataclass(frozen=True)
class Walker:
    """A visitor, and what this one has at hand."""

    page: Page
    has: str  # mouse, keys, touch

    def press(self, what: Locator) -> None:
        if self.has == "keys":
            self.tab_to(what)
            self.page.keyboard.press("Enter")
        elif self.has == "touch":
            what.tap()
        else:
            what.click()

    def tab_to(self, what: Locator) -> None:
        """With the tab key, from wherever the keyboard is."""
        expect(what).to_be_visible()
        for _ in range(200):
            if what.evaluate(HAS_THE_KEYBOARD):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"The tab key does not lead to {what}.")

    def choose_token(self, row: int) -> None:
        if self.has == "keys":
            self.tab_to(chosen(self.page))
            for key in ("Home", *["ArrowRight"] * row):
                self.page.keyboard.press(key)
        else:
            self.press(tokens(self.page).nth(row))
        expect(self.page.locator(".which").get_by_text(re.compile(rf"^token {row + 1}\b"))).to_be_visible()

    def run(self, prompt: str) -> None:
        if self.has == "keys":
            self.tab_to(box(self.page))
            self.page.keyboard.press("ControlOrMeta+a")
            self.page.keyboard.insert_text(prompt)
            self.page.keyboard.press("Enter")
        else:
            box(self.page).fill(prompt)
            self.press(self.page.get_by_role("button", name="Run", exact=True))
        ran(self.page, prompt)

    def go_to(self, name: str) -> None:
        """By the links of the menu."""
        (place,) = (place for place, names in MENU.items() if name in names)
        self.press(self.page.locator(".st-key-menu").get_by_role("link", name=place, exact=True))
        if name != MENU[place][0]:
            tabs, first = self.page.locator(".st-key-submenu"), MENU[place][0]
            expect(tabs.locator("a[aria-current]")).to_have_text([first])  # drawn: no press is lost
            self.press(tabs.get_by_role("link", name=name, exact=True))
        expect(title(self.page)).to_have_text(name)
        settled(self.page)

    def open_expert(self) -> str:
        """From the card to the page of the chosen token's first expert; what that page is called."""
        settled(self.page)
        link = self.page.locator(f"a.named[aria-label*='of layer {layer(self.page).inner_text()}:']").first
        asked = parse_qs(urlsplit(link.get_attribute("href")).query)
        self.press(link)
        name = f"Layer {asked['layer'][0]}, expert {asked['expert'][0]}"
        expect(title(self.page)).to_have_text(name)
        expect(self.page.locator(".kwic .line").first).to_be_visible()
        settled(self.page)
        return name


@pytest.fixture
def walker(request, visit):
    """A walker who has a mouse, keys or a touch screen: `request.param` says which."""
    return Walker(visit(size="phone" if request.param == "touch" else "desktop"), request.param)


PLAYED = """(steps) => {
  window.played = [];
  const look = () => window.played.push(steps.querySelector("[aria-pressed=true]").textContent);
  new MutationObserver(look).observe(steps, { subtree: true, attributeFilter: ["aria-pressed"] });
}"""


def title(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


@pytest.mark.parametrize("walker", ["touch"], indirect=True)
def test_a_student_plays_through_the_example_asks_about_an_expert_and_comes_back(walker):
    page = walker.page
    expect(subject(page)).to_have_value(re.compile("six short texts in one"))
    play = page.get_by_role("button", name="Play the path through the layers")
    page.locator(".steps").evaluate(PLAYED)
    walker.press(play)
    expect(layer(page)).to_have_text("5")
    expect(play).to_have_text("▶ Play")  # it has gone through all
    assert page.evaluate("played[0]") == "0"

    walker.choose_token(9)
    walker.open_expert()
    page.go_back()
    drawn(page)
    expect(page.locator(".which").filter(has_text="token 10 of")).to_be_visible()
    expect(layer(page)).to_have_text("5")

    walker.press(page.get_by_role("button", name="French", exact=True))
    ran(page, EXAMPLES["French"])
    expect(page.get_by_text("example of this place")).to_be_hidden()
    expect(box(page)).to_have_value(EXAMPLES["French"])


@pytest.mark.parametrize("walker", ["keys"], indirect=True)
def test_a_researcher_follows_a_finding_in_a_text_and_takes_the_numbers_along(walker, own_trace, tmp_path):
    page = walker.page
    walker.run(OWN_TEXT)
    expect(tokens(page)).to_have_count(len(own_trace.tokens))
    finding = page.locator(".finding").first
    at = re.search(r"layer (\d)", eventually(page, finding.inner_text, re.compile(r"layer \d").search)).group(1)
    walker.press(finding)
    expect(layer(page)).to_have_text(at)

    name = walker.open_expert()
    assert name.startswith(f"Layer {at},")
    expect(page.locator(".kwic .hit").first).to_be_visible()  # of held-out texts, where there are more tokens

    walker.go_to("Layers")
    all_drawn(page)
    expect(page.locator(DRAWN)).to_have_count(8)

    walker.press(page.locator(".st-key-menu").get_by_role("link", name="Explore", exact=True))
    drawn(page)
    page.locator(".st-key-place-of-downloads").scroll_into_view_if_needed()
    with page.expect_download() as download:
        walker.press(page.locator(".st-key-trace-csv button"))
    download.value.save_as(tmp_path / "trace.csv")
    opened = read_trace(tmp_path / "trace.csv")
    assert opened.tokens.equals(own_trace.tokens)
    assert np.array_equal(opened.experts, own_trace.experts)


@pytest.fixture
def elsewhere(visit):
    """Somebody else, who opens the address that a page has."""
    return lambda page: visit(path_of(page))


def same(page: Page, other: Page, part: Callable[[Page], Locator]) -> None:
    """Wait until a part of both pages is there, and has the same words and the same name for who cannot see it."""
    seen = "all => all.map((one) => [one.textContent, one.getAttribute('aria-label')])"
    expect(part(page)).not_to_have_count(0)
    eventually(
        other,
        lambda: [part(each).evaluate_all(seen) for each in (page, other)],
        lambda both: both[0] == both[1],
    )


def test_a_link_to_each_page_shows_somebody_else_the_same(page, elsewhere):
    run(page, OWN_TEXT)
    choose_layer(page, 2)
    walker = Walker(page, "mouse")
    walker.choose_token(6)
    expect(page).to_have_url(re.compile("layer=2&token=6$"))
    other = elsewhere(page)
    expect(box(other)).to_have_value(OWN_TEXT)
    expect(layer(other)).to_have_text("2")
    same(page, other, chosen)
    same(page, other, tokens)

    walker.go_to("Tokens")
    expect(page).to_have_url(re.compile("/tokens.*layer=2&token=6$"))
    other = elsewhere(page)
    same(page, other, chosen)

    page.go_back()
    drawn(page)
    name = walker.open_expert()
    expect(page).to_have_url(re.compile(r"expert=\d"))  # written once the page is drawn
    other = elsewhere(page)
    expect(title(other)).to_have_text(name)
    same(page, other, lambda each: each.locator(".kwic .line"))
