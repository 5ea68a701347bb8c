"""The history gallery in a real Chromium: its story is read, a system is trained to its end, another is stopped."""

import re

import pytest
from browser import eventually, fits, go_to, is_below, stands
from browser_pages import DRAWN
from moeviz_app.views.menu import STORY
from playwright.sync_api import Locator, Page, expect

from moeviz.history.story import PARTS

pytestmark = pytest.mark.browser


def first_step(page: Page) -> tuple[Locator, Locator]:
    """The first drawing of the story, once it is there, and the first words beside it."""
    expect(page.get_by_role("heading", name=STORY, exact=True)).to_be_visible()
    drawing, words = page.locator(DRAWN).first, page.get_by_text(PARTS[0], exact=True).first
    expect(drawing).to_be_visible()
    expect(words).to_be_visible()
    return drawing, words


def test_the_story_begins_on_the_first_screen_with_words_beside_the_drawing_and_leads_on(visit, server):
    page = visit("/from-1991-to-mixtral")
    places = first_step(page)

    def are_side_by_side() -> bool:
        drawing, words = map(stands, places)
        bottom = drawing["y"] + drawing["height"]
        return bottom < 700 and words["x"] >= drawing["x"] + drawing["width"] and words["y"] < bottom

    eventually(page, are_side_by_side)
    page.get_by_role("link", name="More on the page Switch", exact=True).click()
    expect(page.get_by_role("heading", name="Switch", exact=True)).to_be_visible()
    page.goto(f"{server.url}/gallery")
    expect(page.get_by_role("heading", name=STORY, exact=True)).to_be_visible()


def test_on_a_phone_the_first_drawing_is_on_the_first_screen_and_above_its_words(visit):
    phone = visit("/from-1991-to-mixtral", size="phone")
    drawing, words = first_step(phone)
    eventually(phone, lambda: is_below(words, drawing) and sum(stands(drawing)[of] for of in ("y", "height")) < 844)
    fits(phone)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_system_is_trained_and_what_ships_comes_back(visit):
    page = visit("/local-experts")
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


def test_training_is_stopped_and_what_was_there_stays(visit, server):
    """While it goes on; the next one does not wait for it."""
    page = visit("/deep-mixture")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()
    for _ in range(2):
        with server.holding():
            press(page, "Train")
            expect(page.get_by_role("progressbar")).to_be_visible()
            expect(page.get_by_text("ahead of yours")).to_have_count(0)
            press(page, "Stop")
            expect(page.get_by_role("progressbar")).to_have_count(0)
            expect(page.get_by_text("This is the result that ships")).to_be_visible()
    expect(page.locator(DRAWN).first).to_be_visible()
