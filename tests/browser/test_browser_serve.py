"""The page Serve in a real Chromium: the answer on the first screen follows the cards, and a part the budget."""

import re

import pytest
from browser import settled
from browser_pages import check
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", ["desktop"])
def test_the_answer_on_the_first_screen_follows_the_cards_and_a_part_follows_the_budget(visit, size):
    page = visit("/serve?card=1x H100", size=size)
    answer = page.locator(".st-key-answer")
    expect(answer).to_contain_text("Yes, at 8 bits: it takes 49.7 GB of the 72 GB to use on one H100.")
    expect(answer).to_be_in_viewport()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(1)
    settled(page)
    check(page)
    page.goto(page.url.partition("/serve")[0] + "/serve?subject=mixed&part=memory")
    expect(page.get_by_text(re.compile(r"hold 4 of the 8 experts of each layer: LRU finds"))).to_be_visible()
    box = page.get_by_role("spinbutton", name="Memory for experts (MB)")
    box.fill("25")
    box.press("Enter")
    expect(page.get_by_text("25 MB hold 5 of the 8 experts of each layer: LRU finds")).to_be_visible()
    box.fill("1000")
    box.press("Enter")
    expect(page.get_by_text("1 GB hold all experts, which take")).to_be_visible()
