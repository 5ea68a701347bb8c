"""The text of each token, readable also where one character is split over several tokens.

Works with any tokenizer, through `decode` alone: token ids of byte-level BPE, of SentencePiece with byte fallback and
of others name their bytes in different ways, but all of them decode.
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

UNDECODABLE = "\ufffd"  # what decoders put for bytes that are not a whole character
LONGEST_SPLIT = 8  # tokens; a UTF-8 character has at most 4 bytes, and a token may hold the end of one and the next


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The exact text of each token of a sequence; `⟨é 1/2⟩` for the first of two tokens that make up 'é' together.

    Bytes that never become a character, such as a generated half of an emoji, show as the tokenizer's own name for
    them: `⟨<0xF0>⟩`.
    """
    decode = _decoder(tokenizer)
    texts: list[str] = []
    while len(texts) < len(ids):
        texts += _next_texts(tokenizer, decode, ids, len(texts))
    return texts


def _next_texts(
    tokenizer: PreTrainedTokenizerBase, decode: Callable[[tuple[int, ...]], str], ids: Sequence[int], start: int
) -> list[str]:
    """The text of the token at `start`, or of all tokens that make up whole characters together with it."""
    for end in range(start + 1, min(start + LONGEST_SPLIT, len(ids)) + 1):
        whole = decode(tuple(ids[start:end]))
        if UNDECODABLE not in whole:
            parts = end - start
            return [whole] if parts == 1 else [f"⟨{whole} {i}/{parts}⟩" for i in range(1, parts + 1)]
    piece = str(tokenizer.convert_ids_to_tokens(int(ids[start])))
    return [decode((ids[start],)) if _is_replacement(piece) else f"⟨{piece}⟩"]


def _is_replacement(piece: str) -> bool:
    """True where the text itself holds U+FFFD: as it is, or as byte-level BPE writes its three bytes."""
    return UNDECODABLE in piece or "ï¿½" in piece


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[tuple[int, ...]], str]:
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
