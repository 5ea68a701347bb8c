"""The pages of two engines and of counts in a real Chromium, with files that strangers wrote, and the upload's form."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accessible import grave
from browser import all_drawn, fits, go_to, settled
from browser_pages import HOSTILE, check, look_at, subject
from engine_traces import noisy
from importer_files import FOLDER
from playwright.sync_api import expect
from servers import served

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.counts_file import write_counts
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two traces of hostile tokens and labelled counts of hostile names."""
    folder = tmp_path_factory.mktemp("strangers")
    one = sample_trace(tokens=160)
    text = pd.Series((list(HOSTILE) * 20)[:160], dtype="str")
    one = replace(one, tokens=one.tokens.assign(text=text, sequence=np.repeat([0, 1], 80).astype("int32")))
    one = replace(one, tokens=one.tokens.assign(position=np.tile(np.arange(80, dtype="int32"), 2)))
    one = replace(one, model=replace(one.model, name=HOSTILE[1], caution=HOSTILE[0]))
    write_trace(one, folder / "![x](http:a).npz")
    write_trace(noisy(one, 0.3), folder / "<b>b.npz")
    counts = sample_trace(tokens=160).counts()
    both = np.concatenate([counts.assignments, counts.assignments[..., ::-1]])
    tokens = np.concatenate([counts.tokens] * 2)
    model = replace(counts.model, name=HOSTILE[2], caution=HOSTILE[1])
    write_counts(ExpertCounts(model, both, tokens, (HOSTILE[0], HOSTILE[2]), "label"), folder / "counts.json")
    return [folder / "![x](http:a).npz", folder / "<b>b.npz", folder / "counts.json"]


@pytest.fixture(scope="module")
def opened(files):
    """The app as `moeviz app FILE FILE FILE` serves it."""
    with served(MOEVIZ_OPEN="\n".join(map(str, files))) as running:
        yield running


@pytest.mark.parametrize("size", ["phone"])
def test_both_pages_are_drawn_of_strangers_files_and_have_no_grave_fault(opened, visit, size):
    page = visit("/engine-difference", at=opened, size=size)
    answer = page.locator(".st-key-answer")
    expect(answer).to_contain_text("2 of 2 sequences part")
    expect(answer).to_be_in_viewport()
    check(page)
    all_drawn(page)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(3)
    go_to(page, "Balance")
    look_at(page, HOSTILE[2])
    expect(page.locator(".st-key-answer")).to_contain_text("tokens sent at random")
    expect(page.get_by_text(f"Caution: {HOSTILE[1]}")).to_be_visible()
    check(page)


def test_counts_alone_open_on_their_page(visit, serve, files):
    page = visit(at=serve(MOEVIZ_OPEN=str(files[2])), ready=None)
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
