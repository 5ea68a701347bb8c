"""Which documents of a domain are kept: no copies, no scraps, and no source that drowns out the others."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from random import Random

from models.training.corpus.sources import Document

SHORTEST_DOCUMENT = 200  # characters
SHORTEST_COMPARED = 40  # characters: shorter lines repeat in any text
MOST_REPEATED = 0.4  # of the characters in long lines: what has more is a copy
SHUFFLE_SEED = 0
# A source may overrun its share by a little, or a long document would leave a gap.
OVERRUN, OVERRUN_BYTES = 1.005, 20_000

# Repeated lines are what markup and generated text are made of.
KEEPS_REPEATS = {"html", "json", "sql", "arithmetic"}
# Help in other languages repeats whole sentences; code repeats lines for a reason.
DROPS_REPEATED_LINES = {"french", "german", "spanish", "russian", "chinese"}


def cleaned(documents: Iterable[Document], domain: str) -> Iterator[Document]:
    """The documents of a domain without copies of what came before, with one kind of line ends, none shorter than 200.

    In prose and code a document goes as a whole where two fifths of it have been seen; in help texts of other languages
    every long line that has been seen goes too.
    """
    seen: set[bytes] = set()
    for document in documents:
        text: str | None = document.text.replace("\r\n", "\n").replace("\x00", "")
        if domain not in KEEPS_REPEATS:
            text = _without_repeats(text, seen, drop_lines=domain in DROPS_REPEATED_LINES)
        if text is not None and len(text := text.strip("\n")) >= SHORTEST_DOCUMENT:
            yield document._replace(text=text)


def _without_repeats(text: str, seen: set[bytes], drop_lines: bool) -> str | None:
    """The text; None where it is a copy. Its lines are added to those seen."""
    kept, compared, repeated = [], 0, 0
    for line in text.split("\n"):
        content = line.strip()
        if len(content) > SHORTEST_COMPARED:
            compared += len(content)
            digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
            if digest in seen:
                repeated += len(content)
                if drop_lines:
                    continue
            seen.add(digest)
        kept.append(line)
    if compared and repeated > MOST_REPEATED * compared:
        return None
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept))


def source_sizes(documents: Iterable[Document]) -> Counter[str]:
    """Bytes of text by source."""
    sizes: Counter[str] = Counter()
    for document in documents:
        sizes[document.source] += len(document.text.encode())
    return sizes


def water_filling(sizes: Mapping[str, int], budget: int) -> dict[str, float]:
    """How many bytes each source may give so that all give `budget`: small ones all they have, big ones the same.

    >>> water_filling({"small": 10, "big": 100, "bigger": 200}, 110)
    {'small': 10.0, 'big': 50.0, 'bigger': 50.0}
    """
    shares: dict[str, float] = {}
    left = float(budget)
    for number, (source, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        shares[source] = min(float(size), left / (len(sizes) - number))
        left -= shares[source]
    return shares


def selected(documents: Iterable[Document], budget: int) -> list[Document]:
    """Documents in a random order that is always the same, each source up to its share of `budget` bytes."""
    documents = list(documents)
    Random(SHUFFLE_SEED).shuffle(documents)
    shares = water_filling(source_sizes(documents), budget)
    used: Counter[str] = Counter()
    kept = []
    for document in documents:
        size = len(document.text.encode())
        if used[document.source] + size <= shares[document.source] * OVERRUN + OVERRUN_BYTES:
            used[document.source] += size
            kept.append(document)
    return kept
