"""Data that the systems after 1991 are trained on: digits, spoken vowels and English text. They ship, with checksums.

`data/LICENCES.md` says whose they are and where these copies come from.
"""

import gzip
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

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
    speaker: Int64[np.ndarray, " N"]  # who said it, 0 to 8


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
    with np.load(io.BytesIO(_checked("digits.npz")), allow_pickle=False) as file:
        images, digit = file["images"], file["digits"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(digit))
    parts = (order[TEST_DIGITS:], order[:TEST_DIGITS])
    return tuple(Digits(images[part], digit[part]) for part in parts)


def japanese_vowels() -> tuple[Utterances, Utterances]:
    """270 utterances to train on, 30 of each of nine men, and 370 to test, as their authors divided them.

    Source: Kudo, Toyama & Shimbo, Pattern Recognition Letters 20(11-13):1103-1111 (1999).
    """
    with np.load(io.BytesIO(_checked("japanese_vowels.npz")), allow_pickle=False) as file:
        frames, lengths, training = file["frames"], file["lengths"], file["training"]
        speaker = file["speakers"].astype(np.int64) - 1
    each = np.split(frames, np.cumsum(lengths, dtype=np.int64)[:-1])
    return _utterances(each, speaker, training), _utterances(each, speaker, ~training)


def english() -> Words:
    """The Python language reference, about 100,000 words; the rarer ones are UNKNOWN.

    A word that repeats the one before it is left out: lines made of hyphens and stars are an eighth of the text, easy
    to predict, and all the same to a router.

    Source: the topics of Python 3.11's help, in the order of their names.
    """
    text = gzip.decompress(_checked("english.txt.gz")).decode()
    words = re.findall(r"[A-Za-z_]+|[0-9]+|[^\sA-Za-z0-9_]", text)
    known = (UNKNOWN, *(word for word, _ in Counter(words).most_common(VOCABULARY - 1)))
    index = {word: number for number, word in enumerate(known)}
    numbers = np.array([index.get(word, 0) for word in words])
    end = int(len(numbers) * (1 - HELD_OUT_WORDS))
    return Words(_without_repeats(numbers[:end]), _without_repeats(numbers[end:]), known)


def _without_repeats(words: np.ndarray) -> np.ndarray:
    return words[np.diff(words, prepend=-1) != 0]


def _utterances(each: list[np.ndarray], speaker: np.ndarray, kept: Bool[np.ndarray, " N"]) -> Utterances:
    return Utterances(tuple(each[i] for i in np.flatnonzero(kept)), speaker[kept])


def _checked(name: str) -> bytes:
    content = (DATA / name).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise MoevizError(
            f"{name} has the SHA-256 {found[:12]}…, and the file that ships with moeviz has {SHA256[name][:12]}…. "
            "Install moeviz again."
        )
    return content
