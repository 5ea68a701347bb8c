"""`moeviz.view`: one piece of HTML, whole and offline, in which strip, map and line show one choice."""

import base64
import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from accessible import faults
from nbclient import NotebookClient
from playwright.sync_api import Frame, Page, expect
from site_of_docs import served as hosted

import moeviz
from moeviz import RoutingTrace
from moeviz.charts import theme
from moeviz.charts.token_layer_marks import ABOVE, GUTTER, row_height
from moeviz.errors import MoevizError
from moeviz.metrics.tokens import visible
from moeviz.report import view as report_view
from moeviz.report.page_folder import write_page
from moeviz.report.view import View
from moeviz.testing import sample_trace

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "view.ipynb"
COLAB = NOTEBOOK.with_name("colab.ipynb")
KILOBYTE = 1_000
ACCENT = [232, 89, 12]  # theme.ACCENT
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(3)>",
    '"><iframe srcdoc="<script>alert(4)</script>">',
    "{{7*7}} ${7*7}",
    "\u2028\u2029\u202egnp.exe\u202c",
    "שלום",
    "مرحبا",
    "⟨😀 1/2⟩",
    "x" * 10_000,
)


def with_texts(trace: RoutingTrace, texts: tuple[str, ...]) -> RoutingTrace:
    text = pd.Series(np.resize(np.array(texts, object), len(trace.tokens)), dtype="str")
    return replace(trace, tokens=trace.tokens.assign(text=text))


def with_empty_slots(trace: RoutingTrace) -> RoutingTrace:
    """Token 1 got no expert at all; token 2 none at layer 0 and one at the others."""
    experts, weights = trace.experts.copy(), trace.weights.copy()
    for empty in (np.s_[:, 1], np.s_[0, 2], np.s_[:, 2, 1:]):
        experts[empty], weights[empty] = -1, 0
    return replace(trace, experts=experts, weights=weights)


def unpacked(html: str, name: str) -> str:
    packed = re.search(rf'<script type="text/plain" id="{name}">([\w+/=]*)</script>', html)[1]
    return gzip.decompress(base64.b64decode(packed)).decode()


# ---- the page as text ----


def test_nothing_in_the_page_has_an_address(trace):
    html = View(trace).html
    assert "://" not in html and not re.search(r"\b(src|href)\s*=|url\(|@import", html)
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:" in html


def test_a_notebook_gets_the_whole_page_in_a_frame_that_may_run_scripts_and_nothing_else(trace):
    view = View(trace)
    html = view._repr_html_()
    assert html.count("<") == 2 and html.startswith("<iframe ") and 'sandbox="allow-scripts"' in html
    assert view.html.count('"') == html.count("&quot;")
    assert len(html) < len(view.html) * 1.05  # the frame costs next to nothing


def test_the_page_holds_what_each_router_chose(trace):
    data = json.loads(unpacked(View(trace).html, "data"))
    assert data["experts"] == trace.experts.tolist()
    assert np.allclose(data["weights"], trace.weights, atol=5e-4)
    assert [token["text"] for token in data["tokens"]] == [visible(text) for text in trace.tokens["text"]]
    assert [i for i, token in enumerate(data["tokens"]) if token["mark"] == "generated"] == [24]


def test_strip_and_map_have_the_same_colours():
    for experts in (8, 64):
        trace = with_empty_slots(sample_trace(tokens=40, experts=experts))
        data = json.loads(unpacked(View(trace).html, "data"))
        (cells,) = [rows for rows in data["chart"]["datasets"].values() if "expert" in rows[0]]
        (colours,) = [param["value"] for param in data["chart"]["params"] if param["name"] == "colours"]
        assert len(cells) == (trace.experts >= 0).sum()
        for cell in cells:
            assert cell["expert"] == trace.experts[cell["layer"], cell["token"], cell["slot"]]
            own = colours[cell["layer"]].get(str(cell["expert"]), theme.OTHER)
            assert own == data["colours"][cell["layer"]][cell["expert"]]


def test_several_texts_are_named_where_they_begin():
    trace = sample_trace(tokens=8)
    tokens = trace.tokens.assign(sequence=np.repeat([0, 1], 4).astype("int32"))
    data = json.loads(unpacked(View(replace(trace, tokens=tokens)).html, "data"))
    assert {i: token["mark"] for i, token in enumerate(data["tokens"]) if token["mark"]} == {
        0: "text 1",
        4: "text 2",
        6: "generated",
    }


@pytest.mark.parametrize(
    ("shape", "most"), [({"tokens": 14, "layers": 6}, 430), ({"tokens": 256, "layers": 32, "top_k": 8}, 1_000)]
)
def test_it_weighs_little_more_than_vega(shape, most):
    assert 400 * KILOBYTE < len(View(sample_trace(**shape)).html) < most * KILOBYTE


# ---- the front door ----


def test_a_model_and_a_text_are_traced_and_drawn():
    view = moeviz.view("embedded", "Il fait froid.", max_new_tokens=3)
    assert view.trace.equals(moeviz.trace("embedded", "Il fait froid.", max_new_tokens=3))


def test_a_trace_is_drawn_as_it_is_and_loads_no_torch(trace):
    assert moeviz.view(trace).trace is trace
    code = (
        "import sys, moeviz; from moeviz.testing import sample_trace; moeviz.view(sample_trace())._repr_html_();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (["embedded"], {}, "A view of 'embedded' needs a text for the model to read: moeviz.view(model,"),
        ([object()], {}, "A view of a object needs a text"),
        ([sample_trace(), "text"], {}, "got a text"),
        ([sample_trace()], {"max_new_tokens": 3}, "got max_new_tokens"),
        ([sample_trace(tokens=8).select(tokens=slice(0, 0))], {}, "This trace holds no tokens"),
        ([sample_trace(tokens=300)], {}, "A view shows 256 tokens at most where a model has 4 MoE layers, and this"),
        ([sample_trace(tokens=256, layers=94)], {}, "moeviz.view(trace.select(tokens=slice(0, 174)))."),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(arguments, options, sentence):
    with pytest.raises(MoevizError, match=re.escape(sentence)):
        moeviz.view(*arguments, **options)


def test_without_the_converter_a_sentence_says_how_to_get_it(trace, monkeypatch):
    monkeypatch.setattr(report_view, "installed", lambda: False)
    with pytest.raises(MoevizError, match=re.escape('`pip install "moeviz[notebook]"`')):
        moeviz.view(trace)


# ---- the page in a browser ----


@pytest.fixture
def opened(visit, tmp_path):
    """Opens a page from a file, without a network. No warning may reach the console, and nothing may be asked for."""
    wrong = []

    def open_(html: str, size: str = "desktop", scheme: str = "light") -> Page:
        path = tmp_path / f"{len(visit.mine)}.html"
        path.write_text(html, encoding="utf-8")
        tab = visit.blank(size, scheme)
        tab.context.set_offline(True)
        tab.page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else stop(route))
        tab.page.on("console", lambda said: wrong.append(said.text) if said.type == "warning" else None)
        tab.page.goto(path.as_uri())
        return tab.page

    def stop(route):
        wrong.append(route.request.url)
        route.abort()

    yield open_
    assert not wrong


def drawn(page: Page | Frame):
    expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
    return page


def chosen(page) -> int:
    """Which token the strip marks."""
    (index,) = page.locator(".token").evaluate_all(
        "all => all.flatMap((token, i) => token.ariaSelected === 'true' ? [i] : [])"
    )
    return index


EDGES = """async (canvas, [tokens, layers, gutter, above, row, accent]) => {
  await new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)));
  const ratio = canvas.width / canvas.clientWidth, cell = (canvas.clientWidth - gutter - 2) / tokens;
  const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const edges = (count) => Array.from({ length: count + 1 }, (_, i) => i);
  const near = (x, y) => {
    const pixel = pen.getImageData(x, y, 1, 1).data;
    return accent.every((part, i) => Math.abs(part - pixel[i]) < 30);
  };
  const lit = (x, y) => [-1, 0, 1].some((by) => near(Math.floor(x * ratio) + by, Math.floor(y * ratio) + by));
  const columns = edges(tokens).filter((t) => lit(gutter + t * cell, above + 5));
  return [columns, edges(layers).filter((l) => lit(gutter + (columns[0] + 0.7) * cell, above + l * row))];
}"""


def framed(page, trace: RoutingTrace) -> tuple[int, int]:
    """Which token and layer the map has frames around, by the pixels of its canvas."""
    tokens, layers = len(trace.tokens), len(trace.model.layers)
    given = [tokens, layers, GUTTER, ABOVE, row_height(layers), ACCENT]
    columns, rows = page.locator(".map canvas").evaluate(EDGES, given)
    (layer,) = [place for place in range(layers) if {0, layers, place, place + 1} == set(rows)]  # the column's ends too
    assert columns == [columns[0], columns[0] + 1]
    return columns[0], layer


def said(page) -> str:
    return page.locator(".said").inner_text()


def sentence(trace: RoutingTrace, token: int, layer: int) -> str:
    """How the line begins that says what is chosen."""
    expert = trace.experts[layer, token, 0]
    shown = visible(trace.tokens["text"][token])
    start = f"#{trace.tokens['position'][token]} {shown} · layer {trace.model.layers[layer]} · "
    if expert < 0:
        return start + "no expert"
    weight = "" if trace.weights is None else f" weight {trace.weights[layer, token, 0]:.3f}"
    return f"{start}expert {expert}{weight}"


def shows(page, trace: RoutingTrace, token: int, layer: int) -> None:
    """Strip, map and line show this choice, and the strip the experts of that layer."""
    assert chosen(page) == token
    assert framed(page, trace) == (token, layer)
    assert said(page).startswith(sentence(trace, token, layer))
    ids = ["–" if expert < 0 else str(expert) for expert in trace.experts[layer, :, 0]]
    assert page.locator(".token sub").all_inner_texts() == ids


def place(page, trace: RoutingTrace, token: int, layer: int) -> dict[str, float]:
    """Where the cell is, from the corner of the map."""
    cell = (page.locator(".map canvas").bounding_box()["width"] - GUTTER - 2) / len(trace.tokens)
    row = row_height(len(trace.model.layers))
    return {"x": GUTTER + (token + 0.5) * cell, "y": ABOVE + (layer + 0.5) * row}


@pytest.mark.browser
@pytest.mark.parametrize("ids_alone", [False, True])
def test_strip_map_and_line_show_one_choice(opened, ids_alone):
    trace = with_empty_slots(sample_trace(tokens=16))
    if ids_alone:
        trace = replace(trace, weights=None, logits=None)
    page = drawn(opened(View(trace).html))
    shows(page, trace, 0, 2)
    page.locator(".token").nth(5).click()
    shows(page, trace, 5, 2)
    page.locator(".map").click(position=place(page, trace, 9, 1))
    shows(page, trace, 9, 1)
    page.locator(".map").click(position=place(page, trace, 1, 3))  # an empty slot
    shows(page, trace, 1, 3)
    page.get_by_role("button", name="layer 0").click()
    shows(page, trace, 1, 0)


@pytest.mark.browser
@pytest.mark.parametrize("where", [".token[tabindex='0']", ".map"])
def test_the_keys_walk_through_tokens_and_layers_and_stop_at_the_ends(opened, where):
    trace = sample_trace(tokens=16)
    page = drawn(opened(View(trace).html))
    page.locator(where).focus()
    for keys, token, layer in (
        ("ArrowRight ArrowRight ArrowDown", 2, 3),
        ("ArrowDown ArrowLeft", 1, 3),
        ("End ArrowRight ArrowUp", 15, 2),
        ("Home ArrowLeft", 0, 2),
    ):
        for key in keys.split():
            page.keyboard.press(key)
        shows(page, trace, token, layer)


@pytest.mark.browser
def test_pointing_at_a_cell_says_all_its_experts(opened):
    trace = sample_trace(tokens=16)
    page = drawn(opened(View(trace).html))
    page.locator(".map").hover(position=place(page, trace, 7, 3))
    tip = page.locator(".tip").inner_text()
    assert tip.startswith(sentence(trace, 7, 3))
    assert f"expert {trace.experts[3, 7, 1]} {trace.weights[3, 7, 1]:.3f}" in tip
    page.locator(".map").press("ArrowUp")  # what it says is no longer what is chosen
    expect(page.locator(".tip")).to_be_hidden()
    page.locator(".map").hover(position=place(page, trace, 8, 3))
    expect(page.locator(".tip")).to_be_visible()
    page.locator("header").hover()
    expect(page.locator(".tip")).to_be_hidden()


@pytest.mark.browser
def test_what_strangers_wrote_stays_text(opened):
    trace = with_texts(sample_trace(tokens=24), HOSTILE)
    trace = replace(trace, model=replace(trace.model, name=HOSTILE[1], caution=HOSTILE[3]))
    page = drawn(opened(View(trace).html))
    for token, text in enumerate(HOSTILE):
        page.locator(".token").nth(token).click()
        shown = page.locator(".said .word").inner_text()
        assert shown == visible(text[:300]) + "…" * (len(text) > 300)
    assert page.locator("h1").inner_text() == HOSTILE[1]
    expect(page.locator("main :is(script, img, iframe), header :is(script, img, iframe)")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "dark"), ("phone", "light")])
def test_the_largest_trace_is_drawn_on_desktop_and_phone_and_has_no_grave_fault(opened, size, scheme):
    trace = sample_trace(tokens=256, layers=32, top_k=8)
    page = drawn(opened(View(trace).html, size, scheme))
    page.locator(".map").click(position=place(page, trace, 200, 20))
    assert said(page).startswith(sentence(trace, chosen(page), 20)) and abs(chosen(page) - 200) <= 1
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert not faults(page)


# ---- the page on a web host ----


# Later, since what Playwright evaluates may do what the page's own scripts may not.
MAKES_A_FUNCTION = """() => new Promise((told) => setTimeout(() => {
  try { told(new Function("return 'made'")()); } catch (error) { told(error.name); }
}))"""


@pytest.fixture
def on_a_host(visit, tmp_path):
    """Writes a trace's page into a folder below a host's root, opens it, and tells what it asks for."""
    with hosted(tmp_path) as address:

        def open_(trace: RoutingTrace, size: str = "desktop", scheme: str = "light") -> tuple[Page, list[str]]:
            write_page(trace, tmp_path / "some" / "page")
            tab, asked = visit.blank(size, scheme), []
            tab.page.on("request", lambda request: asked.append(request.url.removeprefix(f"{address}/some/page/")))
            tab.page.goto(f"{address}/some/page/")
            return drawn(tab.page), asked

        yield open_


@pytest.mark.browser
def test_a_page_on_a_web_host_shows_one_choice_and_asks_for_its_own_files_alone(on_a_host, visit):
    trace = with_empty_slots(sample_trace(tokens=16))
    page, asked = on_a_host(trace)
    shows(page, trace, 0, 2)
    page.locator(".token").nth(5).click()
    shows(page, trace, 5, 2)
    page.locator(".map").click(position=place(page, trace, 9, 1))
    shows(page, trace, 9, 1)
    assert {url for url in asked if not url.startswith("data:")} == {"", "view.css", "view.js", "vega.js", "data.json"}
    (tab,) = visit.mine
    tab.may_say = "violates the following Content Security Policy"
    assert page.evaluate(MAKES_A_FUNCTION) == "EvalError"


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "dark"), ("phone", "light")])
def test_of_a_long_trace_of_a_stranger_the_host_s_page_shows_a_stretch_as_text(on_a_host, size, scheme):
    trace = with_texts(sample_trace(tokens=300), HOSTILE)
    trace = replace(trace, model=replace(trace.model, name=HOSTILE[1], caution=HOSTILE[3]))
    page, _ = on_a_host(trace, size, scheme)
    expect(page.locator(".token")).to_have_count(theme.MAX_TOKENS)
    expect(page.locator("footer")).to_contain_text("This page shows the first 256 of 300 tokens.")
    page.locator(".token").nth(len(HOSTILE) - 1).click()  # the longest: the line about it scrolls
    assert page.locator(".said .word").inner_text() == "x" * 300 + "…"
    assert page.locator("h1").inner_text() == HOSTILE[1]
    expect(page.locator("main :is(script, img, iframe), header :is(script, img, iframe)")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert not faults(page)


# ---- the notebook ----


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The notebook of the documentation, run from top to bottom in an empty folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder


def outputs(notebook) -> list[dict]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output.data for cell in cells for output in cell.outputs if output.output_type == "execute_result"]


@pytest.mark.docs
def test_the_notebook_runs_and_its_file_holds_no_outputs(notebook):
    shown = outputs(notebook[0])
    assert ["text/html" in output for output in shown] == [True, True, False]
    assert shown[0]["text/plain"].startswith("<View of ")
    assert (notebook[1] / "view.html").read_text("utf-8").startswith("<!doctype html>")
    assert not outputs(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.docs
def test_the_notebook_for_colab_runs_as_far_as_no_gpu_is_needed(tmp_path):
    """On the embedded model. The cell that installs is for where moeviz is not there."""
    notebook = nbformat.read(COLAB, as_version=4)
    assert not outputs(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    )
    assert "embedded: 2 of 8 experts per token" in printed and "none of them in experts, which are fused" in printed
    name, by, view, files = outputs(notebook)
    assert (name["text/plain"], by["text/plain"]) == ("('embedded', 'float32')", "'hooks'")
    assert view["text/plain"].startswith("<View of ")
    assert files["text/plain"] == "['report.html', 'trace.npz']"
    assert moeviz.read_trace(tmp_path / "trace.npz").experts.shape[0] == 6


@pytest.mark.browser
def test_in_the_notebook_a_click_on_a_token_marks_it_in_the_map(notebook, opened):
    html = outputs(notebook[0])[0]["text/html"]
    trace = moeviz.trace(
        "embedded", re.search(r'"embedded", "(.*)"\)', notebook[0].cells[1].source)[1].replace("\\n", "\n")
    )
    page = opened(f"<!doctype html><title>A notebook</title><p>above</p>{html}<p>below</p>")
    frame = page.locator("iframe").element_handle().content_frame()
    drawn(frame)
    shows(frame, trace, 0, 3)
    frame.locator(".token").nth(6).click()
    shows(frame, trace, 6, 3)
    assert frame.evaluate("document.documentElement.scrollHeight - innerHeight") <= 0  # nothing is cut off
