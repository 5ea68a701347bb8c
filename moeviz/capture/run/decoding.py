"""How a model is to generate: `Sampling`, `Decoding` or the checkpoint's own settings, checked before anything runs."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from transformers import PreTrainedModel

from moeviz.capture.run.values import check_values
from moeviz.errors import CaptureError

CHECKPOINT: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is sampled. The same seed, prompts and model give the same tokens."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_k: int | None = None  # draw among this many likeliest tokens only (of the vocabulary: not the router's top_k)
    top_p: float | None = None  # draw among the likeliest tokens that hold this much probability together
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How generation runs, by the names of transformers' `GenerationConfig`. Default: one plain sequence per prompt.

    What stands here and in `Sampling` is what is done. Of the checkpoint's own generation settings, only the tokens
    that start and end a text are taken; `decoding="checkpoint"` takes them all.

    Whatever is chosen, a trace has the tokens of the sequences that are returned, each once, with the routing they had
    when they were read: dropped beams and rejected drafts are left out.
    """

    num_beams: int = 1  # beam search over so many; the rows that the winners were read in make the trace
    num_return_sequences: int = 1  # so many sequences of the trace for each prompt, one after the other
    cache_implementation: str | None = None  # "static" and others; None: a cache that grows
    prefill_chunk_size: int | None = None  # read the prompt in pieces of so many tokens
    prompt_lookup_num_tokens: int | None = None  # draft so many tokens from the prompt, and check them at once
    assistant_model: PreTrainedModel | None = None  # a small model that drafts; its own routers are not recorded

    @property
    def drafts(self) -> bool:
        """True if tokens are read before it is known whether they stay."""
        return self.prompt_lookup_num_tokens is not None or self.assistant_model is not None

    @property
    def copies(self) -> int:
        """How often each prompt is read: once, or for every sequence that is sampled. Beams share theirs."""
        return self.num_return_sequences if self.num_beams == 1 else 1

    def check(self, model: PreTrainedModel, rows: int) -> None:
        """Raise `CaptureError` for what this model cannot do with so many rows."""
        if self.drafts and rows != 1:
            raise CaptureError("Drafts are checked for one sequence at a time. Give one prompt, and no beams.")
        if self.assistant_model is model:
            raise CaptureError(
                "A model cannot draft for itself here: its drafts would be part of the trace. Give another model as "
                "assistant_model."
            )


HowToDecode = Decoding | Literal["checkpoint"]


def check_asked(sampling: object, decoding: object, growing: bool = False) -> None:
    """Raise `CaptureError` for settings that are none, that cannot be combined, or that cannot be streamed."""
    if not isinstance(sampling, Sampling):
        raise CaptureError(f"sampling is a {type(sampling).__name__}; it must be a moeviz.Sampling.")
    check_values(_settings(sampling), "Sampling's")
    if decoding == CHECKPOINT:
        if replace(sampling, seed=0) != Sampling():
            raise CaptureError(
                'With decoding="checkpoint" the checkpoint says how tokens are drawn. Give Sampling a seed alone, or '
                "leave decoding out."
            )
        return
    if not isinstance(decoding, Decoding):
        given = repr(decoding) if isinstance(decoding, str) and len(decoding) <= 60 else f"a {type(decoding).__name__}"
        raise CaptureError(f'decoding is {given}; it must be a moeviz.Decoding, or "checkpoint".')
    check_values(_settings(decoding), "Decoding's")
    _check_together(sampling, decoding)
    if growing:
        check_can_grow(decoding.num_beams)


def check_can_grow(num_beams: int) -> None:
    """Raise `CaptureError` for beams in a stream."""
    if num_beams > 1:
        raise CaptureError(
            "Which beams win is known only at the end. Stream a single beam, or use trace instead of stream."
        )


def _check_together(sampling: Sampling, decoding: Decoding) -> None:
    if decoding.drafts and decoding.num_beams > 1:
        raise CaptureError("Drafts are checked for one sequence at a time. Give one prompt, and no beams.")
    if decoding.num_beams > 1 and sampling.temperature > 0:
        raise CaptureError("Beam search takes the most likely tokens. Give temperature 0, or a single beam to sample.")
    if decoding.num_beams == 1 and decoding.num_return_sequences > 1 and sampling.temperature == 0:
        raise CaptureError("The most likely tokens are the same every time. Give a temperature, or beams.")
    if 1 < decoding.num_beams < decoding.num_return_sequences:
        raise CaptureError(
            f"{decoding.num_beams} beams cannot give {decoding.num_return_sequences} sequences. Give at least as many "
            "beams as sequences."
        )


def _settings(of: Sampling | Decoding) -> dict[str, object]:
    return {field.name: getattr(of, field.name) for field in fields(of)}
