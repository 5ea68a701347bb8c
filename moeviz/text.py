"""Parts of sentences: names of files and models from anyone, cut to fit and checked; lists; and what was meant."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from itertools import islice
from pathlib import Path, PurePath

MOST_SHOWN, MOST_LISTED, MOST_COMPARED = 200, 100, 1000  # characters, numbers, names of files
SHORTEST_PART = 5  # characters of a part by which a longer name is recognised
ALIKE = 0.8  # similarity from which another file was meant
LONGEST_CAUTION = 3_000  # characters: trace files hold some more
HALF = re.compile("[\ud800-\udfff]")  # a character
LONGEST_PART, LONGEST_PATH = 255, 4096  # bytes: what Linux, macOS and Windows have in common, or less


def quoted(name: object, most: int = MOST_SHOWN) -> str:
    """Quote a name, cut to a length; control characters are spelled out.

    >>> quoted("a" * 5000, most=3)
    "'aaa…' (5,000 characters)"
    """
    text = str(name)
    return repr(cut(text, most)) + (f" ({len(text):,} characters)" if len(text) > most else "")


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """Cut a text to a length."""
    return text if len(text) <= most else f"{text[:most]}…"


def listed(numbers: Sequence[int], most: int = MOST_LISTED) -> str:
    """List numbers in a sentence, without the middle if they are many.

    >>> listed(range(3)), listed(range(4096))
    ('0, 1 and 2', '0, 1, 2, …, 4095')
    """
    if len(numbers) > most:
        return ", ".join(map(str, [*numbers[:3], "…", numbers[-1]]))
    return with_and([*map(str, numbers)])


def no_segment(name: str, there: Sequence[str]) -> str:
    """Return the sentence on a segment that no token of a chat is of.

    >>> no_segment("think", ["user", "answer"])
    "No token is of the segment 'think'. There are user and answer."
    """
    return f"No token is of the segment {quoted(name)}. There are {with_and(there)}."


def no_layer(model: str, layer: object, layers: Sequence[int]) -> str:
    """Return the sentence on a layer that a model does not have.

    >>> no_layer("embedded", 9, range(6))
    'embedded has no MoE layer 9. Choose one of 0, 1, 2, 3, 4 and 5.'
    """
    return f"{cut(model)} has no MoE layer {layer}. Choose one of {listed(layers)}."


def spans(numbers: Sequence[int], most: int = MOST_LISTED) -> str:
    """List ascending whole numbers in a sentence, consecutive ones as a range.

    >>> spans([0, 1, 2, 7, 9, 10])
    '0 to 2, 7 and 9 to 10'
    """
    known = set(numbers)
    ends = ([n for n in numbers if n + step not in known] for step in (-1, 1))
    parts = [str(first) if first == last else f"{first} to {last}" for first, last in zip(*ends, strict=True)]
    return with_and(parts) if len(parts) <= most else ", ".join([*parts[:3], "…", parts[-1]])


def numbers_span(numbers: Sequence[int]) -> str:
    """Write the least and the greatest of some numbers, or one number if all are equal.

    >>> numbers_span((64, 8, 64)), numbers_span((8, 8))
    ('8–64', '8')
    """
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}–{max(numbers)}"


def with_and(parts: Sequence[str]) -> str:
    """Join parts of a sentence, the last after "and".

    >>> with_and(["a", "b", "c"]), with_and(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])


def with_or(parts: Sequence[str]) -> str:
    """Join parts of a sentence, the last after "or".

    >>> with_or(["a", "b", "c"]), with_or(["a"])
    ('a, b or c', 'a')
    """
    return " or ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])


def like(word: str, known: Sequence[str], least: float = 0.6) -> str:
    """Return the question which known words somebody meant, as the end of a sentence; "" if none is similar.

    The dashes of options are left out of the comparison, since all options have them.

    >>> like("metric", ["trace", "metrics"]), like("x", ["trace"]), like("--to", ["--json"])
    (' Did you mean metrics?', '', '')
    >>> like("--max_new_tokens", ["--max-new-tokens"])
    ' Did you mean --max-new-tokens?'
    """
    names = {name.lstrip("-").lower(): name for name in known}
    asked = word.partition("=")[0].lstrip("-").replace("_", "-").lower()
    near = get_close_matches(asked, names, n=2, cutoff=least)
    if len(asked) >= SHORTEST_PART:  # --top-k is part of --sample-top-k
        near = [*dict.fromkeys([*(name for name in names if asked in name), *near])][:2]
    near = near[:1] if near and near[0] == asked else near
    return f" Did you mean {' or '.join(names[name] for name in near)}?" if near else ""


def why_no_file(name: str | PurePath) -> str:
    """Return why no file can have this name, as the end of a sentence; "" if one can.

    >>> why_no_file("trace.npz"), why_no_file("tra\\0ce.npz")
    ('', 'has a NUL character in it')
    """
    try:
        path = os.fsencode(name)
    except UnicodeEncodeError:
        return "has half a character in it"
    if b"\0" in path:
        return "has a NUL character in it"
    parts = path.replace(os.sep.encode(), b"/").split(b"/")
    too_long = len(path) > LONGEST_PATH or max(map(len, parts)) > LONGEST_PART
    return "is longer than a file's name can be" if too_long else ""


OF_WRITING = (EFBIG, ENOSPC, EDQUOT, EROFS)


def why_not_read(path: str, error: OSError) -> str:
    """Return a sentence on a file that cannot be read or written, with names in its folder that are similar.

    >>> why_not_read("trace.npz", FileNotFoundError(2, "No such file or directory"))
    "There is no file 'trace.npz'."
    >>> why_not_read("trace.csv", OSError(ENOSPC, "No space left on device"))
    "'trace.csv' cannot be written: No space left on device."
    """
    if isinstance(error, FileNotFoundError):
        folder = PurePath(path).parent
        with suppress(OSError):
            names = [str(name) for name in islice(Path(folder).iterdir(), MOST_COMPARED)]
            return f"There is no file {quoted(path)}.{like(str(PurePath(path)), names, ALIKE)}"
        return f"There is no file {quoted(path)}: there is no folder {quoted(folder)}."
    if isinstance(error, IsADirectoryError):
        return f"{quoted(path)} is a folder. Give a file."
    verb = "written" if error.errno in OF_WRITING else "read"
    return f"{quoted(path)} cannot be {verb}: {error.strerror or error}."


def is_text(value: object) -> bool:
    """Return whether a value is a text, or a file's name, that UTF-8 can encode.

    JSON can contain half a character (a lone surrogate); Python makes one of each byte of a name that is not UTF-8.

    >>> is_text("é"), is_text(chr(0xD83D)), is_text(1)
    (True, False, False)
    """
    return isinstance(value, str | PurePath) and not HALF.search(str(value))


def cautions_in_one(said: Sequence[str], most: int = 3) -> str:
    """Join cautions into one text, each once; if there are many, the first ones and the number of the others.

    >>> cautions_in_one(["", "One.", "Two.", "One.", "Three."], most=2)
    'One. Two. (1 more like these.)'
    """
    different = [*dict.fromkeys(filter(None, said))]
    more = len(different) - most
    return cut(" ".join([*different[:most], *[f"({more:,} more like these.)"] * (more > 0)]), LONGEST_CAUTION)
