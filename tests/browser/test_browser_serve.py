"""The page Serve in a real Chromium: the answer on the first screen follows the cards, and a part the budget."""

import re

import pytest
from browser import settled
from browser_pages import check
from playwright.sync_api import expect

from moeviz.serving.memory import fit_sentence, known_model, memory_on_cards

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", ["desktop"])
def test_the_answer_on_the_first_screen_follows_the_cards_and_a_part_follows_the_budget(visit, size):
    page = visit("/serve?card=1x H100", size=size)
    answer = page.locator("[class*='st-key-swap-serve-fit']")
    verdict, _, rest = fit_sentence(memory_on_cards(known_model("mistralai/Mixtral-8x7B-v0.1"), "H100")).partition(": ")
    expect(answer).to_contain_text(verdict)
    expect(answer).to_contain_text(rest.partition(". ")[0].removeprefix("i").rstrip("."))
    expect(answer).to_be_in_viewport()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(1)
    settled(page)
    check(page)
    page.goto(page.url.partition("/serve")[0] + "/serve?subject=mixed&part=memory")
    expect(page.get_by_text(re.compile(r"^18\.9 MB")).first).to_be_visible()
    box = page.get_by_role("spinbutton", name="Memory for experts (MB)")
    box.fill("25")
    box.press("Enter")
    expect(page.get_by_text(re.compile(r"^25 MB")).first).to_be_visible()
    box.fill("1000")
    box.press("Enter")
    expect(page.get_by_text(re.compile(r"^1 GB")).first).to_be_visible()
