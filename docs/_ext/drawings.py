"""Drawings of vl-convert, kept in a folder under build/: drawing all charts of the site takes most of its time.

A drawing is found by everything that it is drawn from: the specification to the last number, the options, and the
version of what draws it. So one that is found is what would be drawn now, and what has changed is drawn anew. Fonts of
the machine are not part of it: after another font is installed, `make clean` forgets the drawings.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import vl_convert

Drawing = TypeVar("Drawing", str, bytes)
FOLDER = Path(__file__).parents[2] / "build" / "drawings"
DAYS = 30  # without being used, after which a drawing is forgotten


def kept(draw: Callable[..., Drawing], folder: Path = FOLDER) -> Callable[..., Drawing]:
    """A function of vl-convert that draws what it has not drawn before, and reads what it has.

    >>> from tempfile import mkdtemp
    >>> svg = kept(vl_convert.vegalite_to_svg, Path(mkdtemp()))
    >>> spec = {"data": {"values": [{"a": 1}]}, "mark": "bar", "encoding": {"x": {"field": "a"}}}
    >>> svg(spec) == svg(spec)
    True
    """

    @wraps(draw)  # by its name it is known what it gives
    def drawn(source: Any, **options: Any) -> Drawing:
        file = folder / key(draw.__name__, source, options)
        try:
            data = file.read_bytes()
            os.utime(file)  # still in use
        except FileNotFoundError:
            drawing = draw(source, **options)
            _write(file, drawing.encode() if isinstance(drawing, str) else drawing)
            return drawing
        return data.decode() if draw.__name__.endswith("svg") else data

    return drawn


def key(name: str, source: Any, options: dict[str, Any]) -> str:
    """The name of a drawing's file, which is another for whatever could change the drawing."""
    whole = json.dumps([name, vl_convert.__version__, source, options])
    return sha256(whole.encode()).hexdigest()


def _write(file: Path, data: bytes) -> None:
    """At once, since other processes may look for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, delete=False) as part:
        part.write(data)
    Path(part.name).replace(file)


def forget(folder: Path = FOLDER) -> None:
    """Remove drawings that nobody has used for long."""
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process has removed it
            if file.stat().st_mtime < time.time() - DAYS * 86_400:
                file.unlink()
