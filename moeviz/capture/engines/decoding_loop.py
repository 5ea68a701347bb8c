"""The part of a run that engines share: prompts to tokens, tokens drawn one after the other, rows of the trace, and
figures of experts' outputs where an engine shows the outputs of each token's experts.

T tokens of a sequence, L MoE layers, K slots, D numbers of an output, V tokens of the vocabulary. The figures are those
of `ExpertOutputs`, with `added` left 0.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import FloatTensor, LongTensor, Tensor

from moeviz.capture.engines.engine import SoFar
from moeviz.capture.run.chat import as_text
from moeviz.capture.run.decoding import Decoding, sampling_processors
from moeviz.capture.run.generation_plan import decoding_words, ended_words
from moeviz.capture.run.prompts import check_context
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.run.token_texts import token_texts
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.expert_outputs import ExpertOutputs, find_figures, outputs_from_figures
from moeviz.routing_trace import pad_layers, token_frame
from moeviz.text import quoted

UNREAD = cast(LongTensor, torch.empty(0, 0, dtype=torch.long))  # the ids before, at which no way of drawing looks


def prompt_ids(
    tokenizer: Any, request: CaptureRequest, name: str, limit: int | None, ids_of: Callable[[str], list[int]]
) -> list[list[int]]:
    """Tokenise each prompt, as a chat turn if asked, and check it against the model's context.

    tokenizer   has `chat_template` and `apply_chat_template`.
    ids_of      tokenises one text; with special tokens unless it is a chat.

    Raises `InvalidPrompt` for what cannot be read, and `CaptureError` if there is no chat template.
    """
    if request.chat and not tokenizer.chat_template:
        raise CaptureError(
            f"{quoted(name)} has no chat template, so this text cannot be sent as a turn of a chat. Leave chat out: "
            "the model then reads the text as it is."
        )
    texts = [as_text(tokenizer, chat) for chat in request.conversations] if request.chat else request.texts
    ids = [ids_of(text) for text in texts]
    if not all(ids):
        raise InvalidPrompt("The tokenizer makes no tokens of this prompt. Type some text for the model to read.")
    check_context(max(map(len, ids)), request.max_new_tokens, limit)
    return ids


def draw_and_read(
    request: CaptureRequest,
    scores: list[Tensor],
    ends: Callable[[int], bool],
    read: Callable[[int, int], Tensor],
    so_far: Callable[[str], SoFar],
) -> Generator[SoFar, None, None]:
    """Draw a token for each sequence from one stream of noise, as in a batch of transformers; read it; and so on.

    scores   (V,) float32 of what may follow each prompt, all of which are read.
    ends     returns whether a token ends a text.
    read     reads a token of a sequence (its number, the token); the scores (V,) of what may follow.
    so_far   what makes the trace as it is now, given its `ModelInfo.decoding`; yielded at first and after each draw, as
             `EngineModel.run` has it.
    """
    words = decoding_words(request.sampling, Decoding()) if request.max_new_tokens else ""
    yield so_far(words)
    draw, going = sampling_processors(request.sampling), set(range(len(scores)))
    ended: list[int] = []
    for done in range(1, request.max_new_tokens + 1):
        drawn = draw(UNREAD, cast(FloatTensor, torch.stack(scores))).argmax(dim=-1).tolist()
        over = {sequence for sequence in going if ends(drawn[sequence])}
        going, ended = going - over, ended + [done - 1] * len(over)
        yield so_far(ended_words(words, ended, len(scores), request.max_new_tokens))
        if not going or done == request.max_new_tokens:  # the last one drawn meets no router
            return
        for sequence in sorted(going):
            scores[sequence] = read(sequence, drawn[sequence])


def token_rows(tokenizer: Any, sequences: Sequence[Sequence[int]], prompts: Sequence[int]) -> pd.DataFrame:
    """Make the tokens of a trace of what each sequence has read, of which the first `prompts` tokens are its prompt."""
    lengths = [len(ids) for ids in sequences]
    within = [np.arange(length) for length in lengths]
    return token_frame(
        sequence=np.repeat(np.arange(len(sequences)), lengths),
        position=np.concatenate(within),
        text=[text for ids in sequences for text in token_texts(tokenizer, list(ids))],
        token_id=np.concatenate(list(sequences)),
        phase=np.concatenate(
            [np.where(place < prompt, "prompt", "generated") for place, prompt in zip(within, prompts, strict=True)]
        ),
    )


ROUNDING = 1e-4  # of the largest numbers in a sum
TINY = np.finfo(np.float32).tiny


def figures_of(outputs: np.ndarray, whole: np.ndarray, stream: np.ndarray | None) -> np.ndarray:
    """(T, K, FIGURES) of outputs (T, K, D), their weighted sum (T, D) and the residual stream (T, D)."""
    norm = np.linalg.norm(outputs, axis=-1)
    beside = np.stack([whole, np.zeros_like(whole) if stream is None else stream], axis=1)
    lengths = np.linalg.norm(beside, axis=-1)[:, None] * norm[..., None]
    cosines = np.einsum("tkd,tsd->tks", outputs, beside) / np.maximum(lengths, TINY)
    plain = np.stack([norm, np.zeros_like(norm), np.abs(outputs).max(-1)], axis=-1)
    return np.concatenate([plain, cosines], axis=-1).astype(np.float32)


def add_up(outputs: np.ndarray, weights: np.ndarray, whole: np.ndarray) -> bool:
    """True if outputs (T, K, D) with weights (T, K) make what the layer's experts give together, (T, D)."""
    off = np.abs(np.einsum("tk,tkd->td", weights, outputs) - whole).max(-1)
    most = (np.abs(weights) * np.abs(outputs).max(-1)).sum(-1)
    return bool((off <= ROUNDING * np.maximum(most, TINY)).all())


def outputs_of(
    experts: np.ndarray, weights: np.ndarray, given: Sequence[np.ndarray], figures: Sequence[np.ndarray], stream: bool
) -> ExpertOutputs:
    """Return the outputs of a trace's slots.

    experts  (L, T, K), and weights (L, T, K): the trace's own.
    given    of each layer (T, K): whose figures (T, K, FIGURES) are in which slot.
    stream   whether every layer's residual stream was shown.

    Raises `CaptureError` for outputs that are not all numbers.
    """
    layers = [
        find_figures(ids, of, part) for ids, of, part in zip(experts, pad_layers(given, -1), figures, strict=True)
    ]
    return outputs_from_figures(layers, weights, stream)
