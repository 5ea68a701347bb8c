"""Numbers, names and tokens in sentences. Strangers' text is quoted as it is: for text nodes only."""

import re
from typing import Any

import pandas as pd

from moeviz.metrics.tokens import visible
from moeviz.model_info import ModelInfo

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
LONGEST_QUOTE = 24  # characters


def layer_word(model: ModelInfo) -> str:
    """Name one step of axis L: layer, time step, iteration … A file may say anything, so only plain words are taken."""
    return _harmless(model.layer_kind, "layer")


def item_word(model: ModelInfo) -> str:
    """Name what is routed: token, digit, utterance …"""
    return _harmless(model.item_kind, "token")


def label_word(model: ModelInfo) -> str:
    """Name what a label says of it: kind of text, vowel, speaker …"""
    return _harmless(model.label_kind, "kind of text")


def _harmless(word: str, otherwise: str) -> str:
    return word if re.fullmatch(r"[a-z ]{1,20}", word) else otherwise


def in_words_of(model: ModelInfo, sentence: str) -> str:
    """Put a sentence about tokens, kinds of text and layers into the words of a model that routes something else.

    What it quotes stays as it is.

    >>> from dataclasses import replace
    >>> from moeviz.testing import sample_trace
    >>> digits = replace(sample_trace().model, item_kind="digit", label_kind="place", layer_kind="level")
    >>> in_words_of(digits, "Which kinds of text do tokens of this layer have?")
    'Which places do digits of this level have?'
    >>> in_words_of(digits, "Layer 3 sends the token “token” there.")
    'Level 3 sends the digit “token” there.'
    >>> in_words_of(replace(digits, layer_kind="epoch"), "A layer, a token.")
    'An epoch, a digit.'
    """
    words = {"kind of text": label_word(model), "token": item_word(model), "layer": layer_word(model)}
    words = {_several(word): _several(ours) for word, ours in words.items()} | words
    words |= {_first_letters(word): _first_letters(ours) for word, ours in words.items()}
    said = re.compile(rf"“[^”]*”|\b(?:([Aa])n? )?({'|'.join(words)})\b")
    return said.sub(lambda found: found[0] if found[2] is None else _after(found[1], words[found[2]]), sentence)


def _after(article: str | None, word: str) -> str:
    """Put a word after "a" or "an", by its sound, or after neither."""
    if article is None:
        return word
    return f"{article}{'n' if re.match('[aeio]|u(?!ni|se)', word) else ''} {word}"


def _first_letters(word: str) -> str:
    return word[0].upper() + word[1:]


def _several(word: str) -> str:
    head, of, rest = word.partition(" of ")
    return f"{head}s{of}{rest}"


def percent(share: float) -> str:
    """Return a share in per cent, rounded, but never to all or nothing.

    >>> percent(0.841), percent(1.0), percent(0.9999), percent(0.001)
    ('84%', '100%', 'over 99%', 'under 1%')
    """
    if 0.995 <= share < 1:
        return "over 99%"
    return "under 1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def byte_unit(number: float) -> tuple[str, float]:
    """Find the largest unit, of those on the data sheets of cards, of which there is one or more; and its bytes."""
    return next(((unit, size) for unit, size in UNITS if number >= size), UNITS[-1])


def bytes_said(number: float) -> str:
    """Return a number of bytes with three digits, in a unit that suits it.

    >>> bytes_said(18.9e6), bytes_said(1.3421e12), bytes_said(24e9), bytes_said(0.0)
    ('18.9 MB', '1,342 GB', '24 GB', '0 kB')
    """
    unit, size = byte_unit(number)
    return f"{number / size:,.0f} {unit}" if number >= 100 * size else f"{number / size:.3g} {unit}"


def short(name: object, longest: int = LONGEST_QUOTE) -> str:
    """Return a stranger's name, its characters made visible, no longer than a quoted token."""
    shown = visible(str(name))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def one_row(frame: pd.DataFrame, at: Any) -> Any:
    """Return a row of a frame to read fields of, whole numbers as whole numbers."""
    (row,) = frame.loc[[at]].itertuples(index=False)
    return row
