"""What Python does with what the prompt box says: the browser may be anybody's."""

from pathlib import Path

import pytest
from page_with_a_box import EXAMPLES, MOST
from plain_box import RUN, TEXT, example
from streamlit.testing.v1 import AppTest
from waiting import SECONDS

from moeviz_app.widgets.components import ask

pytestmark = pytest.mark.usefixtures("box_of_widgets")
SCRIPT = Path(__file__).parents[1] / "support" / "page_with_a_box.py"


@pytest.fixture
def app():
    return AppTest.from_file(str(SCRIPT), default_timeout=SECONDS).run()


def heard(app: AppTest) -> list[str]:
    assert not app.exception
    return [run["text"] for run in app.session_state["heard"]]


def test_a_run_is_told_once(app):
    app.text_area(key=TEXT).set_value("Typed.")
    app.button(key=RUN).click().run()
    app.run()
    assert heard(app) == ["Typed."]
    assert app.session_state["prompt"] == "Typed."


def test_an_example_is_in_the_box_and_run(app):
    app.button(key=example("Mixed")).click().run()
    assert heard(app) == [EXAMPLES["Mixed"]]
    assert app.text_area(key=TEXT).value == EXAMPLES["Mixed"]


def test_a_link_fills_in_even_the_text_that_the_page_knows_already(app):
    for typed in ("One.", "Two."):
        app.text_area(key=TEXT).set_value(typed).run()
        next(button for button in app.button if button.label == "Link").click().run()
        assert app.text_area(key=TEXT).value == "From a link."


@pytest.mark.parametrize("text", ["", " \n", "é" * (MOST + 1)])
def test_what_no_box_would_ask_for_is_not_run(app, text):
    app.text_area(key=TEXT).set_value(text)
    app.button(key=RUN).click().run()
    assert heard(app) == []
    too_long = f"This text has {len(text):,} characters; at most {MOST} can be run here."
    assert [error.value[: len(too_long)] for error in app.error] == [too_long] * (len(text) > MOST)


@pytest.mark.parametrize("message", [{}, {"text": 1}, {"text": None, "chat": True}, {"text": ["a"]}])
def test_a_message_of_another_form_asks_for_nothing(message):
    assert ask._checked(message, MOST, True) is None


def test_without_a_template_a_message_cannot_ask_for_a_chat():
    assert ask._checked({"text": "a", "chat": True, "system": "b"}, MOST, False) == {"text": "a"}
    assert ask._checked({"text": "a", "chat": 1, "system": 2}, MOST, True) == {"text": "a", "chat": False, "system": ""}
