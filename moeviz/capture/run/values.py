"""What a setting of generation can be: a table, and the sentence for a value that is something else."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from moeviz.errors import CaptureError, InvalidPrompt

MOST_NEW_TOKENS = 2**24  # more than any context holds
MOST_ROWS = 2**16  # sequences, beams and drafts: more than fit into any memory
Value = tuple[str, Callable[[Any], bool]]  # what is needed, in words, and whether a value is that


def check_values(settings: dict[str, Any], of: str) -> None:
    """Raise `CaptureError` for the first of these settings that is none. `of`: whose they are, for the sentence."""
    for name, value in settings.items():
        if name in VALUES and not VALUES[name][1](value):
            raise CaptureError(f"{of} {name} is {_shown(value)}; it must be {VALUES[name][0]}.")


def check_new_tokens(max_new_tokens: object) -> None:
    """Raise `InvalidPrompt` for a number of tokens that nobody can generate."""
    if not _is_whole(max_new_tokens, 0, MOST_NEW_TOKENS):
        raise InvalidPrompt(
            f"Cannot generate {_shown(max_new_tokens)} tokens. Give a whole number from 0 to {MOST_NEW_TOKENS:,} as "
            "max_new_tokens."
        )


def _shown(value: object) -> str:
    """A value of any kind, short enough for a sentence."""
    if _is_whole(value, -(10**30), 10**30):
        return str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def _is_number(value: object, low: float, high: float) -> bool:
    """NaN is on neither side of anything, so it is none."""
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
