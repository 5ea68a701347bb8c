"""The notices of the evaluation set: every source with its files, packages and licence, and no source besides."""

import json
import re

from models.training.corpus.sources import SOURCES
from moeviz.embedded.evaluation import FILE, evaluation_set

NOTICES = (FILE.parent / "EVALUATION_LICENCES.md").read_text(encoding="utf-8")
VERSIONS = {p["name"]: p["version"] for p in json.loads((FILE.parent / "corpus.json").read_text())["packages"]}
WORKS, LICENCES = NOTICES.split("\n## Licences\n")
SECTIONS = dict(re.findall(r"(?ms)^### `([^`\n]+)`\n(.*?)(?=^##|\Z)", WORKS))
TEXTS = dict(re.findall(r"(?ms)^### ([^\n]+)\n(.*?)(?=^### |\Z)", LICENCES))
IN_SET = sorted({text.source for text in evaluation_set()})


def anchor(heading: str) -> str:
    """The fragment under which a rendered page has a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def line(source: str, start: str) -> str:
    """The one line of a source's section that starts with a word."""
    (found,) = re.findall(rf"(?m)^- {start}: (.+)$", SECTIONS[source])
    return found


def test_the_notices_name_the_sources_of_the_set_and_no_other():
    assert sorted(SECTIONS) == IN_SET
    assert WORKS.count("\n### ") == len(SECTIONS)
    assert not (set(SOURCES) - set(IN_SET)) & set(re.findall(r"`([^`\n]+)`", NOTICES))


def test_a_source_s_notice_names_its_excerpts_its_recorded_licence_and_its_packages():
    given_away = {"public-domain", "cc0-10"}
    for source in IN_SET:
        texts = [text for text in evaluation_set() if text.source == source]
        assert set(re.findall(r"`([^`]+)`", line(source, "Excerpts"))) == {
            file for text in texts for file in text.file.split("; ")
        }
        recorded, applies = line(source, "Licence").split("; applies: ")
        assert {recorded} == {f"recorded as `{text.licence}`" for text in texts}
        links = set(re.findall(r"\]\(#([^)]+)\)", applies))
        assert links and links <= {anchor(heading) for heading in TEXTS}
        assert links <= given_away or line(source, "Copyright")
        if SOURCES[source].packages:
            named = dict(re.findall(r"`([^`]+)` ([^\s,]+)", line(source, "Package")))
            assert named and set(named) <= set(SOURCES[source].packages)
            assert named == {name: VERSIONS[name] for name in named}


def test_every_licence_is_used_and_says_something():
    used = set(re.findall(r"\]\(#([^)]+)\)", WORKS))
    assert {anchor(heading) for heading in TEXTS} == used
    assert all(text.strip() for text in TEXTS.values())


def test_the_mozilla_licence_is_named_with_the_place_of_the_source_form():
    assert "https://mozilla.org/MPL/2.0/" in TEXTS["MPL-2.0"]
    assert VERSIONS["libreoffice-help-en-us"] in TEXTS["MPL-2.0"]
