"""The page Serve in a real Chromium: the answer follows the budget."""

import re

import pytest
from browser import SIZES
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", SIZES)
def test_the_answer_on_the_first_screen_follows_the_budget(visit, size):
    page = visit("/serve", size=size)
    answer = page.locator(".st-key-answer")
    expect(answer).to_contain_text(re.compile(r"hold 4 of the 8 experts of each layer: LRU finds"))
    expect(answer).to_be_in_viewport()
    box = page.get_by_role("spinbutton", name="Memory for experts (MB)")
    box.fill("25")
    box.press("Enter")
    expect(answer).to_contain_text("25 MB hold 5 of the 8 experts of each layer: LRU finds")
    box.fill("1000")
    box.press("Enter")
    expect(answer).to_contain_text("1 GB hold all experts, which take")
