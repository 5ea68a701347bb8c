"""Every page of the app in a real Chromium, by its address and by the menu, with each kind of subject.

The pages are those of the app's own menu. On none may there be an error box, an error of JavaScript, a request that
fails, or an error in the server's log.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from accessible import grave
from browser import fits, go_to, in_colours, settled
from browser_pages import DRAWN, HOSTILE, LOADED, look_at
from playwright.sync_api import Page, Response, expect
from servers import Server, served
from small_corpus import texts_of

from moeviz.charts import TOPICS
from moeviz.formats.counts_file import write_counts
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.exports import write_trace
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from moeviz_app.views.menu import EXHIBIT, EXPERT, FIRST, GALLERY, ICONS, MENU, MORE, place_of

pytestmark = pytest.mark.browser
NAMES = [name for names in MENU.values() for name in names]
BROKEN = "[data-testid=stException]"  # the red box of an error that nobody foresaw
REFUSED = "[data-testid=stAlertContentError]"
IN_THE_LOG = ("Traceback", "ERROR", "a page failed")
STREAMLITS_OWN = ("/_stcore/health", "/_stcore/host-config")  # asked for under any address, and found under the first
OUT_OF_SIGHT = """(link) => {
  const [row, at] = [link.closest(".st-key-menu, .st-key-submenu"), link].map((part) => part.getBoundingClientRect());
  return at.left < row.left - 1 || at.right > row.right + 1;
}"""
BEYOND = """() => [...document.querySelectorAll(".st-key-menu, .st-key-submenu")]
  .map((row) => Math.max(row.scrollWidth - row.clientWidth, 0))"""


def path_of(name: str) -> str:
    return "/" if name == FIRST else "/" + name.lower().replace(" ", "-")


@contextmanager
def nothing_fails(page: Page, server: Server) -> Iterator[Callable[[str], None]]:
    """Within the block no request fails and the server logs no error; what is given looks at the page as it is now."""
    failed, begun = [], len(server.lines)

    def hear(answer: Response) -> None:
        if answer.status >= 400 and not answer.url.endswith(STREAMLITS_OWN):
            failed.append(f"{answer.status} {answer.url}")

    def look(name: str) -> None:
        settled(page)
        boxes = page.locator(BROKEN).all_inner_texts()
        logged = [line for line in server.lines[begun:] if any(sign in line for sign in IN_THE_LOG)]
        assert (boxes, failed, logged) == ([], [], []), name

    page.on("response", hear)
    yield look


@pytest.mark.parametrize("name", [*NAMES, MORE, EXPERT])
def test_a_page_opens_by_its_address_for_a_first_visitor_in_light_and_dark(visit, server, name):
    page = visit(ready=None, path="/_stcore/health")  # a page without scripts, so that all requests are heard
    with nothing_fails(page, server) as look:
        page.goto(server.url + path_of(name))
        expect(page.locator("[data-test-script-state]")).to_be_attached()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        look(name)
        expect(page.locator(REFUSED)).to_have_count(0)
        if name in TOPICS:
            expect(page.locator(DRAWN).first).to_be_visible()
        faults = grave(page)
        in_colours(page, "dark")
        look(f"{name}, dark")
        assert not faults + grave(page, colours_alone=True)
        fits(page)


def hostile_trace() -> RoutingTrace:
    """Each hostile token twelve times, in two labelled texts, so that every topic has something to say of it."""
    texts = list(HOSTILE) * 12
    trace, half = sample_trace(tokens=len(texts)), np.arange(len(texts)) < len(texts) // 2
    tokens = trace.tokens.assign(
        text=pd.Series(texts, dtype="str"),
        label=np.where(half, HOSTILE[1], HOSTILE[2]),
        sequence=np.where(half, 0, 1).astype(np.int32),
        position=(np.arange(len(texts)) % (len(texts) // 2)).astype(np.int32),
        phase=trace.tokens["phase"].where(~half, "prompt"),
        token_id=np.arange(len(texts), dtype=np.int32) % len(HOSTILE),
    )
    return replace(trace, tokens=tokens, model=replace(trace.model, name=HOSTILE[1], caution=HOSTILE[0]))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> dict[str, Path]:
    """A trace, a dataset and counts, of which strangers wrote the texts and names."""
    folder = tmp_path_factory.mktemp("subjects")
    trace = hostile_trace()
    write_trace(trace, folder / "hostile.npz")
    write_dataset(texts_of(), folder / "![x](http:a) <b>corpus", shard_tokens=120)
    write_counts(trace.counts(), folder / "counts.json")
    names = {"trace": "hostile.npz", "dataset": "![x](http:a) <b>corpus", "counts": "counts.json"}
    return {kind: folder / name for kind, name in names.items()}


@pytest.fixture(scope="module")
def opened(subjects) -> Iterator[Server]:
    """The app as `moeviz app DATASET COUNTS` serves it on one's own machine."""
    with served(MOEVIZ_OPEN="\n".join([str(subjects["dataset"]), str(subjects["counts"])])) as running:
        yield running


def says_where_one_is(page: Page, name: str, size: str) -> None:
    """The page has a name; its place and its tab are called current, and in sight; a desktop has room for both rows."""
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    place, phone = place_of(name), size == "phone"
    of_place, of_tab = (page.locator(f".st-key-{row} a[aria-current=page]:visible") for row in ("menu", "submenu"))
    expect(of_place).to_have_count(1)
    expect(of_place).to_contain_text(MORE if phone and place not in ICONS else place)
    expect(page.locator(".st-key-menu a:visible")).to_have_count(len(ICONS) + 1 if phone else len(MENU))
    if len(MENU[place]) > 1:
        expect(of_tab).to_have_text([EXHIBIT if name in GALLERY else name])
        assert not of_tab.evaluate(OUT_OF_SIGHT)
    assert not of_place.evaluate(OUT_OF_SIGHT)
    assert phone or not any(page.evaluate(BEYOND))


def walk(page: Page, server: Server, size: str) -> None:
    """By the menu to every page, on none of which anything fails, and nothing of strangers is loaded."""
    with nothing_fails(page, server) as look:
        for name in [name for name in NAMES if name != FIRST] + [FIRST]:
            go_to(page, name)
            look(name)
            says_where_one_is(page, name, size)
            expect(page.locator(LOADED)).to_have_count(0)
            fits(page)


def test_every_page_opens_by_the_menu_of_a_phone_on_the_example(visit, server):
    walk(visit(size="phone"), server, "phone")


def test_every_page_opens_by_the_menu_on_a_trace_of_strangers(visit, server, subjects):
    page = visit("/files")
    page.locator("input[type=file]").set_input_files(subjects["trace"])
    expect(page.get_by_text("Opened.")).to_be_visible()
    walk(page, server, "desktop")


def test_every_page_opens_by_the_menu_on_a_dataset(visit, opened, subjects):
    walk(visit(f"/many-texts?subject={quote(subjects['dataset'].name)}", at=opened), opened, "desktop")


def test_every_page_opens_by_the_menu_on_counts(visit, opened):
    page = visit("/balance", at=opened)
    look_at(page, HOSTILE[1])
    expect(page.locator(".st-key-answer")).to_contain_text("tokens sent at random")
    walk(page, opened, "desktop")
