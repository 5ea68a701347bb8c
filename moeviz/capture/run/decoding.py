"""The settings of generation, `Sampling`, `Decoding` or the checkpoint's own, checked before anything runs.

A token is drawn by a generator of its own, so that what others draw does not matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from moeviz.errors import CaptureError, InvalidPrompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings by which the next token is sampled. The same seed, prompts and model give the same tokens.

    temperature  0 takes the likeliest token; from 1 on, unlikely ones come often.
    top_k        draw among this many likeliest tokens of the vocabulary only; it is not the router's top_k.
    top_p        draw among the likeliest tokens that hold this much probability together.
    seed         of the generator, which is the model's own: what others draw changes nothing.

    >>> Sampling(temperature=0.8, top_p=0.95, seed=1)
    Sampling(temperature=0.8, top_k=None, top_p=0.95, seed=1)
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


def sampling_processors(sampling: Sampling) -> LogitsProcessorList:
    """Return the processors after which the largest logit is the sampled token; none for the likeliest token."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k is not None:
        steps.append(TopKLogitsWarper(int(sampling.top_k)))
    if sampling.top_p is not None:
        steps.append(TopPLogitsWarper(float(sampling.top_p)))
    return LogitsProcessorList([*steps, _GumbelNoise(int(sampling.seed))])


class _GumbelNoise(LogitsProcessor):
    """Add Gumbel noise, so that the largest is a draw by the probabilities (the Gumbel-max trick).

    The noise comes from a generator of its own, on the CPU: other draws, and the device, do not matter.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(scores.shape).exponential_(generator=self.generator).log_().neg_()
        return scores + noise.to(scores.device)


class SeededMultinomial(TorchFunctionMode):
    """In this block and this thread, `torch.multinomial` draws what it draws after `torch.manual_seed(seed)`.

    transformers draws with torch's global generator, which all threads share. Here it gets one of its own instead, so
    neither disturbs the other.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.multinomial:
            kwargs = kwargs | {"generator": self._generator(args[0].device)}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


MOST_NEW_TOKENS = 2**24  # more than any context holds
MOST_ROWS = 2**16  # sequences, beams and drafts: more than fit into any memory
Value = tuple[str, Callable[[Any], bool]]  # what is needed, in words, and whether a value is that


def check_values(settings: dict[str, Any], of: str) -> None:
    """Raise `CaptureError` for the first invalid setting. `of` says whose settings they are, for the message."""
    for name, value in settings.items():
        if name in VALUES and not VALUES[name][1](value):
            raise CaptureError(f"{of} {name} is {_shorten(value)}; it must be {VALUES[name][0]}.")


def check_new_tokens(max_new_tokens: object) -> None:
    """Raise `InvalidPrompt` for a number of tokens that nobody can generate."""
    if not _is_whole(max_new_tokens, 0, MOST_NEW_TOKENS):
        raise InvalidPrompt(
            f"Cannot generate {_shorten(max_new_tokens)} tokens. Give a whole number from 0 to {MOST_NEW_TOKENS:,} as "
            "max_new_tokens."
        )


def _shorten(value: object) -> str:
    """Format a value of any kind, short enough for a sentence."""
    if _is_whole(value, -(10**30), 10**30):
        return str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def _is_number(value: object, low: float, high: float) -> bool:
    """Return True for a number in this range; NaN compares with nothing, so it is not in any."""
    return isinstance(value, Real) and not isinstance(value, bool) and low <= cast(Any, value) <= high


def _whole(low: int, high: int) -> Value:
    return f"a whole number from {low:,} to {high:,}", lambda value: _is_whole(value, low, high)


def _or_none(value: Value) -> Value:
    words, fits = value
    return f"{words}, or None", lambda given: given is None or fits(given)


VALUES: dict[str, Value] = {
    "temperature": (
        "0, or a number from 0.000001 to 1,000,000",
        lambda value: _is_number(value, 0.0, 0.0) or _is_number(value, 1e-6, 1e6),
    ),
    "top_k": _or_none(("a whole number of 1 or more", lambda value: _is_whole(value, 1, 2**63))),
    "top_p": _or_none(("a number above 0, and at most 1", lambda value: _is_number(value, 0.0, 1.0) and value > 0)),
    "seed": _whole(0, 2**63 - 1),
    "num_beams": _whole(1, MOST_ROWS),
    "num_return_sequences": _whole(1, MOST_ROWS),
    "cache_implementation": _or_none(
        (
            f"one of {', '.join(map(repr, ALL_CACHE_IMPLEMENTATIONS))}",
            lambda value: isinstance(value, str) and value in ALL_CACHE_IMPLEMENTATIONS,
        )
    ),
    "prefill_chunk_size": _or_none(_whole(1, MOST_NEW_TOKENS)),
    "prompt_lookup_num_tokens": _or_none(_whole(1, MOST_ROWS)),
    "assistant_model": _or_none(("a transformers model", lambda value: isinstance(value, PreTrainedModel))),
}


CHECKPOINT: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True, slots=True)
class Decoding:
    """Settings of generation, by the names of transformers' `GenerationConfig`. Default: one plain sequence per prompt.

    Only the settings here and in `Sampling` apply. Of the checkpoint's own generation settings, only the tokens
    that start and end a text are used; `decoding="checkpoint"` takes them all.

    Whatever is chosen, a trace has the tokens of the sequences that are returned, each once, with the routing they had
    when they were read: dropped beams and rejected drafts are left out.

    >>> import moeviz
    >>> beams = moeviz.Decoding(num_beams=4, num_return_sequences=2)
    >>> moeviz.trace("embedded", "Il fait", max_new_tokens=3, decoding=beams).tokens["sequence"].nunique()
    2
    """

    num_beams: int = 1  # beam search over this many; the rows that the winners were read in make the trace
    num_return_sequences: int = 1  # number of sequences of the trace per prompt, one after another
    cache_implementation: str | None = None  # "static" and others; None: a cache that grows
    prefill_chunk_size: int | None = None  # read the prompt in pieces of this many tokens
    prompt_lookup_num_tokens: int | None = None  # draft this many tokens from the prompt, and check them at once
    assistant_model: PreTrainedModel | None = None  # a small model that drafts; its own routers are not recorded

    @property
    def drafts(self) -> bool:
        """True if tokens are read before it is known whether they stay."""
        return self.prompt_lookup_num_tokens is not None or self.assistant_model is not None

    @property
    def copies(self) -> int:
        """The number of times that each prompt is read: one, or one for each sampled sequence. Beams share theirs."""
        return self.num_return_sequences if self.num_beams == 1 else 1

    def check(self, model: PreTrainedModel, rows: int) -> None:
        """Raise `CaptureError` for what this model cannot do with this many rows."""
        if self.drafts and rows != 1:
            raise CaptureError("Drafts are checked for one sequence at a time. Give one prompt, and no beams.")
        if self.assistant_model is model:
            raise CaptureError(
                "A model cannot draft for itself here: its drafts would be part of the trace. Give another model as "
                "assistant_model."
            )


HowToDecode = Decoding | Literal["checkpoint"]


def check_settings(sampling: object, decoding: object) -> None:
    """Raise `CaptureError` for settings that are invalid, or that cannot be combined."""
    if not isinstance(sampling, Sampling):
        raise CaptureError(f"sampling is a {type(sampling).__name__}; it must be a moeviz.Sampling.")
    check_values(_settings(sampling), "Sampling's")
    if decoding == CHECKPOINT:
        if replace(sampling, seed=0) != Sampling():
            raise CaptureError(
                'With decoding="checkpoint" the checkpoint says how tokens are drawn. Give Sampling only a seed, or '
                "leave decoding out."
            )
        return
    if not isinstance(decoding, Decoding):
        given = repr(decoding) if isinstance(decoding, str) and len(decoding) <= 60 else f"a {type(decoding).__name__}"
        raise CaptureError(f'decoding is {given}; it must be a moeviz.Decoding, or "checkpoint".')
    check_values(_settings(decoding), "Decoding's")
    _check_together(sampling, decoding)


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
