"""Pages of topics in a real Chromium: a click on a mark that is an expert leads to its page, and Back leads back."""

import re

import pytest
from playwright.sync_api import Page, expect
from test_browser_expert import settled, title

pytestmark = pytest.mark.browser


@pytest.fixture
def on_topic(server, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def opened(address: str) -> Page:
        page = context.new_page()
        page.goto(f"{server.url}/{address}")
        expect(page.get_by_test_id("stVegaLiteChart").first.locator("canvas, svg").first).to_be_visible()
        settled(page)
        return page

    yield opened
    context.close()


def click_in(page: Page, question: str, across: float, down: float) -> None:
    heading = page.get_by_role("heading", name=question)
    drawing = (
        heading.locator("xpath=following::*[@data-testid='stVegaLiteChart'][1]").locator("canvas, svg.marks").first
    )
    drawing.scroll_into_view_if_needed()
    place = drawing.bounding_box()
    page.mouse.click(place["x"] + across * place["width"], place["y"] + down * place["height"])


@pytest.mark.parametrize(
    "address, question, across, down",
    [
        ("load", "Which experts carry the load, layer by layer?", 0.5, 0.6),
        ("load", "How is the work of this layer", 0.45, 0.7),
        ("co-activation", "Which experts of this layer are chosen", 0.5, 0.6),
        ("flow", "How do tokens flow from expert", 0.04, 0.15),
    ],
)
def test_a_click_on_an_expert_leads_to_its_page_and_back_in_one_step(on_topic, address, question, across, down):
    page = on_topic(address)
    click_in(page, question, across, down)
    expect(title(page)).to_have_text(re.compile(r"Layer \d, expert \d"))
    expect(page).to_have_url(re.compile(r"expert\?.*layer=\d&expert=\d"))
    page.go_back()
    expect(title(page)).to_have_text(address.capitalize())
    settled(page)
    expect(title(page)).to_have_text(address.capitalize())  # the click is not done again
