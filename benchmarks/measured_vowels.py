"""The vowels measured by Peterson and Barney (1952), from `praat-parselmouth` (GPL-3.0-or-later) if it is installed.

`python -m benchmarks.history --table-1991` and the checks of 1991 ask them too.
"""

import hashlib
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import SPEAKERS, VOWELS, Vowels, stand_in

SOURCE = "Peterson & Barney, Control Methods Used in a Study of the Vowels, JASA 24(2):175-184 (1952), table of Praat"
VOWELS_SHA256 = "4b5e52cf3f20df6aa052b4675b0f5f1b519d8170fd91badcadc7216a80594f8a"
IN_PRAAT = dict(zip(("iy", "ih", "aa", "ah"), VOWELS, strict=True))


def peterson_barney() -> Vowels:
    """Return the 600 measured samples, from the copy of the table in Praat.

    Raises `MoevizError` if `praat-parselmouth` is not installed, or holds a different table from the one that was
    checked.
    """
    try:
        praat = import_module("parselmouth.praat")
    except ImportError:
        raise MoevizError(
            "The measured vowels are in praat-parselmouth (GPL-3.0-or-later), which is not installed. Install it, or "
            "use stand_in()."
        ) from None
    table = praat.call("Create formant table (Peterson & Barney 1952)")
    columns = ("Speaker", "Vowel", "F1", "F2")
    rows = [
        [praat.call(table, "Get value", row + 1, column) for column in columns]
        for row in range(int(praat.call(table, "Get number of rows")))
    ]
    kept = [row for row in rows if row[1] in IN_PRAAT and int(row[0]) <= SPEAKERS]
    return read_table("".join(",".join(row) + "\n" for row in [columns, *kept]).encode())


def at_hand() -> list[Vowels]:
    """Return the stand-in; and the measured samples if they can be read."""
    return [stand_in(), *([peterson_barney()] if find_spec("parselmouth") else [])]


def read_table(content: bytes) -> Vowels:
    """Return the measured samples from a CSV of columns Speaker, Vowel, F1, F2, if it is the table that was checked.

    Raises `MoevizError` if its SHA-256 differs.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != VOWELS_SHA256:
        raise MoevizError(
            f"The vowel table has the SHA-256 {found[:12]}…, and the one that was checked has {VOWELS_SHA256[:12]}…. "
            "Use that one, or stand_in()."
        )
    rows = [line.split(",") for line in content.decode().splitlines()[1:]]
    names = list(IN_PRAAT)
    return Vowels(
        formants=np.array([row[2:] for row in rows], np.float64),
        vowel=np.array([names.index(row[1]) for row in rows]),
        speaker=np.array([int(row[0]) for row in rows]),
        source=SOURCE,
        measured=True,
    )
