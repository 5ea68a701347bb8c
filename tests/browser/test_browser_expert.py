"""The page of an expert in a real Chromium: clicks that choose a token and another expert, and the way back."""

import re

import pytest
from browser import click_at, eventually, fits, settled
from browser_pages import title
from playwright.sync_api import Page, expect

from moeviz_app.views.expert import PLACES_DRAWN

pytestmark = pytest.mark.browser


def shows_contexts(page: Page) -> None:
    expect(page.locator(".kwic .line").first).to_be_visible()
    settled(page)


def test_a_token_filters_the_contexts_and_a_cell_leads_to_another_expert_and_back_in_one_step(visit):
    page = visit("/expert?layer=0&expert=6", ready=shows_contexts)
    steps = page.evaluate("history.length")
    expect(title(page)).to_have_text("Layer 0, expert 6")
    hits = page.locator(".kwic .hit")
    bar = page.locator("path[aria-roledescription=bar][aria-label*='token: br;']")
    bar.click()
    expect(page.get_by_text("of the places where it has this token")).to_be_visible()
    expect(hits).to_have_text(["br"] * PLACES_DRAWN)
    settled(page)
    assert page.evaluate("history.length") == steps

    click_at(page.get_by_test_id("stVegaLiteChart").locator("canvas").first, 0.55, 0.55)  # the map of all experts
    expect(title(page)).not_to_have_text("Layer 0, expert 6")
    expect(title(page)).to_have_text(re.compile(r"^Layer \d, expert \d$"))
    settled(page)
    other = title(page).inner_text()
    layer, expert = re.fullmatch(r"Layer (\d), expert (\d)", other).groups()
    expect(page).to_have_url(re.compile(f"expert\\?layer={layer}&expert={expert}$"))
    page.go_back()
    expect(title(page)).to_have_text("Layer 0, expert 6")
    settled(page)
    expect(title(page)).to_have_text("Layer 0, expert 6")  # the click is not done again
    page.go_forward()
    expect(title(page)).to_have_text(other)


def test_by_the_keyboard_on_a_phone_too_and_the_page_is_no_wider_than_the_screen(visit):
    page = visit("/expert?layer=2&expert=7", size="phone", ready=shows_contexts)
    page.get_by_role("button", name="layer ›").focus()
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Layer 3, expert 7")
    settled(page)
    fits(page)


def shows_atlas(page: Page) -> None:
    expect(page.locator(".atlas .map")).to_have_attribute("data-drawn", "true")
    settled(page)


def test_the_atlas_is_searched_walked_by_the_keyboard_and_leads_to_an_expert_and_back(visit):
    page = visit("/experts", ready=shows_atlas)
    expect(title(page)).to_have_text("What the 48 experts do")
    cards, said, box = page.locator(".card"), page.locator(".search .said"), page.get_by_role("searchbox")
    expect(cards).to_have_count(48)
    expect(said).to_contain_text("20 are narrow, 26 are broad, and 2 have no kind of text")
    expect(cards.nth(20)).to_have_attribute(
        "aria-label", re.compile("^layer 2 · expert 4 · German, Russian, HTML, French · takes 99% of German")
    )
    assert cards.nth(20).get_attribute("href") == "expert?layer=2&expert=4"

    area = page.locator(".atlas .map")
    area.focus()
    for key in ("ArrowDown", "ArrowDown", *["ArrowRight"] * 10):
        page.keyboard.press(key)
    expect(area).to_have_attribute(
        "aria-label", re.compile(r"layer 2, German: expert 4 \(German, Russian, HTML, French\) is the first choice for")
    )
    box.focus()
    plain = area.screenshot()

    page.get_by_role("button", name="SELECT").click()
    expect(said).to_have_text(re.compile("^Layer 3, expert 7 takes 9 of the 9 tokens of “SELECT”"))
    expect(cards).to_have_count(6)
    expect(page).to_have_url(re.compile("find=SELECT"))
    eventually(page, lambda: area.screenshot() != plain)
    box.fill("<img src=x onerror=alert(1)>")
    expect(said).to_have_text("“<img src=x onerror=alert(1)>” is not in these texts.")
    box.press("Escape")
    expect(cards).to_have_count(48)
    eventually(page, lambda: area.screenshot() == plain)

    area.focus()
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Layer 2, expert 4")
    expect(page.get_by_role("heading", name="German, Russian, HTML, French")).to_be_visible()
    page.go_back()
    shows_atlas(page)
    cards.nth(1).click()
    expect(title(page)).to_have_text("Layer 0, expert 1")


def test_many_experts_are_a_grid_and_cards_of_a_layer_on_a_phone_too(visit):
    page = visit("/experts?subject=embedded-fine", size="phone", ready=shows_atlas)
    grid, cards = page.locator(".grid-box canvas"), page.locator(".card")
    expect(title(page)).to_have_text(re.compile(r"What the \d+ experts do"))
    assert int(re.search(r"\d+", title(page).inner_text())[0]) > 64
    first = cards.first.get_attribute("aria-label")
    page.locator(".gallery-head select").select_option("0")
    expect(cards.first).not_to_have_attribute("aria-label", first)
    grid.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(grid).to_have_attribute("aria-label", re.compile("expert 1"))
    fits(page)
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text(re.compile("expert 1$"))
