"""Counts in a real Chromium: what is opened by the server, what an upload has to be told, and their address."""

import re

import pytest
from accessible import grave
from browser import fits, settled
from browser_pages import subject
from importer_files import FOLDER
from playwright.sync_api import expect

from moeviz.formats.counts_file import write_counts
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser


def test_counts_alone_open_on_their_page(visit, serve, tmp_path):
    write_counts(sample_trace(tokens=160).counts(), tmp_path / "counts.json")
    page = visit(at=serve(MOEVIZ_OPEN=str(tmp_path / "counts.json")), ready=None)
    expect(page.get_by_role("heading", name="Balance", exact=True)).to_be_visible()
    expect(page.locator(".st-key-answer")).to_contain_text("tokens sent at random")


def test_an_upload_asks_for_what_it_does_not_say_and_leads_to_its_counts(visit):
    page = visit("/files", size="phone")
    page.locator("input[type=file]").set_input_files(FOLDER / "imatrix.gguf")
    box = page.get_by_role("spinbutton", name="Experts that a token is sent to (top-k)")
    expect(box).to_be_visible()
    settled(page)
    fits(page)
    assert not grave(page)
    box.fill("2")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_text("It holds counts")).to_be_visible()
    page.get_by_role("link", name="Look at the counts").click()
    expect(subject(page)).to_have_value("from imatrix.gguf")
    expect(page.locator(".st-key-answer")).to_contain_text("tokens sent at random")


def test_published_counts_have_an_address(visit):
    page = visit("/balance?subject=olmoe-1b-7b&group=2&counted_layer=15")
    expect(subject(page)).to_have_value(re.compile("^OLMoE-1B-7B"))
    expect(page.get_by_role("heading", name="Balance", exact=True)).to_be_visible()
    expect(page.get_by_role("combobox", name="Tokens of")).to_have_value("web")
    page.get_by_role("radio", name="Kinds of text").click()
    expect(page.get_by_role("slider", name="Layer")).to_have_attribute("aria-valuetext", "15")
    settled(page)
    expect(page).to_have_url(re.compile("balance.*subject=olmoe-1b-7b.*group=2"))
