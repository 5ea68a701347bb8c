"""A GGUF model in the app, in a real Chromium: named, run, stopped; and what its pages leave out. `make test-gguf`."""

import re

import pytest
from browser import drawn, go_to, settled
from browser_pages import ask_for, generating, press_run, ran, run, some_generated, tokens
from gguf_models import of_transformers, write_model
from playwright.sync_api import Page, expect
from servers import GATE, served

import moeviz

pytestmark = [pytest.mark.browser, pytest.mark.gguf]
pytest.importorskip("llama_cpp_py_sync", reason="needs llama.cpp: make test-gguf installs it")
PROMPT = "Il fait froid."


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    return str(write_model(of_transformers("embedded"), tmp_path_factory.mktemp("gguf") / "mine.gguf"))


@pytest.fixture(scope="module")
def with_file(file, tmp_path_factory):
    """A deployment that lists the file among its models."""
    own = tmp_path_factory.mktemp("own")
    more = {"MOEVIZ_MAX_NEW_TOKENS": "900", "MOEVIZ_MODELS": f"{file},embedded", GATE: str(own / "gate")}
    with served(MOEVIZ_WARM_UP="0", MOEVIZ_HOME=str(own), **more) as running:
        yield running


@pytest.fixture
def page(with_file, visit):
    return visit(at=with_file)


def open_expert(page: Page) -> None:
    page.locator("a.named").first.click()
    expect(page.get_by_role("heading", level=1, name=re.compile("^Layer"))).to_be_visible()
    settled(page)


def test_a_listed_file_runs_and_the_routing_on_the_page_is_that_of_the_library(page, file):
    run(page, PROMPT)
    count = len(moeviz.trace(file, PROMPT).tokens)
    expect(tokens(page)).to_have_count(count)
    expect(page.get_by_text("recorded by eval callback (float32 cache) in llama.cpp")).to_be_visible()
    page.get_by_role("button", name="Model and options").click()
    expect(page.get_by_text("0.06 GB")).to_be_visible()
    expect(page.get_by_text("How each token is chosen")).to_have_count(0)
    expect(page.get_by_text("Routers run by")).to_have_count(0)
    page.keyboard.press("Escape")


def test_stop_ends_a_run_between_two_tokens_and_keeps_what_there_is(page, with_file, file):
    with generating(page, with_file, PROMPT, file) as count:
        stop = page.get_by_role("button", name="Stop")
        stop.click()
        expect(stop).to_be_hidden()
        drawn(page)
        some_generated(page, count)
    ask_for(page, "none")
    run(page, "One day")


def test_pages_leave_out_what_only_a_transformers_model_can_do(page):
    run(page, PROMPT)
    open_expert(page)
    expect(page.get_by_role("button", name="Compare the router's rows")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("^Read the texts"))).to_have_count(0)
    go_to(page, "What if")
    expect(page.get_by_text("runs in llama.cpp, where moeviz reads what the routers decide")).to_be_visible()
    expect(page.get_by_role("button", name="Run with and without the change")).to_have_count(0)


def test_on_this_machine_the_path_of_a_file_can_be_typed(page, file, tmp_path):
    page.get_by_role("button", name="Model and options").click()
    model = page.get_by_role("combobox", name="Model: choose one, or type")
    model.fill(str(tmp_path / "none.gguf"))
    model.press("Enter")
    expect(page.get_by_text("There is no GGUF file at")).to_be_visible()
    other = tmp_path / "typed.gguf"
    other.hardlink_to(file)
    model.fill(str(other))
    model.press("Enter")
    expect(page.get_by_text("typed.gguf: 6 MoE layers of 8 experts")).to_be_visible()
    page.keyboard.press("Escape")
    press_run(page)
    ran(page, page.get_by_role("textbox", name="Prompt", exact=True).input_value())
    expect(page.get_by_text("typed.gguf in float32, recorded by eval callback")).to_be_visible()
