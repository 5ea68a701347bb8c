"""The effect of an intervention: trace, next tokens and loss, next to those of the model as it is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeviz.analyses.precisions import converted, in_precision
from moeviz.capture.interventions.bias import Bias
from moeviz.capture.interventions.force import Force
from moeviz.capture.interventions.intervention import Intervention
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.interventions.precision import NAMES, Precision
from moeviz.capture.interventions.swap import Swap
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import exclusive_eval, recording_hooks
from moeviz.capture.record.intervening import intervening, probe_routers
from moeviz.capture.record.kernel_parity import ProbedRouter
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import ModelInput, no_generated_tokens, prepare
from moeviz.capture.run.request import CaptureRequest, prompts_of
from moeviz.capture.trace import again_request, check_same_texts
from moeviz.claims import Claim
from moeviz.errors import CaptureError, MissingField
from moeviz.metrics.effect import Asked, choices_moved
from moeviz.routing_trace import RoutingTrace
from moeviz.text import no_segment

IN_CACHE = 2**17  # float64 numbers that are compared at once, 1 MB: more take five times as long on a CPU


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """A prompt read twice: by the model as it is, and with an intervention; `moved` claims how many choices moved.

    >>> import moeviz
    >>> result = moeviz.what_if("embedded", "12 + 7 = 19", moeviz.Mute({3: (1,)}))
    >>> bool((result.plain.experts == result.changed.experts).all())
    False
    """

    plain: RoutingTrace
    changed: RoutingTrace
    effect: pd.DataFrame
    moved: Claim | None = None
    asked: Asked | None = None  # the experts that the change is about; see `choices_moved`

    def of_segment(self, name: str | None) -> "WhatIf":
        """Return the effect on the tokens of one segment of a chat; on all for None. Raises what `in_segment` does."""
        if name is None:
            return self
        kept = self.plain.in_segment(name)
        plain, changed = self.plain.select(tokens=kept), self.changed.select(tokens=kept)
        effect = self.effect[kept].reset_index(drop=True)
        return WhatIf(plain, changed, effect, choices_moved(plain, changed, self.asked), self.asked)


def what_if(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[Any],
    intervention: Intervention | Precision,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
) -> WhatIf:
    """Read prompts with and without an intervention (`moeviz.capture.interventions`) and compare.

    `effect` has one row per token of the traces. Columns: sequence int32 · position int32 · text str · loss float64
    (nats: of this token, given those before it; NaN for the first of a sequence) · loss_changed float64 · kl float64
    (nats: Kullback-Leibler divergence of the distribution of the next token, plain || changed) · next_token int32 (the
    id of the likeliest as it is) · next_text str · next_token_changed int32 · next_text_changed str · probability
    float64 (of `next_token`) · probability_changed float64 (of the same token).

    `chat` reads each prompt as a user's turn of a chat, as in `trace`. Both are read in eval mode, whatever mode the
    model is in: dropout and jitter would be drawn anew each time.

    Raises `CaptureError` for a change that this model cannot be given or that did not come through, and what `trace`
    raises.

    >>> import moeviz
    >>> effect = moeviz.what_if("embedded", "12 + 7 = 19", moeviz.Mute({3: (1,)})).effect
    >>> len(effect), bool(effect["kl"].mean() > 0)
    (10, True)
    """
    change = None if isinstance(intervention, Precision) else intervention
    run = prepare(model, CaptureRequest(prompts_of(prompts), intervention=change, chat=chat), tokenizer)
    routers = probe_routers(run)
    plain, logits = read_batch(run, routers, None)
    if isinstance(intervention, Precision):
        model = in_precision(run.model, intervention.name)
        other = replace(run, model=model, info=replace(run.info, dtype=intervention.name))
        changed, logits_changed = read_batch(other, (), None)
    else:
        changed, logits_changed = read_batch(run, routers, intervention)
    effect = _with_texts(_effect(plain, logits, logits_changed), run.tokenizer)
    asked = _asked(intervention)
    return WhatIf(plain, changed, effect, choices_moved(plain, changed, asked), asked)


def _asked(intervention: Intervention | Precision) -> Asked | None:
    """Return the experts that a change is about, by layer, and what it adds to their scores; None if about all."""
    if isinstance(intervention, Bias):
        asked: Asked = intervention.amounts
    elif isinstance(intervention, Swap):
        asked = {intervention.layer: {intervention.one: 0.0, intervention.other: 0.0}}
    elif isinstance(intervention, Mute | Force):
        asked = {layer: dict.fromkeys(experts, 0.0) for layer, experts in intervention.experts.items()}
    else:
        return None
    return {int(layer): {int(expert): float(more) for expert, more in of.items()} for layer, of in asked.items()}


def loss_by_set(
    model: LoadedModel | nn.Module,
    sets: Mapping[str, RoutingTrace],
    intervention: Intervention,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure how well a model predicts several sets of texts, as it is and under an intervention.

    sets      traces of whole texts that this model read, by name. Each text is read alone, so that logits of one are
              there at a time. Only the second half of each text counts, so that an intervention may be chosen on the
              first (`moeviz.metrics.contrast`).
    progress  called with (texts read, texts in all) after each text. Raise in it to stop.

    One row per set. Columns: texts str (its name) · tokens int64 (that count) · loss, loss_changed float64 (nats a
    token, mean; NaN where none counts). Raises what `what_if` raises, and `CaptureError` for traces that do not say
    which tokens they have, or whose tokens are another text in this model.
    """
    rows, done, total = [], 0, sum(texts.tokens["sequence"].nunique() for texts in sets.values())
    for name, texts in sets.items():
        sequence, halves = texts.tokens["sequence"], []
        for one in sequence.unique():
            text = texts.select(tokens=(sequence == one).to_numpy())
            halves.append(_losses_of_second_half(model, text, intervention, tokenizer))
            done += 1
            if progress is not None:
                progress(done, total)
        losses = np.concatenate([np.empty((2, 0)), *halves], axis=1)
        means = losses.mean(axis=1) if losses.size else (np.nan, np.nan)
        rows.append((name, losses.shape[1], *means))
    return pd.DataFrame(rows, columns=["texts", "tokens", "loss", "loss_changed"])


def loss_by_precision(
    model: LoadedModel,
    texts: Sequence[Prompt],
    names: Sequence[str] = NAMES,
    *,
    segment: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure how well a model predicts texts in other precisions, and how much of its routing changes.

    texts      each read alone; one that is too long for the model's context is refused.
    names      of `moeviz.analyses.precisions.in_precisions`, beside float32. Weights are converted layer by layer while
               the model runs, so other threads must not run it meanwhile.
    segment    of chats, given as their messages instead of as texts: only its tokens count, as "answer".
    progress   called with (done, total), in texts read. Raise in it to stop.

    One row per precision, float32 first. Columns: precision str · tokens int64 (predicted) · loss, loss_increase
    float64 (nats per token; above float32) · moved float64 (share of tokens, over all layers, that go to another set of
    experts than in float32).

    Raises what `what_if` raises, `CaptureError` where weights lie on disk, and `MissingField` for a segment that no
    text has.
    """
    runs = [prepare(model, CaptureRequest.of(text)) for text in texts]
    counts = [run.in_segment(segment) for run in runs]
    if not np.concatenate(counts).any():
        raise MissingField(no_segment(segment or "", sorted({name for run in runs for name in run.segment_names})))
    names = ["float32", *(name for name in names if name != "float32")]
    rows: list[tuple[str, int, float, float]] = []
    exact: list[np.ndarray] = []
    for name in names:
        losses, moved = [], []
        for at, run in enumerate(runs):
            with converted(run.model, name):
                trace, logits = read_batch(run, (), None)
            sets = np.sort(trace.experts, axis=-1)
            exact += [sets] if name == "float32" else []
            ids = run.batch.input_ids[0].to(logits.device)
            losses.append(_losses(logits, ids, np.arange(len(ids)) == 0)[1:][counts[at][1:]])
            moved.append((sets != exact[at]).any(axis=-1)[:, counts[at]].ravel())
            if progress is not None:
                progress(len(rows) * len(runs) + at + 1, len(names) * len(runs))
        every = np.concatenate(losses)
        rows.append(
            (name, len(every), float(every.mean()) if len(every) else np.nan, float(np.concatenate(moved).mean()))
        )
    frame = pd.DataFrame(rows, columns=["precision", "tokens", "loss", "moved"]).astype({"precision": "str"})
    frame.insert(3, "loss_increase", frame["loss"] - frame["loss"].iloc[0])
    return frame


def _losses_of_second_half(
    model: LoadedModel | nn.Module,
    text: RoutingTrace,
    intervention: Intervention,
    tokenizer: PreTrainedTokenizerBase | None,
) -> np.ndarray:
    """The losses (2, T) of the tokens in the second half of one text, as the model is and under the intervention."""
    run = prepare(model, again_request(text, CaptureRequest(("-",), intervention=intervention)), tokenizer)
    routers = probe_routers(run)
    plain, logits = read_batch(run, routers, None)
    check_same_texts(plain, text)
    changed = read_batch(run, routers, intervention)[1]
    place = plain.tokens["position"].to_numpy()
    counts = (place > 0) & (2 * place >= len(place))
    ids = torch.tensor(plain.tokens["token_id"].tolist(), device=logits.device)
    return np.stack([_losses(part, ids, place == 0)[counts] for part in (logits, changed)])


def ablate(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[Any],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
    layers: Sequence[int] | None = None,
    experts: Collection[tuple[int, int]] | None = None,
    segment: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Mute each expert that the prompts use, one at a time, and rank them by what that does.

    A muted expert's tokens go to the router's next best. One row per layer and expert, greatest effect first. Columns:
    layer int32 · expert int16 · load float64 (its share of the layer's assignments) · kl float64 (nats, mean over
    tokens: how far the distribution of the next token moves) · loss_change float64 (nats per token, mean: above 0 where
    the model predicts worse without it). Experts that no token uses change nothing: 0.

    chat       True reads each prompt as a user's turn of a chat, as in `trace`.
    layers     the model's own indices; default: all that have experts.
    experts    only these, as (layer, expert) pairs; default: all of those layers.
    segment    part of a chat, as "answer": load and effects are of its tokens only. An expert is muted for all tokens.
    progress   called with (done, total) after each expert. Raise in it to stop.

    Raises `CaptureError` for a router that moeviz cannot let choose again, and what `trace` raises.

    >>> import moeviz
    >>> ranking = moeviz.ablate("embedded", "12 + 7 = 19", experts=[(3, 0), (3, 1)])
    >>> len(ranking), list(ranking.columns)
    (2, ['layer', 'expert', 'load', 'kl', 'loss_change'])
    """
    run = prepare(model, CaptureRequest(prompts_of(prompts), chat=chat), tokenizer)
    rows = []
    routers = probe_routers(run)
    plain, logits = read_batch(run, routers, None)
    counts = np.ones(len(plain.tokens), bool) if segment is None else plain.in_segment(segment)
    used = {
        (layer, expert)
        for layer, row in zip(plain.model.layers, plain.experts, strict=True)
        for expert in np.unique(row)
    }
    shares = _shares(plain.select(tokens=counts, layers=layers), experts)
    for done, (layer, expert, share) in enumerate(shares, start=1):
        kl = change = 0.0
        if (layer, expert) in used:
            _, changed = read_batch(run, routers, Mute({layer: (expert,)}))
            effect = _effect(plain, logits, changed)[counts]
            kl, change = effect["kl"].mean(), (effect["loss_changed"] - effect["loss"]).mean()
        rows.append((layer, expert, share, kl, change))
        if progress is not None:
            progress(done, len(shares))
    frame = pd.DataFrame(rows, columns=["layer", "expert", "load", "kl", "loss_change"])
    frame = frame.astype({"layer": "int32", "expert": "int16"})
    return frame.sort_values("kl", ascending=False, kind="stable", ignore_index=True)


def _shares(trace: RoutingTrace, only: Collection[tuple[int, int]] | None) -> list[tuple[int, int, float]]:
    """(layer, expert, its share of the layer's assignments)."""
    shares = []
    for layer, count, experts in zip(trace.model.layers, trace.model.num_experts, trace.experts, strict=True):
        loads = np.bincount(experts[experts >= 0], minlength=count)
        shares += [(layer, expert, float(load)) for expert, load in enumerate(loads / max(loads.sum(), 1))]
    if only is None:
        return shares
    if missing := set(only) - {(layer, expert) for layer, expert, _ in shares}:
        layer, expert = min(missing)
        raise CaptureError(
            f"{trace.model.name} has no expert {expert} in layer {layer} to mute. Choose one that it has."
        )
    return [share for share in shares if share[:2] in set(only)]


@torch.no_grad()
def read_batch(
    run: ModelInput, routers: tuple[ProbedRouter, ...], intervention: Intervention | None, site: str | None = None
) -> tuple[RoutingTrace, Tensor]:
    """Return the trace, and the logits (T, V) after each of its tokens. Nothing is drawn: it is read in eval mode."""
    site = routers[0].router.site if routers else site
    with (
        exclusive_eval(run.model),
        intervening(run, routers, intervention) as expected,
        recording_hooks(run.model, keep_logits=True, site=site) as recording,
    ):
        logits = next_token_logits(run)
    return assemble(replace(recording, expected=expected), run, no_generated_tokens(run.batch)), logits


@torch.no_grad()
def next_token_logits(run: ModelInput) -> Tensor:
    """Return the logits (T, V) after each token of a batch. The caller makes sure that nobody else has the model."""
    batch = run.batch
    kept = batch.attention_mask.flatten() == 1
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": positions}
    logits = _checked_logits(run.model, run.model(**given, use_cache=False), batch.input_ids)
    every = logits.flatten(0, 1)
    return every if kept.all() else every[kept.to(logits.device)]  # a copy takes a fifth of a forward's time


def _checked_logits(model: PreTrainedModel, output: Any, ids: Tensor) -> Tensor:
    """Return the model's logits of each next token, (B, S, V). Raises `CaptureError` for output of another shape."""
    logits: Tensor | None = getattr(output, "logits", None)
    vocabulary = model.config.get_text_config().vocab_size
    if logits is not None and logits.shape[:-1] == ids.shape and logits.shape[-1] >= vocabulary:
        return logits
    has = (
        "predicts no token: it has no language head"
        if logits is None
        else f"answers with {logits.shape[-1]:,} numbers, and its vocabulary has {vocabulary:,} tokens: it classifies"
    )
    raise CaptureError(
        f"{type(model).__name__} {has}. What a change does is measured by the next token, so load the checkpoint with "
        "a language head (…ForCausalLM), or trace it with intervention=…, which compares only the routing."
    )


def _effect(plain: RoutingTrace, logits: Tensor, changed: Tensor) -> pd.DataFrame:
    """Return one row per token; see `what_if`."""
    ids = torch.tensor(plain.tokens["token_id"].tolist(), device=logits.device)
    first = (plain.tokens["position"] == 0).to_numpy()
    few = max(IN_CACHE // logits.shape[-1], 1)
    rows = [_compare(*pair) for pair in zip(logits.split(few), changed.split(few), strict=True)]
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    losses = {name: _losses(part, ids, first) for name, part in {"loss": logits, "loss_changed": changed}.items()}
    tokens = plain.tokens[["sequence", "position", "text"]]
    return tokens.assign(**losses, **columns).astype({"next_token": "int32", "next_token_changed": "int32"})


def _with_texts(effect: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    for name in ("next_token", "next_token_changed"):
        texts = [tokenizer.decode([token]) for token in effect[name]]
        effect.insert([*effect.columns].index(name) + 1, name.replace("token", "text"), pd.Series(texts, dtype="str"))
    return effect


def _losses(logits: Tensor, ids: Tensor, first: np.ndarray) -> np.ndarray:
    before = torch.nn.functional.cross_entropy(logits[:-1].float(), ids[1:], reduction="none").double().cpu().numpy()
    return np.where(first, np.nan, np.concatenate([[np.nan], before]))


def _compare(logits: Tensor, changed: Tensor) -> dict[str, np.ndarray]:
    plain, other = (part.double().log_softmax(dim=-1) for part in (logits, changed))
    likeliest, likeliest_changed = plain.argmax(dim=-1), other.argmax(dim=-1)
    columns = {
        "kl": (plain.exp() * (plain - other)).sum(dim=-1),
        "next_token": likeliest,
        "next_token_changed": likeliest_changed,
        "probability": plain.gather(-1, likeliest[:, None]).exp()[:, 0],
        "probability_changed": other.gather(-1, likeliest[:, None]).exp()[:, 0],
    }
    return {name: column.cpu().numpy() for name, column in columns.items()}
