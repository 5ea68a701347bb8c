"""Text of strangers inside Markdown: token text, labels and names are shown as they are, and never mean anything."""

MEANS_SOMETHING = "\\`*_{}[]()<>#+-.!|~:$&^\"'=@/"


def plain(text: str) -> str:
    """The text with every sign escaped that Markdown, or what Streamlit adds to it, could make something of.

    >>> plain("![x](http://a.b) :red[c]")
    '\\\\!\\\\[x\\\\]\\\\(http\\\\:\\\\/\\\\/a\\\\.b\\\\) \\\\:red\\\\[c\\\\]'
    """
    one_line = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(f"\\{sign}" if sign in MEANS_SOMETHING else sign for sign in one_line)
