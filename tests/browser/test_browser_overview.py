"""A long trace in a real Chromium: one picture of all of it, and a brush in it that chooses what is drawn below."""

import re
from dataclasses import replace

import numpy as np
import pytest
from browser import drawn, eventually, fits, go_to, settled, stands
from browser_pages import VIEW, picture, slider, strip_of, tokens
from playwright.sync_api import Locator, Page, expect

from moeviz.charts.overview import WHOLE_TRACE
from moeviz.formats.exports import EXPORTS
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser
LAYERS, TOKENS = 32, 4096
DRAWN_BELOW = re.compile(r"^tokens [\d,]+ to [\d,]+ of 4,096$")


@pytest.fixture
def page(visit):
    return visit("/files")


@pytest.fixture
def phone(visit):
    return visit("/files", size="phone")


@pytest.fixture(scope="module")
def long_trace() -> RoutingTrace:
    """Every token goes to another expert than its neighbours, so no window looks like the next."""
    trace = sample_trace(layers=LAYERS, tokens=TOKENS, top_k=1)
    lots = np.random.default_rng(3).integers(0, 8, trace.experts.shape, np.int16)
    return replace(trace, experts=lots, logits=None)


@pytest.fixture(scope="module")
def large_trace(long_trace) -> RoutingTrace:
    """The same with four slots a token: more than one message brings to a browser."""
    return replace(
        long_trace,
        model=replace(long_trace.model, top_k=4),
        experts=np.stack([(long_trace.experts[:, :, 0] + step) % 8 for step in range(4)], axis=-1),
        weights=None,
    )


def open_trace(page: Page, trace: RoutingTrace, then: str = "Tokens") -> None:
    """On the page Files, as a visitor would."""
    export = next(export for export in EXPORTS if export.suffix == ".npz")
    page.locator("input[type=file]").set_input_files(
        {"name": f"long{export.suffix}", "mimeType": export.mime, "buffer": export.write(trace)}
    )
    expect(page.get_by_text("Opened.")).to_be_visible()
    go_to(page, then)
    expect(overview(page)).to_be_visible()
    settled(page)  # a brush while the page is still being drawn is lost


def overview(page: Page) -> Locator:
    return picture(page, WHOLE_TRACE.question)


def window(page: Page, before: str = "tokens 0 to 255 of 4,096") -> range:
    """The tokens that the page says it draws, once it is at rest and says so of others than before."""
    expect(page.get_by_text(before)).to_be_hidden()
    expect(page.get_by_text(DRAWN_BELOW)).to_be_visible()
    settled(page)
    first, last, _ = re.findall(r"[\d,]+", page.get_by_text(DRAWN_BELOW).inner_text())
    return range(int(first.replace(",", "")), int(last.replace(",", "")) + 1)


def drag(page: Page, start: float, end: float) -> None:
    """Press, draw and let go, from one share of the picture's width to another."""
    overview(page).scroll_into_view_if_needed()
    box = stands(overview(page))
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=5)
    page.mouse.up()


def shown(page: Page, trace: RoutingTrace, rows: range) -> list[str]:
    """What the strip of the Tokens page should say of these rows, at the layer of its slider."""
    at = int(slider(page).get_attribute("aria-valuetext"))
    return strip_of(trace.select(tokens=slice(rows.start, rows.stop)), at)


def test_a_brush_in_the_overview_chooses_the_tokens_of_a_trace_too_large_to_be_explored_at_once(page, large_trace):
    open_trace(page, large_trace, "Explore")
    drag(page, 0.5, 0.53)
    rows = window(page)
    drawn(page)
    expect(tokens(page)).to_have_text(
        strip_of(
            large_trace.select(tokens=slice(rows.start, rows.stop)), int(page.locator(".where").inner_text().split()[0])
        )
    )
    tokens(page).nth(7).click()
    expect(tokens(page).nth(7)).to_have_attribute("aria-selected", "true")
    page.wait_for_function(f"() => {VIEW}.told.length")
    settled(page)
    go_to(page, "Tokens")
    expect(tokens(page).nth(7)).to_have_attribute("aria-selected", "true")


def test_brush_click_and_pages_of_the_overview_choose_the_tokens_of_the_strip(page, long_trace):
    open_trace(page, long_trace)
    expect(page.get_by_text("tokens 0 to 255 of 4,096")).to_be_visible()
    expect(tokens(page)).to_have_text(shown(page, long_trace, range(256)))

    drag(page, 0.5, 0.53)
    rows = window(page)
    assert 1700 < rows.start < 2200 and 100 < len(rows) < 160  # half of the picture's width is about half of the text
    expect(tokens(page)).to_have_text(shown(page, long_trace, rows))
    tokens(page).nth(3).click()
    expect(tokens(page).nth(3)).to_have_attribute("aria-selected", "true")
    settled(page)

    page.get_by_role("button", name="Page 16", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("tokens 3,840 to 4,095 of 4,096")).to_be_visible()
    expect(tokens(page)).to_have_text(shown(page, long_trace, range(3840, 4096)))
    settled(page)

    drag(page, 0.52, 0.9)
    rows = window(page, "tokens 3,840 to 4,095 of 4,096")
    assert len(rows) == 256 and rows.start % 256
    expect(tokens(page)).to_have_text(shown(page, long_trace, rows))

    number = rows.start // 256 + 1
    expect(page.get_by_role("button", name=f"Page {number}", exact=True)).to_have_attribute("aria-current", "page")
    stands(overview(page))
    overview(page).click(position={"x": 300, "y": 160})  # back to the page
    start = (number - 1) * 256
    expect(page.get_by_text(f"tokens {start:,} to {start + 255:,} of 4,096")).to_be_visible()
    expect(tokens(page)).to_have_text(shown(page, long_trace, range(start, start + 256)))


def test_a_brush_that_leaves_the_picture_ends_with_the_last_token(page, long_trace):
    open_trace(page, long_trace)
    drag(page, 0.97, 1.2)
    expect(page.get_by_text(re.compile("to 4,095 of 4,096$"))).to_be_visible()
    assert window(page).stop == TOKENS


def test_what_was_brushed_is_drawn_on_other_pages_too(page, long_trace):
    open_trace(page, long_trace)
    drag(page, 0.5, 0.53)
    rows = window(page)
    go_to(page, "Load")
    go_to(page, "Tokens")
    expect(overview(page)).to_be_visible()
    expect(tokens(page)).to_have_text(shown(page, long_trace, rows))


def test_pointing_at_the_overview_tells_which_tokens_are_there(page, long_trace):
    open_trace(page, long_trace)
    stands(overview(page))
    overview(page).hover(position={"x": 400, "y": 160})
    tip = page.locator("#vg-tooltip-element")
    expect(tip).to_be_visible()

    def tokens_told() -> int:
        first, last = (int(number) for number in re.findall(r"token\s+(\d+)", tip.inner_text()))
        return last - first

    eventually(page, tokens_told, 7)  # of 4,096 tokens, 512 columns


def test_a_phone_shows_the_overview_without_scrolling_sideways(phone, long_trace):
    open_trace(phone, long_trace)
    assert stands(overview(phone))["width"] <= 390
    fits(phone)
