"""A dataset in a real Chromium: its pages, an expert and back, its lines of text, and a folder that no link opens."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import all_drawn, click_at, go_to
from browser_pages import check, subject
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


@pytest.mark.parametrize("size", ["desktop"])
def test_its_pages_are_drawn_and_have_no_grave_fault(serving, visit, size):
    page = visit("/many-texts", at=serving, size=size)
    expect(page.get_by_text("400 tokens in 10 texts · sample")).to_be_visible()
    expect(page.locator(".st-key-answer")).to_contain_text("The busiest is expert")
    all_drawn(page)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(5)
    answered(page)
    for topic, charts in (("Load", 7), ("Layers", 3), ("Locality", 2)):
        go_to(page, topic)
        all_drawn(page)
        expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(charts)
        answered(page)


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


def test_a_link_shows_the_same_expert_to_somebody_else_and_opens_no_other_folder(serving, visit, folder):
    page = visit(f"/expert?dataset={folder.parent / 'secret'}&layer=1&expert=1", at=serving)
    expect(page.get_by_text("which is not open here")).to_be_visible()
    expect(subject(page)).to_have_value(f"dataset {NAME}")


def test_a_folder_is_opened_by_its_path_on_ones_own_machine(serving, visit, folder):
    page = visit("/many-texts", at=serving)
    page.get_by_role("button", name="Open a dataset").click()
    page.get_by_role("textbox", name="Folder").fill(str(folder.parent / "secret"))
    page.get_by_role("textbox", name="Folder").press("Enter")
    expect(subject(page)).to_have_value("dataset secret")
    answered(page)
