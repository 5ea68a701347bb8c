"""Pages are Markdown with marks in them, which are filled in while the site is built.

    <!-- generated: commands -->      what the function of that name in GENERATED gives
    <!-- file: kernels/README.md -->  a file of the repository, so that it is written once
    <!-- part: CONTRIBUTING.md -->    the same without its title, and with its headings one level down
    <!-- opening: README.md -->       the same up to its first heading, with pictures for a light and a dark page

So a table is never copied by hand, and nothing of it can be out of date.
"""

import posixpath
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _ext import gallery, reference, tables

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
HEADING = re.compile(r"^(#+ )", re.MULTILINE)
PICTURE = re.compile(r"<picture>.*?alt=\"([^\"]*)\".*?</picture>", re.DOTALL)
TITLE = re.compile(r"\A# .*\n+")
MARK = re.compile(r"^<!-- (generated|file|part|opening): ([\w./-]+) -->$", re.MULTILINE)

GENERATED: dict[str, Callable[[], str]] = {
    "architecture": tables.architecture,
    "by-kernels": tables.by_kernels,
    "capture": reference.capture,
    "charts": reference.charts,
    "collapse": tables.collapse,
    "commands": reference.commands,
    "alarms": tables.alarms,
    "engines": tables.engines,
    "extras": tables.extras,
    "families": tables.families,
    "formats": reference.formats,
    "front-door": reference.front_door,
    "gallery": gallery.topics,
    "gallery-beside": gallery.beside,
    "gallery-expert": gallery.one_expert,
    "gallery-history": gallery.history,
    "glossary": tables.glossary,
    "how-to": partial(tables.contents, "how-to", "How to"),
    "kernels": reference.kernels,
    "importers": tables.importers,
    "interventions": tables.interventions,
    "known-models": tables.known_models,
    "menu": tables.menu,
    "metrics": reference.metrics,
    "middle": reference.middle,
    "phone-book": tables.phone_book,
    "pruning": reference.pruning,
    "report": reference.report,
    "serving": reference.serving,
    "settings": tables.settings,
    "streamlit": tables.streamlit,
    "suffixes": tables.suffixes,
    "systems": tables.systems,
    "topics": tables.topics,
    "training": reference.training,
    "tutorials": partial(tables.contents, "tutorials", "Tutorials"),
    "view": gallery.view,
    "ways": tables.ways,
}
# Files that are pages of the site: a link to one leads to the page.
SITE = {
    "CHANGELOG.md": "/changelog.md",
    "CONTRIBUTING.md": "/developing.md",
    "README.md": "/index.md",
    "kernels/README.md": "/background/kernels.md",
    "models/moeviz_models/fine/MODEL_CARD.md": "/background/fine-card.md",
    "models/moeviz_models/natural/MODEL_CARD.md": "/background/natural-card.md",
    "moeviz/embedded/MODEL_CARD.md": "/background/model-card.md",
    "moeviz/embedded/EVALUATION.md": "/background/evaluation.md",
}


def fill(_app, _name: str, source: list[str]) -> None:
    """Fill in the marks of a page. Called by Sphinx (`source-read`), which takes what is then in `source`."""
    source[0] = filled(source[0])


def filled(text: str) -> str:
    """A page with its marks filled in. Raises `KeyError` for a mark that names nothing."""
    return MARK.sub(_filling, text)


def _filling(mark: re.Match) -> str:
    kind, name = mark.groups()
    if kind == "generated":
        return GENERATED[name]()
    if kind == "opening":
        return PICTURE.sub(lambda found: _moving(found[1]), TITLE.sub("", file(name)).partition("\n## ")[0])
    return file(name) if kind == "file" else _lowered(TITLE.sub("", file(name)))


def _moving(alternative: str) -> str:
    """Play as a picture; one that stands still for whom motion is to be reduced. Which one, the page's theme says."""
    words = " ".join(alternative.split())
    shown = (
        f'<picture class="only-{theme}"><source media="(prefers-reduced-motion: reduce)" '
        f'srcset="pictures/first-page-{theme}.png"><img src="pictures/play-{theme}.webp" width="1200" height="900" '
        f'alt="{words}" loading="lazy"></picture>'
        for theme in ("light", "dark")
    )
    return f'<div class="chart">{"".join(shown)}</div>'


def _lowered(text: str) -> str:
    """Headings one level down; what looks like one in a block of code stays."""
    parts = text.split("```")
    return "```".join(HEADING.sub(r"#\1", part) if number % 2 == 0 else part for number, part in enumerate(parts))


def file(path: str) -> str:
    """A Markdown file of the repository. Its links lead to pages of the site, or become the path of what they name."""
    return LINK.sub(partial(_link, posixpath.dirname(path)), (ROOT / path).read_text(encoding="utf-8"))


def _link(folder: str, found: re.Match) -> str:
    words, target, anchor = found[1], found[2], found[3] or ""
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    there = posixpath.normpath(posixpath.join(folder, target))
    if there in SITE:
        return f"[{words}]({SITE[there]}{anchor})"
    if there.startswith("docs/") and there.endswith(".md"):
        return f"[{words}](/{there.removeprefix('docs/')}{anchor})"
    return f"`{there}`" if words.strip("`") in there else f"{words} (`{there}`)"
