"""From HTML, DocBook and manual pages to plain text."""

import html
import re

# What is not text, or stands on every page.
NOT_TEXT = re.compile(r"(?is)<(script|style|head|nav|header|footer|svg|noscript|aside)\b.*?</\1\s*>|<!--.*?-->")
NOT_MARKUP = re.compile(r"(?is)<(script|style|svg|nav|header)\b.*?</\1\s*>|<!--.*?-->")
BLOCK = re.compile(
    r"(?i)</?(p|div|h[1-6]|li|ul|ol|tr|table|br|dt|dd|dl|pre|section|article|title|blockquote|"
    r"item|steps|note|media|desc|page|info|terms)\b[^>]*>"
)
TAG = re.compile(r"<[^>]+>")

# mdoc, the macros of BSD's manual pages. A line that begins with a dot is a request.
LAYOUT_REQUESTS = {".Dd", ".Os", ".Dt", ".Bl", ".El", ".Bd", ".Ed", ".Sm"}
PARAGRAPH_REQUESTS = {".Sh", ".Ss", ".Pp", ".It"}
MACRO = re.compile(
    r"\b(Nm|Fn|Fa|Xr|Ar|Va|Vt|Dv|Er|Fl|Pa|Em|Sy|Li|Ic|Cm|Op|Ns|Pq|Dq|Sq|Aq|Ft|Ta|Tn|St|Bx|Fx|No|Ap|Ql)\b ?"
)
FONT_OR_ESCAPE = re.compile(r"\\f.|\\&|\\\(..|(\\-)")


def html_to_text(page: str, keep_lines: bool = False) -> str:
    """The text of a page, a line a block; `keep_lines` keeps the page's own line ends and blanks, for code in it."""
    text = NOT_TEXT.sub(" ", page)
    if not keep_lines:
        text = re.sub(r"\s+", " ", text)
    text = html.unescape(TAG.sub("", BLOCK.sub("\n", text)))
    text = text.replace("\xa0", " ").replace("\u200b", "")
    if keep_lines:
        return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()
    text = re.sub(r" *\n *", "\n", re.sub(r"[ \t]+", " ", text))
    return re.sub(r"\n{2,}", "\n", text).strip()


def html_to_lines(page: str) -> str:
    """`html_to_text` with the page's own line ends."""
    return html_to_text(page, keep_lines=True)


def plain(snippet: str) -> str:
    """A stretch of markup without its tags, everything else as it stands."""
    return html.unescape(TAG.sub("", snippet))


def without_scripts(page: str) -> str:
    """The page's markup without scripts, styles, drawings and navigation."""
    return NOT_MARKUP.sub("", page)


def after_tag(page: str, *marks: str) -> str:
    """What follows the tag with the first of the marks that the page has; nothing where it has none."""
    for mark in marks:
        if mark in page:
            return page[page.index(mark) :].partition(">")[2]
    return ""


def before(page: str, mark: str) -> str:
    """What comes before a mark; everything where it is not there."""
    return page.partition(mark)[0]


def manual_to_text(page: str) -> str:
    """The text of a manual page written in mdoc: layout requests go, names of macros go, their words stay."""
    lines = []
    for line in page.split("\n"):
        request, _, words = line.partition(" ")
        if line.startswith(('.\\"', "'\\\"")) or request in LAYOUT_REQUESTS:  # a comment, or mere layout
            continue
        if line.startswith("."):
            line = ("\n" if request in PARAGRAPH_REQUESTS else "") + MACRO.sub("", words)
        lines.append(FONT_OR_ESCAPE.sub(lambda match: "-" if match[1] else "", line))
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()
