"""From the numbers of a file to a trace, or to counts: what all importers share; whatever is left out is named.

A layer of which a file has nothing but zeros was dense, or not recorded: it is left out, and the trace's caution says
so. A row of zeros elsewhere is not recorded, and the caution counts such rows. A row that names an expert twice is not
routing, and the file is refused. Rows of a model server's response are assigned to their tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace, NotSaid
from moeviz.file_limits import MAX_EXPERTS, MAX_LAYERS, check_experts, shown
from moeviz.formats.importers.importer import ImportOptions, flag
from moeviz.model_info import ModelInfo, SlotOrder
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace, sort_slots, token_frame
from moeviz.text import is_text, listed

SMALL, CELLS_A_ROW = 2**20, 16  # a table of few rows may not describe a large trace


@dataclass(frozen=True, slots=True)
class SequenceRouting:
    """The routing of one request, or of several, as a file has it. None: the file does not say."""

    ids: np.ndarray  # L, T, K
    position: np.ndarray | None = None
    token_id: np.ndarray | None = None
    generated: np.ndarray | None = None
    text: list[str] | None = None
    sequence: np.ndarray | None = None
    label: str | None = None
    weights: np.ndarray | None = None
    logits: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The facts of a source of routing, apart from its numbers."""

    backend: str
    layers: Sequence[int] | None = None  # the model's own indices of the layers in the file; from 0 where it has none
    hidden: bool = False  # whether the file has rows for dense layers too
    order: SlotOrder = "unknown"
    experts: int | None = None
    model: str = ""
    cautions: tuple[str, ...] = ()
    what: str = "file"  # what the numbers stand in, for a sentence: a file, or a server's answer


def build_trace(parts: Sequence[SequenceRouting], about: SourceInfo, name: str, options: ImportOptions) -> RoutingTrace:
    """Build the trace of one request after the other. Raises `InvalidTrace` for anything that is not routing."""
    if not parts:
        raise InvalidTrace(f"The {about.what} has no request with routed experts. Ask the server to return them.")
    if len({part.ids.shape[::2] for part in parts}) != 1:
        raise InvalidTrace(
            f"The requests of the {about.what} do not have the same layers and top-k. Import them one by one."
        )
    ids = np.concatenate([part.ids for part in parts], axis=1).astype(np.int64)
    rows, layers, cautions = _choose_layers(ids, about, options)
    ids = ids[rows]
    experts, said = _number_of_experts(ids, about.experts or options.experts, about.what)
    ids, lost = _mark_missing(ids, layers)
    if lost:
        said = [
            *said,
            f"Not recorded in the {about.what}: {lost:,} of {ids[..., 0].size:,} rows, each a token at a layer.",
        ]
    weights, logits = (_stack_parts([getattr(part, what) for part in parts], rows) for what in ("weights", "logits"))
    chosen, weights = sort_slots(ids.astype(np.int16), weights)
    if logits is not None:
        experts = max(experts, logits.shape[-1])
    order: SlotOrder = "weight" if weights is not None else about.order
    return RoutingTrace(
        _model(about, name, layers, experts, ids.shape[2], order, (*about.cautions, *cautions, *said)),
        _tokens(parts),
        chosen,
        weights,
        None
        if logits is None or (chosen == NOT_RECORDED).any()
        else np.pad(logits, ((0, 0), (0, 0), (0, experts - logits.shape[2])), constant_values=-np.inf),
    )


def _choose_layers(
    ids: np.ndarray, about: SourceInfo, options: ImportOptions
) -> tuple[list[int], list[int], list[str]]:
    """Choose the rows of the layer axis that are MoE layers, and their own indices."""
    every = list(range(len(ids)) if about.layers is None else about.layers)
    if not (about.hidden or options.moe_layers):
        return list(range(len(ids))), every, []
    if options.moe_layers is not None:
        if missing := set(options.moe_layers) - set(every):
            raise InvalidTrace(f"The {about.what} has no layer {min(missing)}; it has {listed(every)}.")
        rows = [row for row, layer in enumerate(every) if layer in options.moe_layers]
        return rows, [every[row] for row in rows], []
    empty = [bool((layer == 0).all() or (layer < 0).all()) for layer in ids]
    if ids.shape[2] == 1 and any(empty):
        options.need(
            "moe_layers",
            f"The {about.what} of a top-1 model, in which layer {every[empty.index(True)]} holds only zeros,",
        )
    if all(empty):
        raise InvalidTrace(
            f"Every expert id in the {about.what} is 0, as if a fused kernel bypassed what records the routing. Run "
            "the server without that kernel."
        )
    rows = [row for row, nothing in enumerate(empty) if not nothing]
    gone = [every[row] for row, nothing in enumerate(empty) if nothing]
    said = f"Layers that hold zeros alone in the {about.what} are left out: {listed(gone)}."
    said += " They are dense, or not recorded."
    return rows, [every[row] for row in rows], [said] if gone else []


def _number_of_experts(ids: np.ndarray, known: int | None, what: str) -> tuple[int, list[str]]:
    highest, lowest = int(ids.max(initial=-1)), int(ids.min(initial=0))
    if lowest < NOT_RECORDED or highest >= min(known or MAX_EXPERTS, MAX_EXPERTS):
        wrong = lowest if lowest < NOT_RECORDED else highest
        layer, token, _ = np.argwhere(ids == wrong)[0]
        raise InvalidTrace(
            f"The {what} names expert {wrong} (layer {layer} of those with experts, token {token}), and experts are "
            f"numbered from 0 to {(known or MAX_EXPERTS) - 1}. It was damaged, or {flag('experts')} is wrong."
        )
    if known is not None:
        return known, []
    found = max(highest, 0) + 1
    return found, [f"The {what} does not say how many experts a layer has: {found} counts those up to the highest id."]


def _mark_missing(ids: np.ndarray, layers: Sequence[int]) -> tuple[np.ndarray, int]:
    """Mark the rows that were not recorded, and count them. Raises `InvalidTrace` for an expert twice."""
    missing = np.asarray((ids < 0).all(axis=-1))
    if ids.shape[2] > 1:
        missing |= (ids == 0).all(axis=-1)
    ids = np.where(missing[..., None], NOT_RECORDED, ids)
    ordered = np.sort(ids, axis=-1)
    twice = np.asarray(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(axis=-1))
    if twice.any():
        layer, token = np.argwhere(twice)[0]
        raise InvalidTrace(
            f"{twice.sum():,} of {twice.size:,} rows name an expert twice, the first at layer {layers[layer]}, token "
            f"{token}: {shown(ids[layer, token].tolist())}. A router chooses different experts, so this was not "
            "recorded, or ids count within one device of several: ask for it again."
        )
    return ids, int(missing.sum())


def _stack_parts(parts: list[np.ndarray | None], rows: list[int]) -> np.ndarray | None:
    if any(part is None for part in parts):
        return None
    with np.errstate(over="ignore"):
        return np.concatenate([part[rows] for part in parts if part is not None], axis=1).astype(np.float32)


def _model(
    about: SourceInfo,
    name: str,
    layers: list[int],
    experts: int,
    top_k: int,
    order: SlotOrder,
    cautions: tuple[str, ...],
) -> ModelInfo:
    if len(layers) > MAX_LAYERS:
        raise InvalidTrace(f"The file has {len(layers):,} layers, and at most {MAX_LAYERS:,} are read.")
    model = ModelInfo(
        name_of(about.model, name), about.backend, tuple(map(int, layers)), (experts,) * len(layers), int(top_k)
    )
    check_experts(model)
    return replace(model, slot_order=order, caution=" ".join(cautions))


def name_of(stated: Any, file: str) -> str:
    """Return the model's name, if the file has one that is not a path of its maker; else the file's."""
    if isinstance(stated, str) and stated and is_text(stated) and not stated.startswith(("/", "~", ".")):
        return stated[:200]
    return "from " + PurePath(file).name[:200].encode(errors="replace").decode()


def _tokens(parts: Sequence[SequenceRouting]) -> pd.DataFrame:
    sizes = [part.ids.shape[1] for part in parts]
    several = np.repeat(np.arange(len(parts)), sizes)
    count = sum(sizes)
    sequence = several if parts[0].sequence is None else parts[0].sequence
    known = {name: [getattr(part, name) for part in parts] for name in ("position", "token_id", "generated")}
    position = [np.arange(size) if p is None else p for p, size in zip(known["position"], sizes, strict=True)]
    ids, late = (_join_parts(known[name]) for name in ("token_id", "generated"))
    texts = [text for part in parts for text in (part.text or [""] * part.ids.shape[1])]
    phase = None if late is None else np.where(late, "generated", "prompt")
    frame = token_frame(sequence, np.concatenate(position), texts, ids, phase)
    if any(part.label for part in parts):
        labels = [part.label or "" for part in parts]
        frame["label"] = pd.Series(np.repeat(np.array(labels, object), sizes), dtype="str")
    if len(frame) != count:
        raise InvalidTrace("The file has another number of tokens than of rows of routing. Write it again.")
    return frame


def _join_parts(parts: list[Any]) -> np.ndarray | None:
    return None if any(part is None for part in parts) else np.concatenate(parts)


def fill_slots(
    layer: np.ndarray, token: np.ndarray, slot: np.ndarray, expert: np.ndarray, *values: np.ndarray
) -> tuple[list[int], np.ndarray, list[np.ndarray]]:
    """Fill arrays from rows of (layer, token, slot, expert, …): layers, ids (L, T, K), other values in that shape.

    Slots without a row are NO_EXPERT. Raises `InvalidTrace` if two rows fill one slot, or where few rows describe a
    large trace.
    """
    layers, at = np.unique(layer, return_inverse=True)
    if min(token.min(), slot.min(), expert.min(), layers[0]) < 0:
        raise InvalidTrace("A layer, token, slot or expert of the file is negative. They are numbered from 0.")
    shape = (len(layers), int(token.max()) + 1, int(slot.max()) + 1)
    cells, most = shape[0] * shape[1] * shape[2], max(SMALL, CELLS_A_ROW * len(layer))
    if cells > most:
        raise InvalidTrace(
            f"{len(layer):,} rows describe {shape[0]:,} layers, {shape[1]:,} tokens and {shape[2]:,} slots, and at "
            f"most {most:,} cells are made of them. The file was damaged: write it again."
        )
    ids = np.full(shape, NO_EXPERT, np.int64)
    ids[at, token, slot] = expert
    if np.count_nonzero(ids != NO_EXPERT) != len(layer):
        raise InvalidTrace("Two rows of the file are about the same layer, token and slot. Remove one of the two.")
    filled = [np.zeros(shape, np.float32) for _ in values]
    for table, given in zip(filled, values, strict=True):
        with np.errstate(over="ignore"):  # RoutingTrace refuses the infinity
            table[at, token, slot] = given
    return layers.tolist(), ids, filled


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
    """Return the choices of a completion; none of anything else."""
    found = body.get("choices") if isinstance(body, dict) else None
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def tokens_of(body: dict[str, Any], choice: dict[str, Any]) -> tuple[Any, Any]:
    """Return the ids of the prompt and of the generated tokens, if the server was asked for them."""
    prompt = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    new = choice.get("token_ids")
    return prompt, choice.get("generation_token_ids") if new is None else new


def choice_routing(
    ids: np.ndarray, body: dict[str, Any], choice: dict[str, Any], options: ImportOptions
) -> SequenceRouting:
    """Return the rows of one choice, (T, L, K), with its tokens if the response has them."""
    prompt, new = tokens_of(body, choice)
    if not prompt:
        return response_routing(ids, None, None, options)
    tokens = None if new is None else [*prompt, *new]
    return response_routing(ids, len(prompt), None if new is None else len(new), options, tokens)
