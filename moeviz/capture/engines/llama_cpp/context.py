"""A GGUF model in llama.cpp's memory: a context in which it reads tokens, and its tokenizer, with the few methods of a
transformers tokenizer that we use.
"""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from moeviz.capture.engines.llama_cpp.library import F16, F32, Library, library
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording
from moeviz.errors import CaptureError, InvalidPrompt, ModelNotFound
from moeviz.gguf_file import Value
from moeviz.text import quoted

MOST_SEATS = 256  # sequences that a context of llama.cpp holds
ROUND = 256  # cells of a cache come in multiples of this
_loading = threading.Lock()  # the log covers one load at a time


class Weights:
    """A model as llama.cpp has loaded it. It is freed once nobody holds this any more: a run holds it to its end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.library = lib = library()
        params = lib.llama.llama_model_default_params()
        params.n_gpu_layers = 0
        with _loading:
            lib.said.clear()
            self.model = _load(lib, paths, params)
        if self.model == lib.ffi.NULL:
            raise ModelNotFound(
                f"llama.cpp {lib.version} does not load {quoted(paths[0].name)}: {_why(lib)}. Is the file damaged, or "
                "of an architecture that is newer than this llama.cpp?"
            )
        self._free = finalize(self, lib.llama.llama_model_free, self.model)
        self._free.atexit = False  # the process ends, and its memory with it
        self.vocab = lib.llama.llama_model_get_vocab(self.model)


def _round_up(tokens: int) -> int:
    return -(-tokens // ROUND) * ROUND


def _load(lib: Library, paths: Sequence[Path], params: Any) -> Any:
    names = [lib.ffi.new("char[]", os.fsencode(path)) for path in paths]
    if len(names) == 1:
        return lib.llama.llama_model_load_from_file(names[0], params)
    return lib.llama.llama_model_load_from_splits(lib.ffi.new("char *[]", names), len(names), params)


def _why(lib: Library) -> str:
    """Return the kind of error in the library's log, without anything that may be a path."""
    said = " ".join(lib.said)
    kinds = {
        "unknown model architecture": "its architecture is unknown to it",
        "missing tensor": "it lacks a tensor",
        "wrong shape": "a tensor has another shape than the file says",
        "key not found": "it lacks a fact about the model",
        "tokenizer": "it does not know the tokenizer",
    }
    return next((words for sign, words in kinds.items() if sign in said), "it does not say why")


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """The way in which a model computes; see `moeviz.capture.engines.llama_cpp.model.open_model`."""

    threads: int
    micro_batch: int  # tokens that are computed at once
    exact: bool

    @property
    def words(self) -> str:
        """Return the words for `ModelInfo.recorded_by`."""
        return f"eval callback ({'float32' if self.exact else 'float16'} cache)"


class Context:
    """A context in which a model reads a number of sequences, each up to a number of tokens.

    recording    keeps what the routers decide; None: nothing is recorded.
    all_outputs  False computes the scores of the last token only, for measurements: the last layer then leaves out the
                 other tokens, and so does the record.
    """

    def __init__(
        self,
        weights: Weights,
        recording: CallbackRecording | None,
        how: ComputeOptions,
        seats: int,
        tokens: int,
        all_outputs: bool = True,
    ) -> None:
        self.weights, self.recording, self.how, self.all_outputs = weights, recording, how, all_outputs
        lib, llama = weights.library, weights.library.llama
        self.context = llama.llama_init_from_model(weights.model, self._params(seats, tokens))
        if self.context == lib.ffi.NULL:
            raise CaptureError(
                f"llama.cpp cannot hold {seats} sequence{'s' * (seats > 1)} of {tokens:,} tokens. Give a shorter "
                "prompt, or generate fewer tokens."
            )
        self._free = finalize(self, llama.llama_free, self.context)
        self._free.atexit = False
        took = [of(self.context) for of in (llama.llama_n_batch, llama.llama_n_ubatch, llama.llama_n_threads)]
        batch = self._batch(seats, tokens)
        if took != [batch, batch, how.threads] or llama.llama_n_ctx_seq(self.context) < tokens:
            raise CaptureError(f"llama.cpp {lib.version} took other settings than it was given, so it is not used.")
        self.vocabulary = llama.llama_vocab_n_tokens(weights.vocab)

    def _params(self, seats: int, tokens: int) -> Any:
        llama, how = self.weights.library.llama, self.how
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = _round_up(tokens) * seats, seats
        params.n_batch = params.n_ubatch = self._batch(seats, tokens)
        params.n_threads = params.n_threads_batch = how.threads
        params.type_k = params.type_v = F32 if how.exact else F16
        if how.exact:
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if self.recording is not None:
            params.cb_eval = self.recording.callback
        return params

    def _batch(self, seats: int, tokens: int) -> int:
        return min(self.how.micro_batch, _round_up(tokens) * seats)  # of a cache smaller than a batch, it takes no more

    def read(self, seat: int, start: int, ids: Sequence[int]) -> np.ndarray:
        """Read these tokens of one sequence, from position `start` on; the scores of what may follow, (V,) float32."""
        for first in range(0, len(ids), self.how.micro_batch):
            self._decode(seat, start + first, ids[first : first + self.how.micro_batch])
        scores = self.weights.library.llama.llama_get_logits_ith(self.context, -1)
        if scores == self.weights.library.ffi.NULL:
            raise CaptureError("llama.cpp read the tokens and gave no scores for the next one.")
        room = self.weights.library.ffi.buffer(scores, 4 * self.vocabulary)
        return np.frombuffer(room, np.float32).copy()

    def _decode(self, seat: int, start: int, ids: Sequence[int]) -> None:
        lib = self.weights.library
        batch = lib.llama.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for row, token in enumerate(ids):
                batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, start + row, 1
                batch.seq_id[row][0] = seat
                batch.logits[row] = self.all_outputs or row == len(ids) - 1  # the last layer drops rows without output
            status = lib.llama.llama_decode(self.context, batch)
        finally:
            lib.llama.llama_batch_free(batch)
        if self.recording is not None and self.recording.error is not None:
            raise self.recording.error
        if status:
            raise CaptureError(f"llama.cpp stopped while it read the tokens (llama_decode answered {status}).")

    def forget(self) -> None:
        """Empty all places."""
        llama = self.weights.library.llama
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def close(self) -> None:
        """Let its memory go. Calling it twice is harmless."""
        self._free()


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
        """Return the bytes that a token stands for."""
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
        """Return the characters of each token, special tokens left out; all tokens of a split character have its span.

        None if the tokens do not join to the text, except for a space that the tokenizer puts before it.
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

    # The methods of a transformers tokenizer that `moeviz.capture.run` uses:

    def decode(self, token_ids: Sequence[int], **_how: Any) -> str:
        """Return the text of these tokens, with U+FFFD for bytes that are not a character."""
        return b"".join(map(self.piece, token_ids)).decode(errors="replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each; bytes that are not a character by themselves become <0xC3>."""
        return [_escape_bytes(self.piece(token)) for token in ids]

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


def _escape_bytes(piece: bytes) -> str:
    text = piece.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)
