"""The check for grave faults finds what lasts; a script that runs leads neither it nor the wait for rest astray."""

import accessible
import pytest
from accessible import LOOKS, faults, grave
from browser import settled
from playwright.sync_api import Page

pytestmark = pytest.mark.browser
MADE = """<!doctype html><html lang="en"><title>Made</title>
<main data-test-script-state="notRunning" style="background: white"><h1 style="color: {}">Words</h1></main>"""
BEGIN = "document.querySelector('main').dataset.testScriptState = 'running'"
END = "document.querySelector('main').dataset.testScriptState = 'notRunning'"


@pytest.fixture
def page(visit):
    return visit.blank().page


@pytest.fixture
def looks(monkeypatch):
    """What each look has found, where a script begins as it begins, and leaves pale what was pale."""
    seen = []

    def look(page: Page, rules: list[str] | None) -> list[str]:
        page.evaluate(BEGIN)
        seen.append(faults(page, rules))
        page.evaluate(END)
        return seen[-1]

    monkeypatch.setattr(accessible, "faults", look)
    return seen


def test_a_fault_that_lasts_is_found_at_once(page, monkeypatch):
    seen = []
    monkeypatch.setattr(accessible, "faults", lambda *given: seen.append(faults(*given)) or seen[-1])
    page.set_content(MADE.format("silver"))
    assert [fault.split(":")[0] for fault in grave(page)] == ["color-contrast"] and len(seen) == 1
    assert [fault.split(":")[0] for fault in grave(page, colours_alone=True)] == ["color-contrast"]
    page.set_content(MADE.format("black"))
    assert grave(page) == []


def test_what_is_pale_while_a_script_runs_is_looked_at_again(page, looks, monkeypatch):
    inner = accessible.faults

    def look(page: Page, rules: list[str] | None) -> list[str]:
        found = inner(page, rules)
        page.evaluate("document.querySelector('h1').style.color = 'black'")
        return found

    monkeypatch.setattr(accessible, "faults", look)
    page.set_content(MADE.format("silver"))
    assert grave(page) == []
    assert [len(found) for found in looks] == [1, 0]


def test_a_page_whose_scripts_run_on_and_on_is_not_excused(page, looks):
    page.set_content(MADE.format("silver"))
    assert len(grave(page)) == 1 and len(looks) == LOOKS


def test_a_page_is_at_rest_after_the_run_that_its_run_asked_for(page):
    page.set_content(MADE.format("black"))
    page.evaluate(BEGIN)
    page.evaluate(
        f"() => {{ setTimeout(() => {{ {END}; setTimeout(() => {{ {BEGIN}; "
        f"setTimeout(() => {{ {END}; window.over = true; }}, 500); }}, 50); }}, 50); }}"
    )
    settled(page)
    assert page.evaluate("window.over")
