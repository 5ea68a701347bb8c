"""Assemble a trace from a recording: the tokens of each returned sequence, and where the model read them.

B rows of a forward, S its positions, R sequences of the trace, C their columns (prompt, then what was generated).
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from moeviz.capture.record.hooks import Recording
from moeviz.capture.routers.discovery import LAYER_KIND, is_unrolled, unrolled_layers
from moeviz.capture.routers.score_function import score_function
from moeviz.capture.run.chat import with_segments
from moeviz.capture.run.generation_plan import ended_words
from moeviz.capture.run.prompts import GeneratedTokens, ModelInput, decoder_start
from moeviz.capture.run.token_texts import token_texts
from moeviz.errors import CaptureError
from moeviz.image_tokens import BOX, IMAGE_COLUMNS, NO_IMAGE, NO_VIEW, TEXT
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, pad_layers, sort_slots, token_frame
from moeviz.text import spans


@dataclass(frozen=True, slots=True)
class RoutedSequences:
    """The tokens that the routers of a site received."""

    ids: np.ndarray  # (R, C)
    kept: np.ndarray  # (R, C) bool: no padding, and not after an end
    rows: np.ndarray  # (R, C): in which row of its batch each was read
    prompt: int  # number of columns that belong to the prompt
    drafts: bool  # whether the model also read tokens that were then rejected


def assemble(recording: Recording, run: ModelInput, written: GeneratedTokens) -> RoutingTrace:
    """Arrange what was recorded as the arrays of a trace: real tokens only, one sequence after the other.

    Raises `CaptureError` if it is unknown which routing belongs to which token, and if an intervention was not obeyed.
    """
    recording.check()
    order, recording = recording.order, unrolled(recording)
    met = _sequences(run, recording.site, written)
    where = _places(recording.read, met)[met.kept]
    experts, weights = sort_slots(*_decisions(recording, where))
    logits = None
    if recording.keep_logits and all(answers.logits for answers in recording.outputs):
        logits = pad_layers([part[where] for part in recording.rows("logits")], -np.inf)
    facts = _facts(recording, run.info, experts.shape[-1])
    facts = replace(
        facts, decoding=ended_words(facts.decoding, _early_ends(written), len(written.tokens), written.asked)
    )
    following = recording.following and recording.following.at(where, recording.read, run.tokenizer)
    outputs = recording.added and recording.added.at(where, order, experts, weights, recording.read)
    trace = RoutingTrace(facts, _tokens(run, met), experts, weights, logits, following, outputs, run.images)
    if (expected := recording.expected) is not None:
        expected.check_held(trace, *_decisions(replace(recording, outputs=expected.own), where))
    return trace


def _early_ends(written: GeneratedTokens) -> list[int]:
    kept = (written.tokens >= 0).cpu().numpy()
    lengths: list[int] = kept.sum(axis=1)[~kept.all(axis=1)].tolist()
    return lengths


def _decisions(recording: Recording, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return expert ids and weights (L, T, K) of the tokens at these places."""
    experts = pad_layers([part[where] for part in recording.rows("experts")], NO_EXPERT)
    return experts, pad_layers([part[where] for part in recording.rows("weights")], 0.0)


def _sequences(run: ModelInput, site: str, written: GeneratedTokens) -> RoutedSequences:
    """List the tokens that the routers of a site meet: a prompt, and what is generated after it."""
    encoded = site == "encoder"
    prompt = decoder_start(run.model, len(run.batch.input_ids)) if site == "decoder" else run.batch
    new, drawn_in = (part.cpu().numpy() for part in (written.tokens, written.rows))
    if encoded or not new.shape[1]:
        ids, kept = (part.cpu().numpy() for part in (prompt.input_ids, prompt.attention_mask == 1))
        return RoutedSequences(
            ids, kept, np.arange(len(ids))[:, None].repeat(ids.shape[1], 1), ids.shape[1], drafts=False
        )
    each = len(new) // len(prompt.input_ids)  # sequences for one prompt
    ids, mask = (part.cpu().numpy().repeat(each, axis=0) for part in (prompt.input_ids, prompt.attention_mask))
    fed = new[:, :-1]  # the last one drawn was never read
    # A token was read to draw the one after it, so it stood in the row of that one.
    rows = np.concatenate([drawn_in[:, :1].repeat(ids.shape[1], axis=1), drawn_in[:, 1:]], axis=1)
    kept = np.concatenate([mask == 1, fed >= 0], axis=1)
    return RoutedSequences(np.concatenate([ids, fed], axis=1), kept, rows.clip(min=0), ids.shape[1], written.drafts)


def _places(read: list[torch.Tensor], met: RoutedSequences) -> np.ndarray:
    """Return, for each token (R, C), its place among all rows that the routers received, forward after forward.

    Raises `CaptureError` unless the model read there what the sequence has there.
    """
    where = np.zeros(met.ids.shape, np.int64)
    given = torch.cat([tokens.flatten() for tokens in read]).cpu().numpy()
    column = offset = 0
    for batch, positions in (tokens.shape for tokens in read):
        left = slice(column, column + positions)
        place = offset + met.rows[:, left] * positions + np.arange(min(positions, met.ids.shape[1] - column))
        right = (met.rows[:, left] < batch) & (given[place.clip(max=len(given) - 1)] == met.ids[:, left])
        agrees = (right | ~met.kept[:, left]).all(axis=0)
        fed = int(agrees.cumprod().sum())  # a rejected draft differs from what came in its place
        if fed < positions and not (met.drafts and fed):
            raise _unclear(read)
        where[:, column : column + fed] = place[:, :fed]
        column, offset = column + fed, offset + batch * positions
    if column != met.ids.shape[1]:
        raise _unclear(read)
    return where


def _unclear(read: list[torch.Tensor]) -> CaptureError:
    steps = [tuple(tokens.shape) for tokens in read[:8]]
    return CaptureError(
        f"The model read its tokens in steps of (rows, positions) {steps}{' …' if len(read) > 8 else ''}, and they are "
        "not those of the sequences that it returned; moeviz cannot tell which routing belongs to which token."
    )


def _tokens(run: ModelInput, met: RoutedSequences):
    sequence, column = np.nonzero(met.kept)
    texts = [token_texts(run.tokenizer, ids[kept].tolist()) for ids, kept in zip(met.ids, met.kept, strict=True)]
    tokens = token_frame(
        sequence=sequence,
        position=(np.cumsum(met.kept, axis=1) - 1)[met.kept],
        text=[text for sequence in texts for text in sequence],
        token_id=met.ids[met.kept],
        phase=np.where(column < met.prompt, "prompt", "generated"),
    )
    tokens = with_segments(tokens, run.segments)
    if run.image_columns is None:
        return tokens
    of_text = pd.DataFrame([(TEXT, NO_IMAGE, NO_VIEW, *[np.nan] * len(BOX))], columns=[*IMAGE_COLUMNS])
    rows = pd.concat([run.image_columns, of_text.astype(IMAGE_COLUMNS)], ignore_index=True)
    return pd.concat([tokens, rows.iloc[np.minimum(column, met.prompt)].reset_index(drop=True)], axis=1)


def _facts(recording: Recording, info: ModelInfo, slots: int) -> ModelInfo:
    """Add the facts that the recording shows to those that were known of the model before it ran."""
    said: dict[str, list[int]] = {}
    for router in recording.routers:
        if router.adapter and router.adapter.caution:
            said.setdefault(router.adapter.caution, []).append(router.layer)
    of_routers = sorted(words.replace("{layers}", spans(layers)) for words, layers in said.items())
    facts = {
        "top_k": slots,
        "num_experts": tuple(answers.num_experts for answers in recording.outputs),
        "score_function": score_function(recording.logit_samples()),
        "recorded_by": recording.by,
        "caution": " ".join([info.caution] * bool(info.caution) + of_routers),
        "hash_layers": tuple(each.layer for each in recording.routers if each.adapter and each.adapter.by_token_id),
    }
    if is_unrolled(recording.routers):  # the parameters of a layer would count once per pass
        layers = tuple(router.layer for router in recording.routers)
        facts |= {"layers": layers, "layer_kind": LAYER_KIND, "num_layers": None, "parameters": None}
    return replace(info, **facts)


def unrolled(recording: Recording) -> Recording:
    """Make each call of a router in a forward a layer of a checked recording; unchanged if each is called once.

    A layer's index is then its depth: layers 0, 1 and 2 of which 1 and 2 run twice become 0, 1, 2, 3 and 4.
    """
    order = recording.order
    if len(order) == len(recording.routers):
        return recording
    layers = unrolled_layers([router.layer for router in recording.routers], order)
    routers = tuple(replace(recording.routers[i], layer=layer) for i, layer in zip(order, layers, strict=True))
    outputs = []
    for place, index in enumerate(order):
        calls, answers = slice(order[:place].count(index), None, order.count(index)), recording.outputs[index]
        parts = {name: getattr(answers, name)[calls] for name in ("experts", "weights", "logits")}
        outputs.append(replace(answers, **parts))
    return replace(recording, routers=routers, outputs=outputs, order=tuple(range(len(routers))))
