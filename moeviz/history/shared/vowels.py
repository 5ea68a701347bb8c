"""The four vowels of Peterson and Barney (1952): the first two formants of 75 speakers, who say each vowel twice.

`peterson_barney()` is the measured table. It does not ship: the available copies are part of programs under the GPL 3,
and nothing licenses the table by itself. It is read from `praat-parselmouth` if that is installed. `stand_in()` is
drawn from the published averages and needs nothing. No figure of a paper holds for it.
"""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float64, Int64

from moeviz.errors import MoevizError

SOURCE = "Peterson & Barney, Control Methods Used in a Study of the Vowels, JASA 24(2):175-184 (1952), table of Praat"
SHA256 = "4b5e52cf3f20df6aa052b4675b0f5f1b519d8170fd91badcadc7216a80594f8a"
STAND_IN = "synthetic stand-in drawn from the averages of Peterson & Barney (1952), table II; not their measurements"

VOWELS = ("i", "ɪ", "ɑ", "ʌ")  # heed, hid, hod, hud
ONES = (VOWELS.index("i"), VOWELS.index("ɑ"))  # the vowels whose output should be 1; the other two 0
IN_PRAAT = dict(zip(("iy", "ih", "aa", "ah"), VOWELS, strict=True))
SPEAKERS = 75  # the table has a 76th; the paper of 1991 used 75 and does not say which
TRAIN_SPEAKERS = 50  # the first 50: all 33 men and 17 women

# (speakers, averages in Hz of F1 and F2 for each of VOWELS), men then women then children: table II.
AVERAGES = (
    (33, ((270, 2290), (390, 1990), (730, 1090), (640, 1190))),
    (28, ((310, 2790), (430, 2480), (850, 1220), (760, 1400))),
    (14, ((370, 3200), (530, 2730), (1030, 1370), (850, 1590))),
)
# Standard deviations of the logarithm of (F1, F2), which table II does not give: estimated from the measured table.
SPEAKER_SPREAD = 0.052  # one factor for all formants of a speaker: the length of the vocal tract
VOWEL_SPREAD = (0.074, 0.056)  # how a speaker's vowel differs from that
REPETITION_SPREAD = (0.071, 0.037)  # between the two times of saying it


@dataclass(frozen=True, slots=True, eq=False)
class Vowels:
    """N vowels, each said once by a speaker."""

    formants: Float64[np.ndarray, "N 2"]  # F1, F2 in Hz
    vowel: Int64[np.ndarray, " N"]  # index into VOWELS
    speaker: Int64[np.ndarray, " N"]  # from 1
    source: str  # where they come from, to be shown with every result
    measured: bool  # False for the stand-in

    @property
    def training(self) -> np.ndarray:
        """True for the samples of the first 50 speakers, on which the systems are trained."""
        return self.speaker <= TRAIN_SPEAKERS


def stand_in() -> Vowels:
    """600 made-up samples with the published averages of men, women and children, and a plausible spread.

    The logarithm of each formant is that of the average, plus a normal deviate of the speaker, of the speaker's
    vowel, and of the repetition. The same samples every time.

    Source: Peterson & Barney (1952), table II, for the averages; the spreads are ours.
    """
    rng = np.random.default_rng(1952)
    averages = np.concatenate([np.broadcast_to(means, (people, 4, 2)) for people, means in AVERAGES])
    logs = np.log(averages)[:, :, None, :] + rng.normal(0, SPEAKER_SPREAD, (SPEAKERS, 1, 1, 1))
    logs = logs + rng.normal(0, VOWEL_SPREAD, (SPEAKERS, len(VOWELS), 1, 2))
    logs = logs + rng.normal(0, REPETITION_SPREAD, (SPEAKERS, len(VOWELS), 2, 2))
    speaker, vowel, _ = (part.ravel() for part in np.indices((SPEAKERS, len(VOWELS), 2)))
    return Vowels(np.exp(logs).reshape(-1, 2).round(), vowel, speaker + 1, STAND_IN, measured=False)


def peterson_barney() -> Vowels:
    """The 600 measured samples, from the copy of the table in Praat.

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
    """The stand-in; and the measured samples if they can be read."""
    return [stand_in(), *([peterson_barney()] if find_spec("parselmouth") else [])]


def read_table(content: bytes) -> Vowels:
    """The measured samples from a CSV of columns Speaker, Vowel, F1, F2, if it is the table that was checked.

    Raises `MoevizError` if its SHA-256 differs.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise MoevizError(
            f"The vowel table has the SHA-256 {found[:12]}…, and the one that was checked has {SHA256[:12]}…. Use "
            "that one, or stand_in()."
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


def encode(data: Vowels) -> tuple[Float64[np.ndarray, "N D"], Float64[np.ndarray, " N"]]:
    """Inputs (F1 and F2 in kHz, as in the paper of 1991, and 1); desired outputs: 1 for [i] and [ɑ], 0 else."""
    inputs = np.column_stack([data.formants / 1000, np.ones(len(data.vowel))])
    return inputs, np.isin(data.vowel, ONES).astype(np.float64)
