"""What routing costs to serve: the reference figures, cases worked by hand, and what must hold of any trace."""

import json
from dataclasses import replace
from itertools import combinations, groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from any_trace import any_trace
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from serving_data import figures, reference_trace

from moeviz import ExpertCounts, ModelInfo, ParameterCounts, RoutingTrace, published_counts
from moeviz.capture.models import kv_cache
from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.kv_cache import served_model
from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError, InvalidTrace, MissingField, MoevizError
from moeviz.metrics.placement import placement_imbalance
from moeviz.published import CHECKPOINTS
from moeviz.routing_trace import token_frame
from moeviz.serving import memory
from moeviz.serving.batches import batch_coverage
from moeviz.serving.budget import budget_of, budget_sentence, hit_rates
from moeviz.serving.cache import POLICIES, cache_tiers, expert_cache, shared_cache
from moeviz.serving.decision import placement_judgements, placement_verdict
from moeviz.serving.memory import best_precision, fit_sentence, memory_on_cards, serving_memory, what_fits
from moeviz.serving.placement import coactive, devices_reached, serving_placement
from moeviz.serving.prefetch import prefetch_recall
from moeviz.serving.requests import layer_sets, requests
from moeviz.testing import sample_trace

EXACT, DRAWN = 1e-9, 0.01


def agree(got: pd.DataFrame, wanted: pd.DataFrame, keys: list[str], drawn: float = DRAWN) -> None:
    """Every column of the reference is there, row by row the same."""
    got = wanted[keys].merge(got, on=keys)
    assert len(got) == len(wanted)
    for name in wanted:
        if wanted[name].dtype.kind not in "if":
            assert got[name].tolist() == wanted[name].tolist(), name
        else:
            near = drawn if name.startswith("random_w") or (name == "random" and "lru" in wanted) else EXACT
            np.testing.assert_allclose(got[name].astype(float), wanted[name].astype(float), rtol=0, atol=near)


def test_the_cache_of_each_layer_has_the_reference_s_hit_rates():
    agree(expert_cache(reference_trace()), figures("embedded_cache"), ["layer", "capacity"])


@pytest.mark.parametrize("chunk", [16, 64, 256])
def test_a_cache_for_chunks_of_a_prompt_has_the_reference_s_hit_rates(chunk):
    """Of long chunks the reference's three draws of `random` are themselves up to 0.017 beside what is expected."""
    wanted = figures("embedded_cache_chunks")
    wanted = wanted[wanted["chunk"] == chunk]
    if chunk > 16:
        wanted = wanted.drop(columns=["random", "random_warm"])
    agree(expert_cache(reference_trace(), chunk=chunk), wanted, ["layer", "capacity"])


def test_one_cache_for_all_layers_has_the_reference_s_hit_rates():
    wanted = figures("embedded_cache_global")
    agree(shared_cache(reference_trace(), wanted["slots"].tolist()), wanted, ["slots"])


def test_batches_need_as_many_experts_as_the_reference_says():
    wanted = figures("embedded_coverage")
    agree(batch_coverage(reference_trace(), sorted(set(wanted["batch"]))), wanted, ["layer", "batch"])


def test_predictors_recall_as_much_as_the_reference_says():
    agree(prefetch_recall(reference_trace()), figures("embedded_prefetch"), ["layer", "m"])


@pytest.mark.parametrize("devices", [2, 4])
def test_placements_are_those_of_the_reference(devices):
    wanted = figures("embedded_placement")
    wanted = wanted[wanted["devices"] == devices]
    agree(serving_placement(reference_trace(), devices, devices), wanted, ["layer", "placement"])


# Cases worked by hand


def routed(rows: list[list[int]], num_experts: int, sequences: list[int] | None = None) -> RoutingTrace:
    """A trace of one layer, 4, with these experts of each token."""
    sequence = np.array(sequences or [0] * len(rows))
    position = np.concatenate([np.arange(n) for n in np.bincount(sequence) if n]) if len(rows) else np.zeros(0)
    model = ModelInfo("by hand", "test", (4,), (num_experts,), len(rows[0]), slot_order="unknown")
    tokens = token_frame(sequence, position, ["x"] * len(rows))
    return RoutingTrace(model, tokens, np.array(rows, np.int16)[None])


def rates(trace: RoutingTrace, capacity: int, **options) -> dict[str, float]:
    frame = expert_cache(trace, [capacity], **options)
    return {name: float(frame[name].iloc[0]) for name in POLICIES}


def test_what_each_policy_keeps_by_hand():
    """Requests 0 1 2 0 0 3 1 2 with room for two.

    lru: 0 1 2 evict a use that comes again soon: only the second 0 in a row hits. lfu: 0 has 1 use when 2 comes, as has
    1, which was used later; so 0 goes, 0 misses (1 goes), 0 hits, 3 drives out 2, 1 drives out 3, 2 drives out 1.
    belady: at 2, 1 goes (used after 0); 0 and 0 hit; at 3, 0 goes, not 2; at 1, 3 goes; 2 hits: three. bound: at 2, it
    does not stay (used last); 0 and 0 hit, 3 does not stay, 1 hits: three. static, of all: 0 (3 uses) and 1: 2 + 1.
    """
    found = rates(routed([[0], [1], [2], [0], [0], [3], [1], [2]], 4), 2)
    wanted = {"lru": 1, "lfu": 1, "belady": 3, "bound": 3, "static": 3}
    assert {name: found[name] * 8 for name in wanted} == pytest.approx(wanted)


def test_a_chunk_requests_each_of_its_experts_once_and_ends_with_its_sequence():
    trace = routed([[0], [0], [1], [2], [0], [1]], 3, [0, 0, 0, 1, 1, 1])
    (found,) = layer_sets(trace)
    asked = requests(found, 2)
    assert asked.steps == 4
    assert list(zip(asked.step.tolist(), asked.expert.tolist(), strict=True)) == [
        (0, 0),
        (1, 1),
        (2, 0),
        (2, 2),
        (3, 1),
    ]


def test_coverage_by_hand():
    """Sequences 0 0 1 and 1 2, three experts. Two tokens, one of each sequence: 0 is missing with chance 1/3, 1 with
    2/3 x 1/2, 2 with 1/2: 3 - 7/6. In a row: 0 0, 0 1 and 1 2: 1, 2, 2. Drawn: shares 2/5 2/5 1/5."""
    frame = batch_coverage(routed([[0], [0], [1], [1], [2]], 3, [0, 0, 0, 1, 1]), [1, 2, 3])
    assert frame["sequences"].tolist()[:2] == pytest.approx([1, 3 - 7 / 6]) and np.isnan(frame["sequences"][2])
    assert frame["consecutive"].tolist() == pytest.approx([1, 5 / 3, 2])
    assert frame["random"][1] == pytest.approx(3 - 0.36 - 0.36 - 0.64)
    assert frame["even"][1] == pytest.approx(3 * (1 - (2 / 3) ** 2)) and frame["most"].tolist() == [1, 2, 3]


def test_prefetching_by_hand():
    """Learnt from 0 1 0 1: after 0 comes 1, after 1 comes 0. Judged on 0 1 1 0: of the pairs 0 1, 1 1 and 1 0 two."""
    frame = prefetch_recall(routed([[0], [1], [0], [1], [0], [1], [1], [0]], 2))
    assert frame["previous_token"].tolist() == pytest.approx([2 / 3, 1])
    assert frame["popular"].tolist() == pytest.approx([0.5, 1]) and frame["layer_before"].isna().all()
    assert frame["recency"].tolist() == pytest.approx([1 / 4, 1])


def test_of_equal_scores_the_lower_id_is_named_first():
    """Learnt from 0 1 0 2: after 0 comes 1 or 2, and nothing is known of 2. Judged on 0 2 0 1: 2 is named second after
    0, 0 first after 2, and 1 first after 0."""
    frame = prefetch_recall(routed([[0], [1], [0], [2], [0], [2], [0], [1]], 3))
    assert frame["previous_token"].tolist() == pytest.approx([2 / 3, 1, 1])


def test_an_expert_that_was_never_used_is_not_among_those_used_last():
    frame = prefetch_recall(routed([[0], [0], [1], [0]], 2))
    assert frame["recency"].tolist() == pytest.approx([0, 1 / 2])


def test_experts_that_share_tokens_go_to_one_device():
    """0 is the busiest, and goes with 2, with which it has two tokens; what is left is the other device's."""
    assert coactive(np.array([[0, 2], [0, 2], [0, 1], [1, 3]]), 4, 2).tolist() == [0, 2, 1, 3]


def test_devices_that_a_token_reaches_by_hand():
    """Experts 0 1 | 2 0: tokens {0} one device; {0, 1}: 1, or 2 where 0 picks its other copy; {1, 2}: 2."""
    plan = np.array([0, 1, 2, 0])
    assert devices_reached(plan, np.array([[-1, 0]]), 3, 2) == pytest.approx(1)
    assert devices_reached(plan, np.array([[0, 1]]), 3, 2) == pytest.approx(1.5)
    assert devices_reached(plan, np.array([[-1, 0], [0, 1], [1, 2]]), 3, 2) == pytest.approx(4.5 / 3)


# What must hold of any trace


def permuted(trace: RoutingTrace, seed: int = 1) -> RoutingTrace:
    """The same with the slots of each token in another order."""
    order = np.random.default_rng(seed).permuted(
        np.tile(np.arange(trace.model.top_k), (*trace.experts.shape[:2], 1)), axis=-1
    )
    model = replace(trace.model, slot_order="unknown")
    return RoutingTrace(model, trace.tokens, np.take_along_axis(trace.experts, order, -1))


@pytest.mark.parametrize(
    "metric",
    [
        expert_cache,
        lambda trace: expert_cache(trace, chunk=7),
        shared_cache,
        batch_coverage,
        prefetch_recall,
        serving_placement,
    ],
)
def test_nothing_changes_when_slots_are_permuted(metric):
    trace = sample_trace(layers=3, tokens=90, experts=8, top_k=3)
    other = permuted(trace)
    assert (other.experts != trace.experts).any()
    pd.testing.assert_frame_equal(metric(trace), metric(other), check_exact=True)


@st.composite
def small_routings(draw) -> RoutingTrace:
    experts, top_k = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    top_k = min(top_k, experts)
    sets = st.lists(
        st.integers(-1, experts - 1), min_size=top_k, max_size=top_k, unique_by=lambda e: e if e >= 0 else object()
    )
    rows = draw(st.lists(sets, min_size=1, max_size=9))
    return rows, experts, draw(st.integers(1, 3))


@given(small_routings())
def test_no_policy_beats_belady_and_nothing_the_bound(drawn):
    rows, experts, chunk = drawn
    frame = expert_cache(routed(rows, experts), chunk=chunk).fillna(0)
    for name in ("lru", "lfu", "lfru", "random"):
        assert (frame[name] <= frame["belady"] + 1e-12).all()
    assert (frame["belady"] <= frame["bound"] + 1e-12).all() and (frame["static"] <= frame["bound"] + 1e-12).all()
    full = frame[frame["capacity"] == experts]
    for name in POLICIES:
        assert (full[name] * full["requests"]).tolist() == pytest.approx(
            (full["requests"] - full["compulsory"]).tolist()
        )


@given(small_routings(), st.booleans())
def test_belady_and_the_bound_are_what_a_search_over_all_caches_finds(drawn, bypass):
    rows, experts, _ = drawn
    frame = expert_cache(routed(rows, experts)).fillna(0)
    sets = [frozenset(row) - {-1} for row in rows]
    for capacity, total, found in zip(
        frame["capacity"], frame["requests"], frame["bound" if bypass else "belady"], strict=True
    ):
        assert found * total == pytest.approx(most_hits(sets, capacity, bypass))


def most_hits(sets: list[frozenset[int]], capacity: int, bypass: bool) -> int:
    """The most hits of any sequence of caches, tried one by one."""
    best = {frozenset(): 0}
    for used in sets:
        after: dict[frozenset[int], int] = {}
        for held, hits in best.items():
            there = held | used
            must = frozenset() if bypass else used if len(used) <= capacity else None
            for size in range(min(capacity, len(there)) + 1):
                for kept in map(frozenset, combinations(sorted(there), size)):
                    if (must is not None and must <= kept) or (must is None and kept <= used and len(kept) == capacity):
                        after[kept] = max(after.get(kept, 0), hits + len(held & used))
        best = after
    return max(best.values())


def kept_one_by_one(rows: list[list[int]], tiers: tuple[int, ...], order: str) -> list[int]:
    """Hits of each tier by a plain simulation: the first tier holds the best of all that both hold, by use."""
    uses, last, held, hits = {}, {}, [], [0] * len(tiers)
    for step, row in enumerate(rows):
        used = sorted({expert for expert in row if expert >= 0})
        bounds = np.cumsum(tiers)
        for expert in used:
            if expert in held:
                hits[int(np.searchsorted(bounds, held.index(expert), side="right"))] += 1
            uses[expert], last[expert] = uses.get(expert, 0) + 1, step

        def goes(expert: int, now: int = step) -> tuple[float, ...]:
            age = now - last[expert]
            return {"lru": (age,), "lfru": (-uses[expert] / (age + 1), age)}[order]

        others = sorted((expert for expert in held if expert not in used), key=lambda e: (goes(e), e))
        held = [*sorted(used, key=lambda e: (goes(e), e)), *others][: sum(tiers)]
    return hits


@given(small_routings())
def test_lfru_and_tiers_are_what_a_simulation_of_each_size_finds(drawn):
    """Its one tier of a size is a cache of that size; two tiers split its hits, since what gives way goes down."""
    rows, experts, _ = drawn
    trace = routed(rows, experts)
    frame = expert_cache(trace, policies=("lru", "lfru")).fillna(0)
    for name in ("lru", "lfru"):
        for capacity, total, found in zip(frame["capacity"], frame["requests"], frame[name], strict=True):
            assert found * total == pytest.approx(sum(kept_one_by_one(rows, (capacity,), name)))


def test_tiers_share_what_is_requested():
    trace = sample_trace(layers=2, tokens=80, experts=8, top_k=2)
    found = cache_tiers(trace, 2, 3).set_index("policy")
    assert found.sum(axis=1).tolist() == pytest.approx([1.0] * len(found))
    assert found.loc["chance"].tolist() == pytest.approx([2 / 8, 3 / 8, 3 / 8])
    halves = [layer.tolist() for layer in trace.experts]
    every = [np.array(kept_one_by_one(rows, (2, 3), "lru")) for rows in halves]
    first = [np.array(kept_one_by_one(rows[: len(rows) // 2], (2, 3), "lru")) for rows in halves]
    warm = (np.sum(every, axis=0) - np.sum(first, axis=0)) / (trace.experts.size / 2)
    assert found.loc["lru", ["gpu", "ram"]].tolist() == pytest.approx(warm.tolist())
    assert cache_tiers(trace.counts(), 2, 3)["policy"].tolist() == ["static", "chance"]
    for sizes in ((2, 7), (0, 2), (2, 0)):
        with pytest.raises(MoevizError):
            cache_tiers(trace, *sizes)


def test_a_cache_of_k_experts_hits_what_neighbours_share():
    trace = sample_trace(layers=2, tokens=60, experts=8, top_k=3)
    frame = expert_cache(trace, [3])
    for name in ("lru", "lfu", "lfru", "random", "belady"):
        for experts, rate in zip(trace.experts, frame[name], strict=True):
            shared = [len({*a} & {*b}) for a, b in zip(experts[:-1].tolist(), experts[1:].tolist(), strict=True)]
            assert rate == pytest.approx(sum(shared) / experts.size)


@settings(max_examples=40, phases=[Phase.generate])
@given(any_trace(top_k=st.integers(1, 3), most=st.sampled_from((3, 64))))
def test_any_trace_has_rates_between_zero_and_one(drawn):
    trace = drawn.trace()
    if not trace.recorded.any():
        if len(trace.tokens):
            with pytest.raises(MissingField, match="recorded"):
                expert_cache(trace, [1])
        return
    frame = expert_cache(trace, chunk=2)
    assert frame[list(POLICIES)].fillna(0).stack().between(0, 1).all()
    covered = batch_coverage(trace, [1, 2, 3])
    assert (covered["random"] <= covered["even"] + 1e-9).all()
    assert prefetch_recall(trace).drop(columns=["layer", "m"]).fillna(0).stack().between(0, 1 + 1e-12).all()


def test_the_same_imbalance_as_the_page_placement_shows():
    trace = reference_trace()
    table = placement_imbalance(trace, 4, 4)
    wanted = table[table["judged_on"] == "held-out tokens"].set_index(["layer", "placement"])["imbalance"]
    found = serving_placement(trace, 4, 4).set_index(["layer", "placement"])["imbalance"]
    for ours, theirs in (("contiguous", "contiguous"), ("balanced", "balanced"), ("copies", "with copies")):
        for layer in trace.model.layers:
            assert found[layer, ours] == pytest.approx(wanted[layer, theirs])


def test_tokens_that_are_not_recorded_are_nowhere():
    trace = routed([[0, 1], [1, 2], [2, 3], [0, 3]], 4)
    holed = trace.experts.copy()
    holed[0, 1] = -2
    gone = RoutingTrace(trace.model, trace.tokens, holed)
    assert expert_cache(gone)["steps"].tolist() == [3] * 4 and expert_cache(gone)["requests"].tolist() == [6] * 4


def test_experts_that_compute_nothing_are_not_requested():
    trace = routed([[0, 3], [0, 3], [1, 3]], 4)
    nothing = replace(trace, model=replace(trace.model, zero_experts=1))
    frame = expert_cache(nothing)
    assert frame["requests"].tolist() == [3] * 3 and frame["capacity"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("top_k", [1, 2, 7, 17])
def test_the_set_of_a_token_is_its_experts_in_order_each_once_whatever_its_slots_hold(top_k):
    rows = np.random.default_rng(top_k).integers(-1, 9, (50, top_k)).astype(np.int16)
    trace = routed(rows.tolist(), 9)
    trace = replace(trace, model=replace(trace.model, zero_experts=1))
    (found,) = layer_sets(trace)
    wanted = [sorted({expert for expert in row if 0 <= expert < 8}) for row in rows.tolist()]
    assert [[expert for expert in row if expert >= 0] for row in found.sets.tolist()] == wanted
    assert (np.diff(found.sets, axis=1) >= 0).all()


# Counts alone


def test_counts_give_what_needs_no_order():
    trace = sample_trace(layers=2, tokens=64, experts=8, top_k=2)
    counts = trace.counts()
    cache, whole = expert_cache(counts), expert_cache(trace)
    for name in ("layer", "capacity", "requests", "compulsory", "chance", "static"):
        assert cache[name].tolist() == whole[name].tolist(), name
    assert cache[["lru", "belady", "bound", "static_warm"]].isna().all(axis=None)
    covered, all_covered = batch_coverage(counts), batch_coverage(trace)
    for name in ("random", "even", "most"):
        assert covered[name].tolist() == all_covered[name].tolist()
    assert covered[["sequences", "consecutive"]].isna().all(axis=None)
    placed = serving_placement(counts, 4, 4)
    assert placed["placement"].tolist()[:3] == ["contiguous", "balanced", "copies"]
    same = placement_imbalance(trace, 4, 4)
    same = same[same["judged_on"] == "same tokens"]
    assert placed["imbalance_fit"].tolist() == pytest.approx(same["imbalance"].tolist())
    assert placed["imbalance"].isna().all()


def test_counts_by_label_judge_each_label_by_what_the_others_use_most():
    """Two labels of 10 tokens. The others of each use experts that it does not use, or use in the same order."""
    model = ModelInfo("made up", "test", (0, 1), (4, 4), 1)
    apart, alike = [[6, 4, 0, 0], [0, 0, 3, 7]], [[5, 3, 2, 0], [6, 4, 0, 0]]
    counts = ExpertCounts(model, np.array([apart, alike]).swapaxes(0, 1), np.full((2, 2), 10), ("a", "b"), "label")
    found = expert_cache(counts).pivot(index="capacity", columns="layer", values="static_warm")
    assert found.loc[:, 0].tolist() == [0, 0, (0 + 3 + 6) / 20, 1], "of experts that nobody uses, the lower ids"
    assert found.loc[:, 1].tolist() == [11 / 20, 18 / 20, 1, 1]
    rates = hit_rates(counts).set_index(["policy", "capacity"])
    assert rates.loc[("static", 2), "rate"] == pytest.approx((13 + 18) / 40), "they are there from the beginning"
    assert rates.loc[("others", 2), "rate"] == pytest.approx(18 / 40) and rates.loc[("chance", 2), "rate"] == 0.5
    assert set(rates.loc["others", "judged_on"]) == {"other labels"}
    assert set(rates.loc["static", "judged_on"]) == {"same tokens"}


def test_published_counts_do_worse_by_other_traffic_than_by_chance():
    """OLMoE's, which the evaluation of others found: the most used half has 62% of its own assignments."""
    counts = published_counts("OLMoE-1B-7B")
    row = hit_rates(counts).set_index(["policy", "capacity"])["rate"]
    assert row["static", 32] == pytest.approx(0.62, abs=0.005) and row["chance", 32] == 0.5
    elsewhere = []
    for at in range(3):
        own, others = counts.assignments[at], counts.assignments.sum(axis=0) - counts.assignments[at]
        for mine, theirs in zip(own, others, strict=True):
            elsewhere.append(mine[np.argsort(-theirs, kind="stable")[:32]].sum() / mine.sum())
    assert row["others", 32] == pytest.approx(np.mean(elsewhere), abs=1e-3)


def test_counts_say_what_needs_the_order_of_tokens():
    counts = sample_trace().counts()
    for metric in (prefetch_recall, shared_cache):
        with pytest.raises(MissingField, match="experts of each token"):
            metric(counts)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda trace: expert_cache(trace, [9]), "has 8 experts, so a cache holds from 1 to 8 of them; got 9"),
        (lambda trace: expert_cache(trace, [0]), "got 0"),
        (lambda trace: expert_cache(trace, chunk=0), "A step cannot have 0 tokens"),
        (lambda trace: expert_cache(trace, policies=["mru"]), "There is no cache policy 'mru'. Choose one of lru, lfu"),
        (lambda trace: batch_coverage(trace, [0]), "A batch has one token or more; got 0"),
        (lambda trace: serving_placement(trace, 3), "3 devices cannot hold in equal numbers"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(call, words):
    with pytest.raises(MoevizError, match=words):
        call(sample_trace(experts=8, top_k=2))


def test_tables_that_a_small_file_could_ask_for_are_refused_before_they_are_made():
    for metric in (prefetch_recall, serving_placement):
        with pytest.raises(InvalidTrace, match=r"20,000 .* 20,000"):
            metric(sample_trace(layers=2, tokens=8, experts=20_000, top_k=2))


KNOWN = {
    "Mixtral-8x7B": "mistralai/Mixtral-8x7B-v0.1",
    "OLMoE-1B-7B": "allenai/OLMoE-1B-7B-0924",
    "Qwen3-30B-A3B": "Qwen/Qwen3-30B-A3B",
    "DeepSeek-V2-Lite": "deepseek-ai/DeepSeek-V2-Lite",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
}


@pytest.mark.parametrize("model", KNOWN)
def test_memory_and_cards_are_those_of_the_reference(model):
    wanted = figures("memory")
    wanted = wanted[wanted["model"] == model]
    found = serving_memory(served_model(KNOWN[model]), [4096, 32768], [1, 32], [16, 8]).assign(model=model)
    agree(found, wanted, ["model", "weight_bits", "context", "batch"])


def test_sizes_below_one_are_refused():
    with pytest.raises(MoevizError, match=r"\[0\]"):
        serving_memory(served_model("embedded"), [0])


def test_a_model_whose_cache_is_not_known_is_refused(monkeypatch):
    monkeypatch.setattr(kv_cache, "kv_cache", lambda config: None)
    with pytest.raises(CaptureError, match="'embedded'"):
        served_model("embedded")


@pytest.mark.parametrize("measure", [expert_cache, shared_cache, batch_coverage, prefetch_recall, serving_placement])
def test_a_trace_without_tokens_is_refused_in_a_sentence(measure):
    with pytest.raises(MissingField, match="tokens"):
        measure(sample_trace().select(tokens=slice(0, 0)))


def test_hit_rates_by_size_are_the_means_of_the_reference_s_layers_and_their_bytes_those_of_the_misses():
    trace, wanted = reference_trace(), figures("embedded_cache")
    got = hit_rates(trace, expert_bytes=400_000.0, capacity=4)
    for policy, column in (
        ("lru", "lru_warm"),
        ("static", "static_warm"),
        ("bound", "bound_warm"),
        ("chance", "chance"),
    ):
        of_one = got[got["policy"] == policy].set_index("capacity")
        means = wanted.groupby("capacity")[column].mean().loc[of_one.index]
        np.testing.assert_allclose(of_one["rate"], means, atol=EXACT)
        np.testing.assert_allclose(of_one["gigabytes_a_token"], (1 - means) * 6 * 2 * 0.0004, atol=EXACT)
    assert got["capacity"].min() == 2, "a layer holds what a token needs"
    assert got.loc[got["chosen"], "capacity"].unique().tolist() == [4]
    with pytest.raises(MoevizError, match=r"\b0\b"):
        hit_rates(trace, expert_bytes=0.0)


def test_a_budget_holds_whole_experts_of_every_layer_and_layers_with_fewer_hold_all_of_theirs():
    model = replace(sample_trace(layers=2).model, num_experts=(8, 4))
    trace = replace(sample_trace(layers=2, experts=4), model=model, logits=None)
    assert budget_of(trace, 0.012, 1e6) == (8, 0.012)
    assert budget_of(trace, 0.009, 1e6) == (5, 0.012)
    assert budget_of(trace, 0.0019, 1e6) == (0, 0.012)
    uneven = hit_rates(trace, 1e6)
    assert uneven[uneven["capacity"] == 5]["gigabytes"].unique().tolist() == [pytest.approx(0.009)]


def test_what_fits_is_what_serving_memory_says():
    model = served_model("mistralai/Mixtral-8x7B-v0.1")
    taken = serving_memory(model, [32768], [8], [8]).iloc[0]
    row = what_fits(model, bits=8).query("card == 'H100' and context == 32768 and batch == 8").iloc[0]
    assert (row["cards"], row["together"]) == (taken["H100"], taken["bytes"] / 1e9)


def as_row(model):
    """A model as a row of the table: equal layers in a row stand there once, with their number."""
    counts = {field: getattr(model.parameters, field) for field in ParameterCounts.__annotations__}
    caches = [[layer.constant, layer.per_token, layer.window] for layer in model.caches]
    facts = {field: getattr(model, field) for field in ("num_experts", "top_k", "hidden", "vocabulary")}
    parameters = counts | {"per_expert": together(list(model.parameters.per_expert))}
    return facts | {"parameters": parameters, "caches": together(caches)}


def together(layers):
    return [[len([*same]), layer] for layer, same in groupby(layers)]


@pytest.mark.parametrize("name", [EMBEDDED, "mistralai/Mixtral-8x7B-v0.1", "openai/gpt-oss-20b"])
def test_a_well_known_model_of_the_table_is_what_its_configuration_gives(name):
    assert memory.known_model(name) == served_model(name), "run make survey"


@pytest.mark.survey
def test_the_table_of_well_known_models_is_what_their_configurations_give(request):
    """All whose cache grows evenly: of others nobody can tell what they keep of a text."""
    found = {}
    for name in [EMBEDDED, *KNOWN_MODELS]:
        try:
            found[name] = served_model(name)
        except CaptureError:
            continue
    table = Path(memory.__file__).with_name(memory.KNOWN_MODELS)
    if request.config.getoption("--update-golden"):
        rows = (f' "{name}": {json.dumps(as_row(model))}' for name, model in found.items())
        table.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
        memory._table.cache_clear()
    assert memory.known_models() == tuple(found) and len(found) > 10
    for name, model in found.items():
        assert memory.known_model(name) == model, "run pytest --update-golden"
    assert memory.known_model("nobody/none") is None and {*CHECKPOINTS.values()} <= {*found}


def test_memory_on_cards_says_how_many_experts_fit_as_serving_memory_does():
    model = memory.known_model("mistralai/Mixtral-8x7B-v0.1")
    frame = memory_on_cards(model, "RTX 4090")
    parts = ["experts", "other_weights", "keys_and_values", "step"]
    assert frame[parts].sum(axis=1).tolist() == pytest.approx(frame["together"].tolist())
    taken = serving_memory(model, [8192], [1], [16, 8, 4])
    assert frame["fit"].tolist() == taken["experts_a_layer_RTX 4090"].tolist()
    assert frame["needed"].tolist() == taken["RTX 4090"].tolist()
    assert best_precision(frame) == 4 and best_precision(memory_on_cards(model, "H100", 8)) == 16
    for card, cards in (("none", 1), ("H100", 0)):
        with pytest.raises(MoevizError, match="card"):
            memory_on_cards(model, card, cards)


@pytest.mark.parametrize(
    ("card", "cards", "bits", "name", "values"),
    [
        ("H100", 4, (16, 8, 4), "model_fits", {"bits": 16, "together": 96.4e9, "usable": 288e9}),
        ("RTX 4090", 1, (16, 8, 4), "model_does_not_fit", {"bits": 4, "fit": 6, "experts": 8, "top_k": 2}),
        ("T4", 1, (16,), "model_does_not_fit", {"bits": 16, "experts": 8}),
    ],
)
def test_it_is_claimed_whether_a_model_fits_and_else_what_does(card, cards, bits, name, values):
    model = memory.known_model("mistralai/Mixtral-8x7B-v0.1")
    claim = fit_sentence(memory_on_cards(model, card, cards, bits))
    found = {of: claim[of] for of in values}
    assert (claim.name, claim["card"], claim["cards"]) == (name, card, cards) and found == pytest.approx(
        values, rel=0.001
    )


def test_a_budget_of_counts_is_what_the_most_used_experts_have():
    counts = sample_trace(tokens=64).counts()
    claim = budget_sentence(counts, hit_rates(counts, 6e6), 0.096, 6e6)
    assert claim.name == "most_used_of_counts" and (claim["memory"], claim["capacity"], claim["most"]) == (96e6, 4, 8)
    assert claim["same"] >= 0.5 and claim["others"] is None


def made_counts(seed: int, favoured: float, rotating: bool) -> ExpertCounts:
    """Counts of four kinds of text, whose experts differ in load, for all kinds alike or for each in its own way."""
    rng = np.random.default_rng(seed)
    usual = np.exp(rng.normal(0, favoured, (2, 64)))
    groups = [np.exp(rng.normal(0, favoured, (2, 64))) if rotating else usual for _ in range(4)]
    drawn = np.array([[rng.multinomial(40_000, row / row.sum()) for row in group] for group in groups])
    model = ModelInfo("made", "test", (0, 1), (64, 64), 4)
    return ExpertCounts(model, drawn, np.full((4, 2), 10_000), tuple("abcd"), "label")


def verdicts(favoured: float, rotating: bool) -> list[str]:
    """What is said of twenty such models on 8 devices."""
    found = (placement_verdict(placement_judgements(made_counts(seed, favoured, rotating), 8)) for seed in range(20))
    return [sentence.partition(":")[0] for sentence in found]


def test_a_plan_is_worth_a_trial_where_the_same_experts_are_busy_in_each_kind_of_text_and_else_never():
    assert set(verdicts(0.6, rotating=False)) == {"Worth a trial"}
    assert set(verdicts(0.0, rotating=False)) == {"Not now"}, "even already"
    assert "Worth a trial" not in verdicts(0.6, rotating=True)


def test_a_verdict_takes_enough_choices_and_something_to_place():
    few = placement_verdict(placement_judgements(sample_trace(tokens=64), 2))
    assert (few.name, dict(few.values)) == ("few_choices_per_device", {"choices": 32, "needed": 1_000})
    counts = published_counts("Mixtral-8x7B")
    each = placement_verdict(placement_judgements(counts, 8))
    assert (each.name, dict(each.values)) == ("one_expert_per_device", {"experts": 8, "devices": 8})
    assert placement_verdict(placement_judgements(counts.counts(), 4)) is None
    assert placement_verdict(placement_judgements(sample_trace(tokens=1), 2)) is None
    with pytest.raises(MoevizError):
        placement_judgements(counts, 3)


def test_a_judgement_is_of_tokens_that_the_plan_was_not_made_from():
    counts = published_counts("Mixtral-8x7B")
    frame = placement_judgements(counts, 4)
    assert frame["judged_on"].tolist() == ["code", "web", "books"]
    means = serving_placement(counts, 4, 0).groupby("placement")["imbalance"].mean()
    assert frame["planned"].mean() == pytest.approx(means["balanced"])
    assert frame["in_order"].mean() == pytest.approx(means["contiguous"])
    claim = placement_verdict(frame)
    assert (claim.name, claim["verdict"], claim["devices"]) == ("placement_trial", "Not now", 4)
