"""Responses of model servers: which token a row of routing is about."""

from typing import Any

import numpy as np

from moeviz.errors import NotSaid
from moeviz.formats.importers.build_trace import SequenceRouting
from moeviz.formats.importers.importer import ImportOptions, flag


def response_routing(
    ids: np.ndarray, prompt: int | None, new: int | None, options: ImportOptions, tokens: Any = None
) -> SequenceRouting:
    """Rows of one request, (T, L, K): all its tokens but the last, which met no router, from `start` on.

    Raises `NotSaid` if there are more, or fewer: whether a prefix was left out is not in a response.
    """
    rows, start = len(ids), options.start or 0
    position = np.arange(start, start + rows)
    ids = ids.transpose(1, 0, 2)
    if prompt is None:
        return SequenceRouting(ids, position)
    if new is not None and rows not in (expected := {prompt + new - 1 - start, prompt - start if new == 0 else -1}):
        raise NotSaid(
            f"The response has {rows:,} rows of routing for {prompt:,} prompt tokens and {new:,} generated ones, of "
            f"which {max(expected):,} met a router from token {start} on. If the request left out a known prefix, say "
            f"where it began with {flag('start')}; if not, rows were lost.",
            () if options.start is not None else ("start",),
        )
    known = None if tokens is None else np.asarray(tokens, np.int64)[start : start + rows]
    return SequenceRouting(ids, position, token_id=known, generated=position >= prompt)


def choices(body: Any) -> list[dict[str, Any]]:
    """The choices of a completion; none of anything else."""
    found = body.get("choices") if isinstance(body, dict) else None
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def tokens_of(body: dict[str, Any], choice: dict[str, Any]) -> tuple[Any, Any]:
    """Ids of the prompt and of what was generated, where the server was asked for them."""
    prompt = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    new = choice.get("token_ids")
    return prompt, choice.get("generation_token_ids") if new is None else new


def choice_routing(
    ids: np.ndarray, body: dict[str, Any], choice: dict[str, Any], options: ImportOptions
) -> SequenceRouting:
    """The rows of one choice, (T, L, K), with its tokens, where the response has them."""
    prompt, new = tokens_of(body, choice)
    if not prompt:
        return response_routing(ids, None, None, options)
    tokens = None if new is None else [*prompt, *new]
    return response_routing(ids, len(prompt), None if new is None else len(new), options, tokens)
