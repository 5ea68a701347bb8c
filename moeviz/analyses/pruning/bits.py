"""Bits for experts, judged: the cost of rounding each by itself on some texts, and a plan under a budget on others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from moeviz.analyses.precisions import experts_rounded
from moeviz.analyses.pruning import captions
from moeviz.analyses.pruning.curve import (
    DRAWS,
    NOTHING_PREDICTED,
    Steps,
    as_read,
    check_judge,
    split_other,
    targets_of,
)
from moeviz.analyses.pruning.result import Texts, split
from moeviz.analyses.what_if import next_token_logits
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.hooks import exclusive_eval
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.routers.geometry import expert_matrices
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.claims import Claim
from moeviz.errors import CaptureError, InvalidPrompt, StopReading
from moeviz.metrics.bits import FREQUENCY, KL, RANDOM, RULES, SAYS, Bits, mean_bits, plan_of_bits, super_experts
from moeviz.metrics.bits import unreached_sentence as unreached_sentence
from moeviz.metrics.staleness import staleness, staleness_claim
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

UNIFORM, FRESH = "uniform", "fresh"
NO_TOKEN = -1.0  # for a greatest absolute value
EXPERTS, LAYERS = UNITS = ("experts", "layers")
Matrices = Mapping[int, Sequence[Sequence[Tensor]]]  # of each expert, by layer
Codes = Mapping[tuple[int, int], int]  # by layer and expert


@dataclass(frozen=True, slots=True, eq=False)
class BitsStudy:
    """The cost of rounding experts, a plan for a budget, compared with others of its size."""

    model: ModelInfo
    blocks: Mapping[int, str]  # the path of each layer's MoE block in the model
    units: pd.DataFrame
    tokens: pd.DataFrame  # of each expert, of the texts that calibrate: layer, expert, tokens, super
    plans: pd.DataFrame
    bits: tuple[int, int]  # few, many
    budget: float  # mean bits of a weight of an expert
    loss: float  # of the whole model on the texts that judge, nats per token
    calibrated: Texts
    judged: Texts
    seed: int
    drawn: tuple[float, ...] = ()  # loss_increase of each plan at random
    segment: str | None = None  # of the chats: only its tokens calibrated and judged

    def plan(self, rule: str = KL) -> Bits:
        """Return the bits of each unit by a rule: by layer and expert, or by layer and -1."""
        return plan_of_bits(self.units, rule, self.bits, self.budget, self.seed)


def bits_study(
    model: LoadedModel,
    texts: Iterable[tuple[str, Prompt]],
    *,
    bits: tuple[int, int] = (3, 4),
    budget: float | None = None,
    units: str = EXPERTS,
    judged_on: Iterable[tuple[str, Prompt]] | None = None,
    judge: LoadedModel | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    tokens: int | None = None,
    segment: str | None = None,
    progress: Progress | None = None,
) -> BitsStudy:
    """Measure what fewer bits cost each expert, plan bits for a budget, and judge the plan on texts it was not made on.

    The texts are divided by `split`. On the first half each expert by itself, or all experts of a layer, is rounded in
    memory (`rounded_in_groups`: 32 weights in a row share a step, as in llama.cpp's Q4_0) to few and to many bits. On
    the other half whole plans are judged: only experts' weights are rounded. Meanwhile no other
    thread may run the model. Afterwards every weight is as it was, to the bit.

    bits       few, many: each from 2 to 8.
    budget     mean bits of a weight; default: half way.
    units      "experts", or "layers", where all experts of a layer have as many bits: a file whose tensors hold all of
               them can have no other plan.
    judged_on  texts of another day or customer, whose second half judges instead; plans from their first half are the
               fresh ones that those of `texts` are compared with. It takes twice as long.
    judge      another checkpoint of the model, whose experts are rounded and judged instead; fresh plans are by what
               rounding costs there.
    draws      plans at random, with which the others are compared.
    seed       of the division of the texts, and of these.
    tokens     read only this many of each text; default: all, in stretches that fit into the model's context.
    segment    of chats, given as their messages instead of as texts: tokens, loss and divergence are those of this
               segment only, as "answer". All tokens are read, and show which are Super Experts.
    progress   called with (done, total), in texts read. Raise in it to stop. After `StopReading`, what bits cost is
               measured on the texts that were read with all changes; plans that are not judged by then have losses of
               NaN.

    `units` of the result has one row per expert, or per layer with expert -1. Columns: layer int32 · expert int16 ·
    tokens int64 (that came to it) · weights int64 (how many it has) · super bool (a Super Expert, or has one) ·
    loss_few, loss_many, kl_few, kl_many float64 (nats per token, of the texts that calibrate: the loss above the whole
    model's, and the Kullback-Leibler divergence of the next token's distribution from the whole model's, with the unit
    alone rounded to few and to many bits) · bits int64 (by the plan "kl").

    `plans` has one row per plan. Columns: plan str ("kl", "loss", "frequency", "random"; judged elsewhere also "fresh
    kl", "fresh loss", "fresh frequency"; "uniform": each weight has as many codes as 2 ** budget, rounded down; "few",
    "many") · bits float64 (mean, of a weight) · tokens int64 (predicted) · loss, loss_increase float64 (nats per token)
    · sd float64 (of the increase over the draws at random; NaN elsewhere).

    Raises `CaptureError` for bits and budgets that cannot be, weights that cannot be rounded in memory, and a judge
    with other layers or experts; `InvalidPrompt` for fewer than two texts; `MissingField` for a segment that the chats
    do not have, or texts without segments; and what `trace_corpus` raises.
    """
    few, many = bits
    budget = (few + many) / 2 if budget is None else budget
    if units not in UNITS or not 2 <= few < many <= 8:
        raise CaptureError(f"Bits are few and many, from 2 to 8, for experts or for layers, not {bits} for {units!r}.")
    readers = model, judge or model
    matrices, there = ({r.layer: expert_matrices(r) for r in find_routers(reader.model)} for reader in readers)
    if judge is not None:
        check_judge(model, judge, *({layer: len(of) for layer, of in each.items()} for each in (matrices, there)))
    calibrated, judged = split(texts, seed)
    fresh: Texts = () if judge is None else calibrated
    if judged_on is not None:
        fresh, judged = split_other(judged_on, calibrated, seed)
    steps = Steps(progress, len(calibrated) + len(fresh))
    measuring = [[*as_read(of, chose, tokens)] for of, chose in zip(readers, (calibrated, fresh), strict=True) if chose]
    traces = [
        trace_corpus(of, stretches, outputs=True, progress=lambda *_: steps.one_more())
        for of, stretches in zip(readers, measuring, strict=False)
    ]
    frames = [_units(_of_experts(trace, matrices, segment), matrices, units) for trace in traces]
    for frame in frames:  # refused before hours of measuring
        plan_of_bits(frame.assign(kl_few=0.0, kl_many=0.0), KL, bits, budget)
    judging = [*as_read(readers[1], judged, tokens)]
    reached = [*map(_reached, traces, frames)]
    rules = [*RULES[:-1], *[RANDOM] * draws]
    of_units = sum(len(texts) + 2 * int(each.sum()) for texts, each in zip(measuring, reached, strict=True))
    plans_made = len(rules) + 4 + 3 * (len(frames) - 1)
    steps.total = steps.done + of_units + len(judging) * plans_made
    for at, (of, weights, stretches) in enumerate(zip(readers, (matrices, there), measuring, strict=False)):
        read = [text for _, text in stretches], segment
        alone = _each_alone(of, *read, weights, frames[at], reached[at], bits, steps)
        frames[at] = frames[at].assign(**alone)
    frame, plans = frames[0], list[tuple[str, float, Codes]]()
    for at, rule in enumerate(rules):
        plan = plan_of_bits(frame, rule, bits, budget, seed, max(at - len(rules) + draws, 0))
        plans.append((rule, mean_bits(frame, plan), _codes(plan, matrices)))
    for again in frames[1:]:
        made = {f"{FRESH} {rule}": plan_of_bits(again, rule, bits, budget, seed) for rule in RULES[:-1]}
        plans += [(name, mean_bits(again, plan), _codes(plan, matrices)) for name, plan in made.items()]
    for name, each in ((UNIFORM, int(2**budget)), ("few", 2**few), ("many", 2**many)):
        plans.append((name, float(np.log2(each)), _codes({}, matrices, each)))
    of_plans = [{}, *(codes for *_, codes in plans)]
    losses, count = _losses(readers[1], [text for _, text in judging], segment, of_plans, there, steps)
    drawn = tuple(
        (loss - losses[0]) / count for loss, (name, *_) in zip(losses[1:], plans, strict=True) if name == RANDOM
    )
    plan = plan_of_bits(frame, KL, bits, budget)
    frame = frame.assign(bits=[plan[place] for place in zip(frame["layer"], frame["expert"], strict=True)])
    blocks = {router.layer: router.block_path for router in find_routers(model.model)}
    table = _table([(name, size) for name, size, _ in plans], losses, count)
    loss = float(losses[0] / count)
    facts = bits, budget, loss, calibrated, judged, seed, drawn, segment
    return BitsStudy(model.info, blocks, frame, _of_experts(traces[0], matrices, None), table, *facts)


def _of_experts(trace: RoutingTrace, matrices: Matrices, segment: str | None) -> pd.DataFrame:
    """Return the segment's tokens of each expert that computes, and whether any token shows it to be a Super Expert."""
    counts = trace.of_segment(segment).counts().assignments[0]
    assert trace.outputs is not None, "asked for"
    greatest = trace.outputs.arrays()["greatest"]
    rows = [
        (
            layer,
            expert,
            int(counts[row, expert]),
            float(greatest[row][trace.experts[row] == expert].max(initial=NO_TOKEN)),
        )
        for row, layer in enumerate(trace.model.layers)
        for expert in range(len(matrices[layer]))
    ]
    frame = pd.DataFrame(rows, columns=["layer", "expert", "tokens", "greatest"])
    frame["super"] = super_experts(frame.pop("greatest").replace(NO_TOKEN, np.nan).to_numpy())
    return frame.astype({"layer": "int32", "expert": "int16"})


def _units(of_experts: pd.DataFrame, matrices: Matrices, units: str) -> pd.DataFrame:
    places = zip(of_experts["layer"], of_experts["expert"], strict=True)
    frame = of_experts.assign(weights=[sum(m.numel() for m in matrices[layer][expert]) for layer, expert in places])
    if units == EXPERTS:
        return frame
    of_layer = frame.groupby("layer", as_index=False).agg({"tokens": "sum", "super": "any", "weights": "sum"})
    of_layer.insert(1, "expert", np.int16(-1))
    return of_layer


def _reached(trace: RoutingTrace, frame: pd.DataFrame) -> np.ndarray:
    """Return (texts, units) whether a text has a token of a unit; elsewhere rounding it changes nothing."""
    sequence = trace.tokens["sequence"].to_numpy()
    row_of = {layer: row for row, layer in enumerate(trace.model.layers)}
    found = np.zeros((int(sequence.max()) + 1, len(frame)), bool)
    for at, (layer, expert) in enumerate(zip(frame["layer"], frame["expert"], strict=True)):
        experts = trace.experts[row_of[layer]]
        found[np.unique(sequence[((experts == expert) if expert >= 0 else (experts >= 0)).any(axis=-1)]), at] = True
    return found


def _codes(plan: Bits, matrices: Matrices, codes: int | None = None) -> Codes:
    """Return the number of codes of each expert's weights: by its bits, or those of its layer; or one for all."""
    return {
        (layer, expert): codes or 2 ** plan[(layer, expert) if (layer, expert) in plan else (layer, -1)]
        for layer, experts in matrices.items()
        for expert in range(len(experts))
    }


def _each_alone(
    model: LoadedModel,
    texts: Sequence[Prompt],
    segment: str | None,
    matrices: Matrices,
    frame: pd.DataFrame,
    reached: np.ndarray,
    bits: tuple[int, int],
    steps: Steps,
) -> dict[str, np.ndarray]:
    """Return columns loss_few, loss_many, kl_few, kl_many: means over the predicted tokens."""
    sums, count = np.zeros((2, 2, len(frame))), 0
    for text, has in zip(texts, reached, strict=True):
        run, added = prepare(model, CaptureRequest.of(text)), np.zeros_like(sums)
        targets = targets_of(run, segment)
        try:
            with exclusive_eval(run.model):
                whole = _log_probabilities(run)
                steps.one_more()
                for at in np.flatnonzero(has):
                    layer, expert = int(frame["layer"].iloc[at]), int(frame["expert"].iloc[at])
                    experts = [expert] if expert >= 0 else range(len(matrices[layer]))
                    for column, size in enumerate(bits):
                        with experts_rounded(matrices, {(layer, one): 2**size for one in experts}):
                            changed = _log_probabilities(run)
                        added[0, column, at] = _nats(changed, targets) - _nats(whole, targets)
                        moved = (whole.exp() * (whole - changed)).sum(dim=-1)[:-1]
                        added[1, column, at] = float(moved[targets.to(moved.device) >= 0].sum())
                        steps.one_more()
        except StopReading:
            if not count:
                raise
            break
        sums, count = sums + added, count + int((targets >= 0).sum())
    names = ("loss_few", "loss_many", "kl_few", "kl_many")
    return dict(zip(names, sums.reshape(4, -1) / max(count, 1), strict=True))


def _log_probabilities(run: ModelInput) -> Tensor:
    return next_token_logits(run).float().log_softmax(dim=-1)


def _nats(log_probabilities: Tensor, targets: Tensor) -> float:
    """Return the summed loss of the `targets` of a text."""
    targets = targets.to(log_probabilities.device)
    at = torch.nonzero(targets >= 0)[:, 0]
    return -float(log_probabilities[at, targets[at]].double().sum())


def _losses(
    model: LoadedModel,
    texts: Sequence[Prompt],
    segment: str | None,
    plans: Sequence[Codes],
    matrices: Matrices,
    steps: Steps,
) -> tuple[np.ndarray, int]:
    """Return summed losses (plans,) in nats, NaN for those that are not read to the end; and predicted tokens."""
    runs = [prepare(model, CaptureRequest.of(text)) for text in texts]
    targets = [targets_of(run, segment) for run in runs]
    count = sum(int((each >= 0).sum()) for each in targets)
    if not count:
        raise InvalidPrompt(NOTHING_PREDICTED)
    losses = np.full(len(plans), np.nan)
    try:
        for row, codes in enumerate(plans):
            loss = 0.0
            with exclusive_eval(runs[0].model), experts_rounded(matrices, codes):
                for run, following in zip(runs, targets, strict=True):
                    loss += _nats(_log_probabilities(run), following)
                    steps.one_more()
            losses[row] = loss
    except StopReading:
        if np.isnan(losses).all():
            raise
    return losses, count


def _table(plans: Sequence[tuple[str, float]], losses: np.ndarray, count: int) -> pd.DataFrame:
    """Make one row per plan from summed losses (1 + plans,), the whole model's first."""
    whole, *others = losses / count
    frame = pd.DataFrame(plans, columns=["plan", "bits"]).assign(tokens=count, loss=others)
    frame["loss_increase"] = frame["loss"] - whole
    groups = frame.groupby("plan", sort=False)
    mean = groups.mean().assign(sd=groups["loss_increase"].std(ddof=1)).reset_index()
    return mean.astype({"plan": "str", "tokens": "int64"})


def bits_sentences(study: BitsStudy, rule: str = KL) -> list[Claim]:
    """Claim what the texts reached, what is protected, and what the plan costs compared with others of its size."""
    rows = study.plans.set_index("plan")["loss_increase"]
    sd = study.plans.set_index("plan")["sd"].get(RANDOM, np.nan)
    claims = [
        captions.texts_of_study(
            "calibrated", len(study.calibrated), len(study.judged), study.seed, study.loss, study.segment
        ),
        unreached_sentence(study.tokens),
    ]
    if study.tokens["super"].any():
        names = study.tokens.loc[study.tokens["super"], ["layer", "expert"]]
        claims.append(captions.super_experts(tuple(names.itertuples(index=False, name=None))))
    cost, uniform, by_frequency, at_random = (float(rows[name]) for name in (rule, UNIFORM, FREQUENCY, RANDOM))
    spread = sd if np.isfinite(sd) else None
    if np.isfinite((cost, uniform, by_frequency, at_random)).all():  # else it was stopped before
        claims.append(captions.cost_of_bits(study.budget, SAYS[rule], cost, uniform, by_frequency, at_random, spread))
    if np.isfinite(rows.get(name := f"{FRESH} {rule}", np.nan)):
        claims.append(
            staleness_claim(staleness(f"{rule}, {study.budget:g} bits", "loss", cost, rows[name], study.drawn))
        )
    return claims
