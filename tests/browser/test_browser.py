"""What a person does, in a real Chromium: type, click, walk with the keys, download, open again."""

import re
from urllib.parse import quote

import numpy as np
import pytest
from browser import all_drawn, drawn, eventually, go_to, settled
from browser_pages import (
    DRAWN,
    PROMPT,
    ask_for,
    box,
    choose_layer,
    generating,
    layer,
    path_of,
    picture,
    press_run,
    ran,
    run,
    slider,
    some_generated,
    strip_of,
    tokens,
)
from playwright.sync_api import expect

import moeviz
from moeviz.formats.exports import read_trace
from moeviz.routing_trace import RoutingTrace

pytestmark = pytest.mark.browser
WAY = "Which route did this token take through the model?"


@pytest.fixture(scope="session")
def recorded() -> RoutingTrace:
    """What the library says about PROMPT."""
    return moeviz.trace(moeviz.load_model(), PROMPT)


@pytest.fixture
def shown(visit):
    """A page of a visitor who has followed a link to PROMPT."""
    return lambda path="/": visit(f"{path}?prompt={quote(PROMPT)}&model=embedded")


def test_from_a_prompt_to_a_file_and_back(page, recorded, tmp_path):
    run(page, PROMPT)
    choose_layer(page, 3)
    expect(tokens(page)).to_have_text(strip_of(recorded, 3))
    choose_layer(page, 4)
    expect(tokens(page)).to_have_text(strip_of(recorded, 4))
    expect(page).to_have_url(re.compile("layer=4"))

    page.locator(".st-key-place-of-downloads").scroll_into_view_if_needed()
    with page.expect_download() as download:
        page.locator(".st-key-trace-csv button").click()
    assert download.value.suggested_filename == "moeviz-embedded-s-il-fait-froid-def.csv"
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    opened = read_trace(file)
    assert opened.tokens.equals(recorded.tokens)
    assert np.array_equal(opened.experts, recorded.experts)
    np.testing.assert_allclose(opened.weights, recorded.weights, atol=1e-6, rtol=0)

    page.reload()  # the address repeats the view
    drawn(page)
    expect(tokens(page)).to_have_text(strip_of(recorded, 4))
    go_to(page, "Files")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("Opened.")).to_be_visible()
    go_to(page, "Explore")
    choose_layer(page, 2)
    expect(tokens(page)).to_have_text(strip_of(recorded, 2))


def test_a_token_can_be_chosen_on_the_topic_s_page_too_with_the_keys(visit):
    page = visit("/tokens")
    expect(page.get_by_text("This is about one token, and none is selected.")).to_be_visible()
    first, third = tokens(page).first, tokens(page).nth(2)
    first.focus()  # where the tab key leads
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(third).to_be_focused()
    page.keyboard.press("Enter")
    expect(third).to_have_attribute("aria-selected", "true")
    settled(page)
    expect(third).to_be_focused()  # after the rerun too
    page.keyboard.press("End")
    expect(tokens(page).last).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(tokens(page).last).not_to_be_focused()
    page.keyboard.press("Home")
    expect(first).to_be_focused()
    tokens(page).nth(3).click()
    expect(tokens(page).nth(3)).to_have_attribute("aria-selected", "true")
    settled(page)
    expect(picture(page, WAY)).to_be_visible()
    go_to(page, "Explore")
    expect(tokens(page).nth(3)).to_have_attribute("aria-selected", "true")


def test_tokens_come_into_the_strip_as_they_are_generated_and_stop_keeps_them(page, server):
    with generating(page, server, PROMPT) as count:
        stop = page.get_by_role("button", name="Stop")
        stop.click()
        expect(stop).to_be_hidden()
        drawn(page)  # once the page is drawn anew
        some_generated(page, count)
    expect(page.get_by_role("group", name="The text so far").locator("ins")).to_be_visible()  # apart from the prompt
    ask_for(page, "none")
    run(page, "One day")  # the model is free again
    expect(tokens(page).last).to_have_text(re.compile("^␣day"))


def test_a_page_that_is_left_while_a_run_goes_on_keeps_what_was_shown(page, server):
    with generating(page, server, PROMPT) as count:
        go_to(page, "Files")
        go_to(page, "Explore")
        expect(tokens(page).nth(count)).to_be_visible()
        some_generated(page, count)


def test_two_visitors_who_run_at_once_get_their_own_traces(visit):
    page, other = visit(), visit()
    prompts = {page: "Il fait froid.", other: "12 + 7 = 19"}
    for visitor, prompt in prompts.items():
        box(visitor).fill(prompt)
    for visitor in prompts:
        press_run(visitor)
    for visitor, prompt in prompts.items():
        ran(visitor, prompt)
        choose_layer(visitor, 3)
        expect(tokens(visitor)).to_have_text(strip_of(moeviz.trace(moeviz.load_model(), prompt), 3))


def test_an_empty_prompt_and_a_wrong_model_which_can_be_named_on_this_machine_leave_the_last_drawing(shown, recorded):
    page = shown()
    count = len(recorded.tokens)
    expect(tokens(page)).to_have_count(count)
    box(page).fill("")
    press_run(page)
    expect(page.get_by_text("There is no text yet.")).to_be_visible()
    expect(tokens(page)).to_have_count(count)
    box(page).fill(PROMPT)
    settled(page)
    page.get_by_role("button", name="Model and options").click()
    model = page.get_by_role("combobox", name="Model: choose one, or type")
    model.fill("./no/such/model")
    model.press("Enter")
    expect(page.get_by_text("There is no model at './no/such/model'.")).to_be_visible()
    settled(page)
    page.keyboard.press("Escape")
    press_run(page)
    settled(page)
    expect(page.get_by_text("There is no model at './no/such/model'.")).to_have_count(1)
    expect(tokens(page)).to_have_count(count)


def test_two_layers_are_compared_side_by_side(shown):
    page = shown("/layers")
    all_drawn(page)
    expect(page.locator(DRAWN)).to_have_count(8)
    page.get_by_role("combobox", name="Second layer").click()
    page.get_by_role("option", name="3", exact=True).click()
    legend = picture(page, "Do the two layers divide their work in the same way?").locator(".role-legend-label")
    expect(legend).to_have_text(["0", "3"])
    expect(page.locator(DRAWN)).to_have_count(8)


@pytest.mark.parametrize("path", ["train"])
def test_a_bookmark_opens_its_page_on_a_server_that_nobody_has_visited(visit, serve, path):
    """A file of this name in a folder named pages was run by Streamlit itself, until the main page had been seen."""
    page = visit(f"/{path}", at=serve())
    expect(page.get_by_role("link", name="Explore")).to_be_visible()


def test_an_address_repeats_the_view_and_going_back_leaves_a_page_in_one_step(page, visit):
    run(page, "Il fait froid.", "ControlOrMeta+Enter")
    choose_layer(page, 5)
    tokens(page).nth(2).click()
    expect(page).to_have_url(re.compile("layer=5&token=2$"))

    other = visit(path_of(page), size="phone")
    expect(tokens(other).nth(2)).to_have_attribute("aria-selected", "true")
    expect(layer(other)).to_have_text("5")

    run(page, "One day", "Enter")
    go_to(page, "Balance")
    expect(page).to_have_url(re.compile("/balance.*prompt=One"))
    page.go_back()
    expect(page).to_have_url(re.compile("/[?]prompt=One"))
    expect(tokens(page).last).to_have_text(re.compile("^␣day"))


def test_a_press_mutes_an_expert_a_link_repeats_it_and_words_that_decide_have_arcs(page, visit):
    glass = page.locator(".lit-glass[aria-label^='Expert 4 of layer 2']")  # German: the example opens on “antwortete”
    glass.click()
    expect(page.locator(".told")).to_contain_text("“ete”: 83% → ")
    expect(page).to_have_url(re.compile(r"mute=2\.4"))
    moved = page.locator(".token.moved").count()
    other = visit(path_of(page))
    expect(other.locator(".glass[aria-pressed=true]")).to_have_count(1)
    expect(other.locator(".token.moved")).to_have_count(moved)
    page.get_by_role("button", name="Bring the muted experts back").click()
    expect(page).not_to_have_url(re.compile("mute"))
    tokens(page).nth(1).click()  # behind <s>
    page.get_by_role("button", name="Which word decided?").click()
    expect(page.locator(".decided")).to_have_text("Nothing stands before it.")
    tokens(page).nth(2).click()
    expect(page.locator(".decided")).to_contain_text("No single earlier word decides")
    tokens(page).nth(24).click()  # the k of “komme”, after “Ich”
    expect(page.locator(".decided")).to_contain_text("Replace one word and it goes elsewhere: “␣Ich” → expert 3")
    expect(page.locator(".arc")).to_have_count(1)
    direct = page.get_by_role("button", name="Which layer decided?")
    expect(direct).to_have_attribute("aria-pressed", "false")
    direct.click()
    parts = page.locator(".st-key-direct-parts")
    expect(parts).to_contain_text("above the mean of all experts: ")
    expect(parts.locator(".stVegaLiteChart")).to_be_in_viewport()  # it is led to
    expect(direct).to_have_attribute("aria-pressed", "true")
    said = parts.locator(".stText").first.inner_text()
    settled(page)  # the page is still being led to the picture
    choose_layer(page, 5)
    expect(parts.locator(".stText").first).not_to_have_text(said)
    direct.click()
    expect(parts).to_have_count(0)


def test_token_and_layer_stay_chosen_from_page_to_page(shown):
    page = shown()
    tokens(page).nth(3).click()
    expect(page.locator(".which").filter(has_text="token 4 of")).to_be_visible()
    expect(page).to_have_url(re.compile("token=3"))
    choose_layer(page, 1)
    expect(page).to_have_url(re.compile("layer=1"))
    go_to(page, "Tokens")
    expect(tokens(page).nth(3)).to_have_attribute("aria-selected", "true")
    expect(picture(page, WAY)).to_be_visible()
    expect(slider(page)).to_have_attribute("aria-valuetext", "1")
    for name in ("Co-activation", "Load"):
        go_to(page, name)
        expect(slider(page)).to_have_attribute("aria-valuetext", "1")
    slider(page).press("ArrowRight")
    expect(slider(page)).to_have_attribute("aria-valuetext", "2")
    settled(page)
    go_to(page, "Explore")
    expect(layer(page)).to_have_text("2")


IN_ONE_MOMENT = """async (button) => {
    document.querySelector("[class*=st-key-place-of-]").scrollIntoView();
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    button.click();
    for (const end = performance.now() + 400; performance.now() < end; );
}"""
TWO_LINKS = """(button) => {
    const links = (row) => [...document.querySelectorAll(`.st-key-${row} a`)];
    const link = (row, name) => links(row).find((a) => a.innerText.trim() === name);
    button.click();
    link("menu", "Explore").click();
    link("submenu", "Tokens").click();
}"""


def test_a_busy_browser_loses_no_choice_and_of_two_links_clicked_at_once_the_later_one_leads_on(shown):
    """Streamlit would send a choice and a part that came near as one message, to the part alone; and what is still to
    be told puts the first click off, which must not come after the second one."""
    page = shown()
    page.get_by_role("button", name="layer 5", exact=True).evaluate(IN_ONE_MOMENT)
    expect(page).to_have_url(re.compile("layer=5"))
    settled(page)
    page.get_by_role("button", name="layer 2", exact=True).evaluate(TWO_LINKS)
    expect(page.get_by_role("heading", name="Tokens", exact=True)).to_be_visible()
    settled(page)
    expect(page).to_have_url(re.compile("/tokens"))


def test_every_chart_can_be_taken_along_as_a_vector_picture_and_as_a_table(shown, tmp_path):
    page = shown("/load")
    for kind, begins in (("SVG", "<svg "), ("CSV", "layer,expert,tokens")):
        page.get_by_test_id("stPopover").filter(has_text="Details").get_by_role("button").first.click()
        settled(page)
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).first.click()
        page.keyboard.press("Escape")
        assert download.value.suggested_filename == f"moeviz-load-heatmap.{kind.lower()}"
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_text("utf-8").startswith(begins)


def test_a_file_comes_though_scripts_end_between_the_click_and_the_request_for_it(shown):
    page, held = shown("/load"), []
    details = page.get_by_test_id("stPopover").filter(has_text="Details").get_by_role("button").first
    page.route(re.compile(r"/media/.*\.csv$"), lambda route: held.append(route))
    details.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).first.click()
        eventually(page, lambda: held)
        page.keyboard.press("Escape")
        for layer, key in ((2, "ArrowLeft"), (1, "ArrowLeft"), (2, "ArrowRight")):
            page.get_by_role("slider", name="Layer").press(key)
            expect(page).to_have_url(re.compile(f"layer={layer}"))
            settled(page)
        held[0].continue_()
    assert download.value.failure() is None


def test_a_word_is_typed_over_and_what_it_changes_is_marked_in_both_texts(visit):
    page = visit("/one-word")
    answer, words = page.locator(".st-key-answer"), page.get_by_role("group", name=re.compile("^The text"))
    expect(answer).to_contain_text("“letter” → “code”: 22 of 300 first choices change")
    expect(words.locator("ins")).to_have_text("code")
    settled(page)
    words.get_by_role("button", name="return").click()
    field = words.get_by_role("textbox", name="In place of return")
    expect(field).to_have_value("return")
    field.press("Escape")
    expect(field).to_be_hidden()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.insert_text("max")
    page.keyboard.press("Enter")
    expect(answer).to_contain_text("“sum” → “max”: ")
    expect(words.locator("ins")).to_have_text("max")
    expect(page.locator(".token.new")).to_have_count(2)
    settled(page)
    before = page.get_by_role("listbox").first.get_by_role("option")
    before.nth(3).click()
    expect(page.get_by_role("option", selected=True)).to_have_count(2)
    expect(page).to_have_url(re.compile("one-word.*word=.*becomes=max"))
