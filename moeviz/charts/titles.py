"""The titles in a picture: of axes, legends and tooltips, and what is written beside marks. Said in other words."""

import re
from collections.abc import Callable
from typing import Any

import altair as alt

Say = Callable[[str], str]
SAID = ("title", "text", "description")  # properties that are words for a reader
DATA = ("data", "datasets")
LITERAL = re.compile("'[^']*'")  # in a formula; with a space it is words: "'from layer ' + datum.layer"
FIELD = re.compile(r"([a-z]+):[A-Z]")  # "layer:Q": without a title, its name is one


def with_titles(part: Any, say: Say) -> Any:
    """A copy of a picture, or of a part of one, whose titles are as `say` says them. Its data stay as they are."""
    if isinstance(part, list):
        return [with_titles(each, say) for each in part]
    if isinstance(part, dict):
        return {name: _said(name, value, say) for name, value in part.items()}
    if not isinstance(part, alt.SchemaBase):
        return part
    copy = part.copy(deep=False)
    for name, value in list(part._kwds.items()):
        copy._kwds[name] = _said(name, value, say)
    if titled := _title_of_field(part, say):
        copy._kwds["title"] = titled
    return copy


def _said(name: str, value: Any, say: Say) -> Any:
    if name in DATA:
        return value
    if name in SAID and isinstance(value, str):
        return say(value)
    if name == "calculate" and isinstance(value, str):
        return LITERAL.sub(lambda words: say(words[0]) if " " in words[0] else words[0], value)
    if name in SAID and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return [say(line) for line in value]
    return with_titles(value, say)


def _title_of_field(part: alt.SchemaBase, say: Say) -> str | None:
    """What a channel is to be called that has no title, so that the name of its field would stand there."""
    field = FIELD.fullmatch(str(part._kwds.get("shorthand", "")))
    if field is None or _titled(part) or any(_titled(part._kwds.get(own)) for own in ("axis", "legend")):
        return None
    return say(field[1]) if say(field[1]) != field[1] else None


def _titled(part: Any) -> bool:
    return isinstance(part, alt.SchemaBase) and part._kwds.get("title", alt.Undefined) is not alt.Undefined
