"""The tokenizer of a GGUF file, in llama.cpp's hands, with the few methods of a transformers tokenizer that we use."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from moeviz.capture.engines.llama_cpp.context import Weights
from moeviz.errors import InvalidPrompt
from moeviz.gguf_file import Value

LONGEST_PIECE = 2**16  # bytes


class Vocabulary:
    """Text to tokens and back, by the file's own tokenizer; chats by the file's template."""

    def __init__(self, weights: Weights, facts: Mapping[str, Value]) -> None:
        self.weights = weights
        template = facts.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) and template else None
        self._pieces: dict[int, bytes] = {}

    def ids(self, text: str, special: bool = True) -> list[int]:
        """Tokens of a text; those that the text itself writes, such as <s>, are read as such.

        special  whether the tokenizer may put its own before and after, as the file says.
        """
        lib, data = self.weights.library, _utf8(text)
        room = lib.ffi.new("llama_token[]", len(data) + 16)
        count = lib.llama.llama_tokenize(self.weights.vocab, data, len(data), room, len(room), special, True)
        return list(room[0 : max(count, 0)])

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        if token not in self._pieces:
            lib, size = self.weights.library, 64
            while True:
                room = lib.ffi.new("char[]", size)
                count = lib.llama.llama_token_to_piece(self.weights.vocab, token, room, size, 0, True)
                if count >= 0 or -count > LONGEST_PIECE:
                    break
                size = -count
            self._pieces[token] = bytes(lib.ffi.buffer(room, max(count, 0)))
        return self._pieces[token]

    def spans(self, text: str) -> list[tuple[int, int]] | None:
        """Which characters each token stands for, none of them special; all tokens of a split character have its span.

        None where the tokens do not join to the text, but for a space that the tokenizer puts before it.
        """
        pieces = [self.piece(token) for token in self.ids(text, special=False)]
        whole, data = b"".join(pieces), _utf8(text)
        ahead = len(whole) - len(data)
        if whole[ahead:] != data or whole[:ahead] not in (b"", b" "):
            return None
        starts = [at for at, character in enumerate(text) for _ in character.encode()]
        ends = np.maximum(np.cumsum([len(piece) for piece in pieces], dtype=int) - ahead, 0)
        places = zip((0, *ends), ends, strict=False)
        return [(starts[first], starts[last - 1] + 1) if last > first else (0, 0) for first, last in places]

    def ends(self, token: int) -> bool:
        """True if this token ends a text, or a turn of a chat."""
        return bool(self.weights.library.llama.llama_vocab_is_eog(self.weights.vocab, token))

    # What follows is what `moeviz.capture.run` asks of a transformers tokenizer.

    def decode(self, token_ids: Sequence[int], **_how: Any) -> str:
        """The text of these tokens, U+FFFD for what is no character."""
        return b"".join(map(self.piece, token_ids)).decode(errors="replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The text of each; bytes that are no character by themselves read <0xC3>."""
        return [_named(self.piece(token)) for token in ids]

    def apply_chat_template(self, conversation: list[dict[str, str]], **how: Any) -> str:
        """Turns of a chat as one text, by the file's template, in the sandbox in which transformers runs templates."""
        special: dict[str, Any] = {f"{name}_token": self._special(name) for name in ("bos", "eos")}
        add = bool(how.get("add_generation_prompt"))
        rendered = render_jinja_template(
            [conversation], chat_template=self.chat_template, add_generation_prompt=add, **special
        )
        return str(rendered[0][0])

    def _special(self, name: str) -> str:
        lib = self.weights.library
        token = getattr(lib.llama, f"llama_vocab_{name}")(self.weights.vocab)
        return "" if token < 0 else self.piece(token).decode(errors="replace")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPrompt("The prompt has half a character in it (a lone surrogate). Leave it out.") from error


def _named(piece: bytes) -> str:
    text = piece.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)
