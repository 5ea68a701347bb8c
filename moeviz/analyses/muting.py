"""The loss of each kind of text without an expert: `ablate`, text by text, added up by label."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from moeviz.analyses.what_if import ablate
from moeviz.capture.corpus import fitting_stretches
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.run.generation import Progress
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace

KEYS = ["layer", "expert", "label"]


def muted_by_label(
    model: LoadedModel,
    texts: Iterable[tuple[str, str]],
    *,
    experts: Collection[tuple[int, int]] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Mute experts one at a time, and measure the increase in the model's loss on each kind of text.

    A muted expert's tokens go to the router's next best. Texts are read one by one, as `trace_corpus` reads them; all
    tokens of a label count the same.

    texts      (label, text) pairs.
    experts    (layer, expert) pairs, each muted by itself; default: every expert of the model, which takes long.
    progress   called with (done, total) after each text. Raise in it to stop.

    One row per layer, expert and label. Columns: layer int32 · expert int16 · label str · texts int64 · tokens int64
    (that are predicted: all but the first of a text) · loss_change float64 (nats per token, mean: above 0 if the model
    predicts worse without the expert; NaN where no token is predicted) · kl float64 (nats, mean over all tokens: how
    far the distribution of the next token moves).

    Raises what `moeviz.ablate` raises, and `InvalidPrompt` if there is no text.
    """
    texts = list(texts)
    if not texts:
        raise InvalidPrompt("There are no texts to read without the expert. Give at least one, with its label.")
    parts = []
    for done, (label, text) in enumerate(texts, start=1):
        parts += [_sums(model, stretch, label, done, experts) for stretch in fitting_stretches(model, text)]
        if progress is not None:
            progress(done, len(texts))
    grouped = pd.concat(parts, ignore_index=True).groupby(KEYS, sort=False)
    sums = grouped[["tokens", "all_tokens", "loss", "kl"]].sum()
    means = {
        "loss_change": sums["loss"] / sums["tokens"].where(sums["tokens"] > 0),
        "kl": sums["kl"] / sums["all_tokens"],
    }
    found = sums.assign(texts=grouped["text"].nunique(), **means).reset_index()
    found = found.sort_values(["layer", "expert"], kind="stable", ignore_index=True)
    kinds = {"layer": "int32", "expert": "int16", "label": "str", "texts": "int64", "tokens": "int64"}
    return found[[*KEYS, "texts", "tokens", "loss_change", "kl"]].astype(kinds)


def _sums(
    model: LoadedModel, text: str, label: str, number: int, experts: Collection[tuple[int, int]] | None
) -> pd.DataFrame:
    """Turn the means of one text into sums over its tokens, so that texts can be added up."""
    effect, tokens = ablate(model, text, experts=experts), model.count_tokens(text)
    return effect.assign(
        label=label,
        text=number,
        tokens=tokens - 1,
        all_tokens=tokens,
        loss=(tokens - 1) * effect["loss_change"].fillna(0.0),
        kl=tokens * effect["kl"],
    )


def texts_of_trace(model: LoadedModel, trace: RoutingTrace) -> list[tuple[str, str]]:
    """Return the (label, text) pairs of a trace, put together from its tokens; the label is "" if it has none.

    Raises `CaptureError` if the model's tokenizer does not read them as the trace's tokens: the result would be
    about another text.
    """
    texts = []
    for _, tokens in trace.tokens.sort_values(["sequence", "position"]).groupby("sequence", sort=True):
        labels = tokens["label"].unique() if "label" in tokens else [""]
        ids = tokens["token_id"].tolist()
        if len(labels) > 1 or NO_TOKEN_ID in ids:
            raise CaptureError(_cannot_read(trace, "does not say which tokens its texts are made of"))
        text = str(model.tokenizer.decode(_without_special(model, ids), clean_up_tokenization_spaces=False))
        if model.tokenizer(text, verbose=False)["input_ids"] != ids:
            raise CaptureError(_cannot_read(trace, f"has tokens that the tokenizer of {model.name!r} reads otherwise"))
        texts.append((str(labels[0]), text))
    return texts


def _without_special(model: LoadedModel, ids: Sequence[int]) -> list[int]:
    """Remove the special tokens that the tokenizer adds around a text."""
    around = np.isin(ids, model.tokenizer.all_special_ids)
    return [token for token, special in zip(ids, around, strict=True) if not special]


def _cannot_read(trace: RoutingTrace, why: str) -> str:
    return (
        f"This is found by reading the texts again, and the trace of {trace.model.name!r} "
        f"{why}. Trace the texts anew with this model."
    )
