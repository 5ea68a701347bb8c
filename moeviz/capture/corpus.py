"""Many labelled texts -> one trace, to see which experts each kind of text uses."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from moeviz.capture.engines.engine import EngineModel
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.memory import is_on_disk
from moeviz.capture.opening import load_model
from moeviz.capture.record.joining import joined
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import token_spans
from moeviz.capture.trace import trace
from moeviz.errors import InvalidPrompt, StopReading
from moeviz.routing_trace import RoutingTrace

AT_ONCE = 8192  # tokens of a batch, of a model with weights on the disk


def trace_corpus(
    model: LoadedModel | EngineModel | str,
    texts: Iterable[tuple[str, Prompt]],
    *,
    keep_logits: bool = False,
    outputs: bool = False,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Run labelled texts through a model, one after the other, and record what every router decides.

    Of a model with weights on the disk, many texts run as one batch, so that each layer is read once for all of them.
    Each text becomes a sequence of the trace, exactly as `trace` records it by itself, and its tokens carry its label.
    A text that is longer than the model's context is cut into stretches that fit. Each stretch is a new sequence: the
    model knows nothing of the stretch before it, and metrics treat it as a separate text.

    model        what `load_model` returns, or a name that it takes.
    texts        (label, text) pairs; a label may come many times. Instead of a text, the messages of a chat: then all
                 are chats, each is read whole, and tokens have a segment, as `trace` gives it.
    keep_logits  True records the router logits too: 4·E bytes more per token and layer.
    outputs      True records what each expert puts out for each token too, as `trace` does.
    progress     called with (done, total) after each text. Raise in it to stop; `StopReading` keeps what was read.

    Raises `InvalidPrompt`, with the number of the text, if a text is empty, or too long while the tokenizer cannot say
    where to cut; and what `trace` raises.

    >>> import moeviz
    >>> trace = moeviz.trace_corpus(moeviz.load_model(), [("French", "Il fait froid."), ("sum", "12 + 7 = 19")])
    >>> trace.tokens.groupby("sequence")["label"].first().tolist()
    ['French', 'sum']
    """
    model = load_model(model) if isinstance(model, str) else model
    labels: list[str] = []
    traces: list[RoutingTrace] = []
    texts = list(texts)
    if not texts:
        raise InvalidPrompt("There are no texts to trace. Give at least one, with its label.")
    chat = not all(isinstance(text, str) for _, text in texts)
    at_once = AT_ONCE if is_on_disk(model) and not chat else 0
    waiting: list[tuple[str, Any]] = []
    for done, (label, text) in enumerate(texts, start=1):
        try:
            stretches = fitting_stretches(model, text) if isinstance(text, str) and not chat else [text]
            waiting += [(label, stretch) for stretch in stretches]
            longest = max(model.count_tokens(stretch) for _, stretch in waiting) if at_once else 0
            if done < len(texts) and longest * len(waiting) < at_once:
                continue
            groups = [[stretch for _, stretch in waiting]] if at_once else [stretch for _, stretch in waiting]
            made = [trace(model, group, keep_logits=keep_logits, chat=chat, outputs=outputs) for group in groups]
        except InvalidPrompt as error:
            raise InvalidPrompt(f"Text {done} of {len(texts)}, labelled {label!r}: {error}") from error
        whole = joined(made)
        labels += [waiting[sequence][0] for sequence in whole.tokens["sequence"]]
        traces.append(whole)
        waiting = []
        try:
            if progress is not None:
                progress(done, len(texts))
        except StopReading:
            break
    whole = joined(traces)
    return replace(whole, tokens=whole.tokens.assign(label=pd.Series(labels, dtype="str")))


def fitting_stretches(model: LoadedModel | EngineModel, text: str, most: int | None = None) -> list[str]:
    """Cut a text between tokens into pieces that fit into the model's context; nothing is left out or repeated.

    most   tokens of a piece, if that is less than the context holds.
    """
    limit = min((limit for limit in (model.max_tokens, most) if limit is not None), default=None)
    if limit is None or model.count_tokens(text) <= limit:
        return [text]
    places, tokens = _cuts(model, text)
    ends = [0]
    while ends[-1] < len(places) - 1:
        ends.append(_end_of_stretch(model, text, places, tokens, start=ends[-1], limit=limit))
    return [text[places[start] : places[end]] for start, end in pairwise(ends)]


def _end_of_stretch(
    model: LoadedModel | EngineModel, text: str, places: np.ndarray, tokens: np.ndarray, start: int, limit: int
) -> int:
    """Find the last cut that leaves a stretch from `start` short enough for the model's context."""
    most = limit
    while True:
        end = int(np.searchsorted(tokens, tokens[start] + most, side="right")) - 1
        if end <= start:
            raise InvalidPrompt(
                f"The model's context holds {limit:,} tokens, which is too few for a single character. Use a model "
                "with a longer context."
            )
        excess = model.count_tokens(text[places[start] : places[end]]) - limit
        if excess <= 0:
            return end
        most -= excess  # a piece may have more tokens than it had inside the text, and special ones in addition


def _cuts(model: LoadedModel | EngineModel, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the places where a text may be cut, both ends included, and the number of tokens before each.

    No place is inside a character.
    """
    spans = model.token_spans(text) if isinstance(model, EngineModel) else token_spans(model.tokenizer, text)
    if spans is None:
        name = model.name if isinstance(model, EngineModel) else type(model.tokenizer).__name__
        raise InvalidPrompt(
            f"It has {model.count_tokens(text):,} tokens and the model's context holds {model.max_tokens:,}. Cutting a "
            f"text needs to know which characters a token stands for, and {name} does not say. Give shorter texts."
        )
    starts, ends = np.array(spans).T
    ended = np.maximum.accumulate(ends)  # all tokens of one split character have its span
    inner = np.flatnonzero(starts[1:] >= ended[:-1]) + 1
    return np.array([0, *starts[inner], len(text)]), np.array([0, *inner, len(starts)])
