"""The documentation site: it builds, asks no other host, and has every name, command, option, setting and chart."""

import argparse
import importlib
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from browser import SIZES, eventually
from playwright.sync_api import expect
from site_of_docs import DOCS, ROOT, Site, build, foreign, foreign_in_style, served, text_of
from survey.modes import FAMILIES
from survey.ways import WAYS

import moeviz
from moeviz.capture.routers.families import families
from moeviz.charts import TOPICS
from moeviz.charts.chart import Chart
from moeviz.cli.main import COMMANDS, add_arguments
from moeviz.errors import CaptureError, MoevizError
from moeviz.formats.assignments_table import COLUMNS
from moeviz.formats.csv_file import ABOUT
from moeviz.formats.exports import EXPORTS
from moeviz.formats.trace_facts import FORMAT
from moeviz.formats.trace_file import DTYPES
from moeviz.history.systems import SYSTEMS
from moeviz_app.views.menu import MENU
from moeviz_app.widgets.chart_panel import GLOSSARY

sys.path.append(str(DOCS))
from _ext import charts_need, docstrings, pages, reference, tables

pytestmark = pytest.mark.docs
ROOMS = (
    "moeviz.capture",
    "moeviz.charts",
    "moeviz.formats",
    "moeviz.metrics",
    "moeviz.serving",
    "moeviz.analyses.pruning",
    "moeviz.training",
    "moeviz.report",
    "moe_kernels",
)
PICTURES = ("", "-dark", "-narrow", "-narrow-dark")
TITLES = [f"gallery/{name}.html" for name in ("charts", "beside", "expert", "history")]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """Built once, with warnings as errors, where every connection is refused."""
    folder = tmp_path_factory.mktemp("docs")
    built = build(folder)
    assert built.returncode == 0, built.stderr[-4000:]
    return Site(folder / "site")


def missing(names: Iterable[str], where: str | Iterable[str]) -> set[str]:
    """The names that are not there."""
    return {name for name in names if name not in where}


def test_it_builds_without_a_warning_and_every_page_has_a_title(site):
    assert len(site.pages) > 25
    assert not [name for name, html in site.pages.items() if not re.search(r"<title>\S.*</title>", html)]


def test_nothing_is_loaded_from_another_host(site):
    assert not {name: found for name, html in site.pages.items() if (found := foreign(html))}
    sheets = {path.name: path.read_text() for path in site.folder.rglob("*.css")}
    assert sheets and not {name: found for name, css in sheets.items() if (found := foreign_in_style(css))}


def test_a_script_a_font_and_a_picture_of_another_host_would_be_noticed():
    assert foreign('<script src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert foreign('<link rel="stylesheet" href="//fonts.example/css">') == ["//fonts.example/css"]
    assert foreign('<picture><source srcset="http://a.example/b.svg"></picture>') == ["http://a.example/b.svg"]
    assert foreign_in_style('@import "https://fonts.example/css"; a { b: url(x.png) }') == ["https://fonts.example/css"]
    assert not foreign('<a href="https://arxiv.org">a link</a><img src="../pictures/x.svg">')


def test_a_mark_that_names_nothing_would_be_noticed():
    with pytest.raises(KeyError, match="no-such-table"):
        pages.filled("<!-- generated: no-such-table -->")


SMALL = "extensions = ['myst_parser']\n"
ASKS = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')\n"


def test_a_link_that_leads_nowhere_and_a_question_to_the_network_would_be_noticed(tmp_path):
    for name, asks, page, says in (
        ("link", "", "# A page\n\n[a link](nowhere.md)\n", "nowhere.md"),
        ("network", ASKS, "# A page\n", "asked for ('127.0.0.1', 9)"),
    ):
        put({"conf.py": SMALL + asks, "index.md": page}, tmp_path / name)
        built = build(tmp_path / f"built-{name}", tmp_path / name)
        assert built.returncode and says in built.stderr


def put(files: dict[str, str], root: Path) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_name_of_the_front_door_is_in_the_reference(site):
    names = {f"moeviz.{name}" for name in moeviz.__all__ if not name.startswith("__")}
    assert missing(names | {"moeviz.no_such_name"}, site.anchors) == {"moeviz.no_such_name"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_in_the_reference(site, room):
    names = {name for module in reference.modules_of(room) for name in public_names(module)}
    assert names
    assert missing(names | {f"{room}.no_such_name"}, site.anchors) == {f"{room}.no_such_name"}


def public_names(module: str) -> set[str]:
    """Functions and classes that a module defines, and means to be used."""
    members = vars(importlib.import_module(module)).items()
    kinds = (type, type(public_names))
    return {
        f"{module}.{name}"
        for name, member in members
        if isinstance(member, kinds) and member.__module__ == module and name[0] != "_" and inspect.getdoc(member)
    }


def test_every_error_is_in_the_reference(site):
    kinds = [MoevizError, *MoevizError.__subclasses__(), *CaptureError.__subclasses__()]
    names = {f"{kind.__module__}.{kind.__name__}" for kind in kinds if kind.__module__ == "moeviz.errors"}
    assert len(names) > 5 and missing(names, site.anchors) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_options_and_examples_on_its_page(site, name):
    text = site.texts["reference/cli.html"].partition(f"moeviz {name}¶")[2].partition("¶")[0]
    parser = argparse.ArgumentParser(f"moeviz {name}")
    add_arguments(name, parser)
    options = re.findall(r"(?<![\w-])--?[a-z][\w-]*", parser.format_help())
    assert COMMANDS[name]["help"] in text and "Examples:" in text
    assert missing({*options, "--no-such-option"}, text) == {"--no-such-option"}


def test_every_environment_variable_is_on_the_page_of_settings(site):
    text = site.texts["reference/settings.html"]
    files = [*(ROOT / "app").rglob("*.py"), *(ROOT / "moeviz").rglob("*.py"), ROOT / "tests/support/browser.py"]
    code = "\n".join(path.read_text() for path in files)
    names = set(re.findall(r'"(MOEVIZ_[A-Z_]+)"', code))
    names |= {name for line in re.findall(r".*\benviron\b.*", code) for name in re.findall(r'"([A-Z_]{4,})"', line)}
    assert {"MOEVIZ_MODELS", "CHROMIUM", "DISPLAY"} <= names
    assert missing(names | {"MOEVIZ_NO_SUCH_SETTING"}, text) == {"MOEVIZ_NO_SUCH_SETTING"}


def test_every_setting_of_streamlit_is_on_the_page_of_settings(site):
    text = site.texts["reference/settings.html"]
    settings = tomllib.loads((ROOT / "app/moeviz_app/.streamlit/config.toml").read_text())
    names = {name for section, values in settings.items() for name in (section, *values)}
    assert missing(names | {"noSuchSetting"}, text) == {"noSuchSetting"}


def test_the_formats_page_has_every_suffix_column_array_and_fact(site):
    text = site.texts["reference/formats.html"]
    columns = {*COLUMNS, ABOUT, "label", "logit", "probability", *DTYPES, FORMAT, *(row.suffix for row in EXPORTS)}
    assert missing(columns | {".xlsx"}, text) == {".xlsx"}
    facts = moeviz.ModelInfo.__dataclass_fields__.keys()
    assert missing(facts, site.texts["reference/trace.html"]) == set()


def test_every_topic_and_chart_is_on_the_page_of_topics_and_in_the_gallery(site):
    topics, gallery = site.texts["reference/topics.html"], site.texts["gallery/charts.html"]
    for topic, charts in TOPICS.items():
        asked = {f"{topic}¶", *(text_of(chart.question) for chart in charts)}
        assert missing(asked, gallery) == set()
        assert missing(asked, topics) == set()
    assert missing({"Is there no such chart?"}, gallery) == {"Is there no such chart?"}


def test_every_chart_that_there_is_is_drawn_in_the_gallery(site):
    """In light and in dark, wide and narrow, with how to read it and how it is computed."""
    text = " ".join(site.texts[name] for name in TITLES)
    drawn = {path.name for path in (site.folder / "pictures").iterdir()}
    for chart in every_chart():
        assert text_of(chart.question) in text
        assert missing({f"{chart.key}{kind}.svg" for kind in PICTURES}, drawn) == set()
    assert "view.html" in drawn and "no_such_chart.svg" not in drawn


def every_chart() -> list[Chart]:
    """Every row of a table of charts in the library, found by its type."""
    history = [*(ROOT / "moeviz/history").glob("*/exhibit.py"), ROOT / "moeviz/history/timeline/chart.py"]
    files = [*(ROOT / "moeviz/charts").glob("*.py"), *history]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem[:2] != "__"]
    members = [vars(importlib.import_module(name)).values() for name in names]
    found = [row for values in members for value in values for row in (value if isinstance(value, tuple) else [value])]
    charts = {row for row in found if isinstance(row, Chart)}
    assert len({chart.key for chart in charts}) == len(charts) > 60, "Two charts would have one file."
    return list(charts)


def test_pictures_hold_marks_and_colours_that_are_seen_on_their_page(site):
    folder = site.folder / "pictures"
    light, dark = (folder / f"load_heatmap{kind}.svg" for kind in ("", "-dark"))
    assert light.read_text().count("<path") > 20
    assert '"#1c2030"' in light.read_text() and '"#1c2030"' not in dark.read_text()
    told = {file.name: re.sub(r'xmlns(:\w+)?="[^"]+"', "", file.read_text()) for file in folder.glob("*.svg")}
    assert not [name for name, text in told.items() if "http" in text]


def test_generated_tables_have_every_row(site):
    text = site.texts["reference/families.html"]
    assert missing({*families()["architecture"], *families()["router"]}, text) == set()
    assert missing({*WAYS, *FAMILIES}, site.texts["reference/running.html"]) == set()
    assert missing({name for names in MENU.values() for name in names}, site.texts["app.html"]) == set()
    assert missing(SYSTEMS, site.texts["background/history.html"]) == set()
    rooms = set(re.findall(r"^(\S+) +\d+ files ", tables.architecture(), re.MULTILINE))
    assert len(rooms) > 20 and missing(rooms, site.texts["developing.html"]) == set()


def test_the_glossary_has_the_words_of_the_app_with_the_same_sentences(site):
    text = site.texts["glossary.html"]
    said = {text_of(f"{meaning[0].upper()}{meaning[1:]}") for meaning in GLOSSARY.values()}
    assert missing({*GLOSSARY, *said}, text) == set()


def test_the_needs_of_a_chart_are_found_by_taking_them_away():
    by_key = {chart.key: charts_need.needs(chart) for charts in TOPICS.values() for chart in charts}
    assert by_key["entropy_by_layer"] == "ids, logits"
    assert by_key["active_by_convention"] == "ids, parameter counts"
    assert by_key["label_divergence_grid"] == "ids, labels"
    assert by_key["load_heatmap"] == "ids"


def test_docstrings_become_markdown():
    laid_out = "The line.\n\nname   what it is,\n       and more\nother  the rest\n\nRaises\n------\nIt does."
    told = docstrings.markdown_of(laid_out)
    assert told == "The line.\n\n* `name`: what it is, and more\n* `other`: the rest\n\n**Raises**\n\nIt does."
    assert docstrings.markdown_of("So:\n\n    {\n      a:  1\n    }") == "So:\n\n```text\n{\n  a:  1\n}\n```"
    assert docstrings.markdown_of("| a | b |\n|---|---|\n| 1 | 2 |").startswith("| a | b |")


@pytest.fixture(scope="module")
def address(site):
    """The site on a port of this machine."""
    with served(site.folder) as url:
        yield url


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser_pages_fit_the_screen_show_their_pictures_and_ask_nobody(address, visit, size):
    page = visit.blank(size).page
    for name in ("index", "reference/cli", "reference/families", "reference/api", "developing", "gallery/charts"):
        page.goto(f"{address}/{name}.html")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            eventually(page, lambda: page.evaluate(WIDER), lambda wide: wide <= 0)
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page.emulate_media(color_scheme=scheme)
        shown = page.locator(f".chart picture.only-{scheme} img").first
        shown.scroll_into_view_if_needed()
        expect(shown).to_be_visible()
        expect(page.locator(f".chart picture.only-{other} img").first).to_be_hidden()
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=shown.element_handle())
        narrow, dark = "-narrow" if size == "phone" else "", "-dark" if scheme == "dark" else ""
        source = eventually(page, lambda image=shown: image.evaluate("image => image.currentSrc"))
        assert re.search(r"(-narrow)?(-dark)?\.svg$", source).group() == f"{narrow}{dark}.svg"


def test_the_environment_is_left_as_it_was():
    before = os.environ.get("COLUMNS")
    reference.commands()
    assert os.environ.get("COLUMNS") == before
