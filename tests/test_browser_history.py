"""The history gallery in a real Chromium: a system is trained to its end, and another is stopped on the way."""

import re

import pytest
from browser import SIZES, go_to
from playwright.sync_api import Page, expect
from test_browser import DRAWN

pytestmark = pytest.mark.browser


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_system_is_trained_and_what_ships_comes_back(page):
    page.set_viewport_size(SIZES["desktop"]["viewport"])
    go_to(page, "Local experts")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()
    expect(page.locator(DRAWN).first).to_be_visible()
    page.get_by_label("Seed").fill("3")
    page.get_by_label("Seed").press("Enter")
    press(page, "Train")
    expect(page.get_by_text(re.compile("This is the result that you trained: .*seed 3"))).to_be_visible()
    go_to(page, "Timeline")
    go_to(page, "Local experts")
    expect(page.get_by_text(re.compile("This is the result that you trained: .*seed 3"))).to_be_visible()
    press(page, "Back to the one that ships")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()


def test_training_is_stopped_and_what_was_there_stays(page):
    """A run of half a minute, stopped in its first seconds; the next one does not wait for it."""
    go_to(page, "Deep mixture")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()
    for _ in range(2):
        press(page, "Train")
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_text("ahead of yours")).to_have_count(0)
        press(page, "Stop")
        expect(page.get_by_role("progressbar")).to_have_count(0)
        expect(page.get_by_text("This is the result that ships")).to_be_visible()
    expect(page.locator(DRAWN).first).to_be_visible()
