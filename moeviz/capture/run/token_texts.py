"""The text of each token, readable even if one character is split over several tokens.

Works with any tokenizer, through `decode`: token ids of byte-level BPE, of SentencePiece with byte fallback and of
others name their bytes in different ways, but all of them decode. The names of tokens only distinguish a U+FFFD in the
text from the one that a decoder puts for bytes that are not a whole character.
"""

from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

UNDECODABLE = "\ufffd"  # what decoders put for bytes that are not a whole character
IN_BYTE_LEVEL, IN_BYTE_FALLBACK = "ï¿½", "<0xEF><0xBF><0xBD>"  # how tokenizers name its three bytes
LONGEST_SPLIT = 8  # tokens; a UTF-8 character has at most 4 bytes, and a token may hold the end of one and the next
Decode = Callable[[tuple[int, ...]], str]


@runtime_checkable
class Decodes(Protocol):
    """A tokenizer that decodes ids and names tokens, as every one of transformers does."""

    def convert_ids_to_tokens(self, ids: list[int]) -> Any:
        """Return the name of each token."""

    def decode(self, token_ids: list[int], **how: Any) -> Any:
        """Return the text of tokens, U+FFFD for bytes that are not a character."""


def token_texts(tokenizer: Decodes, ids: Sequence[int]) -> list[str]:
    """Return the exact text of each token of a sequence; `⟨é 1/2⟩` for the first of two tokens that make up 'é'.

    Bytes that never become a character, such as a generated half of an emoji, show as the tokenizer's own name for
    them: `⟨<0xF0>⟩`. A U+FFFD that the text itself holds is a character like any other.
    """
    known = _known_texts(tokenizer)
    texts: list[str] = []
    decode, names = _decoder(tokenizer), _names(tokenizer, [] if known.keys() >= set(ids) else ids)
    while (at := len(texts)) < len(ids):
        if (text := known.get(ids[at])) is not None:
            texts.append(text)
            continue
        ahead = slice(at, at + LONGEST_SPLIT)
        texts += _next_texts(decode, tuple(ids[ahead]), names[ahead], known)
    return texts


def _names(tokenizer: Decodes, ids: Sequence[int]) -> list[str]:
    return [str(name) for name in tokenizer.convert_ids_to_tokens(list(map(int, ids)))] if len(ids) else []


_known: WeakKeyDictionary[Any, tuple[int, dict[int, str]]] = WeakKeyDictionary()


def _known_texts(tokenizer: Decodes) -> dict[int, str]:
    """Return the texts of tokens that are whole characters, as far as they were needed; none once tokens were added."""
    if not isinstance(tokenizer, Sized):
        return {}
    if _known.get(tokenizer, (0, {}))[0] != len(tokenizer):
        _known[tokenizer] = len(tokenizer), {}
    return _known[tokenizer][1]


def _next_texts(decode: Decode, ids: tuple[int, ...], names: list[str], known: dict[int, str]) -> list[str]:
    """Return the text of the first token, or of all tokens that make up whole characters together with it.

    The text of a token that is whole by itself is added to `known`.
    """
    for parts in range(1, len(ids) + 1):
        whole = decode(ids[:parts])
        if whole.count(UNDECODABLE) == _typed(whole, "".join(names[:parts])):
            if parts == 1:
                known[ids[0]] = whole
                return [whole]
            return [f"⟨{whole} {i}/{parts}⟩" for i in range(1, parts + 1)]
    return [f"⟨{names[0]}⟩"]


def _typed(whole: str, names: str) -> int:
    """Count the U+FFFD in the text itself, by the tokens' names: as they are, or as their three bytes.

    If the text holds the very characters by which byte-level BPE names those bytes, they decode to themselves.
    """
    byte_level = names.count(IN_BYTE_LEVEL) - whole.count(IN_BYTE_LEVEL)
    return names.count(UNDECODABLE) + names.count(IN_BYTE_FALLBACK) + max(byte_level, 0)


def _decoder(tokenizer: Decodes) -> Decode:
    """Decode ids as they read inside a text: decoders of the SentencePiece kind drop a space at the very start."""
    known: dict[tuple[int, ...], str] = {}

    def plain(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def decode(ids: tuple[int, ...]) -> str:
        if ids not in known:
            once, twice = plain(ids), plain(ids + ids)
            known[ids] = twice[len(once) :] if twice.startswith(once) else once
        return known[ids]

    return decode


def texts_of_tokens(tokenizer: Decodes, ids: Sequence[int]) -> list[str]:
    """Return the text of each of these tokens by itself; if that is not a whole character, its name: `⟨<0xF0>⟩`.

    "" for an id that the tokenizer does not know: a head may have more.
    """
    known, decode = _known_texts(tokenizer), _decoder(tokenizer)
    new = [token for token in ids if token not in known]
    names = dict(zip(new, _names(tokenizer, new), strict=True))
    return [known[one] if one in known else _next_texts(decode, (one,), [names[one]], known)[0] for one in ids]
