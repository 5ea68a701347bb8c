"""What a visitor does on a page in a browser, and reads there: the prompt box, the layers, the strip of tokens."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from accessible import grave
from browser import all_drawn, drawn, eventually, fits, in_colours, settled
from playwright.sync_api import Locator, Page, expect
from servers import Server

import moeviz
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace

PROMPT = "Il fait froid.\ndef f(x):\n    return x + 1"
DRAWN = ".stVegaLiteChart canvas, .stVegaLiteChart svg.marks"


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Prompt", exact=True)


def press_run(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).click()


def run(page: Page, prompt: str, keys: str = "") -> None:
    """Type a prompt and run it, by the button or by keys, and wait until its trace is on the page."""
    box(page).fill(prompt)
    if keys:
        box(page).press(keys)
    else:
        press_run(page)
    ran(page, prompt)


def ran(page: Page, prompt: str) -> None:
    """Wait until the trace of this prompt is on the page: the address says so, and the script has run once more."""
    page.wait_for_function("text => new URLSearchParams(location.search).get('prompt') === text", arg=prompt)
    drawn(page)


def ask_for(page: Page, how_many: str) -> None:
    """Among the options: none, or as many tokens to generate as there may be."""
    page.get_by_role("button", name="Model and options").click()
    page.get_by_role("slider", name="Tokens to generate").press({"none": "Home", "all": "End"}[how_many])
    settled(page)
    page.keyboard.press("Escape")


def subject(page: Page) -> Locator:
    """The box of the bar under the menu, whose value is the title of what the visitor looks at."""
    return page.get_by_role("combobox", name="What you are looking at")


def look_at(page: Page, name: str) -> None:
    """Choose another subject in that bar, by a part of its title."""
    subject(page).fill(name)
    page.get_by_role("option", name=name).click()
    expect(subject(page)).to_have_value(re.compile(re.escape(name)))
    settled(page)


def tokens(page: Page) -> Locator:
    return page.get_by_role("listbox", name=re.compile("^Tokens")).get_by_role("option")


def chosen(page: Page) -> Locator:
    return page.get_by_role("option", selected=True)


def layer(page: Page) -> Locator:
    """The button of the layer that the explorer shows."""
    return page.locator(".steps [aria-pressed=true]")


def choose_layer(page: Page, of_model: int) -> None:
    page.get_by_role("button", name=f"layer {of_model}", exact=True).click()
    expect(layer(page)).to_have_text(str(of_model))


def picture(page: Page, question: str) -> Locator:
    """The chart that answers a question, once it is drawn large: it is scrolled to, since what is far down waits."""
    make_large(page, question)
    page.get_by_text(question).first.scroll_into_view_if_needed()
    return page.locator(f'.stVegaLiteChart[aria-label^="{question}"]').locator("canvas, svg.marks")


def make_large(page: Page, question: str) -> None:
    """Press the small picture that answers a question, where the page draws it small."""
    small = page.locator("[class*='st-key-swap-'] .stButton button").filter(has_text=question)
    expect(small.or_(page.get_by_role("heading", name=question)).first).to_be_visible()
    if small.count():
        small.click()
        settled(page)


def strip_of(trace: RoutingTrace, layer: int) -> list[str]:
    """What the strip should say: each token and its first choice."""
    at = trace.model.layers.index(layer)
    texts = [visible(text) for text in trace.tokens["text"]]
    return [f"{text}{expert}" for text, expert in zip(texts, trace.experts[at, :, 0], strict=True)]


def slider(page: Page) -> Locator:
    return page.get_by_role("slider", name="Layer")


@contextmanager
def generating(page: Page, server: Server, prompt: str, model: str = "embedded") -> Iterator[int]:
    """Within the block the model goes on after that prompt, until it is stopped; how many tokens the prompt has."""
    run(page, prompt)
    count = len(moeviz.trace(model, prompt).tokens)
    expect(tokens(page)).to_have_count(count)
    ask_for(page, "all")
    with server.holding():
        press_run(page)
        expect(page.get_by_text("generated", exact=True)).to_be_visible()  # in the strip, while the model goes on
        yield count


def some_generated(page: Page, count: int) -> None:
    """More tokens than those of the prompt are kept, and not all that were asked for."""
    eventually(page, lambda: tokens(page).count(), lambda found: count < found < count + 900)


def path_of(page: Page) -> str:
    """Its address without the machine, to be opened by somebody else."""
    return urlsplit(page.url)._replace(scheme="", netloc="").geturl()


LOADED = "img[src='x'], img[src*='example.com'], a[href*='example.com']"


def check(page: Page) -> None:
    """A page at rest is drawn and fits, loads nothing of strangers, and has no grave fault in light and dark."""
    settled(page)
    all_drawn(page)
    expect(page.locator(DRAWN).first).to_be_visible()
    fits(page)
    expect(page.locator(LOADED)).to_have_count(0)
    for scheme in ("dark", "light"):
        in_colours(page, scheme)
        found = grave(page, colours_alone=scheme == "light")
        assert not found, (scheme, found)


def title(page: Page):
    return page.get_by_role("heading", level=1)


VIEW = "[...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.explorer')?.view).find(Boolean)"
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://example.com/x.png)",
    "{{7*7}} ${7*7} $x$ :material/home:",
    "\u202eevil\u202c\u200b",
    "⟨😀 1/2⟩",
    "=HYPERLINK(http://example.com)",
    "x" * 10_000,
)
