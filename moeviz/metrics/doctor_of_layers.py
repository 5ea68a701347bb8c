"""What the doctor looks for in the rows of one layer: values that no router writes."""

from collections.abc import Iterator

import numpy as np

from moeviz.metrics.doctor_of_rows import FEW, Finding, Rows


def zeros(rows: Rows) -> Iterator[Finding]:
    """A router with more than one expert a token never chooses expert 0 alone: nobody wrote to these rows."""
    if rows.top_k == 1:
        return
    for at, layer in enumerate(rows.layers):
        zero = (rows.experts[at] == 0).all(axis=-1)
        if zero.all() and len(zero):
            says = f"Layer {layer} has zeros for all {len(zero):,} tokens: it is dense, or was not recorded."
            yield Finding("zeros", layer, 0, len(zero), says)
        elif zero.any():
            first = int(zero.argmax())
            says = (
                f"Layer {layer} has zeros for {zero.sum():,} tokens, from token {first} on: served from a cache, or "
                "not recorded."
            )
            yield Finding("zeros", layer, first, int(zero.sum()), says)


def twice(rows: Rows) -> Iterator[Finding]:
    """An expert twice in a token."""
    for at, layer in enumerate(rows.layers):
        chosen = rows.sets[at]
        twice = ((chosen[:, 1:] == chosen[:, :-1]) & (chosen[:, 1:] >= 0)).any(axis=1)
        twice &= ~(chosen == 0).all(axis=1)
        if twice.any():
            first = int(twice.argmax())
            says = (
                f"Layer {layer} has an expert twice in {twice.sum():,} tokens, the first being token {first}: "
                f"{rows.experts[at, first].tolist()}. A router chooses different ones."
            )
            yield Finding("twice", layer, first, int(twice.sum()), says)


def one_choice(rows: Rows) -> Iterator[Finding]:
    """All tokens of a layer go to the same experts."""
    for at, layer in enumerate(rows.layers):
        chosen = rows.sets[at][rows.recorded[at]]
        if len(chosen) >= FEW and rows.choice and (chosen == chosen[0]).all() and chosen[0].any():
            says = f"Layer {layer} sends all {len(chosen):,} tokens to the same experts: {chosen[0].tolist()}."
            yield Finding("one choice", layer, 0, len(chosen), says)


def layers_alike(rows: Rows) -> Iterator[Finding]:
    """Two layers choose the same for every token."""
    if rows.tokens < FEW or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for at, layer in enumerate(rows.layers):
        if not rows.recorded[at].any() or (rows.sets[at] == rows.sets[at][:1]).all():
            continue
        other = seen.setdefault(rows.sets[at].tobytes(), layer)
        if other != layer:
            says = f"Layers {other} and {layer} send every token to the same experts: one is a copy of the other."
            yield Finding("layers alike", layer, 0, rows.tokens, says)


def one_part(rows: Rows) -> Iterator[Finding]:
    """All ids are in one half of the experts."""
    half = rows.num_experts // 2
    if rows.tokens * rows.top_k <= 20 * rows.num_experts or half < rows.top_k:
        return
    chosen = rows.experts[rows.experts >= 0]
    for low, high in ((0, half), (half, rows.num_experts)):
        if chosen.size and chosen.min() >= low and chosen.max() < high:
            says = (
                f"All expert ids are from {low} to {high - 1}, and there are {rows.num_experts}: these are ids within "
                "one device of an expert-parallel group, or one device's part."
            )
            yield Finding("one part", -1, 0, rows.tokens, says)


def weights(rows: Rows) -> Iterator[Finding]:
    """Where nearly all tokens' weights have one sum, so should the others'."""
    if rows.weights is None or not rows.tokens:
        return
    for at, layer in enumerate(rows.layers):
        full = (rows.experts[at] >= 0).all(axis=1)
        sums = rows.weights[at].sum(axis=1)
        usual = float(np.median(sums[full])) if full.any() else 0.0
        other = full & (np.abs(sums - usual) > 0.02 * abs(usual))
        if other.any() and other.sum() < 0.1 * full.sum():
            first = int(other.argmax())
            says = (
                f"At layer {layer}, the weights of {other.sum():,} tokens do not sum to {usual:.3g} as the others' do, "
                f"the first being token {first} with {sums[first]:.3g}."
            )
            yield Finding("weights", layer, first, int(other.sum()), says)
