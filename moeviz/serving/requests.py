"""Requests for experts, step by step: what all of `moeviz.serving` counts.

A step is one token when text is generated, and a chunk of tokens in a row of one sequence when a prompt is read. It
requests the distinct experts of its tokens. Experts that compute nothing need no memory and are not requested.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from moeviz.errors import MissingField, MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import LayerCounts, check_recorded, layer_counts
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, Counted, RoutingTrace
from moeviz.text import quoted

PHASES = ("auto", "generated", "prompt", "all")


class ServedTokens(NamedTuple):
    """A trace of the tokens that were asked for, and a sentence that says which they are."""

    trace: RoutingTrace
    said: str


def served_tokens(
    trace: RoutingTrace, phase: str = "auto", chunk: int = 1, keep_repeats: bool = True, segment: str | None = None
) -> ServedTokens:
    """Return the tokens of one phase, with or without those that a prefix cache would spare a server.

    segment  only the tokens of this segment of a chat; "auto" then is all of them.

    `auto` takes generated tokens for steps of one token, if there are any, and prompts for chunks. A token repeats
    where its sequence has been the same as an earlier one from the start up to and including it. Raises `MissingField`
    if there are no tokens of the phase or segment, or to drop repeats if the trace has no token ids.
    """
    if phase not in PHASES:
        raise MoevizError(f"There is no phase {phase!r}. Choose one of {', '.join(PHASES)}.")
    generated = (trace.tokens["phase"] == "generated").to_numpy()
    kept, said = _of_phase("all" if segment and phase == "auto" else phase, chunk, generated)
    if segment is not None:
        kept, said = kept & trace.in_segment(segment), f"{said[:-1]}, of the segment {quoted(segment)}."
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


def different_texts(trace: RoutingTrace) -> tuple[RoutingTrace, int]:
    """Return a trace with each text once, and the number of texts that repeat an earlier one.

    Texts are the same if all their tokens are, or, if ids of tokens are not known, all their experts.
    """
    tokens, known, again = trace.tokens, set[bytes](), []
    ids = tokens["token_id"].to_numpy()
    for rows in tokens.groupby("sequence", sort=False).indices.values():
        by_id = (ids[rows] != NO_TOKEN_ID).all()
        text = ids[rows].tobytes() if by_id else trace.experts[:, rows].tobytes()
        again.append((rows, text in known))
        known.add(text)
    if not any(seen for _, seen in again):
        return trace, 0
    kept = np.sort(np.concatenate([rows for rows, seen in again if not seen]))
    return trace.select(tokens=kept), sum(seen for _, seen in again)


FEW = 16  # slots
NONE = -1  # a slot without an expert, or with one that the token has in another slot too


class Requests(NamedTuple):
    """Requests of the steps of one layer: `expert[i]` is requested at `step[i]`, in ascending order of both."""

    layer: int
    num_experts: int  # those that compute something
    steps: int
    step: Int64[np.ndarray, " n"]
    expert: Int64[np.ndarray, " n"]


class LayerSets(NamedTuple):
    """The recorded tokens of one layer, and the set of experts of each."""

    row: int  # which of the L it is
    layer: int
    num_experts: int  # those that compute something
    sets: Int[np.ndarray, "T K"]  # ids in ascending order; NONE first
    run: Int32[np.ndarray, " T"]  # tokens in a row of one sequence have the same number, from 0
    sequence: Int64[np.ndarray, " T"]  # which sequence, numbered from 0


def layer_sets(trace: RoutingTrace) -> Iterator[LayerSets]:
    """Return, per layer, the set of experts of each recorded token. Raises `MissingField` if nothing is recorded."""
    check_recorded(trace)
    if trace.tokens.empty:
        raise MissingField("This trace has no tokens, so nothing is served. Record a prompt, or open another trace.")
    places = np.column_stack([trace.tokens[name].to_numpy() for name in ("sequence", "position")])
    whole = _stretches(places)
    for row, layer in enumerate(trace.model.layers):
        kept = trace.experts[row, :, 0] != NOT_RECORDED
        if kept.any():
            experts, stretches = (
                (trace.experts[row], whole) if kept.all() else (trace.experts[row, kept], _stretches(places[kept]))
            )
            num_experts = trace.model.num_experts[row] - trace.model.zero_experts
            yield LayerSets(row, layer, num_experts, _sets(experts, num_experts), *stretches)


def counts_of_labels(counts: Counted) -> list[LayerCounts]:
    """Counts layer by layer: a group for each label where they have labels, else one of everything."""
    if isinstance(counts, ExpertCounts) and counts.group_kind == "label":
        return layer_counts(counts, counts)
    return layer_counts(counts)


def of_others(groups: Int64[np.ndarray, "G E"]) -> list[tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]]:
    """Yield the counts of all other groups, and its own, for each group that has any. None for a single group.

    >>> [(others.tolist(), own.tolist()) for others, own in of_others(np.array([[4, 1], [0, 2], [0, 0]]))]
    [([0, 2], [4, 1]), ([4, 1], [0, 2])]
    """
    every = groups.sum(axis=0)
    return [(every - own, own) for own in groups if own.any() and (every - own).any()]


def _stretches(places: Int[np.ndarray, "T 2"]) -> tuple[Int32[np.ndarray, " T"], Int64[np.ndarray, " T"]]:
    steps = np.diff(places[:, 0])
    if (steps < 0).any():
        return _runs(places), np.unique(places[:, 0], return_inverse=True)[1]
    return _runs(places), np.concatenate([[0], np.cumsum(steps > 0)])


def requests(found: LayerSets, chunk: int = 1) -> Requests:
    """Collect the requests of a layer's steps, with `chunk` tokens each; the last of a sequence may be shorter."""
    step = np.arange(len(found.run)) if chunk == 1 else _steps(found.run, chunk)
    width = found.num_experts
    keys = np.where(found.sets < 0, NONE, step[:, None] * width + found.sets).ravel()
    if chunk > 1:
        keys.sort()
        keys = keys[np.diff(keys, prepend=NONE) > 0]
    keys = keys[keys >= 0]
    return Requests(found.layer, width, int(step[-1]) + 1, keys // width, keys % width)


def check_chunk(chunk: int) -> None:
    """Raise `MoevizError` for a step of no tokens, or of more than a table's int32 can say."""
    if not 1 <= chunk < 2**31:
        raise MoevizError(f"A step cannot have {chunk} tokens. Choose a chunk from 1 to {2**31 - 1:,}.")


def with_tokens(trace: Counted, why: str) -> RoutingTrace:
    """Return the trace; raise `MissingField` with a sentence that begins with `why` for counts."""
    if not isinstance(trace, RoutingTrace):
        raise MissingField(
            f"{why} needs the experts of each token, in order, and the counts of {trace.model.name!r} do not have "
            "them. Give a trace. What needs no order are the experts of a random batch, placements judged on their "
            "own tokens, and a cache that keeps a static set."
        )
    return trace


def _sets(experts: Int[np.ndarray, "T K"], num_experts: int) -> Int[np.ndarray, "T K"]:
    """Return ids in ascending order, each once: empty slots, repeats and experts that compute nothing are NONE."""
    slots = _ascending(experts.T)
    if (slots[-1] >= num_experts).any():
        slots[slots >= num_experts] = NONE
        slots = _ascending(slots)
    twice = slots[1:] == slots[:-1]
    if twice.any() and (twice & (slots[1:] >= 0)).any():
        slots[1:][twice] = NONE
        slots = _ascending(slots)
    return np.ascontiguousarray(slots.T)


def _ascending(slots: Int[np.ndarray, "K T"]) -> Int[np.ndarray, "K T"]:
    """Sort the slots of each token. Few are sorted by exchanging neighbours, for all tokens at once: in K rounds."""
    if len(slots) > FEW:
        return np.sort(slots, axis=0)
    slots = slots.copy()
    for first in range(len(slots)):
        low, high = slots[first % 2 : -1 : 2], slots[first % 2 + 1 :: 2]
        low[:], high[:] = np.minimum(low, high), np.maximum(low, high)
    return slots


def _runs(places: Int[np.ndarray, "T 2"]) -> Int32[np.ndarray, " T"]:
    follows = (np.diff(places[:, 0]) == 0) & (np.diff(places[:, 1]) == 1)
    return np.concatenate([[0], np.cumsum(~follows)]).astype(np.int32)


def _steps(run: Int32[np.ndarray, " T"], chunk: int) -> Int64[np.ndarray, " T"]:
    """Return the step of each token: runs cut into chunks."""
    place = np.arange(len(run))
    first = np.diff(run, prepend=-1) > 0
    place -= np.maximum.accumulate(np.where(first, place, 0))
    return np.cumsum(place % chunk == 0) - 1
