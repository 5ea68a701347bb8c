"""A dataset in a real Chromium: its pages, an expert and back, its lines of text, and a folder that no link opens."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import click_at
from browser_pages import check
from playwright.sync_api import Page, expect
from servers import served
from small_corpus import texts_of

from moeviz.formats.dataset.convert import write_dataset

pytestmark = pytest.mark.browser
NAME = "![x](http:a) <b>corpus"
KEEPS = "Which tokens keep to it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("datasets")
    write_dataset(texts_of(), place / "secret")
    write_dataset(texts_of(), place / NAME, shard_tokens=120)
    return place / NAME


@pytest.fixture(scope="module")
def serving(folder):
    with served(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as running:
        yield running


def answered(page: Page) -> None:
    """Wait for a page at rest that lacks no answer: one that is being drawn has not yet said what it lacks."""
    expect(page.locator("[data-test-script-state=notRunning]:not(:has-text('Being read …'))")).to_be_attached()
    check(page)


def test_a_cell_leads_to_an_expert_and_back_in_one_step(serving, visit):
    page = visit("/many-texts", at=serving)
    answered(page)
    click_at(page.get_by_test_id("stVegaLiteChart").first.locator("canvas"), 0.5, 0.5)
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text(re.compile(r"Layer \d, expert \d"))
    expect(page.get_by_role("heading", name=KEEPS)).to_be_visible()
    answered(page)
    expect(page).to_have_url(re.compile(r"^(?!.*datasets).*dataset="))  # its name, and not its path
    page.go_back()
    expect(title).to_have_text("Many texts")


def test_other_contexts_and_another_expert_are_one_step_back_each(serving, visit):
    page = visit(f"/expert?dataset={quote(NAME)}&layer=1&expert=3", at=serving)
    expect(page.get_by_text("(seed 0)")).to_be_visible()
    page.get_by_role("button", name="Draw others").click()
    expect(page.get_by_text("(seed 1)")).to_be_visible()
    page.get_by_role("button", name="expert ›").click()
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("Layer 1, expert 4")
    answered(page)
    page.go_back()
    expect(title).to_have_text("Layer 1, expert 3")
    expect(page.get_by_text("(seed 1)")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("(seed 0)")).to_be_visible()
