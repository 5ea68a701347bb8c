"""Data that the systems are trained on: digits, spoken vowels and English text, which ship, with checksums; and vowels.

`data/LICENCES.md` says whose they are and where these copies come from.

The vowels are four of Peterson and Barney (1952): the first two formants of 75 speakers, who say each twice.
The measured table does not ship: the available copies are part of programs under the GPL 3, and nothing licenses the
table by itself (`benchmarks/measured_vowels.py` reads it). `stand_in()` is drawn from the published averages. No figure
of a paper holds for it.
"""

import gzip
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from moeviz.errors import MoevizError

DATA = Path(__file__).parent / "data"
SHA256 = {
    "digits.npz": "682c64a812f533f8ef6dd071adb4abec3b6402674ec4a66a33d60977d26b422c",
    "english.txt.gz": "433004c12c77791fad87ac4f0bc30961c87a738e94a6dc9c9253f9d9e50dc8bd",
    "japanese_vowels.npz": "a3c6f020863bec4f5cde414b8cd8afd4396574c34e07c589f1ca322f8871aee1",
}
TEST_DIGITS = 1000
HELD_OUT_WORDS = 0.1
VOCABULARY = 2000  # different words, UNKNOWN included
UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """N handwritten digits, 500 of each kind in all: 5,000 of MNIST."""

    images: UInt8[np.ndarray, "N 28 28"]  # 0 is paper, 255 ink
    digit: Int64[np.ndarray, " N"]  # what it is, 0 to 9


@dataclass(frozen=True, slots=True, eq=False)
class Utterances:
    """N utterances of the two vowels /ae/: JapaneseVowels."""

    frames: tuple[Float32[np.ndarray, "_ 12"], ...]  # of each: 12 LPC cepstrum coefficients every 6.4 ms, 7 to 29 times
    speaker: Int64[np.ndarray, " N"]  # who spoke it, 0 to 8


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """English as numbers: each token is a word, a number or a sign."""

    training: Int64[np.ndarray, " training"]  # index into the vocabulary; 0 is UNKNOWN
    held_out: Int64[np.ndarray, " held_out"]  # the last tenth of the text
    vocabulary: tuple[str, ...]


def digits() -> tuple[Digits, Digits]:
    """4,000 digits to train on and 1,000 to test, mixed once and for all.

    Source: LeCun, Bottou, Bengio & Haffner, Proceedings of the IEEE 86(11):2278-2324 (1998), a part of its MNIST.
    """
    with np.load(io.BytesIO(_read_checked("digits.npz")), allow_pickle=False) as file:
        images, digit = file["images"], file["digits"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(digit))
    parts = (order[TEST_DIGITS:], order[:TEST_DIGITS])
    return tuple(Digits(images[part], digit[part]) for part in parts)


def japanese_vowels() -> tuple[Utterances, Utterances]:
    """270 utterances to train on, 30 of each of nine men, and 370 to test, as their authors divided them.

    Source: Kudo, Toyama & Shimbo, Pattern Recognition Letters 20(11-13):1103-1111 (1999).
    """
    with np.load(io.BytesIO(_read_checked("japanese_vowels.npz")), allow_pickle=False) as file:
        frames, lengths, training = file["frames"], file["lengths"], file["training"]
        speaker = file["speakers"].astype(np.int64) - 1
    each = np.split(frames, np.cumsum(lengths, dtype=np.int64)[:-1])
    parts = (training, ~training)
    return tuple(Utterances(tuple(each[i] for i in np.flatnonzero(part)), speaker[part]) for part in parts)


def english() -> Words:
    """Return the Python language reference, about 100,000 words; the rarer ones are UNKNOWN.

    A word that repeats the one before it is left out: lines made of hyphens and stars are an eighth of the text, easy
    to predict, and all the same to a router.

    Source: the topics of Python 3.11's help, in the order of their names.
    """
    text = gzip.decompress(_read_checked("english.txt.gz")).decode()
    words = re.findall(r"[A-Za-z_]+|[0-9]+|[^\sA-Za-z0-9_]", text)
    known = (UNKNOWN, *(word for word, _ in Counter(words).most_common(VOCABULARY - 1)))
    index = {word: number for number, word in enumerate(known)}
    numbers = np.array([index.get(word, 0) for word in words])
    end = int(len(numbers) * (1 - HELD_OUT_WORDS))
    parts = (numbers[:end], numbers[end:])
    return Words(*(part[np.diff(part, prepend=-1) != 0] for part in parts), known)


def _read_checked(name: str) -> bytes:
    content = (DATA / name).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise MoevizError(
            f"{name} has the SHA-256 {found[:12]}…, and the file that ships with moeviz has {SHA256[name][:12]}…. "
            "Install moeviz again."
        )
    return content


STAND_IN = "synthetic stand-in drawn from the averages of Peterson & Barney (1952), table II; not their measurements"

VOWELS = ("i", "ɪ", "ɑ", "ʌ")  # heed, hid, hod, hud
ONES = (VOWELS.index("i"), VOWELS.index("ɑ"))  # the vowels whose output should be 1; the other two 0
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
    """N vowels, each spoken once by a speaker."""

    formants: Float64[np.ndarray, "N 2"]  # F1, F2 in Hz
    vowel: Int64[np.ndarray, " N"]  # index into VOWELS
    speaker: Int64[np.ndarray, " N"]  # from 1
    source: str  # the origin of the vowels, shown with every result
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


def encode(data: Vowels) -> tuple[Float64[np.ndarray, "N D"], Float64[np.ndarray, " N"]]:
    """Inputs (F1 and F2 in kHz, as in the paper of 1991, and 1); desired outputs: 1 for [i] and [ɑ], 0 else."""
    inputs = np.column_stack([data.formants / 1000, np.ones(len(data.vowel))])
    return inputs, np.isin(data.vowel, ONES).astype(np.float64)
