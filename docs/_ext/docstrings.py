"""Docstrings are Markdown, since the app shows them too; autodoc takes them for reStructuredText.

So each is handed to autodoc inside a directive, `markdown`, that reads it as what it is.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.util.docutils import SphinxDirective

LAID_OUT = re.compile(r"^ {4}|\S {2,}\S|^ {2,}[+-] ", re.MULTILINE)  # columns that hold together only as they are typed
LIST = re.compile(r"^([*+-]|\d+\.) ")
UNDERLINED = re.compile(r"^(\w+)\n-{3,}$", re.MULTILINE)  # a heading, which a docstring cannot have on a page
FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]*)?(?:  # (.+))?$", re.MULTILINE)
ITEM = re.compile(r"^(`?[\w.]+`?) {2,}(.+)")  # a name, and beside it what it means
TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)


class Markdown(SphinxDirective):
    """Its content, read as Markdown."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The content's nodes."""
        inner = new_document(self.get_source_info()[0] or "docstring", self.state.document.settings)
        MystParser().parse("\n".join(self.content), inner)
        return inner.children


def as_markdown(_app, what: str, _name, subject, _options, lines: list[str]) -> None:
    """Put a docstring into the directive. Called by autodoc, which takes what is then in `lines`."""
    text = markdown_of("\n".join(lines))
    if what == "class" and is_dataclass(subject):
        text += f"\n\n{fields_of(subject)}"
    lines[:] = [".. markdown::", "", *(f"   {line}" for line in text.splitlines()), ""] if text else []


def markdown_of(docstring: str) -> str:
    r"""A docstring as Markdown: paragraphs that are laid out by hand become blocks of code, examples Python.

    >>> markdown_of("A line.\n\n    >>> 1 + 1\n    2")
    'A line.\n\n```pycon\n>>> 1 + 1\n2\n```'
    """
    text = UNDERLINED.sub(r"**\1**\n", inspect.cleandoc(docstring))
    return "\n\n".join(_written(paragraph) for paragraph in _paragraphs(text))


def fields_of(kind: type) -> str:
    """The fields of a dataclass that have a comment in its source, each with what the comment says."""
    said = FIELD.findall(inspect.getsource(kind))
    return "\n".join(f"* `{name}`: {comment} (`{annotation}`)" for name, annotation, comment in said if comment)


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; indented ones that follow each other stay one, since a blank line may be part of an example."""
    waiting = ""
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        if waiting and paragraph.startswith("    "):
            waiting += f"\n\n{paragraph}"
            continue
        if waiting:
            yield waiting
        waiting = paragraph
        if not paragraph.startswith("    "):
            yield paragraph
            waiting = ""
    if waiting:
        yield waiting


def _written(paragraph: str) -> str:
    bare = inspect.cleandoc(f"\n{paragraph}")
    if bare.startswith(">>>"):
        return f"```pycon\n{bare}\n```"
    if TABLE.search(paragraph) or not LAID_OUT.search(paragraph):
        return paragraph
    if LIST.match(paragraph) and not re.search(r"\S {2,}\S", paragraph):
        return paragraph
    items = [ITEM.match(" ".join(item.split("\n"))) for item in re.split(r"\n(?=\S)", paragraph)]
    if all(items):
        return "\n".join(f"* `{item[1].strip('`')}`: {re.sub(' {2,}', ' ', item[2])}" for item in items)
    return f"```text\n{bare}\n```"
