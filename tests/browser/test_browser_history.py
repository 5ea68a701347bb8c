"""The history gallery in a real Chromium: its story is read, a system is trained to its end, another is stopped."""

import re

import pytest
from browser import eventually, fits, go_to, is_below, stands
from browser_pages import DRAWN
from moeviz_app.views.menu import STORY
from playwright.sync_api import Locator, Page, expect

from moeviz.history.phone_book.runs import shipped_run
from moeviz.history.story import PARTS

pytestmark = pytest.mark.browser


def first_step(page: Page) -> tuple[Locator, Locator]:
    """The first drawing of the story, once it is there, and the first words beside it."""
    expect(page.get_by_role("heading", name=STORY, exact=True)).to_be_visible()
    drawing, words = page.locator(DRAWN).first, page.get_by_text(PARTS[0], exact=True).first
    expect(drawing).to_be_visible()
    expect(words).to_be_visible()
    return drawing, words


def test_the_story_begins_with_the_phone_book_has_words_beside_its_drawings_and_leads_on(visit, server):
    page = visit("/from-1991-to-mixtral")
    expect(page.locator(".book .wall").first).to_be_visible()
    eventually(page, lambda: sum(stands(page.locator(".book"))[of] for of in ("y", "height")) < 700)
    places = first_step(page)

    def are_side_by_side() -> bool:
        drawing, words = map(stands, places)
        bottom = drawing["y"] + drawing["height"]
        return words["x"] >= drawing["x"] + drawing["width"] and words["y"] < bottom

    eventually(page, are_side_by_side)
    page.get_by_role("link", name="More on the page Switch", exact=True).click()
    expect(page.get_by_role("heading", name="Switch", exact=True)).to_be_visible()
    page.goto(f"{server.url}/gallery")
    expect(page.get_by_role("heading", name=STORY, exact=True)).to_be_visible()


def test_the_phone_book_is_read_with_keys_played_back_trained_and_stopped(visit, server):
    page = visit("/from-1991-to-mixtral")
    page.emulate_media(reduced_motion="reduce")
    book = page.locator(".book")
    shares, say = book.locator(".arm .big"), book.locator(".say")

    def ship(task: str, at: int = -1) -> list[str]:
        found = [shipped_run(f"{task}-{experts}").shares[at] for experts in (2, 8, 32)]
        return ["100%" if share == 1 else f"{100 * share:.1f}%" for share in found]

    expect(shares).to_have_text(ship("book"))
    wall = book.locator(".wall").first
    wall.focus()
    before = say.inner_text()
    wall.press("ArrowRight")
    expect(say).not_to_have_text(before)
    assert book.locator(".wall .chosen").count() == 3, "it is the same name in all three"
    book.get_by_role("slider").fill("1")
    expect(shares).to_have_text(ship("book", 1))
    expect(book.get_by_role("slider")).to_have_attribute("aria-valuetext", "step 100")
    press(page, "▸ Watch them learn")
    expect(shares).to_have_text(ship("book"))
    expect(book.get_by_role("button", name="▸ Watch them learn")).to_be_visible()
    press(page, "A rule instead")
    expect(shares).to_have_text(ship("rule"))
    expect(say).to_contain_text("Experts buy memory, not understanding")
    press(page, "Controls")
    expect(book.get_by_text("drawn anew each visit").first).to_be_visible()
    expect(wall).not_to_be_visible()
    press(page, "A phone book")
    with server.holding():
        press(page, "Train now: Dense network")
        expect(book.locator(".own .sub")).to_have_text("step 0 of 3,000")
        press(page, "Stop training: Dense network")
        expect(book.locator(".own")).to_have_count(0)
    expect(shares).to_have_text(ship("book"))


def test_on_a_phone_the_phone_book_comes_first_and_drawings_are_above_their_words(visit):
    phone = visit("/from-1991-to-mixtral", size="phone")
    networks = phone.locator(".book .arm")
    expect(networks.locator(".wall").last).to_be_visible()
    networks.first.get_by_role("button", name="Dense network", exact=True).click()
    expect(networks.locator(".wall").last).not_to_be_visible()
    eventually(phone, lambda: stands(phone.locator(".book"))["height"] < 1000)
    drawing, words = first_step(phone)
    eventually(phone, lambda: is_below(words, drawing))
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
