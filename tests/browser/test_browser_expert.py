"""The page of an expert in a real Chromium: clicks that choose a token and another expert, and the way back."""

import re

import pytest
from browser import click_at, fits, settled
from browser_pages import title
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def shows_contexts(page: Page) -> None:
    expect(page.locator(".kwic .line").first).to_be_visible()
    settled(page)


def test_a_token_filters_the_contexts_and_a_cell_leads_to_another_expert_and_back_in_one_step(visit):
    page = visit("/expert?layer=0&expert=6", ready=shows_contexts)
    steps = page.evaluate("history.length")
    expect(title(page)).to_have_text("Layer 0, expert 6")
    hits = page.locator(".kwic .hit")
    bar = page.locator("path[aria-roledescription=bar]")  # those of the kinds come later
    expect(bar.nth(2)).to_have_attribute("aria-label", re.compile("token: br;"))
    bar.nth(2).click()
    expect(page.get_by_text("11 of the 11 that it has of this token")).to_be_visible()
    expect(hits).to_have_text(["br"] * 11)
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
