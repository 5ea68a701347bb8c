"""What cutting experts costs: texts that choose and texts that judge, criteria by hand, and models really cut."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from cut_models import TEXTS, loaded, logits_of, strong, without
from routed_trace import with_outputs
from tiny_models import CONFIGS, SHAPE, tiny_model, tiny_tokenizer
from transformers import Llama4TextConfig

import moeviz
from moeviz.analyses.pruning.curve import FRESH, limits_of, pruning_curve, split_other
from moeviz.analyses.pruning.result import pruning_sentences, split
from moeviz.analyses.what_if import what_if
from moeviz.capture.routers.discovery import find_routers
from moeviz.errors import CaptureError, InvalidPrompt, MissingField
from moeviz.metrics.pruning import (
    ALL,
    LayerLimits,
    cost_of_cuts,
    cut_in_all,
    cut_order,
    expert_scores,
    first_to_go,
    usual_cuts,
)

FAMILIES = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss")


@pytest.fixture(scope="module")
def curve():
    model = loaded(tiny_model(CONFIGS["mixtral"]))
    return pruning_curve(model, TEXTS, cuts=(1, 4), by_kind="reap", draws=2)


def test_scores_are_those_worked_by_hand():
    """Two slots, three tokens, three experts: expert 0 has 3 tokens, expert 1 has 2, expert 2 none."""
    trace = with_outputs()
    found = expert_scores(trace).set_index("expert")
    assert found.loc[0, ["reap", "reap_sum", "frequency", "gate_mass", "greatest"]].tolist() == [4.5, 13.5, 3, 2, 5]
    assert found.loc[1, ["reap", "reap_sum", "frequency", "gate_mass", "greatest"]].tolist() == [2.75, 5.5, 2, 1, 3]
    assert (found.loc[2].drop("layer") == 0).all()
    assert cut_order(expert_scores(trace), "reap", {4: LayerLimits(3, 2)}) == {4: (2, 1, 0)}
    with pytest.raises(MissingField, match="outputs=True"):
        expert_scores(replace(trace, outputs=None))


def test_of_groups_each_loses_as_many_and_none_fewer_than_a_token_needs():
    limits = LayerLimits(experts=16, top_k=4, groups=4, groups_kept=2)
    scores = expert_scores_of(np.arange(16))
    order = cut_order(scores, "reap", {0: limits})
    assert order[0][:4] == (0, 4, 8, 12) and first_to_go(order, 8) == {0: (0, 1, 4, 5, 8, 9, 12, 13)}
    assert usual_cuts({0: limits}) == (4, 8)
    assert "which must stay of one size. Cut a multiple of 4" in limits.why_not(3)
    assert limits.why_not(12).endswith("2 must be left of each group. Cut at most 8.")
    assert LayerLimits(8, 2).why_not(6) == "" and "Cut at most 6" in LayerLimits(8, 2).why_not(7)
    assert "Cut at most 0" in LayerLimits(4, 4).why_not(1)
    with pytest.raises(CaptureError, match=r"1 expert.*layer 3.*4 experts.*4"):
        usual_cuts({3: LayerLimits(4, 4)})


def expert_scores_of(values):
    return pd.DataFrame({"layer": 0, "expert": np.arange(len(values)), "reap": values.astype(float)})


def test_whole_texts_are_divided_half_of_each_kind_and_one_that_comes_twice_once():
    texts = [(label, f"{label} {number}") for label in "abc" for number in range(6)]
    chose, judged = split([*texts, *texts[:5]], seed=3)
    assert sorted(chose + judged) == texts and not {*chose} & {*judged}
    assert all(sum(label == kind for label, _ in chose) == 3 for kind in "abc")
    assert split(texts, seed=3)[0] == chose != split(texts, seed=4)[0]
    assert split([("a", "1"), ("b", "1"), ("b", "2")])[0] != ()
    with pytest.raises(InvalidPrompt, match=r"\b1\b"):
        split([("a", "1"), ("b", "1")])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_a_model_without_the_experts(family):
    """The model is really cut, by slicing its tensors, and asked itself."""
    model = strong(CONFIGS[family])
    cut_count = 4
    found = pruning_curve(loaded(model), TEXTS, cuts=(cut_count,), criteria=("reap",))
    cut = found.cut("reap", cut_count)
    assert {len(experts) for experts in cut.values()} == {cut_count}
    tokenizer, sums = tiny_tokenizer(), {}
    for name, part in {"plain": model, "cut": without(model, cut)}.items():
        nats, tokens = 0.0, 0
        for _, text in found.judged:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            logits = logits_of(part, ids)[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += ids.shape[1] - 1
        sums[name] = nats / tokens
    (row,) = cost_of_cuts(found.losses).to_dict("records")
    assert found.loss == pytest.approx(sums["plain"], abs=1e-5) and row["tokens"] == tokens
    assert row["loss"] == pytest.approx(sums["cut"], abs=1e-5)
    assert row["loss_increase"] == pytest.approx(sums["cut"] - sums["plain"], abs=1e-5)
    assert abs(row["loss_increase"]) > 1e-3


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_a_mean_output_stands_in_a_cut_expert_s_place(family, monkeypatch):
    """The loss of a model whose experts are run one by one, where a cut one gives the mean of what it gave before."""
    model = strong(CONFIGS[family])
    found = pruning_curve(loaded(model), TEXTS, cuts=(4,), criteria=("frequency",), replaced_by="mean output")
    cut, given = found.cut("frequency", 4), {}

    def run_one_by_one(router, experts, own, hidden, ids, weights):
        def alone(expert, row):
            one = torch.full((len(row), 1), expert, device=ids.device, dtype=ids.dtype)
            return own(row, one, torch.ones(len(row), 1))

        total = torch.zeros_like(hidden)
        for expert in range(router.num_experts):
            row, slot = (ids == expert).nonzero(as_tuple=True)
            if not len(row):
                continue
            key = router.layer, expert
            if chosen is given:
                given.setdefault(key, []).append(alone(expert, hidden[row]))
            is_cut = chosen is not given and expert in cut[router.layer]
            # An expert that had no token gives nothing.
            mean = torch.cat(given[key]).mean(0) if is_cut and key in given else torch.zeros(hidden.shape[-1])
            outputs = mean.expand(len(row), -1) if is_cut else alone(expert, hidden[row])
            total[row] += outputs * weights[row, slot, None]
        return total

    for router in find_routers(model):
        (experts,) = router.experts.values()
        monkeypatch.setattr(experts, "forward", partial(run_one_by_one, router, experts, experts.forward))
    losses, tokens = 0.0, 0
    for chosen, texts in ((given, found.chose), (None, found.judged)):
        for _, text in texts:
            ids = tiny_tokenizer()(text, return_tensors="pt")["input_ids"]
            logits = logits_of(model, ids)[0, :-1]
            if chosen is None:
                losses += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                tokens += ids.shape[1] - 1
    (row,) = cost_of_cuts(found.losses).to_dict("records")
    assert row["loss"] == pytest.approx(losses / tokens, abs=1e-5) and abs(row["loss_increase"]) > 1e-3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_means_are_refused_where_experts_are_not_given_their_weights():
    """Llama 4 scales what its experts are given; they never see a weight."""
    model = loaded(tiny_model(Llama4TextConfig(**SHAPE, head_dim=8, num_hidden_layers=2, num_local_experts=4)))
    with pytest.raises(CaptureError, match="mean"):
        pruning_curve(model, TEXTS, cuts=(1,), replaced_by="mean output")
    with pytest.raises(CaptureError, match="'nothing'"):
        pruning_curve(model, TEXTS, cuts=(1,), replaced_by="nothing")


def test_a_softmax_over_all_experts_is_one_over_those_that_are_left():
    """OLMoE does not renormalise its weights: Mute alone leaves the muted one's part out, and removed=True does not."""
    model = loaded(tiny_model(CONFIGS["olmoe"]))
    text, muted = TEXTS[0][1], {0: (3, 7)}
    effects = {removed: what_if(model, text, moeviz.Mute(muted, removed=removed)) for removed in (False, True)}
    plain, kept = effects[True].plain, [one for one in range(16) if one not in muted[0]]
    scores = np.exp(plain.logits[0].astype(np.float64))
    of = {True: scores[:, kept].sum(-1), False: scores.sum(-1)}
    for removed, effect in effects.items():
        experts, weights = effect.changed.experts[0], effect.changed.weights[0]
        expected = np.take_along_axis(scores, experts.astype(int), -1) / of[removed][:, None]
        assert weights == pytest.approx(expected, rel=1e-4)
    with pytest.raises(CaptureError, match="reroute=False"):
        what_if(model, text, moeviz.Mute(muted, reroute=False, removed=True))


def test_a_dead_expert_goes_first_and_then_the_twins_among_which_one_is_divided():
    """Tokens choose among experts nearly alike, of which one gives nothing, and two give half of what one gave."""
    model = tiny_model(CONFIGS["mixtral"])
    for layer in model.model.layers:
        experts, router = layer.mlp.experts, layer.mlp.gate
        with torch.no_grad():
            router.weight *= 0.1
            experts.down_proj[6] = 0
            for part in (experts.gate_up_proj, experts.down_proj, router.weight):
                part[5] = part[2]
            experts.down_proj[[2, 5]] /= 2
    found = pruning_curve(loaded(model), TEXTS, cuts=(1,), criteria=("reap", "frequency"))
    for order in found.order("reap").values():
        assert order[0] == 6 and {*order[1:3]} == {2, 5}
    assert any(order[0] != 6 for order in found.order("frequency").values())


def test_random_cuts_have_a_mean_and_a_deviation_and_equal_cuts_are_measured_once(curve):
    whole = curve.losses[(curve.losses["chosen_on"] == ALL) & (curve.losses["judged_on"] == ALL)]
    assert len(whole) == 6 * 2 and whole.loc[whole["criterion"] == "random", "sd"].gt(0).all()
    assert whole.loc[whole["criterion"] != "random", "sd"].isna().all()
    assert whole["share"].tolist() == [1 / 8, 1 / 2] * 6
    again = pruning_curve(loaded(tiny_model(CONFIGS["mixtral"])), TEXTS, cuts=(1,), criteria=("reap", "reap"))
    assert (
        cost_of_cuts(again.losses)["loss"].tolist()
        == whole.loc[(whole["criterion"] == "reap") & (whole["cut"] == 1), "loss"].tolist()
    )


def test_each_kind_is_judged_under_each_kind_s_choice(curve):
    kinds = {"French", "sums", "prose"}
    rows = curve.losses[(curve.losses["criterion"] == "reap") & (curve.losses["cut"] == 4)]
    assert {*zip(rows["chosen_on"], rows["judged_on"], strict=True)} == {
        (one, other) for one in kinds | {ALL} for other in kinds | {ALL}
    }
    for _, part in rows.groupby("chosen_on"):
        of = part.set_index("judged_on")
        mean = np.average(of.loc[sorted(kinds), "loss"], weights=of.loc[sorted(kinds), "tokens"])
        assert of.loc[ALL, "loss"] == pytest.approx(mean)
    assert rows.groupby("judged_on")["loss"].nunique().loc[sorted(kinds)].gt(1).all()


def test_sentences_name_the_texts_and_the_chance_beside_each_cut(curve):
    first, *cuts, kinds = pruning_sentences(curve)[:-1]
    assert first.name == "texts_of_study" and (first["chose"], first["judged"], first["seed"]) == (3, 3, 0)
    assert [claim.name for claim in cuts] == ["cost_of_cut"] * 2 and [claim["cut"] for claim in cuts] == [1, 4]
    whole = cost_of_cuts(curve.losses).set_index(["criterion", "cut"])["loss_increase"]
    for claim in cuts:
        assert (claim["experts"], claim["kinds"], claim["cost"]) == (8, 3, whole["reap", claim["cut"]])
        assert claim["at_random"] == whole["random", claim["cut"]] and claim["sd"] > 0
    assert kinds.name == "own_choice" and kinds["cut"] == 1
    mean = pruning_sentences(replace(curve, replaced_by="mean output"))
    assert mean[1].name == "mean_output_instead"


def test_other_numbers_per_layer_go_by_shares_of_each_layer_under_one_budget():
    """By hand: layer 0's experts have 10, 20, 30 and 40% of its sum, layer 1's 1, 2, 3 and 94%: 1, 2 and 3 of it go."""
    scores = pd.DataFrame({"layer": [0] * 4 + [1] * 4, "expert": [0, 1, 2, 3] * 2})
    scores["reap"] = [1.0, 2, 3, 4, 100, 200, 300, 9400]
    limits = dict.fromkeys((0, 1), LayerLimits(4, 1))
    assert cut_in_all(scores, "reap", limits, 2) == {0: (), 1: (0, 1)}
    assert cut_in_all(scores, "reap", limits, 3) == {0: (0,), 1: (0, 1)}, "two must be left of each layer"
    with pytest.raises(CaptureError):
        cut_in_all(scores, "reap", limits, 5)
    drawn = {tuple(map(len, cut_in_all(scores, "random", limits, 2, draw=draw).values())) for draw in range(20)}
    assert drawn == {(0, 2), (1, 1), (2, 0)}


@pytest.fixture(scope="module")
def elsewhere():
    """Chosen on French, judged on sums, with as many cut from each layer and as many in all."""
    model = loaded(strong(CONFIGS["mixtral"]))
    of = {kind: [pair for pair in TEXTS if pair[0] == kind] for kind in ("French", "sums")}
    layers = len(limits_of(model))
    facts = {"cut_total": 4 * layers, "criteria": ("frequency", "random"), "draws": 2}
    return model, of, pruning_curve(model, of["French"], judged_on=of["sums"], **facts)


def test_a_cut_chosen_on_one_recording_is_judged_on_another(elsewhere):
    """The stale rows are those of a curve of the first texts, by what it cuts, and the fresh ones of the other."""
    model, of, found = elsewhere
    assert {label for label, _ in found.judged} == {"sums"} and {label for label, _ in found.chose} == {"French"}
    rows = found.losses.set_index(["criterion", "chosen_on"])["loss"]
    own = pruning_curve(model, of["sums"], cuts=(4,), criteria=("frequency",))
    assert rows["frequency", FRESH] == pytest.approx(cost_of_cuts(own.losses)["loss"][0])
    assert found.loss == pytest.approx(own.loss)
    tokenizer, (label, text) = tiny_tokenizer(), found.judged[0]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    logits = logits_of(without(model.model, found.cut("frequency", 4)), ids)[0, :-1]
    assert label == "sums" and len(found.judged) == 1
    loss = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
    assert rows["frequency", ALL] == pytest.approx(loss, abs=1e-4) and ("random", FRESH) not in rows.index
    chose, judged = split(of["sums"])
    with pytest.raises(InvalidPrompt):
        split_other([*chose, *judged], judged)


def test_what_it_costs_in_all_and_what_is_kept_is_claimed(elsewhere):
    *_, found = elsewhere
    claims = {}
    for claim in pruning_sentences(found, "frequency"):
        claims.setdefault(claim.name, []).append(claim)
    (in_all,), stale = claims["cost_in_all"], claims["stale_plan"]
    whole = cost_of_cuts(found.in_all).set_index("criterion")
    counts = [*map(int, whole["per_layer"]["frequency"].split())]
    assert sum(counts) == in_all["total"] == whole["cut"]["frequency"] == 4 * len(found.limits)
    assert (in_all["least"], in_all["most"]) == (min(counts), max(counts))
    assert [*map(len, found.cut_in_all("frequency", in_all["total"]).values())] == counts
    assert in_all["increase"] == pytest.approx(whole["loss_increase"]["frequency"])
    alike = cost_of_cuts(found.losses).set_index("criterion")["loss_increase"]
    assert (in_all["alike"], in_all["at_random"]) == (alike["frequency"], whole["loss_increase"]["random"])
    assert [claim["figure"] for claim in stale] == ["loss"] * 2
    assert stale[0]["stale"] == alike["frequency"] and stale[0]["chance"] == pytest.approx(alike["random"])
    assert whole["share"].tolist() == [0.5] * 2


def test_a_cut_of_one_checkpoint_is_judged_on_another():
    """The same checkpoint keeps its own choice; one of other experts is refused before a text is read."""
    model, other = (loaded(strong(CONFIGS["mixtral"]), name) for name in ("one", "two"))
    found = pruning_curve(model, TEXTS, judge=other, cuts=(4,), criteria=("reap",))
    rows = cost_of_cuts(found.losses)["loss"].tolist()
    fresh = found.losses[(found.losses["chosen_on"] == FRESH) & (found.losses["judged_on"] == ALL)]["loss"].tolist()
    assert rows == fresh
    with pytest.raises(CaptureError):
        pruning_curve(model, TEXTS, judge=loaded(tiny_model(CONFIGS["deepseek_v3"])), progress=pytest.fail)


def test_progress_counts_texts_and_what_it_raises_stops_the_run():
    model, seen = loaded(tiny_model(CONFIGS["mixtral"])), []
    pruning_curve(model, TEXTS, cuts=(1,), criteria=("reap", "random"), tokens=16, progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == [*range(1, len(seen) + 1)] and seen[-1][0] == seen[-1][1]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruning_curve(model, TEXTS, cuts=(1,), progress=stop)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cuts": (7,)}, "7 experts.*layer 0.*8 experts.*2"),
        ({"criteria": ("luck",)}, "'luck'"),
    ],
)
def test_what_cannot_be_cut_is_said_before_a_text_is_read(given, says):
    with pytest.raises(CaptureError, match=says):
        pruning_curve(loaded(tiny_model(CONFIGS["mixtral"])), TEXTS, progress=pytest.fail, **given)


def test_groups_are_read_off_the_router():
    assert set(limits_of(loaded(tiny_model(CONFIGS["deepseek_v3"]))).values()) == {LayerLimits(16, 4, 4, 2)}


def test_a_criterion_that_is_no_better_than_chance_is_worded_so(curve):
    ends = set()
    for loss in (0.5, 0.35, 0.2):
        _, claim = pruning_sentences(replace(curve, losses=losses_of(loss)))
        assert (claim["cost"], claim["at_random"], claim["sd"]) == (loss, 0.4, 0.1)
        ends.add(claim.replace(f"{loss:.3f}", ""))
    assert len(ends) == 3


def losses_of(loss):
    rows = [("reap", 1, loss, np.nan), ("random", 1, 0.4, 0.1)]
    frame = pd.DataFrame(rows, columns=["criterion", "cut", "loss_increase", "sd"])
    return frame.assign(chosen_on=ALL, judged_on=ALL)
