"""A server's answer beside what was asked: the model's name, the tokens of the prompt, and how much was generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeviz.capture.run.generation_plan import END_OF_TEXT
from moeviz.errors import CaptureError
from moeviz.file_limits import shown
from moeviz.formats.importers.build_trace import SequenceRouting
from moeviz.text import quoted

NOT_CHECKED = (
    "Whether the server read this prompt is not known: it has neither /tokenize nor /detokenize. Compare the number of "
    "tokens with what you expect."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The routing of one prompt and of what was generated after it, and what else the server says of the two."""

    part: SequenceRouting
    new: int  # tokens that were generated, the last one too
    prompt: Any = None  # ids of the tokens that were read; None where the server was given ids, and counts them
    model: Any = None  # the name that the answer gives its model; None where it gives none
    reason: Any = None  # why the server ended, in its own word
    caution: str = ""


def check_model(answer: Answer, names: Sequence[str], url: str) -> None:
    """Raise `CaptureError` where the answer names a model that has none of these names."""
    if answer.model is not None and answer.model not in names:
        raise CaptureError(
            f"{url} answered as the model {shown(answer.model)}, and {quoted(names[0])} was asked: this would be the "
            "routing of another model. Ask the server of that model directly: a gateway may pass requests on to others."
        )


def check_tokens(read: Sequence[int], ids: Sequence[int], url: str) -> None:
    """Raise `CaptureError` unless the tokens that were read are those of the prompt."""
    if read == ids:
        return
    if read == ids[len(ids) - len(read) :]:
        what = f"only the last {len(read):,} of its {len(ids):,} tokens were read"
    elif read == ids[: len(read)]:
        what = f"only the first {len(read):,} of its {len(ids):,} tokens were read"
    else:
        first = next((at for at, (one, other) in enumerate(zip(read, ids, strict=False)) if one != other), len(ids))
        what = f"it has {len(ids):,} tokens, and the {len(read):,} that were read are others from token {first:,} on"
    raise CaptureError(
        f"{url} did not read this prompt as it is: {what}. This would be the routing of another text. Ask the server "
        "directly: a gateway may cut or rewrite prompts."
    )


def said_of_text(read: str, prompt: str, tokens: int) -> str:
    """The caution for tokens in whose text the prompt's is not found, white space aside; "" where it is."""
    if "".join(prompt.split()) in "".join(read.split()):
        return ""
    return (
        f"The {tokens:,} tokens that the server read do not contain the prompt's {len(prompt):,} characters as they "
        "are: it was cut or rewritten, or this is the routing of another text."
    )


def said_of_zeros(parts: Sequence[np.ndarray]) -> str:
    """The caution for tokens that have zeros in place of experts; each part is a sequence (L MoE layers, T, K).

    A prefix from a cache has zeros where nobody kept its routing. With several experts a token these are no choice, and
    count as not recorded. With one, expert 0 could be the choice: so only of the first tokens, and at every layer.
    """
    tokens, (layers, _, top_k) = sum(part.shape[1] for part in parts), parts[0].shape
    zeros = [(part == 0).all(axis=2) for part in parts]
    if top_k > 1:
        found = sum(int(part.any(axis=0).sum()) for part in zeros)
        which, then = f"{found:,} of {tokens:,} tokens have zeros in place of experts", "They count as not recorded. "
    else:
        found = sum(int(np.logical_and.accumulate(part.all(axis=0)).sum()) for part in zeros)
        which, then = f"The first {found:,} of {tokens:,} tokens have expert 0 at all {layers} layers", ""
    if not found or layers == 1 == top_k:
        return ""
    return (
        f"{which}, as a prefix has that came from the server's cache. {then}To record it, start the server without its "
        "prefix cache."
    )


WHY_ENDED = {
    "stop": END_OF_TEXT,
    "length": "the server's own limit of tokens was reached, as where its context is full",
    "abort": "the server broke off",
}


def why_ended(reason: Any) -> str:
    """Why a server generated fewer tokens than it was asked for, in words.

    >>> why_ended("stop"), why_ended("tired"), why_ended(None)
    ('the model wrote its end-of-text token', "the server's reason is 'tired'", 'the server gives no reason')
    """
    if reason is None:
        return "the server gives no reason"
    known = WHY_ENDED.get(reason) if isinstance(reason, str) else None
    return known or f"the server's reason is {shown(reason)}"
