"""The prompt box: what is typed, pressed and pasted, in Chromium; and the plain widgets that stand for it elsewhere."""

import ast
from pathlib import Path

import pytest
from accessible import grave
from browser import eventually, in_colours, is_below, settled, stands
from page_with_a_box import EXAMPLES, MOST
from plain_box import RUN, SYSTEM, TEXT, TURN, example
from playwright.sync_api import Page, expect
from servers import served
from streamlit.testing.v1 import AppTest
from waiting import SECONDS

SCRIPT = Path(__file__).parents[1] / "support" / "page_with_a_box.py"
LONG = "🙂" * (MOST + 1)  # each is a character, and two units of JavaScript's
TOO_LONG = f"This text has {MOST + 1} characters; at most {MOST} can be run here. Shorten it, or use “moeviz trace”."
HEAR = """() => {
  window.told = [];
  window.addEventListener("moeviz:stale", (event) => window.told.push(event.detail));
  window.answers = 0;
  const { send } = WebSocket.prototype, lines = new WeakSet();
  WebSocket.prototype.send = function (message) {
    if (!lines.has(this)) this.addEventListener("message", () => (window.answers += 1));
    lines.add(this);
    return send.call(this, message);
  };
}"""


@pytest.fixture(scope="module")
def server():
    with served(str(SCRIPT)) as running:
        yield running


@pytest.fixture
def page(visit, server):
    return visit(at=server, ready=begun)


@pytest.fixture
def phone(visit, server):
    return visit(at=server, ready=begun, size="phone")


def begun(page: Page) -> None:
    expect(says(page, "scripts")).to_be_visible()
    expect(box(page)).to_have_value("At first.")
    settled(page)
    page.evaluate(HEAR)


def answered(page: Page) -> None:
    """Wait until the server has been told something once more, and all of its answer is on the page."""
    page.wait_for_function("() => window.answers > 0")
    settled(page)
    page.evaluate("window.answers = 0")


def box(page: Page):
    return page.get_by_role("textbox", name="Prompt", exact=True)


def run_button(page: Page):
    return page.get_by_role("button", name="Run", exact=True)


def says(page: Page, what: str):
    return page.get_by_text(f"{what}: ")


def heard(page: Page, *texts: str) -> None:
    """Wait until the page has heard of these runs, and of no others."""
    expect(says(page, "heard")).to_have_text(f"heard: {[{'text': text} for text in texts]!r}")


pytestmark = pytest.mark.browser


def test_enter_runs_and_shift_enter_breaks_the_line(page):
    box(page).press("End")
    page.keyboard.type(" One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    heard(page, "At first. One\ntwo")
    expect(box(page)).to_have_value("At first. One\ntwo")
    expect(box(page)).not_to_be_focused()
    box(page).press("End")
    page.keyboard.type("!")
    page.keyboard.press("ControlOrMeta+Enter")
    heard(page, "At first. One\ntwo", "At first. One\ntwo!")


def test_on_a_touch_screen_enter_breaks_the_line_and_the_button_runs(phone):
    box(phone).tap()
    box(phone).press("End")
    phone.keyboard.press("Enter")
    phone.keyboard.type("x")
    expect(box(phone)).to_have_value("At first.\nx")
    run_button(phone).tap()
    heard(phone, "At first.\nx")


def test_what_an_input_method_composes_is_not_run(page):
    box(page).evaluate(
        "box => box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    run_button(page).click()
    heard(page, "At first.")  # once, by the button


def test_typing_is_told_after_a_pause_and_does_not_run_the_page(page):
    box(page).fill("Typed.")
    answered(page)
    expect(says(page, "scripts")).to_have_text("scripts: 1")
    page.get_by_text("Has a template").click()
    expect(says(page, "holds")).to_have_text("holds: 'Typed.'")
    expect(says(page, "scripts")).to_have_text("scripts: 2")
    expect(box(page)).to_have_value("Typed.")


def test_a_click_elsewhere_right_after_a_key_loses_nothing(page):
    box(page).press("End")
    page.keyboard.type(" More")
    page.get_by_text("Has a template").click()
    expect(says(page, "scripts")).not_to_have_text("scripts: 1")
    expect(box(page)).to_have_value("At first. More")
    run_button(page).click()
    expect(says(page, "heard")).to_contain_text("'text': 'At first. More'")


def test_the_box_says_while_one_types_that_the_answer_is_of_another_text(page):
    box(page).press("End")
    page.keyboard.type("x")
    expect(page.get_by_text("changed: press Run")).to_be_visible()
    eventually(page, lambda: page.evaluate("window.told.at(-1)"), True)
    expect(says(page, "scripts")).to_have_text("scripts: 1")
    page.keyboard.press("Backspace")
    expect(page.get_by_text("changed: press Run")).to_be_hidden()
    eventually(page, lambda: page.evaluate("window.told.at(-1)"), False)
    page.keyboard.type("y")
    page.keyboard.press("Enter")
    heard(page, "At first.y")
    expect(page.get_by_text("changed: press Run")).to_be_hidden()


def test_an_example_fills_the_box_and_runs_and_undo_brings_the_text_back(page):
    box(page).fill("Mine.")
    page.get_by_role("button", name="Mixed").click()
    heard(page, EXAMPLES["Mixed"])
    expect(box(page)).to_have_value(EXAMPLES["Mixed"])
    box(page).press("ControlOrMeta+z")
    expect(box(page)).to_have_value("Mine.")
    for name in ("French", "Python"):  # one run each, however many went before
        page.get_by_role("button", name=name).click()
        expect(box(page)).to_have_value(EXAMPLES[name])
    heard(page, *(EXAMPLES[name] for name in ("Mixed", "French", "Python")))


def test_undo_works_after_the_page_has_run(page):
    box(page).press("End")
    page.keyboard.type(" Un")
    page.keyboard.press("Enter")
    heard(page, "At first. Un")
    for _ in " Un":
        page.keyboard.press("ControlOrMeta+z")
    expect(box(page)).to_have_value("At first.")


def test_a_link_fills_the_box_in_also_with_a_text_that_it_held_before(page):
    box(page).fill("Typed.")
    page.get_by_role("button", name="Link", exact=True).click()
    expect(box(page)).to_have_value("From a link.")
    answered(page)
    box(page).fill("Typed again.")
    answered(page)
    page.get_by_role("button", name="Link", exact=True).click()
    expect(box(page)).to_have_value("From a link.")
    run_button(page).click()
    heard(page, "From a link.")


def test_a_text_that_is_too_long_is_kept_and_said_and_not_run(page):
    box(page).fill(LONG)
    expect(page.get_by_role("alert")).to_have_text(TOO_LONG)
    expect(run_button(page)).to_be_disabled()
    box(page).press("Enter")
    page.get_by_text("Has a template").click()
    expect(says(page, "scripts")).to_have_text("scripts: 2")
    expect(box(page)).to_have_value(LONG)
    heard(page)
    box(page).press("End")
    page.keyboard.press("Backspace")
    expect(page.get_by_role("alert")).to_have_text("")
    page.keyboard.press("Enter")
    expect(says(page, "heard")).to_contain_text("🙂" * MOST)


def test_without_a_text_run_says_why_not(page):
    box(page).fill(" ")
    run_button(page).click()
    expect(page.get_by_role("alert")).to_have_text("There is no text yet. Type some, or choose an example.")
    heard(page)
    box(page).fill("Now.")
    expect(page.get_by_role("alert")).to_have_text("")


def test_the_box_grows_over_the_page_and_moves_nothing(page):
    most = 0.4 * page.viewport_size["height"] + 1
    below = stands(says(page, "scripts"))["y"]
    box(page).fill("\n" * 40)
    eventually(page, lambda: 200 < box(page).bounding_box()["height"] <= most)
    assert stands(says(page, "scripts"))["y"] == below
    box(page).blur()
    eventually(page, lambda: box(page).bounding_box()["height"] < 70)
    assert stands(says(page, "scripts"))["y"] == below


def test_a_chat_turn_goes_with_its_system_prompt(page):
    expect(page.get_by_role("switch", name="Send as a chat turn")).to_be_hidden()
    page.get_by_text("Has a template").click()
    page.get_by_role("switch", name="Send as a chat turn").check()
    page.get_by_text("System prompt").click()
    page.get_by_role("textbox", name="System prompt").fill("Rhyme.")
    run_button(page).click()
    run = {"text": "At first.", "chat": True, "system": "Rhyme."}
    expect(says(page, "heard")).to_have_text(f"heard: {[run]!r}")


def test_run_is_stop_while_a_run_goes_on(page):
    page.evaluate("window.addEventListener('moeviz:stop', () => window.told.push('stop'))")
    running = "(on) => window.dispatchEvent(new CustomEvent('moeviz:running', {detail: on}))"
    page.evaluate(running, True)
    page.get_by_role("button", name="Stop").click()
    eventually(page, lambda: page.evaluate("window.told.at(-1)"), "stop")
    box(page).fill("Another.")  # then a press ends the run that goes on, and starts this one
    run_button(page).click()
    heard(page, "Another.")
    eventually(page, lambda: page.evaluate("window.told.filter((what) => what === 'stop').length"), 2)
    page.evaluate(running, False)
    expect(run_button(page)).to_be_visible()


def test_a_link_to_a_chat_brings_its_turn_and_system_prompt(page):
    page.get_by_role("button", name="Link to a chat").click()
    expect(page.get_by_role("switch", name="Send as a chat turn")).to_be_checked()
    page.get_by_text("System prompt").click()
    expect(page.get_by_role("textbox", name="System prompt")).to_have_value("Be brief.")
    run_button(page).click()
    asked = {"text": "From a link.", "chat": True, "system": "Be brief."}
    expect(says(page, "heard")).to_have_text(f"heard: {[asked]!r}")


def test_axe_finds_nothing_serious(page):
    page.get_by_text("Has a template").click()
    box(page).fill(LONG)
    expect(page.get_by_role("alert")).to_have_text(TOO_LONG)
    for scheme in ("light", "dark"):
        in_colours(page, scheme)
        assert not grave(page, colours_alone=scheme == "dark"), scheme


def test_on_a_phone_nothing_is_wider_than_the_screen(phone):
    phone.get_by_text("Has a template").tap()
    box(phone).fill(LONG)
    expect(phone.get_by_role("alert")).to_be_visible()
    eventually(phone, lambda: phone.evaluate("document.documentElement.scrollWidth") <= 390)
    eventually(phone, lambda: is_below(phone.get_by_role("alert"), box(phone)))  # the box that grew


def by_widgets(box_of_widgets) -> list[dict]:
    """The steps of the next test, without a browser."""
    app = AppTest.from_file(str(SCRIPT), default_timeout=SECONDS).run()
    app.text_area(key=TEXT).set_value("Typed.")
    app.button(key=RUN).click().run()
    app.button(key=example("Python")).click().run()
    next(button for button in app.button if button.label == "Link").click().run()
    app.button(key=RUN).click().run()
    app.toggle(key="chat").set_value(True).run()
    app.checkbox(key=TURN).set_value(True)
    app.text_area(key=SYSTEM).set_value("Rhyme.")
    app.button(key=RUN).click().run()
    assert not app.exception
    return app.session_state["heard"]


def test_the_widgets_of_tests_without_a_browser_say_the_same(page, box_of_widgets):
    box(page).fill("Typed.")
    run_button(page).click()
    heard(page, "Typed.")
    page.get_by_role("button", name="Python").click()
    heard(page, "Typed.", EXAMPLES["Python"])
    page.get_by_role("button", name="Link", exact=True).click()
    expect(box(page)).to_have_value("From a link.")
    run_button(page).click()
    heard(page, "Typed.", EXAMPLES["Python"], "From a link.")
    page.get_by_text("Has a template").click()
    page.get_by_role("switch", name="Send as a chat turn").check()
    page.get_by_text("System prompt").click()
    page.get_by_role("textbox", name="System prompt").fill("Rhyme.")
    run_button(page).click()
    expect(says(page, "heard")).to_contain_text("Rhyme.")
    heard_here = says(page, "heard").inner_text().removeprefix("heard: ")  # at rest: nothing else is asked for
    assert ast.literal_eval(heard_here) == by_widgets(box_of_widgets)
