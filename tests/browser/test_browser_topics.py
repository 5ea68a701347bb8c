"""Pages of topics in a real Chromium: a click on a mark that is an expert leads to its page, and Back leads back."""

import re

import pytest
from browser import all_drawn, click_at, settled
from browser_pages import make_large, title
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def shows_a_chart(page: Page) -> None:
    expect(page.get_by_test_id("stVegaLiteChart").first.locator("canvas, svg").first).to_be_visible()
    settled(page)


def click_in(page: Page, question: str, across: float, down: float) -> None:
    make_large(page, question)
    all_drawn(page)  # else the next picture below the heading may be another one
    heading = page.get_by_role("heading", name=question)
    heading.scroll_into_view_if_needed()
    drawing = (
        heading.locator("xpath=following::*[@data-testid='stVegaLiteChart'][1]").locator("canvas, svg.marks").first
    )
    click_at(drawing, across, down)


@pytest.mark.parametrize(
    "address, question, across, down",
    [
        ("load", "Which experts carry the load, layer by layer?", 0.5, 0.6),
        ("load", "How is the work of this layer", 0.45, 0.7),
        ("co-activation", "Which experts of this layer are chosen", 0.5, 0.6),
        ("layers", "How do tokens flow from expert", 0.04, 0.15),
    ],
)
def test_a_click_on_an_expert_leads_to_its_page_and_back_in_one_step(visit, address, question, across, down):
    page = visit(f"/{address}?subject=mixed", ready=shows_a_chart)
    click_in(page, question, across, down)
    expect(title(page)).to_have_text(re.compile(r"Layer \d, expert \d"))
    expect(page).to_have_url(re.compile(r"expert\?.*layer=\d&expert=\d"))
    page.go_back()
    expect(title(page)).to_have_text(address.capitalize())
    settled(page)
    expect(title(page)).to_have_text(address.capitalize())  # the click is not done again
