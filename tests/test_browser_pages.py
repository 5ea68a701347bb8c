"""Every page in a real Chromium: on a desktop and a phone, light and dark, to read and to hear.

On no page may anything serious be in the way of a screen reader, a keyboard or weak eyes.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from accessible import grave
from browser import SIZES, go_to, settled, watched
from moeviz_app.views.menu import FIRST, GALLERY, MENU
from playwright.sync_api import expect
from test_browser import DRAWN, PROMPT, overflow, run

from moeviz.charts import TOPICS
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser
NAMES = [name for names in MENU.values() for name in names if name != FIRST]
LONGER = "\n".join([PROMPT, "The old captain walked along the shore; 12 + 7 = 19."] * 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_drawn_and_has_no_grave_fault(server, browser, size, scheme):
    visitor = watched(server, browser, color_scheme=scheme, **SIZES[size])
    page = next(visitor)
    run(page, LONGER)
    assert not grave(page)
    twice = (size, scheme) in (("desktop", "dark"), ("phone", "light"))  # each size and scheme once: there are many
    for name in [name for name in NAMES if twice or name not in GALLERY]:
        go_to(page, name)
        settled(page)
        if name in TOPICS:
            expect(page.locator(DRAWN).first).to_be_visible()
        assert overflow(page) == 0, name
        assert not grave(page), name
    assert next(visitor, None) is None


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


def test_what_strangers_wrote_stays_text_on_every_page(page, tmp_path):
    """Each hostile token twelve times, in two labelled texts, so that every topic has something to say of it."""
    texts = list(HOSTILE) * 12
    tokens = sample_trace(tokens=len(texts)).tokens
    half = np.arange(len(texts)) < len(texts) // 2
    tokens = tokens.assign(
        text=pd.Series(texts, dtype="str"),
        label=np.where(half, HOSTILE[1], HOSTILE[2]),
        sequence=np.where(half, 0, 1).astype(np.int32),
        position=(np.arange(len(texts)) % (len(texts) // 2)).astype(np.int32),
        phase=tokens["phase"].where(~half, "prompt"),
        token_id=np.arange(len(texts), dtype=np.int32) % len(HOSTILE),
    )
    trace = sample_trace(tokens=len(texts))
    file = tmp_path / "hostile.npz"
    write_trace(replace(trace, tokens=tokens, model=replace(trace.model, name=HOSTILE[1], caution=HOSTILE[0])), file)
    go_to(page, "Traces")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("Opened.")).to_be_visible()
    for name in NAMES:
        go_to(page, name)
        settled(page)
        assert page.locator("img[src='x'], img[src*='example.com'], a[href*='example.com']").count() == 0, name
        assert overflow(page) == 0, name
