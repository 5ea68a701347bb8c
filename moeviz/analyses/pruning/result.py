"""The cost of cutting experts, as a result: its texts, losses and claims. Needs no model, and so no torch."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from moeviz.analyses.pruning import captions
from moeviz.capture.run.chat import Prompt
from moeviz.claims import Claim
from moeviz.errors import InvalidPrompt
from moeviz.metrics.pruning import (
    ALL,
    CRITERIA,
    FRESH,
    RANDOM,
    LayerLimits,
    Order,
    check_cuts,
    cost_of_cuts,
    cut_in_all,
    cut_order,
    first_to_go,
)
from moeviz.metrics.staleness import staleness, staleness_claim
from moeviz.model_info import ModelInfo

NEXT_BEST, MEAN_OUTPUT = REPLACED_BY = ("next best", "mean output")
Texts = tuple[tuple[str, Prompt], ...]  # (label, text or chat)


@dataclass(frozen=True, slots=True, eq=False)
class PruningCurve:
    """The cost of cutting experts, by criterion and number cut, and the texts of the measurement."""

    model: ModelInfo
    blocks: Mapping[int, str]  # the path of each layer's MoE block in the model
    losses: pd.DataFrame  # of as many experts cut from each layer
    scores: pd.DataFrame  # of `expert_scores`, on the texts that chose
    limits: Mapping[int, LayerLimits]  # by layer
    loss: float  # of the whole model on the texts that judged, in nats per token
    chose: Texts
    judged: Texts
    seed: int  # of the split
    tokens: int | None  # read of each text; None: all
    replaced_by: str = NEXT_BEST  # what takes a cut expert's place
    in_all: pd.DataFrame | None = None  # as `losses`, of a number cut in all: also total int64, per_layer str
    drawn: Mapping[tuple[bool, int], tuple[float, ...]] = field(default_factory=dict)  # loss_increase of the draws
    segment: str | None = None  # of the chats: only its tokens chose and judged

    def order(self, criterion: str) -> Order:
        """Return the experts of each layer in the order in which the criterion cuts them."""
        return cut_order(self.scores, criterion, self.limits, self.seed)

    def cut(self, criterion: str, count: int) -> dict[int, tuple[int, ...]]:
        """Return the experts of each layer that go if `count` are cut. Raises `CaptureError` if they cannot."""
        check_cuts([count], self.limits)
        return first_to_go(self.order(criterion), count)

    def cut_in_all(self, criterion: str, total: int) -> dict[int, tuple[int, ...]]:
        """Return the experts that go if this many are cut in all layers together (`cut_in_all` of the metrics)."""
        return cut_in_all(self.scores, criterion, self.limits, total, self.seed)


def split(texts: Iterable[tuple[str, Prompt]], seed: int = 0) -> tuple[Texts, Texts]:
    """Divide (label, text) pairs into those that choose and those that judge: whole texts, half of each label's.

    A text that comes twice counts once. Raises `InvalidPrompt` if fewer than two are left.

    >>> [len(half) for half in split([("a", "1"), ("a", "2"), ("a", "2"), ("b", "3"), ("b", "4")])]
    [2, 2]
    """
    first: dict[str, tuple[str, Prompt]] = {}
    for label, text in texts:
        first.setdefault(str(text), (label, text))
    pairs = [*first.values()]
    if len(pairs) < 2:
        raise InvalidPrompt(
            f"Experts are chosen on some texts and judged on others, and there is {len(pairs)}. Give at least two: "
            "several files, or a .jsonl file with a text on each line."
        )
    rng, by_label = np.random.default_rng(seed), defaultdict(list)
    for at in rng.permutation(len(pairs)).tolist():
        by_label[pairs[at][0]].append(at)
    dealt = [at for members in by_label.values() for at in members]
    chose, judged = ({*dealt[start::2]} for start in (0, 1))
    return tuple(pairs[at] for at in sorted(chose)), tuple(pairs[at] for at in sorted(judged))


def pruning_sentences(curve: PruningCurve, criterion: str = "reap") -> list[Claim]:
    """Claim which texts chose and which judged, and what each cut by a criterion costs compared with cuts at random."""
    rows = curve.losses
    whole = cost_of_cuts(rows).set_index(["criterion", "cut"])
    experts = {limit.experts for limit in curve.limits.values()}
    claims = [
        captions.texts_of_study("chose", len(curve.chose), len(curve.judged), curve.seed, curve.loss, curve.segment)
    ]
    if curve.replaced_by == MEAN_OUTPUT:
        claims.append(captions.mean_output_instead())
    if criterion not in {*whole.index.get_level_values("criterion"), *(() if curve.in_all is None else [criterion])}:
        criterion = whole.index[0][0]
    for cut in whole[whole.index.get_level_values("criterion") == criterion].index.get_level_values("cut"):
        row = whole.loc[(criterion, cut)]
        chance = whole.loc[(RANDOM, cut)] if criterion != RANDOM and (RANDOM, cut) in whole.index else None
        sd = (row if chance is None else chance)["sd"]
        claims.append(
            captions.cost_of_cut(
                *(cut, experts.copy().pop() if len(experts) == 1 else None, CRITERIA[criterion], row["loss_increase"]),
                at_random=None if chance is None else chance["loss_increase"],
                sd=sd if np.isfinite(sd) else None,
                **_worst(rows, criterion, cut),
            )
        )
    return claims + _in_all(curve, criterion) + _stale(curve, criterion) + _by_choice_of_kinds(rows)


def _in_all(curve: PruningCurve, criterion: str) -> list[Claim]:
    """Claim the cost of other numbers per layer, compared with as many from each layer, and at random."""
    if curve.in_all is None:
        return []
    whole = cost_of_cuts(curve.in_all).set_index("criterion")
    total, text, layers = int(whole["cut"].iloc[0]), str(whole["per_layer"][criterion]), len(curve.limits)
    counts, increase = [*map(int, text.split())] or [0], whole["loss_increase"]
    alike = cost_of_cuts(curve.losses).set_index(["criterion", "cut"])["loss_increase"]
    same = criterion, total // layers if total % layers == 0 else 0
    return [
        captions.cost_in_all(
            *(total, min(counts), max(counts), CRITERIA[criterion], float(increase[criterion])),
            alike=float(alike[same]) if same in alike.index else None,
            at_random=float(increase[RANDOM]) if criterion != RANDOM and RANDOM in whole.index else None,
        )
    ]


def _stale(curve: PruningCurve, criterion: str) -> list[Claim]:
    """Claim the worth of a choice on another recording or checkpoint, if there is one."""
    claims = []
    for table, plan in ((curve.losses, "{:,} experts cut per layer"), (curve.in_all, "{:,} experts cut in all")):
        if table is None:
            continue
        rows = table[(table["judged_on"] == ALL) & (table["criterion"] == criterion)]
        for cut in rows["cut"].unique().tolist():
            costs = rows[rows["cut"] == cut].set_index("chosen_on")["loss_increase"]
            drawn = curve.drawn.get((table is curve.in_all, cut))
            if drawn and FRESH in costs.index:
                of = staleness(plan.format(cut), "loss", float(costs[ALL]), float(costs[FRESH]), drawn)
                claims.append(staleness_claim(of))
    return claims


def _worst(rows: pd.DataFrame, criterion: str, cut: int) -> dict[str, Any]:
    """Find the kind of text that pays most, if there are several."""
    of_cut = rows[(rows["criterion"] == criterion) & (rows["cut"] == cut) & (rows["chosen_on"] == ALL)]
    kinds = of_cut[of_cut["judged_on"] != ALL]
    if kinds.empty:
        return {"kinds": 0, "worst": None}
    worst = kinds.iloc[int(kinds["loss_increase"].argmax())]
    return {"kinds": len(kinds), "worst": (str(worst["judged_on"]), float(worst["loss_increase"]))}


def _by_choice_of_kinds(rows: pd.DataFrame) -> list[Claim]:
    """Claim whose calibration decides: each kind under its own choice, and under the others'."""
    kinds, claims = rows[~rows["chosen_on"].isin([ALL, FRESH]) & (rows["judged_on"] != ALL)], []
    for _, of_cut in kinds.groupby("cut"):
        own = of_cut["chosen_on"] == of_cut["judged_on"]
        if own.any() and not own.all():
            by_own, by_others = (float(of_cut.loc[which, "loss_increase"].mean()) for which in (own, ~own))
            claims.append(captions.own_choice(int(of_cut["cut"].iloc[0]), by_own, by_others))
    return claims
