"""Routing token by token. Tokens are identified by their row in the trace, never by their text: words repeat."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.image_tokens import written_tokens
from moeviz.metrics.inputs import check_cells, needs_tokens
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, RoutingTrace

SHOWN_AS = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣"}
UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # controls, bidi marks, zero widths, unassigned, surrogates
COMBINING = {"Mn", "Me"}
SPECIAL_TOKEN = re.compile(r"<[|｜].*[|｜]>|</?s>|<(pad|unk|bos|eos|mask)>|\[(CLS|SEP|PAD|UNK|MASK|/?INST)\]")
PART_OF_CHARACTER = re.compile(r"⟨(.+) (\d)/(\d)⟩")  # as `RoutingTrace` writes a token that is one


def visible(text: str) -> str:
    """Return a token's text with every character that would vanish, reorder or merge made visible. Never empty.

    >>> visible("a\\n"), visible(" the"), visible("\\u202e"), visible("")
    ('a⏎', '␣the', '⟨U+202E⟩', '∅')
    """
    inside = text.strip(" ")
    shown = "".join(_visible_character(c) if c != " " else c for c in inside)
    if inside and unicodedata.category(inside[0]) in COMBINING:
        shown = "◌" + shown  # a mark that would sit on whatever is drawn before it
    before, _, after = (text, "", "") if not inside else text.partition(inside)
    return (SHOWN_AS[" "] * len(before) + shown + SHOWN_AS[" "] * len(after)) or "∅"


def _visible_character(character: str) -> str:
    if character in SHOWN_AS:
        return SHOWN_AS[character]
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in UNSEEN else character


def tokens_are_known(trace: RoutingTrace) -> bool:
    """Return whether a trace says which tokens were routed, by their texts or ids: many sources give only experts."""
    return bool(trace.tokens["text"].any() or (trace.tokens["token_id"] != NO_TOKEN_ID).any())


def written_text(
    trace: RoutingTrace, phase: Literal["prompt", "generated"] | None = None, sequence: int | None = None
) -> str:
    """Return the text of a trace's tokens as it was written, for reading; of one phase or of one sequence, if asked.

    A character that is split over tokens is one character where all its parts are there, and otherwise the parts that
    are, as the trace names them: `⟨é 1/2⟩`. Left out are the tokens of images, and a special token that begins a text:
    tokenizers put it there. Several texts are a line apart. The text is a stranger's: for a text node, never for HTML
    or Markdown.

    >>> from moeviz.testing import sample_trace
    >>> written_text(sample_trace(tokens=4)), written_text(sample_trace(tokens=4), "generated")
    ('The router sends each', ' each')
    """
    texts: dict[int, list[str]] = {}
    written = written_tokens(trace.tokens)
    columns = (written[name].tolist() for name in ("sequence", "position", "phase", "text"))
    for of, position, said, text in zip(*columns, strict=True):
        added = position == 0 and SPECIAL_TOKEN.fullmatch(text)
        if not added and phase in (None, said) and sequence in (None, of):
            texts.setdefault(of, []).append(text)
    return "\n".join("".join(whole_characters(text)) for text in texts.values())


def whole_characters(texts: list[str]) -> Iterator[str]:
    """Yield the texts of tokens in a row, a character that is split over several as one where all its parts are there.

    >>> list(whole_characters(["a", "⟨é 1/2⟩", "⟨é 2/2⟩", "⟨é 2/2⟩"]))
    ['a', 'é', '⟨é 2/2⟩']
    """
    at = 0
    while at < len(texts):
        parts = []
        if (first := PART_OF_CHARACTER.fullmatch(texts[at])) and first[2] == "1":
            parts = [f"⟨{first[1]} {part}/{first[3]}⟩" for part in range(1, int(first[3]) + 1)]
        whole = bool(parts) and texts[at : at + len(parts)] == parts
        yield str(first[1]) if first and whole else texts[at]
        at += len(parts) if whole else 1


def token_columns(trace: RoutingTrace, repeats: int | np.ndarray) -> pd.DataFrame:
    """Which token a row is about, `repeats` rows each. Columns: token int32 (row of `tokens`) and four of `tokens`."""
    token = np.repeat(np.arange(len(trace.tokens), dtype=np.int32), repeats)
    who = trace.tokens[["sequence", "position", "text", "phase"]].astype({"text": "category"})
    return pd.DataFrame({"token": token} | {name: who[name].array.take(token) for name in who})


@needs_tokens
def token_layer(trace: RoutingTrace) -> pd.DataFrame:
    """List the first choice of every router for every token.

    First means highest weight or, if a server gives only ids in that order, the first that it names.

    One row per token and layer. Columns: token int32 (row of `trace.tokens`) · sequence int32 · position int32 · text
    category · phase category · layer int32 · num_experts int16 (of that layer) · expert int16 (-1: the token got no
    expert; -2: the trace does not say) · weight float32 (NaN if the trace has no weights). Raises `MissingField` if the
    trace does not say which expert a token's first choice was, or nothing at all.

    Source: Mixtral of Experts (arXiv 2401.04088), figure 8, colours text by first choice.
    """
    model, tokens = trace.model, len(trace.tokens)
    weights = np.float32("nan") if trace.weights is None else trace.weights[..., 0].T.ravel()
    return token_columns(trace, len(model.layers)).assign(
        layer=np.tile(np.asarray(model.layers, np.int32), tokens),
        num_experts=np.tile(np.asarray(model.num_experts, np.int16), tokens),
        expert=trace.first_choices("Token by layer").T.ravel(),
        weight=weights,
    )


@needs_tokens
def token_choices(trace: RoutingTrace) -> pd.DataFrame:
    """List the experts of every token at every layer, with their weights.

    One row per token, layer and filled slot; a layer at which a token has none has one row. Columns: token int32 (row
    of `trace.tokens`) · sequence int32 · position int32 · text category · phase category · layer int32 · num_experts
    int16 (of that layer) · slot int16 (0 = highest weight) · expert int16 (-1: the token got none; -2: the trace does
    not say) · weight float32 (NaN if the trace has no weights, or the row no expert) · ordered bool (False: the slots
    are in no known order, and 0 is not the first choice). Raises `MissingField` if no routing is recorded at all.

    Source: recorded, not computed; the gating values G(x) of Mixtral of Experts (arXiv 2401.04088), section 2.1, whose
    figure 8 colours text by first choice.
    """
    rows = trace.filled.swapaxes(0, 1).copy()  # T x L x K
    rows[..., 0] |= ~rows.any(axis=-1)
    token, layer, slot = np.nonzero(rows)
    expert = trace.experts[layer, token, slot]
    weight = np.float32("nan") if trace.weights is None else trace.weights[layer, token, slot]
    return token_columns(trace, rows.sum(axis=(1, 2))).assign(
        layer=np.asarray(trace.model.layers, np.int32)[layer],
        num_experts=np.asarray(trace.model.num_experts, np.int16)[layer],
        slot=slot.astype(np.int16),
        expert=expert,
        weight=np.where(expert >= 0, weight, np.float32("nan")),
        ordered=trace.ordered,
    )


@needs_tokens
def token_expert(trace: RoutingTrace) -> pd.DataFrame:
    """Which experts of one layer each token went to, and with which weight.

    One row per token and expert of the layer, including unused experts. Columns: token int32 (row of `trace.tokens`) ·
    sequence int32 · position int32 · text category · phase category · layer int32 · expert int16 · slot int16 (0 =
    first choice, -1 = not chosen, -2 = the trace does not say where this token went) · weight float32 (0 if not chosen;
    NaN in all rows if the trace has no weights) · ordered bool (False: the slots are in no known order, and 0 is not
    the first choice). Raises `InvalidTrace` if the trace has several layers: choose one with
    `trace.select(layers=[...])`.

    Source: recorded, not computed; the gating values G(x) of Mixtral of Experts (arXiv 2401.04088), section 2.1.
    """
    model = trace.model
    if len(model.layers) != 1:
        raise InvalidTrace(
            f"Token by expert shows one layer, and this trace has {len(model.layers)}. Choose one layer: the expert "
            "ids of different layers are unrelated."
        )
    shape = (len(trace.tokens), model.num_experts[0])
    check_cells("Token by expert", trace.experts.size, tokens=shape[0], experts=shape[1])
    slots, weights = np.full(shape, -1, np.int16), np.zeros(shape, np.float32)
    slots[~trace.recorded[0]] = NOT_RECORDED
    token, slot = np.nonzero(trace.experts[0] >= 0)
    expert = trace.experts[0, token, slot]
    slots[token, expert] = slot
    weights[token, expert] = np.float32("nan") if trace.weights is None else trace.weights[0, token, slot]
    if trace.weights is None:
        weights[:] = np.nan
    experts = np.tile(np.arange(shape[1], dtype=np.int16), shape[0])
    return token_columns(trace, shape[1]).assign(
        layer=np.int32(model.layers[0]),
        expert=experts,
        slot=slots.ravel(),
        weight=weights.ravel(),
        ordered=trace.ordered,
    )


@needs_tokens
def token_routes(trace: RoutingTrace) -> pd.DataFrame:
    """List the route of one token through all layers: the experts that each router chose for it.

    One row per layer and filled slot; a layer without any has one row. Columns: token int32 (0) · sequence int32 ·
    position int32 · text category · phase category · layer int32 · slot int16 (0 = highest weight) · expert int16 (-1:
    the token got none; -2: the trace does not say) · weight float32 (NaN if the trace has no weights, or the row no
    expert) · ordered bool (False: the slots are in no known order). Raises `InvalidTrace` if the trace has several
    tokens: choose one with `trace.select(tokens=slice(i, i + 1))`.

    Source: recorded, not computed; the gating values G(x) of Mixtral of Experts (arXiv 2401.04088), section 2.1.
    """
    if len(trace.tokens) != 1:
        raise InvalidTrace(f"A route is that of one token, and this trace has {len(trace.tokens)}. Choose one token.")
    chosen = trace.assignments().drop(columns="token")
    none = trace.experts[:, 0, 0]
    without = pd.DataFrame({"layer": np.asarray(trace.model.layers, np.int32), "slot": np.int16(0), "expert": none})
    without = without[none < 0].assign(weight=np.float32("nan"))
    route = pd.concat([chosen, without]) if len(without) else chosen
    route = route.sort_values(["layer", "slot"], kind="stable", ignore_index=True)
    return pd.concat([token_columns(trace, len(route)), route], axis=1).assign(ordered=trace.ordered)
