"""The HTML report: whole, offline, and inert whatever strangers wrote into the trace."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from labels import labelled
from PIL import Image

from moeviz import ParameterCounts, RoutingTrace, write_trace
from moeviz.charts import REPORTED
from moeviz.cli.main import main
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.exports import EXPORTS, read_bytes, read_trace
from moeviz.report import page as report
from moeviz.report import pictures as report_pictures
from moeviz.report.page import html_report, ink_on
from moeviz.testing import sample_trace

CHARTS = [chart for charts in REPORTED.values() for chart in charts]
COUNTS = ParameterCounts(6_000, 6_000, 20_000, 400, 96_000, 0, 0, 90, per_expert=(3_000,) * 4)
OWN = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "article", "footer", "nav", "a"),
    *("h1", "h2", "h3", "p", "div", "span", "sub", "i", "br", "pre", "code", "details", "summary"),
    *("table", "tr", "th", "td", "picture", "source", "img"),
}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</table></main><iframe src=http://example.com>",
    "<style>*{background:url(http://example.com/x.png)}</style>",
    "\u202egnp.exe\u202c",
    "{{7*7}}",
    "![x](http://example.com/x.png) **bold**",
    "&lt;b&gt;",
    "\0\x1b[2J",
    "a" * 10_000,
)


class Page(HTMLParser):
    """What a browser would make of a report: its elements, and the text of each kind."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags, self.attributes, self.stack, self.texts = [], [], [], []
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.stack.append("p.why" if ("class", "why") in attrs else tag)

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop().split(".")[0] != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def handle_comment(self, data):
        self.tags.append("comment")

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]

    @property
    def sentences(self) -> list[str]:
        """Why there is no picture, where there is none."""
        return self.of("p.why")

    @property
    def text(self) -> str:
        return "".join(text for where, text in self.texts if where != "style")


def with_everything(trace: RoutingTrace, texts: tuple[str, ...] = ("a", " b", "\n")) -> RoutingTrace:
    """The trace with these texts as tokens, labels, and facts, and with parameter counts."""
    text = pd.Series(np.resize(np.array(texts, object), len(trace.tokens)), dtype="str")
    named = labelled(replace(trace, tokens=trace.tokens.assign(text=text)), tuple(text[:100] for text in texts))
    facts = dict.fromkeys(("name", "backend", "dtype", "revision", "site", "layer_kind", "caution"), " ".join(texts))
    return replace(named, model=replace(named.model, parameters=COUNTS, **facts))


@pytest.fixture(scope="module")
def hostile() -> bytes:
    return html_report(with_everything(sample_trace(tokens=132), HOSTILE))


@pytest.fixture(scope="module")
def plain() -> bytes:
    return html_report(sample_trace())


@pytest.fixture
def no_topics(monkeypatch) -> None:
    """Reports without pictures, where a test is about the rest: they are there at once."""
    monkeypatch.setattr(report, "REPORTED", {})


def test_every_chart_is_there_with_question_reading_picture_method_and_numbers(hostile):
    page = Page(hostile)
    assert page.of("h3") == [chart.question for chart in CHARTS]
    assert [page.tags.count(tag) for tag in ("article", "img", "source")] == [len(CHARTS)] * 3, page.sentences
    assert page.of("summary") == ["How is this computed?", "Numbers"] * len(CHARTS)
    for chart in CHARTS:
        assert chart.reading in page.text
        assert chart.method.splitlines()[0] in page.text


def test_a_chart_that_the_trace_lacks_something_for_says_what(plain):
    page = Page(plain)
    assert page.of("h3") == [chart.question for chart in CHARTS]
    assert page.tags.count("img") + len(page.sentences) == len(CHARTS)
    assert any("needs tokens with a label" in sentence for sentence in page.sentences)


def test_a_topic_added_today_is_in_today_s_report(trace, monkeypatch):
    monkeypatch.setattr(report, "REPORTED", {"Weather": REPORTED["Load"][:1]})
    page = Page(html_report(trace))
    assert page.of("h2") == ["Text", "Weather"] and page.of("a") == ["Weather"]


def test_no_element_and_no_attribute_comes_from_a_stranger(hostile, plain):
    page = Page(hostile)
    assert set(page.tags) <= OWN
    names = {name for _, name, _ in page.attributes}
    assert names <= {name for _, name, _ in Page(plain).attributes}
    assert not [name for name in names if name.startswith("on")]


def test_what_strangers_wrote_is_there_as_text(hostile):
    shown = Page(hostile).text
    for text in HOSTILE[:5] + HOSTILE[6:9]:
        assert text in shown.replace("␣", " ")
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩" in shown and "⟨U+0000⟩⟨U+001B⟩[2J" in shown
    assert not set("\u202e\u202c\0\x1b") & set(hostile.decode())


def test_a_very_long_token_is_cut_and_its_length_is_said(hostile):
    page = Page(hostile)
    assert "a" * 200 + "… (10,000 characters)" in page.of("span")
    assert max(map(len, page.of("span"))) < 300 and max(map(len, page.of("td"))) < 300


def test_nothing_is_fetched_from_anywhere(hostile):
    page = Page(hostile)
    loaded = [value for _, name, value in page.attributes if name in ("src", "srcset")]
    assert loaded and all(value.startswith("data:image/") for value in loaded)
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    assert "url(" not in "".join(page.of("style")) and "@import" not in "".join(page.of("style"))
    assert not {name for _, name, _ in page.attributes} & {"style", "action", "background", "data", "poster"}


def test_a_policy_forbids_scripts_and_requests_before_anything_else(plain):
    page = Page(plain)
    policy = dict(part.split(" ", 1) for part in report.POLICY.split("; "))
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data:" and "script-src" not in policy
    assert ("meta", "content", report.POLICY) in page.attributes[:5]


def test_pictures_hold_nothing_that_runs_or_is_fetched_and_no_token(hostile):
    for svg in vector_pictures(hostile):
        tree = ElementTree.fromstring(svg)
        assert not {part.tag.split("}")[1] for part in tree.iter()} & {"script", "image", "foreignObject", "a", "style"}
        values = [value for part in tree.iter() for value in part.attrib.values()]
        assert not [value for value in values if "://" in value]
        assert "a" * 200 not in svg


def vector_pictures(data: bytes) -> list[str]:
    start = "data:image/svg+xml;base64,"
    values = [
        value for _, name, value in Page(data).attributes if name in ("src", "srcset") and value.startswith(start)
    ]
    assert values
    return [base64.b64decode(value.removeprefix(start)).decode() for value in values]


def test_the_text_is_coloured_by_the_first_choice_of_the_middle_layer(trace, no_topics):
    page = html_report(trace).decode()
    tokens = re.findall(r'<span class="c(\d)(?: generated)?">[^<]*<sub>(\d)</sub>', page)
    first = [str(expert) for expert in trace.experts[2, :, 0]]
    assert [expert for _, expert in tokens] == first == [colour for colour, _ in tokens]


def test_layers_and_token_can_be_chosen(trace, plain, monkeypatch):
    monkeypatch.setattr(report, "REPORTED", {name: REPORTED[name] for name in ("Tokens", "Layers")})
    text = Page(html_report(trace, layer=1, layers=(0, 2), token=5)).text
    assert "Layer 1. " in text and "Layers 0 and 2. " in text and "Token 5. " in text
    text = Page(plain).text
    assert "Layer 2. " in text and "Layers 0 and 3. " in text and "Token 31. " in text
    with pytest.raises(InvalidTrace, match="layer 9"):
        html_report(trace, layer=9)


def test_numbers_are_those_of_the_metric_and_say_how_many_are_left_out(trace, plain, monkeypatch):
    (chart,) = [chart for chart in CHARTS if chart.key == "load_heatmap"]
    cells = Page(plain).of("td")
    loads = [f"{load:.6g}" for load in chart.measure(trace)["load"]]
    assert set(loads) <= set(cells)
    monkeypatch.setattr(report, "REPORTED", {"Tokens": REPORTED["Tokens"]})
    long = Page(html_report(sample_trace(layers=2, tokens=300)))
    assert "The first 200 of 1,024 rows. " in long.text
    assert "The first 256 of 300 tokens. " in long.text


def test_a_cell_without_a_value_is_empty():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int16"), "b": [0.123456789, np.nan], "c": ["x", None]})
    row, empty = (frame.iloc[[at]] for at in (0, 1))
    assert [report._cells(row[name]) for name in row] == [["<td>1</td>"], ["<td>0.123457</td>"], ["<td>x</td>"]]
    assert [report._cells(empty[name]) for name in empty] == [["<td></td>"]] * 3


def test_a_long_text_says_how_many_tokens_are_left_out(trace, no_topics, monkeypatch):
    monkeypatch.setattr(report, "MAX_TOKENS", 10)
    page = Page(html_report(trace))
    assert "22 more tokens are not shown here." in page.of("p")
    assert page.tags.count("span") == 10


def test_several_texts_generated_tokens_and_dropped_tokens_are_told_apart(trace, no_topics):
    experts = trace.experts.copy()
    experts[2, 3] = -1
    sequence = np.repeat([0, 1], 16).astype(np.int32)
    several = replace(trace, experts=experts, weights=None, tokens=trace.tokens.assign(sequence=sequence))
    page = Page(html_report(several))
    assert page.of("i") == ["text 1", "text 2", "generated"]
    assert page.of("sub")[3] == "–"
    assert "32, 8 of them generated, in 2 texts" in page.of("td")


def test_of_many_experts_the_frequent_ones_are_coloured(no_topics):
    page = Page(html_report(sample_trace(experts=64, top_k=4, tokens=200)))
    assert "the 8 most frequent here have colours" in page.text
    assert {value for tag, name, value in page.attributes if tag == "span" and name == "class"} >= {"c0", "c7", "c9"}


def test_a_caution_stands_above_everything(trace, no_topics):
    page = Page(html_report(replace(trace, model=replace(trace.model, caution="Its experts <b>lie</b>."))))
    assert "Caution: Its experts <b>lie</b>." in page.of("p")


def test_a_trace_without_tokens_says_that_there_is_nothing_to_draw(trace):
    page = Page(html_report(trace.select(tokens=slice(0, 0))))
    assert "This trace contains no tokens, so there is nothing to draw." in page.sentences
    assert "img" not in page.tags


def test_pictures_of_a_large_model_are_small_enough_to_send(monkeypatch):
    """The cells of its map are an image inside the picture."""
    monkeypatch.setattr(report, "REPORTED", {"Tokens": REPORTED["Tokens"][:1]})
    data = html_report(sample_trace(layers=48, tokens=256, top_k=8, experts=128))
    assert len(data) < 1_000_000
    for picture in vector_pictures(data):
        tree = ElementTree.fromstring(picture)
        (image,) = [part for part in tree.iter() if part.tag.endswith("}image")]
        assert {value[:22] for name, value in image.attrib.items() if name.endswith("href")} == {
            "data:image/png;base64,"
        }


def test_a_picture_of_very_many_marks_is_a_bitmap(monkeypatch):
    monkeypatch.setattr(report, "REPORTED", {"Confidence": REPORTED["Confidence"]})
    data = html_report(sample_trace(layers=24, tokens=256))
    assert len(data) < 1_000_000 and b"data:image/png;base64," in data


def test_a_bitmap_keeps_its_pixels_in_fewer_bytes(trace):
    import vl_convert

    grid = REPORTED["Tokens"][0]
    spec = grid.draw(grid.measure(trace)).properties(width=300).to_dict()
    png = vl_convert.vegalite_to_png(spec)
    smaller = report_pictures.compressed(png)
    assert len(smaller) < len(png) / 2
    assert pixels(smaller) == pixels(png)
    assert report_pictures.compressed(smaller) == smaller


def pixels(png: bytes) -> bytes:
    return Image.open(BytesIO(png)).tobytes()


@pytest.mark.parametrize(
    ("colour", "ink"),
    [("#ffffff", "#000"), ("#000000", "#fff"), ("#757575", "#fff"), ("#777777", "#000"), ("#882255", "#fff")],
)
def test_a_token_is_written_in_the_ink_that_stands_out_more(colour, ink):
    """Black and white contrast alike, 4.58 to 1, on a grey between #757575 and #777777."""
    assert ink_on(colour) == ink


# As a format


def test_a_report_is_a_format_that_is_written_and_not_read(trace, no_topics, tmp_path):
    path = tmp_path / "trace.html"
    write_trace(trace, path)
    assert path.read_bytes() == html_report(trace)
    for read in (lambda: read_trace(path), lambda: read_bytes(b"", "x.HTML")):
        with pytest.raises(InvalidTrace, match=r"\.csv, \.parquet, \.json, \.npz"):
            read()


def test_convert_writes_a_report_and_refuses_to_read_one(trace, no_topics, tmp_path, capsys):
    source, target = tmp_path / "t.npz", tmp_path / "t.html"
    write_trace(trace, source)
    assert main(["convert", str(source), str(target)]) == 0
    assert target.read_bytes().startswith(b"<!doctype html>")
    assert main(["convert", str(target), str(source)]) == 3
    assert "is for people to look at" in capsys.readouterr().err


def test_without_the_extra_a_sentence_says_how_to_install_it(trace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("moeviz.formats.exports.find_spec", lambda name: None)
    monkeypatch.setattr("moeviz.report.pictures.find_spec", lambda name: None)
    with pytest.raises(MoevizError, match=r"moeviz\[report\]"):
        html_report(trace)
    assert [export.suffix for export in EXPORTS if not export.ready] == [".html"]
    assert main(["trace", "Il fait froid.", "-o", str(tmp_path / "t.html")]) == 3
    said = capsys.readouterr()
    assert 'pip install "moeviz[report]"' in said.err and "loading" not in said.err
    with pytest.raises(InvalidTrace, match="look at"):
        read_bytes(b"", "x.html")


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [((1280, 900), "light"), ((390, 844), "dark")], ids=["desk", "phone"])
def test_it_opens_from_a_disk_with_every_picture_and_without_an_error_or_a_request(
    hostile, tmp_path, visit, size, scheme
):
    file = tmp_path / "report.html"
    file.write_bytes(hostile)
    page = visit.blank(scheme=scheme).page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    wrong, asked = [], []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    widths = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.clientWidth)))")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    shown = page.locator(".text span").all_inner_texts()
    assert not wrong and asked == [file.as_uri()]
    assert len(widths) == len(CHARTS) and all(width <= size[0] for width in widths)
    assert overflow == 0
    assert any(text.startswith(HOSTILE[0]) for text in shown)
