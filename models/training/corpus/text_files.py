"""Text files of unpacked packages: which there are, in an order that never changes, and what they say."""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.training.corpus.sources import Document

Packages = Mapping[str, Path]  # name of a package: the folder that it was unpacked to


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in Latin-1 where it is not UTF-8; gzip is undone."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files whose names end so, folder by folder.

    Links are left out: some packages link to a file of the machine that they are installed on, which is not theirs.
    """
    files = [path for path in folder.rglob("*") if path.name.endswith(suffixes)]
    files = [path for path in files if path.is_file() and not path.is_symlink()]
    return sorted(files, key=lambda path: (str(path.parent), path.name))


def pieces(text: str, size: int) -> Iterator[str]:
    """A long text in pieces of whole lines, each of `size` characters or a little more, but for the last."""
    lines: list[str] = []
    length = 0
    for line in text.split("\n"):
        lines.append(line)
        length += len(line) + 1
        if length >= size:
            yield "\n".join(lines)
            lines, length = [], 0
    if lines:
        yield "\n".join(lines)


def read_in_pieces(source: str, path: Path, size: int) -> Iterator[Document]:
    """One big file, a document a piece, numbered."""
    for number, piece in enumerate(pieces(read_text(path), size)):
        yield Document(source, f"{path.name}#{number}", piece)


@dataclass(frozen=True)
class Folder:
    """A folder of a package whose files are read, each a document."""

    source: str
    package: str
    base: str  # in the package; a document is named by its path below it
    suffixes: tuple[str, ...]
    inside: str = ""  # read only this folder of the base
    without: tuple[str, ...] = ()  # leave out paths that contain one of these
    file_bytes: tuple[int, int] = (0, 2**40)  # leave out smaller and bigger files
    extract: Callable[[str], str] = str  # what to take of a file's text; all of it unless told
    piece: int | None = None  # cut a long text into pieces of so many characters
    most_pieces: int | None = None  # and take the first so many


def read_folders(packages: Packages, folders: Iterable[Folder]) -> Iterator[Document]:
    """The documents of several folders, one folder after the other."""
    for folder in folders:
        base = packages[folder.package] / folder.base
        for path in files_below(base / folder.inside, folder.suffixes):
            name = path.relative_to(base).as_posix()
            smallest, biggest = folder.file_bytes
            if any(part in f"/{name}" for part in folder.without) or not smallest <= path.stat().st_size <= biggest:
                continue
            text = folder.extract(read_text(path))
            parts = [text] if folder.piece is None else list(pieces(text, folder.piece))
            for piece in parts[: folder.most_pieces]:
                yield Document(folder.source, name, piece)
