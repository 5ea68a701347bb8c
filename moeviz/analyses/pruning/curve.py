"""The cost of cutting experts: some texts choose them, and the loss of others judges, next to experts cut at random."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from moeviz.analyses.pruning.novices import MeanOutputs, mean_outputs, novices_in_place
from moeviz.analyses.pruning.result import MEAN_OUTPUT, NEXT_BEST, REPLACED_BY, PruningCurve, Texts, split
from moeviz.analyses.what_if import read_batch
from moeviz.capture.corpus import fitting_stretches, trace_corpus
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.intervening import probe_routers, router_limits
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt, StopReading
from moeviz.metrics.pruning import (
    ALL,
    CRITERIA,
    FRESH,
    RANDOM,
    LayerLimits,
    Order,
    check_criteria,
    check_cuts,
    cut_in_all,
    cut_order,
    expert_scores,
    first_to_go,
    usual_cuts,
)
from moeviz.text import quoted

DRAWS = 5
NOTHING_PREDICTED = (
    "The texts that judge have one token each, or none of the segment, so nothing is predicted. Give longer texts."
)
Cut = Mapping[int, tuple[int, ...]]  # experts by layer


def pruning_curve(
    model: LoadedModel,
    texts: Iterable[tuple[str, Prompt]],
    *,
    cuts: Sequence[int] | None = None,
    cut_total: int | None = None,
    criteria: Sequence[str] = tuple(CRITERIA),
    judged_on: Iterable[tuple[str, Prompt]] | None = None,
    judge: LoadedModel | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    by_kind: str | None = None,
    tokens: int | None = None,
    replaced_by: str = NEXT_BEST,
    segment: str | None = None,
    progress: Progress | None = None,
) -> PruningCurve:
    """Measure how much worse a model predicts texts without the experts that other texts say it needs least.

    The texts are divided by `split`. Criteria are read off the first half (`expert_scores`). The other half is read
    without the experts that each would cut, as if the model did not have them (`moeviz.Mute(…, removed=True)`).

    cuts       numbers of experts cut from each layer; default: an eighth, a quarter and a half of them.
    cut_total  number of experts cut in all layers together, more where it costs less (`cut_in_all`); next to as many
               cut from each layer alike, as far as it divides.
    criteria   names of `CRITERIA`.
    judged_on  texts of another recording or customer, whose second half judges instead; their first half
               makes the fresh choice that the choice of `texts` is compared with.
    judge      another checkpoint of the model, which is cut and judged instead; the fresh choice is by its own scores.
    draws      random choices of experts, with which the others are compared.
    seed       of the division of the texts, and of these.
    by_kind    a criterion by which experts are also chosen by each kind of text, and judged on each kind: whose
               calibration decides?
    tokens     read only this many of each text; default: all, in stretches that fit into the model's context.
    replaced_by "next best": routers choose as if the model did not have the cut experts. "mean output": they choose as
               ever, and a cut expert gives every token its mean output over the texts that chose (MoNE, arXiv
               2507.00390); no checkpoint of transformers' holds that.
    segment    of chats, given as their messages instead of as texts: every expert is scored by the tokens of this
               segment only, as "answer", and loss is that of predicting these. All tokens are read, and a mean output
               is over all.
    progress   called with (done, total), in texts read. Raise in it to stop; after `StopReading`, those texts judge, or
               choose, that were read with all cuts.

    `losses` of the result has one row per criterion, cut, and kinds of text that chose and that judged;
    `cost_of_cuts` gives only those of all texts. Columns:
    criterion str · cut int64 (experts per layer) · share float64 (of a layer's experts; of the mean layer where they
    differ) · chosen_on, judged_on str (a kind of text, "all texts", or, of the fresh choice, "texts like those that
    judge") · tokens int64 (predicted in the texts that judged) · loss, loss_increase float64 (nats per token: with the
    experts cut, and above the whole model) · sd float64 (of the increase over the draws at random; NaN elsewhere).
    `in_all` has the same of `cut_total`: cut is the total, and per_layer str what each layer loses ("" at random).

    Raises `CaptureError` if a layer cannot lose this many experts, or moeviz cannot let a router choose again or see
    experts' outputs; `InvalidPrompt` for fewer than two texts; `MissingField` for a segment that the chats do not have,
    or texts without segments; and what `trace_corpus` raises.

    >>> import moeviz
    >>> from moeviz.labelled_texts import texts_that_ship
    >>> texts = texts_that_ship()[:12]
    >>> curve = moeviz.pruning_curve("embedded", texts, cuts=[1, 2])  # doctest: +SKIP
    >>> curve.losses[["criterion", "cut", "loss"]]  # doctest: +SKIP
    """
    check_criteria([*criteria, *filter(None, [by_kind])])
    if replaced_by not in REPLACED_BY:
        raise CaptureError(f"Cut experts are replaced by {' or '.join(REPLACED_BY)}, not {quoted(replaced_by)}.")
    limits = limits_of(model)
    if judge is not None:
        check_judge(model, judge, limits, limits_of(judge))
    if cuts is None and cut_total is not None:
        cuts = [cut_total // len(limits)] * (cut_total % len(limits) == 0)
    cuts = usual_cuts(limits) if cuts is None else tuple(dict.fromkeys(cuts))
    check_cuts(cuts, limits)
    chose, judged = split(texts, seed)
    fresh, judged = (chose, judged) if judged_on is None else split_other(judged_on, chose, seed)
    steps = Steps(progress, len(chose))
    trace = trace_corpus(model, [*as_read(model, chose, tokens)], outputs=True, progress=steps.of_first)
    trace = trace.of_segment(segment)
    wanted, scores = _Cuts(), expert_scores(trace)
    choices = {ALL: scores}
    if judged_on is not None or judge is not None:
        others = [*as_read(judge or model, fresh, tokens)]
        steps.total += len(others)
        seen = trace_corpus(judge or model, others, outputs=True, progress=lambda *_: steps.one_more())
        choices[FRESH] = expert_scores(seen.of_segment(segment))
    for chosen_on, of in choices.items():
        for criterion in criteria:
            if chosen_on != ALL and criterion == RANDOM:
                continue
            for draw in range(draws if criterion == RANDOM else 1):
                wanted.add(cut_order(of, criterion, limits, seed, draw), cuts, (criterion, chosen_on))
                if cut_total is not None:
                    cut = cut_in_all(of, criterion, limits, cut_total, seed, draw)
                    wanted.add_one(cut, cut_total, True, (criterion, chosen_on))
    if by_kind is not None:
        labels = trace.tokens["label"].astype(str)
        for kind in dict.fromkeys(labels):
            of_kind = expert_scores(trace.select(tokens=(labels == kind).to_numpy()))
            wanted.add(cut_order(of_kind, by_kind, limits), cuts, (by_kind, kind))
    cut_model = judge or model
    stretches = [*as_read(cut_model, judged, tokens)]
    steps.total = steps.done + len(stretches) * (1 + len(wanted.distinct))
    means = None
    if replaced_by == MEAN_OUTPUT:
        again = [text for _, text in as_read(cut_model, chose, tokens)]
        steps.total += len(again)
        means = mean_outputs(cut_model, again, steps.one_more)
    losses, counts = _losses(cut_model, stretches, [None, *wanted.distinct], segment, steps, means)
    if not counts.sum():
        raise InvalidPrompt(NOTHING_PREDICTED)
    if len(counts) < len(stretches):  # that was enough
        stretches = stretches[: len(counts)]
        ends = np.cumsum([len([*as_read(cut_model, (text,), tokens)]) for text in judged])
        judged = judged[: int(np.searchsorted(ends, len(counts))) + 1]
    kinds = [label for label, _ in stretches]
    frame = pd.DataFrame(wanted.rows(losses, counts, kinds), columns=_COLUMNS)
    frame = frame.astype(dict.fromkeys(("criterion", "chosen_on", "judged_on"), "str"))
    in_all, experts = frame.pop("in_all"), [limit.experts for limit in limits.values()]
    frame.insert(2, "share", frame["cut"] / np.where(in_all, np.sum(experts), np.mean(experts)))
    alike = frame[~in_all].drop(columns="per_layer").reset_index(drop=True)
    spread = frame[in_all].reset_index(drop=True) if in_all.any() else None
    blocks = {router.layer: router.block_path for router in find_routers(model.model)}
    loss = float(losses[0].sum() / counts.sum())
    facts = blocks, alike, scores, limits, loss, chose, judged, seed, tokens, replaced_by, spread
    return PruningCurve(model.info, *facts, wanted.drawn(losses, counts), segment)


_COLUMNS = [
    "criterion",
    "cut",
    "chosen_on",
    "judged_on",
    "tokens",
    "loss",
    "loss_increase",
    "sd",
    "per_layer",
    "in_all",
]


def check_judge(model: LoadedModel, judge: LoadedModel, mine: object, theirs: object) -> None:
    """Raise `CaptureError` if the experts of another checkpoint, by layer, are not those that a plan is made for."""
    if mine != theirs:
        raise CaptureError(
            f"{quoted(judge.name)} has other layers or experts than {quoted(model.name)}, so no plan of one fits."
        )


def split_other(texts: Iterable[tuple[str, Prompt]], chose: Texts, seed: int = 0) -> tuple[Texts, Texts]:
    """Divide the texts of another recording by `split`; none of `chose` judges. Raises `InvalidPrompt` if none can."""
    fresh, judged = split(texts, seed)
    known = {str(text) for _, text in chose}
    judged = tuple(pair for pair in judged if str(pair[1]) not in known)
    if not judged:
        raise InvalidPrompt("All texts that would judge the choice have made it. Give texts of another recording.")
    return fresh, judged


def limits_of(model: LoadedModel) -> dict[int, LayerLimits]:
    """Return the limits on cutting experts, by layer. Raises `CaptureError` for routers that cannot choose again."""
    found = {}
    for probed in probe_routers(prepare(model, CaptureRequest(("a b c",)))):
        limits, router = router_limits(probed), probed.router
        experts = limits.num_experts - router.zero_experts
        found[router.layer] = LayerLimits(experts, limits.top_k, limits.groups, limits.groups_kept)
    return found


def as_read(model: LoadedModel, texts: Texts, tokens: int | None) -> Iterator[tuple[str, Prompt]]:
    """Cut each text into stretches of this many tokens, or only the first one. Raises `InvalidPrompt` for a chat."""
    for label, text in texts:
        if not isinstance(text, str):
            if tokens is not None:
                raise InvalidPrompt(
                    "A chat is read whole, or nobody knew its segments. Leave out the number of tokens."
                )
            yield label, text
            continue
        stretches = fitting_stretches(model, text, tokens)
        yield from ((label, stretch) for stretch in (stretches if tokens is None else stretches[:1]))


def targets_of(run: ModelInput, segment: str | None) -> torch.Tensor:
    """Return the ids of a text's tokens from the second on, with -100 for those that are not of the segment.

    Raises `MissingField` if nobody knows the segments of its tokens.
    """
    following = run.batch.input_ids[0, 1:]
    return following.masked_fill(torch.from_numpy(~run.in_segment(segment)[1:]).to(following.device), -100)


class Steps:
    """Texts read so far, of all."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def of_first(self, done: int, _total: int) -> None:
        """The first texts, of which only the number is known then."""
        self.done = done
        self.tell()

    def one_more(self) -> None:
        """One more text."""
        self.done += 1
        self.tell()

    def tell(self) -> None:
        """Tell whoever watches."""
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))


class _Cuts:
    """Cuts to measure, each once, and what asked for each."""

    def __init__(self) -> None:
        self.places: dict[tuple[tuple[int, tuple[int, ...]], ...], int] = {}
        self.asked: dict[tuple[str, str, bool, int], list[int]] = defaultdict(list)  # -> places; see `add_one`

    def add(self, order: Order, cuts: Sequence[int], of: tuple[str, str]) -> None:
        """Ask for several cuts of an order, each of its first experts."""
        for count in cuts:
            self.add_one(first_to_go(order, count), count, False, of)

    def add_one(self, cut: Cut, count: int, in_all: bool, of: tuple[str, str]) -> None:
        """Ask for a cut, by criterion and what chose, of a number from each layer or in all."""
        key = tuple(sorted(cut.items()))
        self.asked[(*of, in_all, count)].append(self.places.setdefault(key, len(self.places)))

    @property
    def distinct(self) -> list[Cut]:
        return [dict(key) for key in self.places]

    def rows(self, losses: np.ndarray, counts: np.ndarray, kinds: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Return rows of the table, from losses (1 + cuts, texts), the whole model's first, and tokens (texts,)."""
        masks = {ALL: np.ones(len(kinds), bool)}
        if len(names := dict.fromkeys(kinds)) > 1:
            masks |= {kind: np.array(kinds) == kind for kind in names}
        by_place = [*self.places]
        for (criterion, chosen_on, in_all, count), places in self.asked.items():
            each = [len(experts) for _, experts in by_place[places[0]]]
            text = " ".join(map(str, each)) if in_all and criterion != RANDOM else ""
            for judged_on, mask in masks.items():
                if not (tokens := int(counts[mask].sum())):
                    continue
                plain, *others = losses[[0, *(1 + place for place in places)]][:, mask].sum(axis=1) / tokens
                more = np.array(others) - plain
                sd = float(more.std(ddof=1)) if criterion == RANDOM and len(more) > 1 else np.nan
                figures = float(np.mean(others)), float(more.mean()), sd
                yield criterion, count, chosen_on, judged_on, tokens, *figures, text, in_all

    def drawn(self, losses: np.ndarray, counts: np.ndarray) -> dict[tuple[bool, int], tuple[float, ...]]:
        """Return the loss increase of each draw at random, by whether the number is of all layers, and the number."""
        nats = (losses.sum(axis=1) - losses.sum(axis=1)[0]) / counts.sum()
        of = {key[2:]: places for key, places in self.asked.items() if key[0] == RANDOM}
        return {key: tuple(nats[[1 + place for place in places]].tolist()) for key, places in of.items()}


@torch.no_grad()
def _losses(
    model: LoadedModel,
    texts: Sequence[tuple[str, Prompt]],
    cuts: Sequence[Cut | None],
    segment: str | None,
    steps: Steps,
    means: MeanOutputs | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Summed losses (cuts, texts) in nats, and predicted tokens (texts,); fewer texts if that is enough."""
    losses, counts = np.zeros((len(cuts), len(texts))), np.zeros(len(texts), np.int64)
    routers = probe_routers(prepare(model, CaptureRequest(("a b c",))))
    for at, (_, text) in enumerate(texts):
        run = prepare(model, CaptureRequest.of(text))
        targets = targets_of(run, segment)
        counts[at] = int((targets >= 0).sum())
        for row, cut in enumerate(cuts):
            if cut is None or means is None:
                _, logits = read_batch(run, routers, None if cut is None else Mute(cut, removed=True))
            else:
                with novices_in_place(run.model, means, cut):
                    _, logits = read_batch(run, routers, None)
            if counts[at]:
                predicted, wanted = logits[:-1].float(), targets.to(logits.device)
                losses[row, at] = float(torch.nn.functional.cross_entropy(predicted, wanted, reduction="sum"))
            try:
                steps.one_more()
            except StopReading:
                if not at:
                    raise
                return losses[:, :at], counts[:at]
    return losses, counts
