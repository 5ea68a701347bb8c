"""Memory of weights, keys and values, and of a step, and the number of cards that hold it. The sizes of well-known
models were computed in advance, so the first answer needs neither torch nor a
network; `pytest --update-golden tests/serving/test_serving.py` writes that table anew.
"""

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.metrics.words import one_row
from moeviz.model_info import ParameterCounts
from moeviz.parameters import CARDS, FREE, LayerCache, ServedModel, cards_needed, usable_bytes, weight_bytes
from moeviz.serving import captions

MOST_READ = 8192  # tokens that one step reads of a prompt, at most
VALUE_BYTES = 2  # keys and values, and a step's buffers, are in 16 bits
LOGIT_BYTES = 4
USUAL_CONTEXTS, USUAL_BATCHES = (4096, 32768), (1, 8, 64)


def serving_memory(
    model: ServedModel, contexts: Sequence[int], batches: Sequence[int] = (1,), bits: Sequence[int] = (16,)
) -> pd.DataFrame:
    """Return the memory for serving a model, and the number of cards of each kind that hold it.

    `context`: tokens kept of each sequence. `batch`: sequences at a time. `bits` of a weight; keys, values and buffers
    are in 16 bits. A step's buffers are an estimate: those of one layer, and the logits. Cards hold nothing twice, with
    a tenth of each left free; scales of quantised formats come on top.

    One row per precision, context and batch. Columns: model str · weight_bits, context, batch int64 · weight_bytes
    int64 · routed_bytes int64 (of these, the routed experts) · expert_bytes int64 (one expert of the largest layer) ·
    kv_bytes_per_token int64 (of a sequence of `context` tokens, so windows count) · kv_bytes int64 · step_bytes int64 ·
    bytes int64 (all together) · for each card its number of cards int64 · experts_a_layer_ and the card's name int64:
    how many experts of each MoE layer fit on one card when everything else is on it too; -1 if not even that fits.
    Raises `MoevizError` for sizes below 1.

    **Source**: keys and values of latent attention: DeepSeek-V2 (arXiv 2405.04434); measured on transformers' caches.
    """
    for what, sizes in (("context", contexts), ("batch", batches), ("precision", bits)):
        if not len(sizes) or min(sizes) < 1:
            raise MoevizError(f"The {what} must be 1 or more; got {list(sizes)}. Choose other sizes.")
    return pd.DataFrame([_row(model, *sizes) for sizes in product(bits, contexts, batches)])


def _row(model: ServedModel, bits: int, context: int, batch: int) -> dict[str, object]:
    counts = model.parameters
    weights, expert = weight_bytes(counts.total, bits), weight_bytes(max(counts.per_expert), bits)
    routed = weight_bytes(counts.routed_experts, bits)
    kept = VALUE_BYTES * sum(cache.values(context) for cache in model.caches)
    values = 3 * model.hidden + model.top_k * (2 * model.hidden + 3 * model.width)
    # Buffers of one layer for the tokens of a step, and the logits of each sequence.
    step = values * min(MOST_READ, context) * VALUE_BYTES + LOGIT_BYTES * model.vocabulary * batch
    taken = weights + kept * batch + step
    row = {"model": model.name, "weight_bits": bits, "context": context, "batch": batch}
    row |= {"weight_bytes": weights, "routed_bytes": routed, "expert_bytes": expert}
    row |= {"kv_bytes_per_token": kept // context, "kv_bytes": kept * batch, "step_bytes": step, "bytes": taken}
    row |= {card: cards_needed(taken, card) for card in CARDS}
    return row | dict(_experts_that_fit(model, taken - routed, sum(counts.per_expert) * bits // 8))


def _experts_that_fit(model: ServedModel, rest: int, one_a_layer: int) -> Iterator[tuple[str, int]]:
    for card, gigabytes in CARDS.items():
        free = int(gigabytes * 1e9 * (1 - FREE)) - rest
        yield f"experts_a_layer_{card}", min(free // one_a_layer, model.num_experts) if free >= 0 else -1


def what_fits(model: ServedModel, bits: int = 16) -> pd.DataFrame:
    """Count the cards of each kind that hold a model with the keys and values of several requests, long and short.

    As `serving_memory`, with weights in `bits` bits, at 4,096 and 32,768 tokens of context, for 1, 8 and 64 sequences
    at a time. Cards hold nothing twice, and a tenth of each is left free.

    One row per card, context and batch. Columns: card str · card_gb int64 · context, batch int64 · weight_bits int64 ·
    cards int64 (how many it takes) · weights, keys_and_values, step, together float64 (gigabytes).

    **Source**: as for `serving_memory`; the cards' sizes are those of their makers' data sheets.
    """
    rows = []
    for taken in serving_memory(model, USUAL_CONTEXTS, USUAL_BATCHES, [bits]).to_dict("records"):
        facts = {name: taken[name] for name in ("context", "batch", "weight_bits")}
        parts = {"weights": "weight_bytes", "keys_and_values": "kv_bytes", "step": "step_bytes", "together": "bytes"}
        sizes = {name: taken[column] / 1e9 for name, column in parts.items()}
        rows += [
            {"card": card, "card_gb": size} | facts | {"cards": taken[card]} | sizes for card, size in CARDS.items()
        ]
    return pd.DataFrame(rows).astype({"card": "str"})


PRECISIONS = (16, 8, 4)  # bits of a weight
USUAL_CONTEXT = 8192
SCALES = 0.15  # of the weights, at most: what formats of 4 bits keep besides


def memory_on_cards(
    model: ServedModel,
    card: str | int | float,
    cards: int = 1,
    bits: Sequence[int] = PRECISIONS,
    context: int = USUAL_CONTEXT,
    sequences: int = 1,
) -> pd.DataFrame:
    """Compare a model's memory at each precision with that of several cards, and count the experts that fit.

    card        one of `moeviz.parameters.CARDS`, or the memory of another in GB.
    context     tokens of each sequence whose keys and values are kept.
    sequences   number of sequences that are served at a time.

    As `serving_memory`. Cards hold nothing twice, and a tenth of each is left free.

    One row per precision. Columns: card str · cards int64 · usable float64 (gigabytes) · weight_bits int64 · experts,
    other_weights, keys_and_values, step, together float64 (gigabytes) · num_experts, top_k int64 · fit int64 (experts
    of each layer that fit when everything else is there; -1 if not even that does) · needed int64 (cards that hold
    all). Raises `MoevizError` for a card that is not known, and for less than one.

    **Source**: as for `serving_memory`; the cards' sizes are those of their makers' data sheets.
    """
    known = card in CARDS if isinstance(card, str) else 0 < card < math.inf
    if not known or cards < 1:
        raise MoevizError(f"There is no card {card!r}, or {cards} of it. Choose one or more of {', '.join(CARDS)}.")
    usable, rows = cards * usable_bytes(card) / 1e9, []
    name = card if isinstance(card, str) else f"{card:g} GB card{'s' * (cards > 1)}"
    for taken in serving_memory(model, [context], [sequences], bits).to_dict("records"):
        routed, one_a_layer = taken["routed_bytes"], sum(model.parameters.per_expert) * taken["weight_bits"] // 8
        free = int(usable * 1e9) - (taken["bytes"] - routed)
        parts = {
            "experts": routed,
            "other_weights": taken["weight_bytes"] - routed,
            "keys_and_values": taken["kv_bytes"],
            "step": taken["step_bytes"],
            "together": taken["bytes"],
        }
        rows.append(
            {"card": name, "cards": cards, "usable": usable, "weight_bits": taken["weight_bits"]}
            | {name: size / 1e9 for name, size in parts.items()}
            | {"num_experts": model.num_experts, "top_k": model.top_k}
            | {
                "fit": min(free // one_a_layer, model.num_experts) if free >= 0 else -1,
                "needed": cards_needed(taken["bytes"], card),
            }
        )
    return pd.DataFrame(rows).astype({"card": "str"})


def best_precision(frame: pd.DataFrame) -> int:
    """Return the most bits at which all fits, or the fewest there are. Columns: those of `memory_on_cards`."""
    whole = frame[frame["together"] <= frame["usable"]]
    return int(frame["weight_bits"].min() if whole.empty else whole["weight_bits"].max())


def fit_sentence(frame: pd.DataFrame) -> Claim:
    """Claim whether a model fits on the cards, and at which precision; else what does. Columns: `memory_on_cards`."""
    bits = best_precision(frame)
    row = one_row(frame, frame.index[frame["weight_bits"] == bits][0])
    if row.together <= row.usable:
        tight = row.weight_bits == 4 and row.together + SCALES * (row.experts + row.other_weights) > row.usable
        return captions.model_fits(row.card, row.cards, bits, row.together * 1e9, row.usable * 1e9, bool(tight))
    return captions.model_does_not_fit(row.card, row.cards, bits, row.fit, row.num_experts, row.top_k, row.needed)


KNOWN_MODELS = "known_models.json"


def known_models() -> tuple[str, ...]:
    """Return the names of the models in the table."""
    return tuple(_table())


def known_model(name: str) -> ServedModel | None:
    """Return a well-known model, or one that ships; None for any other.

    >>> known_model("mistralai/Mixtral-8x7B-v0.1").num_experts
    8
    """
    row = _table().get(name)
    if row is None:
        return None
    counts = ParameterCounts(**row["parameters"] | {"per_expert": tuple(_spread(row["parameters"]["per_expert"]))})
    caches = tuple(LayerCache(*layer) for layer in _spread(row["caches"]))
    facts = {field: row[field] for field in ("num_experts", "top_k", "hidden", "vocabulary")}
    return ServedModel(name=name, parameters=counts, caches=caches, **facts)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files(__package__).joinpath(KNOWN_MODELS).read_text("utf-8"))
    return table


def _spread(pairs: list[list[Any]]) -> list[Any]:
    return [layer for number, layer in pairs for _ in range(number)]
