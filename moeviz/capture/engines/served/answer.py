"""Compare a server's answer with what was asked: the model's name, the prompt's tokens, the number of new tokens.

The facts about the model come from its answers, from a config, and from the user. Nothing is guessed. No server gives
the number of experts per layer. A config does: that of the model's own name, if moeviz knows it, or the one that
`facts` names. Each answer is compared with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moeviz.capture.engines.served.name import ServerName
from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.load import model_facts
from moeviz.capture.run.generation_plan import END_OF_TEXT
from moeviz.errors import CaptureError
from moeviz.file_limits import shown
from moeviz.formats.importers.build_trace import SequenceRouting
from moeviz.model_info import ModelInfo
from moeviz.text import listed, quoted

NOT_CHECKED = (
    "Whether the server read this prompt is not known: it has neither /tokenize nor /detokenize. Compare the number of "
    "tokens with what you expect."
)


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """The routing of one prompt and of what was generated after it, and other facts in the server's answer."""

    part: SequenceRouting
    new: int  # tokens that were generated, the last one too
    prompt: Any = None  # ids of the tokens that were read; None if the server was given ids, and counts them
    model: Any = None  # the name that the answer gives its model; None if it gives none
    reason: Any = None  # why the server ended, in its own word
    caution: str = ""


def check_model(answer: ServedAnswer, names: Sequence[str], url: str) -> None:
    """Raise `CaptureError` if the answer names a model by another name than these."""
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


def caution_about_text(read: str, prompt: str, tokens: int) -> str:
    """Return the caution for tokens whose text does not contain the prompt's, white space aside; "" if it does."""
    if "".join(prompt.split()) in "".join(read.split()):
        return ""
    return (
        f"The {tokens:,} tokens that the server read do not contain the prompt's {len(prompt):,} characters as they "
        "are: it was cut or rewritten, or this is the routing of another text."
    )


def caution_about_zeros(parts: Sequence[np.ndarray]) -> str:
    """Return the caution for tokens that have zeros instead of experts; each part is a sequence (L MoE layers, T, K).

    A prefix from a cache has zeros if its routing was not kept. With several experts per token zeros are not a choice,
    and count as not recorded. With one, expert 0 could be the choice: so only the first tokens count, at every layer.
    """
    tokens, (layers, _, top_k) = sum(part.shape[1] for part in parts), parts[0].shape
    zeros = [(part == 0).all(axis=2) for part in parts]
    if top_k > 1:
        found = sum(int(part.any(axis=0).sum()) for part in zeros)
        which, then = f"{found:,} of {tokens:,} tokens have zeros instead of experts", "They count as not recorded. "
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
    """Describe why a server generated fewer tokens than requested.

    >>> why_ended("stop"), why_ended("tired"), why_ended(None)
    ('the model wrote its end-of-text token', "the server's reason is 'tired'", 'the server gives no reason')
    """
    if reason is None:
        return "the server gives no reason"
    known = WHY_ENDED.get(reason) if isinstance(reason, str) else None
    return known or f"the server's reason is {shown(reason)}"


def config_facts(where: ServerName, runs: str | None) -> ModelInfo | None:
    """Read the config of `facts`, or of the model that the server says it runs, if it is a well-known one.

    The hub is not asked for a name that only a server gave.
    """
    if where.facts is not None:
        return model_facts(where.facts)
    return model_facts(runs) if runs in KNOWN_MODELS else None


def info_of(where: ServerName, facts: ModelInfo | None, part: SequenceRouting, runs: str | None, by: str) -> ModelInfo:
    """Return the facts about a served model, by its first answer and its config. Raises `CaptureError`.

    runs  the model that the server reports: a hub id, or a path on the server's machine.
    by    the server's own name, with its version.
    """
    hidden, _, top_k = part.ids.shape
    if facts is not None:
        info = replace(facts, name=where.name, backend=where.engine, dtype=None, revision=None, recorded_by=by)
        info = replace(info, slot_order="unknown", num_layers=facts.num_layers or hidden)
        check_part(info, part)
        return info
    if where.told.experts is None:
        raise CaptureError(
            f"The server does not say how many experts a layer of {quoted(runs or where.name)} has. Name a config that "
            "does, a folder or an id on the hub: load_model(…, facts=…), or ?facts=… behind the address. Or say how "
            "many: experts=…, or ?experts=…"
        )
    layers, caution = _layers(where, part)
    return ModelInfo(
        name=where.name,
        backend=where.engine,
        layers=layers,
        num_experts=(where.told.experts,) * len(layers),
        top_k=top_k,
        num_layers=hidden,
        caution=caution,
        recorded_by=by,
        slot_order="unknown",
    )


def _layers(where: ServerName, part: SequenceRouting) -> tuple[tuple[int, ...], str]:
    """Return the layers with experts, given by the user or found by ids other than 0 in the first answer; a caution."""
    hidden, _, top_k = part.ids.shape
    given, empty = where.told.moe_layers, _empty(part.ids)
    if given is not None:
        if max(given) >= hidden:
            raise CaptureError(f"The model has {hidden} layers, from 0 on, and no layer {max(given)}.")
        return given, ""
    if top_k == 1 and empty.any():
        raise CaptureError(
            f"Of layer {int(empty.argmax())} the server gave only zeros: it is dense, or its first expert was taken. "
            "Say which layers have experts: facts=… or moe_layers=… (?moe_layers=1-47 behind the address)."
        )
    if empty.all():
        raise nothing_but_zeros(where.name)
    left = [layer for layer in range(hidden) if empty[layer]]
    caution = f"Layers with nothing but zeros are left out: {listed(left)}. They are dense, or not recorded."
    return tuple(layer for layer in range(hidden) if not empty[layer]), caution if left else ""


def check_part(info: ModelInfo, part: SequenceRouting) -> None:
    """Raise `CaptureError` if an answer is not of a model with these facts, or if something hid its routing."""
    hidden, _, top_k = part.ids.shape
    if (hidden, top_k) != (info.num_layers, info.top_k):
        raise CaptureError(
            f"{info.name} answered with {hidden} layers of {top_k} experts per token, and its config has "
            f"{info.num_layers} layers of {info.top_k}. Name the config of the model that is served (facts=…)."
        )
    if top_k == 1:
        return
    empty, expert_layers = _empty(part.ids), set(info.layers)
    if empty.all():
        raise nothing_but_zeros(info.name)
    if hidden_ones := [layer for layer in info.layers if empty[layer]]:
        raise CaptureError(
            f"Every expert id of layer {listed(hidden_ones)} is 0, and by the model's config it has experts: a fused "
            f"kernel hides what its routers decide. Run {info.name} without that kernel."
        )
    if surprising := [layer for layer in range(hidden) if layer not in expert_layers and not empty[layer]]:
        raise CaptureError(
            f"{info.name} answered with experts of layer {listed(surprising)}, which is dense by the config. Name the "
            "config of the model that is served (facts=…)."
        )


def nothing_but_zeros(name: str) -> CaptureError:
    """Return the error for an answer in which no router decided anything."""
    return CaptureError(
        f"Every expert id that {name} answered with is 0: a fused kernel bypasses what records the routing. Run the "
        "server without that kernel."
    )


def _empty(ids: np.ndarray) -> np.ndarray:
    """Return, for each layer of (L, T, K), whether it holds only zeros."""
    nothing: np.ndarray = (ids == 0).all(axis=(1, 2))
    return nothing
