"""Messages on a page: sentences that may quote a stranger, refusals, and errors as sentences."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from zlib import crc32

import streamlit as st

from moeviz.errors import MoevizError

EXAMPLE = "**Example, recorded beforehand.**"
WORD_JOINER = "\u2060"  # is not seen, and no part of a host's name
MEANS_SOMETHING = "\\`*_{}[]()<>#+-.!|~:$&^\"'=@/"
# Escaped or not: Streamlit makes links of addresses when the Markdown has been read.
BEGINS_A_LINK = re.compile(r"(://|@|www)(?=[\w.-])", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return the text with every sign escaped that Markdown, or what Streamlit adds to it, could make something of.

    >>> escape_markdown("![x](a.b) :red[c]")
    '\\\\!\\\\[x\\\\]\\\\(a\\\\.b\\\\) \\\\:red\\\\[c\\\\]'
    >>> [WORD_JOINER in escape_markdown(address) for address in ("http://a", "www.a.b", "a@b.c", "a/b")]
    [True, True, True, False]
    """
    one_line = "".join(sign if sign.isprintable() else " " for sign in text)
    one_line = BEGINS_A_LINK.sub(rf"\1{WORD_JOINER}", one_line)
    return "".join(f"\\{sign}" if sign in MEANS_SOMETHING else sign for sign in one_line)


def say(sentence: str) -> None:
    """Show a sentence that may quote a stranger: as plain text, since Markdown can load pictures from anywhere."""
    with st.container(border=True, horizontal=True, wrap=False):
        st.markdown(":material/info:", width="content")
        st.text(sentence, width="stretch")


def refuse(sentence: str) -> None:
    """Show a sentence in the colours of an error: what the visitor has asked for was not done."""
    with st.container(border=True, horizontal=True, wrap=False, key=f"refused {crc32(sentence.encode())}"):
        st.markdown(":material/error:", width="content")  # views/layout.py colours what is so called
        st.text(sentence, width="stretch")


@contextmanager
def explained(tell: Callable[[str], None] = say, but: tuple[type[MoevizError], ...] = ()) -> Iterator[None]:
    """Show an error of moeviz as a sentence, instead of what the block draws. Only this catches MoevizError.
    `refuse` is for a failure of something that the visitor has asked for. Errors of the kinds in `but` are
    raised: the page has more to offer than a sentence.
    """
    try:
        yield
    except but:
        raise
    except MoevizError as why:
        tell(str(why))


def note(text: str) -> None:
    """Small, in the page's own ink: a caption's is too pale on a light page."""
    st.markdown(f":small[{escape_markdown(text)}]")


def example_note(what_to_do: str) -> None:
    """Say that what is drawn is nothing that this visitor has run."""
    st.markdown(f"{EXAMPLE} {what_to_do}")
