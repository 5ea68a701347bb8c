"""Text of strangers inside Markdown: token text, labels and names are shown as they are, and never mean anything."""

import re

# Escaped or not: Streamlit makes links of addresses when the Markdown has been read.
BEGINS_A_LINK = re.compile(r"(://|@|www)(?=[\w.-])", re.IGNORECASE)
WORD_JOINER = "\u2060"  # is not seen, and no part of a host's name
MEANS_SOMETHING = "\\`*_{}[]()<>#+-.!|~:$&^\"'=@/"


def plain(text: str) -> str:
    """The text with every sign escaped that Markdown, or what Streamlit adds to it, could make something of.

    >>> plain("![x](a.b) :red[c]")
    '\\\\!\\\\[x\\\\]\\\\(a\\\\.b\\\\) \\\\:red\\\\[c\\\\]'
    >>> [WORD_JOINER in plain(address) for address in ("http://a", "www.a.b", "a@b.c", "a/b")]
    [True, True, True, False]
    """
    one_line = "".join(sign if sign.isprintable() else " " for sign in text)
    one_line = BEGINS_A_LINK.sub(rf"\1{WORD_JOINER}", one_line)
    return "".join(f"\\{sign}" if sign in MEANS_SOMETHING else sign for sign in one_line)
