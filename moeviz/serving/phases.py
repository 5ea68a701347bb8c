"""Tokens to judge: generated ones stream experts one by one, prompts are read in chunks, prefixes repeat."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from moeviz.errors import MissingField, MoevizError
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace

PHASES = ("auto", "generated", "prompt", "all")


class ServedTokens(NamedTuple):
    """A trace of the tokens that were asked for, and a sentence that says which they are."""

    trace: RoutingTrace
    said: str


def served_tokens(trace: RoutingTrace, phase: str = "auto", chunk: int = 1, keep_repeats: bool = True) -> ServedTokens:
    """The tokens of one phase, with or without those that a server with a prefix cache would not run again.

    `auto` takes what such steps are made of: generated tokens for steps of one token, if there are any, and prompts for
    chunks. A token repeats where its sequence has been the same as an earlier one from the start up to and including
    it. Raises `MissingField` if there are no tokens of the phase, or if repeats are to go and the trace has no ids of
    tokens.
    """
    if phase not in PHASES:
        raise MoevizError(f"There is no phase {phase!r}. Choose from {', '.join(PHASES)}.")
    generated = (trace.tokens["phase"] == "generated").to_numpy()
    kept, said = _of_phase(phase, chunk, generated)
    if keep_repeats:
        said += " Repeated prefixes are kept."
    else:
        again = repeats(trace)
        said += f" {int((kept & again).sum()):,} of repeated prefixes are left out."
        kept = kept & ~again
    if not kept.any():
        raise MissingField(
            f"There are no such tokens: of {len(kept):,}, {int(generated.sum()):,} are generated. Choose another phase."
        )
    return ServedTokens(trace if kept.all() else trace.select(tokens=kept), f"{int(kept.sum()):,} tokens: {said}")


def _of_phase(phase: str, chunk: int, generated: Bool[np.ndarray, " T"]) -> tuple[Bool[np.ndarray, " T"], str]:
    if phase == "all":
        return np.ones(len(generated), bool), "those of prompts and those generated."
    if phase == "prompt" or (phase == "auto" and chunk > 1):
        return ~generated, "those of prompts."
    if phase == "auto" and not generated.any():
        return ~generated, "those of prompts, as none are generated; text that is generated may be routed otherwise."
    return generated, "generated ones."


def repeats(trace: RoutingTrace) -> Bool[np.ndarray, " T"]:
    """Mark tokens that have an earlier token with the same text from the start of its sequence up to and with it."""
    tokens = trace.tokens
    if (tokens["token_id"] == NO_TOKEN_ID).any():
        raise MissingField("To find repeated prefixes, the ids of all tokens are needed, and this trace lacks some.")
    again, known = np.zeros(len(tokens), bool), set()
    for _, part in tokens.groupby("sequence", sort=False):
        part, path = part.sort_values("position"), 0
        for row, place, token in zip(part.index, part["position"], part["token_id"], strict=True):
            path = hash((path, place, token))
            again[row] = path in known
            known.add(path)
    return again
