"""The pictures of the README, the tutorials and the how-tos: real screenshots of the app, made anew by one command.

    python -m docs.screenshots [NAME …]        all of them, or those named; into docs/pictures/

Each is an address of the app, which repeats a view, opened in Chromium in a window of a given size. Their colours are
reduced to 256, which nobody sees and which makes a third of the bytes. One that moves is what Play draws, by a clock
that goes on when a frame has been taken: a slow machine takes the same frames. Look at them before you commit them.
"""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from moeviz_app.jobs.recorded import EXAMPLES
from tests.support.browser import chromium, drawn
from tests.support.servers import Server, served

FOLDER = Path(__file__).parent / "pictures"
DRAWN = ".stVegaLiteChart canvas, .stVegaLiteChart svg.marks, .atlas canvas"
STEP, BEFORE, AFTER = 125, 1_000, 4_000  # ms of a frame of what moves, of its first and of its last
WIDTH = 1200  # of a window in CSS pixels: strip and card stand side by side, and a README is not much wider


@dataclass(frozen=True, slots=True)
class Screenshot:
    """A page of the app, what is asked of it, and how much of it is seen."""

    name: str
    page: str  # as in the address; "" is the first one
    asked: dict[str, str | int]
    height: int
    press: bool = False  # whether the page's main button is pressed first
    scheme: Literal["light", "dark"] = "light"
    plays: bool = False  # whether it moves: the first page, from Play to its end

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.{'webp' if self.plays else 'png'}"


FIRST_PAGE = {"prompt": EXAMPLES["Mixed"], "layer": 2, "token": 20}
PAIR = {"first": "Il fait froid à Paris, et la mer est calme.", "second": "It is cold in Paris, and the sea is calm."}
SCREENSHOTS = (
    Screenshot("first-page-light", "", FIRST_PAGE, 900),
    Screenshot("first-page-dark", "", FIRST_PAGE, 900, scheme="dark"),
    Screenshot("play-light", "", FIRST_PAGE, 900, plays=True),
    Screenshot("play-dark", "", FIRST_PAGE, 900, scheme="dark", plays=True),
    Screenshot("what-if", "what-if", {"prompt": EXAMPLES["Arithmetic"], "layer": 3}, 1060, press=True),
    Screenshot("placement", "placement", {"prompt": EXAMPLES["Python"], "layer": 3}, 750),
    Screenshot("routing-over-training", "train", {"run": "embedded"}, 780),
    Screenshot("who-takes", "experts", {"seen": "embedded", "find": "la"}, 640),
    Screenshot("all-experts", "table", {}, 760),
    Screenshot("compare", "compare", {side: urlencode({"prompt": text}) for side, text in PAIR.items()}, 660),
    Screenshot("serve", "serve", {}, 730),
)


def main(names: list[str]) -> None:
    """Take the screenshots of these names; of none: all."""
    unknown = set(names) - {shot.name for shot in SCREENSHOTS}
    if unknown:
        sys.exit(f"There is no screenshot {', '.join(unknown)}; there are {', '.join(s.name for s in SCREENSHOTS)}.")
    FOLDER.mkdir(exist_ok=True)
    with served() as server, sync_playwright() as playwright:
        browser = chromium(playwright)
        for shot in SCREENSHOTS:
            if not names or shot.name in names:
                FOLDER.joinpath(shot.file).write_bytes(taken(shot, server, browser))
        browser.close()


def taken(shot: Screenshot, server: Server, browser: Browser) -> bytes:
    """The picture of one page, once all of it is drawn."""
    size = {"width": WIDTH, "height": shot.height}
    scale = 1 if shot.plays else 1.25
    page = browser.new_page(viewport=size, color_scheme=shot.scheme, device_scale_factor=scale)
    page.set_default_timeout(60_000)  # the first page also loads the model
    page.goto(f"{server.url}/{shot.page}?{urlencode(shot.asked)}")
    if shot.press:
        page.get_by_test_id("stBaseButton-primary").click()
    if shot.page:
        expect(page.locator(DRAWN).first).to_be_visible()
    else:
        drawn(page)
    wait(page)
    page.mouse.move(0, 0)
    made = moving(played(page)) if shot.plays else small(page.screenshot(animations="disabled", caret="hide"))
    page.close()
    return made


def played(page: Page) -> list[bytes]:
    """The PNGs of the first page: before Play, and until it has ended."""
    button = page.get_by_role("button", name="Play the path")
    frames = [page.screenshot(caret="hide")]
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") + STEP)
    button.click()
    page.mouse.move(0, 0)
    while "Stop" in button.inner_text():
        page.clock.run_for(STEP)
        frames.append(page.screenshot(caret="hide"))
    return frames


def wait(page: Page) -> None:
    """Until the script has ended; then until nothing comes any more."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    page.wait_for_load_state("networkidle")
    page.wait_for_function("() => document.fonts.status === 'loaded'")
    page.wait_for_timeout(1_000)  # charts settle into the width of their page


def small(png: bytes) -> bytes:
    """The same picture with 256 colours of its own."""
    made = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


def moving(pngs: list[bytes]) -> bytes:
    """One WebP of all of them, over and over; without losses, since little changes from one to the next."""
    made, frames = BytesIO(), [Image.open(BytesIO(png)).convert("RGB") for png in pngs]
    times = [BEFORE, *([STEP] * (len(frames) - 2)), AFTER]
    how = {"lossless": True, "quality": 70, "method": 4, "kmax": 0}  # how hard it tries; and no frame is kept whole
    frames[0].save(made, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, **how)
    return made.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
