"""What a screen reader, a keyboard or weak eyes would stumble over in a page: axe-core finds it."""

from axe_playwright_python.sync_playwright import Axe
from browser import settled
from playwright.sync_api import Page

GRAVE = ("serious", "critical")
# Streamlit's own: its list of pages on a phone nests what a list may not, and names of shortcuts are pale on a button.
NOT_OURS = {"exclude": [["[data-testid=stSidebarNav]"], ["kbd"]]}
# Now and then, Chromium goes on listing a transition that has finished.
STILL = "() => document.getAnimations().every(one => !(one instanceof CSSTransition) || one.playState === 'finished')"
WATCH = """() => {
  const app = document.querySelector("[data-test-script-state]");
  window.hasRun = false;
  new MutationObserver(() => window.hasRun = true).observe(app, {attributeFilter: ["data-test-script-state"]});
}"""
LOOK = """async ([where, runOnly]) =>
  (await axe.run(where, { resultTypes: ['violations'], ...(runOnly && { runOnly }) })).violations"""
OF_COLOURS = ["color-contrast", "link-in-text-block"]
LOOKS = 10  # a script that runs at each of them will run at the next


def grave(page: Page, colours_alone: bool = False) -> list[str]:
    """What axe-core finds serious, with the element it is about, while no script runs.

    `colours_alone`: of a page that was looked at already, in other colours.

    axe takes a second or more. A script that began meanwhile, as for an answer that is there now, makes pale what it
    has not yet drawn anew: then a fault may be no fault, and the page is looked at again.
    """
    for _ in range(LOOKS):
        settled(page)
        page.wait_for_function(STILL)
        page.evaluate(WATCH)
        found = faults(page, OF_COLOURS if colours_alone else None)
        if not found or not page.evaluate("window.hasRun"):
            break
    return found


def faults(page: Page, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds serious at this moment by these rules, with the element it is about."""
    if not page.evaluate("'axe' in window"):  # half a megabyte: once a document
        page.evaluate(Axe().axe_script)
    found = page.evaluate(LOOK, [NOT_OURS, rules])
    return [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found if fault["impact"] in GRAVE]
