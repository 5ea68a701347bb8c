"""One expert of one layer: counts worked by hand, and what is said of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from labels import labelled
from routed_trace import trace_of

from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.expert import (
    expert_atlas,
    expert_flow,
    expert_kinds,
    expert_loads,
    expert_numbers,
    expert_weights,
    loss_of_all,
    router_neighbours,
    row_norms,
    shared_tokens,
    with_losses,
)
from moeviz.metrics.expert_tokens import contexts, enough_occurrences, expert_summary, keeping_tokens
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace


@pytest.fixture
def small() -> RoutingTrace:
    """Two layers of four experts, top-2, six tokens: "a b a b a c", two texts of three.

    layer 0: 01 01 02 23 01 23    expert 0 has tokens 0, 1, 2, 4: loads 4, 3, 3, 2 of 12
    layer 5: 12 13 12 03 12 03    of these it shares: expert 1 all four, 2 three, 3 one, 0 none
    """
    first, second = (
        [[0, 1], [1, 0], [0, 2], [2, 3], [0, 1], [2, 3]],
        [[1, 2], [1, 3], [2, 1], [0, 3], [1, 2], [3, 0]],
    )
    tokens = {"sequence": np.repeat([0, 1], 3), "position": np.tile([0, 1, 2], 2), "token_id": [7, 8, 7, 8, 7, 9]}
    weights = np.broadcast_to([0.75, 0.25], (2, 6, 2))
    return trace_of([first, second], 4, layers=(0, 5), weights=weights, text=list("ababac"), **tokens)


def lost(trace: RoutingTrace, *, layer: int) -> RoutingTrace:
    """The trace with one layer that was not recorded."""
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[layer], weights[layer] = -2, 0
    return replace(trace, experts=experts, weights=weights, logits=None)


def shuffled(trace: RoutingTrace, seed: int) -> RoutingTrace:
    """Every layer's choices dealt anew to the tokens."""
    rng = np.random.default_rng(seed)
    experts, weights = trace.experts.copy(), trace.weights.copy()
    for row in range(len(experts)):
        order = rng.permutation(experts.shape[1])
        experts[row], weights[row] = experts[row, order], weights[row, order]
    return replace(trace, experts=experts, weights=weights)


def test_load_and_say_are_counted(small):
    (facts,) = expert_numbers(small, 0, 0).itertuples(index=False)
    assert (facts.tokens, facts.recorded, facts.rank, facts.num_experts) == (4, 6, 1, 4)
    assert facts.times_uniform == pytest.approx(4 / 12 * 4)
    assert facts.first_choice == 3 / 4
    assert facts.mean_weight == pytest.approx((0.75 * 3 + 0.25) / 4)
    assert expert_numbers(small, 0, 2)["rank"].item() == 3  # as many as expert 1: the lower id comes first


def test_what_a_trace_does_not_say_is_missing_and_not_guessed(small):
    unordered = replace(small, weights=None, model=replace(small.model, slot_order="unknown"))
    (facts,) = expert_numbers(unordered, 0, 0).itertuples(index=False)
    assert np.isnan(facts.first_choice) and np.isnan(facts.mean_weight) and facts.tokens == 4
    with pytest.raises(MissingField, match="weights"):
        expert_weights(unordered, 0, 0)


def test_loads_of_all_experts_mark_the_one(small):
    loads = expert_loads(small, 5, 3)
    assert loads["tokens"].tolist() == [4, 3, 3, 2, 2, 4, 3, 3]
    assert loads["times"].tolist() == pytest.approx([n / 3 for n in (4, 3, 3, 2, 2, 4, 3, 3)])
    assert loads.loc[loads["here"], ["layer", "expert"]].to_numpy().tolist() == [[5, 3]]


def test_shared_tokens_are_counted_and_held_against_what_is_usual(small):
    shared = shared_tokens(small, 0, 0).set_index(["layer", "expert"])
    assert shared.loc[5, "tokens"].tolist() == [0, 4, 3, 1]
    assert shared.loc[5, "share"].tolist() == [0, 1, 0.75, 0.25]
    assert shared.loc[5, "usual"].tolist() == pytest.approx([2 / 6, 4 / 6, 3 / 6, 3 / 6])
    assert shared.loc[(5, 1), "times"] == pytest.approx(1.5)
    assert shared.loc[0, "tokens"].tolist() == [4, 3, 1, 0]
    # Its other slot is one expert for every token: by chance too the partners' shares sum to 1, which loads do not.
    assert shared.loc[0, "usual"].sum() == pytest.approx(1)
    assert np.isnan(shared.loc[(0, 0), "times"]) and shared.loc[(0, 0), "here"]


def test_tokens_come_from_the_layer_before_and_go_to_the_one_after(small):
    flow = expert_flow(small, 0, 0)
    assert flow["side"].unique().tolist() == ["after"]
    assert flow[["expert", "tokens", "place"]].to_numpy().tolist() == [[1, 4, 0], [2, 3, 1], [3, 1, 2]]
    assert expert_flow(small, 5, 3)["side"].unique().tolist() == ["before"]
    assert not len(expert_flow(small.select(layers=[5]), 5, 3))


def test_of_many_experts_the_flow_has_the_eight_with_most_tokens():
    flow = expert_flow(sample_trace(layers=3, tokens=64, top_k=8, experts=64), 1, 3)
    assert flow.groupby("side").size().tolist() == [8, 8]
    assert set(flow["num_experts"]) == {64}


def test_a_token_keeps_to_an_expert_that_has_more_of_it_than_usual(small):
    (row,) = keeping_tokens(small, 0, 0).itertuples(index=False)
    assert (row.text, row.token_id, row.tokens, row.occurrences, row.texts) == ("a", 7, 3, 3, 2)
    assert row.usual == pytest.approx(4 / 6) and row.lift == pytest.approx(1.5)
    assert row.luck == pytest.approx(2 * (4 / 6) ** 3)  # all three, for either of the two tokens that occur twice


def test_how_often_a_token_must_occur_grows_with_the_trace():
    assert [enough_occurrences(tokens) for tokens in (1, 52, 1000, 2000, 100_000)] == [2, 2, 5, 10, 10]


def test_tokens_without_ids_are_told_apart_by_their_text(small):
    without = replace(small, tokens=small.tokens.assign(token_id=np.int32(-1)))
    assert keeping_tokens(without, 0, 0)["text"].tolist() == ["a"]


def test_contexts_are_of_one_text_in_its_order_and_drawn_at_random(small):
    lines = contexts(small, 0, 0)
    assert lines["token"].tolist() == [0, 1, 2, 4]
    rows = lines[["before", "text", "after"]].to_numpy().tolist()
    assert rows[:3] == [["", "a", "ba"], ["a", "b", "a"], ["ab", "a", ""]]
    assert lines["weight"].tolist()[:3] == [0.75, 0.25, 0.75]
    drawn = [tuple(contexts(small, 0, 0, most=2, seed=seed)["token"]) for seed in range(60)]
    assert set(drawn) == {(0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 4)}
    of_a = contexts(small, 0, 0, code=0)
    assert of_a["token"].tolist() == [0, 2, 4] and of_a["sequence"].tolist() == [0, 0, 1]


def test_contexts_show_what_would_vanish_or_turn_a_line_around(small):
    texts = ["\u202e", "⟨é 1/2⟩", "⟨é 2/2⟩", "x", "\n", "y"]
    hostile = replace(
        small,
        tokens=small.tokens.assign(
            text=pd.Series(texts, dtype="str"), sequence=np.int32(0), position=np.arange(6, dtype=np.int32)
        ),
    )
    lines = contexts(hostile, 0, 0).set_index("token")
    assert lines.loc[0, "text"] == "⟨U+202E⟩" and lines.loc[0, "after"] == "éx y"


def test_weights_are_binned_by_choice(small):
    bins = expert_weights(small, 0, 0)
    assert bins[["choice", "tokens"]].to_numpy().tolist() == [[1, 3], [2, 1]]
    assert bins["low"].tolist() == pytest.approx([0.75, 0.25])
    large = replace(small, weights=small.weights * 2)
    assert expert_weights(large, 0, 0)["high"].max() == pytest.approx(1.5)


def texts_of_two_kinds(first: int, second: int, each: int = 5) -> RoutingTrace:
    """Ten texts of eight tokens, five of each kind; expert 0 has so many tokens of each text of a kind."""
    tokens = 2 * each * 8
    experts = np.ones((1, tokens, 1), np.int16)
    for text in range(2 * each):
        experts[0, text * 8 : text * 8 + (first if text < each else second)] = 0
    texts = np.repeat(np.arange(2 * each), 8)
    label = np.where(texts < each, "prose", "code")
    return trace_of(experts, 4, sequence=texts, position=np.tile(np.arange(8), 2 * each), label=label)


def test_a_kind_stands_out_where_whole_texts_shuffled_do_not_explain_it():
    prose, code = expert_kinds(texts_of_two_kinds(8, 1), 0, 0).itertuples(index=False)
    assert (prose.label, prose.texts, prose.tokens, prose.has) == ("prose", 5, 40, 40)
    assert prose.share == 1 and prose.uniform == 0.25 and prose.times == 4
    assert prose.luck <= 0.05 and prose.stands_out
    assert code.share == 1 / 8 and not code.stands_out


def test_one_text_that_goes_to_an_expert_is_no_finding_about_its_kind():
    """The same share of a kind's tokens, all in one of its texts: the shuffles put that text anywhere."""
    trace = texts_of_two_kinds(0, 0)
    experts = trace.experts.copy()
    experts[0, :8] = 0
    kinds = expert_kinds(replace(trace, experts=experts), 0, 0)
    assert kinds["luck"].iloc[0] == 1 and not kinds["stands_out"].any()


def test_with_one_text_of_each_kind_nothing_is_judged():
    trace = texts_of_two_kinds(8, 0, each=1)
    assert expert_kinds(trace, 0, 0)["luck"].isna().all()
    said = expert_summary(trace, 0, 0, keeping_tokens(trace, 0, 0), expert_kinds(trace, 0, 0))
    assert said.name == "nothing_stands_out" and not said["judged"]


def test_without_labels_kinds_are_refused_with_a_sentence(small):
    with pytest.raises(MissingField, match="label"):
        expert_kinds(small, 0, 0)


def test_losses_go_beside_their_kinds():
    kinds = expert_kinds(texts_of_two_kinds(8, 1), 0, 0)
    muted = pd.DataFrame(
        {
            "layer": 0,
            "expert": [0, 0, 1],
            "label": ["code", "prose", "code"],
            "tokens": [10, 30, 1],
            "loss_change": [0.1, 0.5, 9.0],
        }
    )
    assert with_losses(kinds, muted, 0, 0)["loss_change"].tolist() == [0.5, 0.1]
    assert loss_of_all(muted, 0, 0) == pytest.approx(0.4)
    assert np.isnan(loss_of_all(muted, 0, 3))


def test_the_atlas_begins_with_the_kind_that_the_expert_has_most_of():
    atlas = expert_atlas(texts_of_two_kinds(1, 8), 0, 0)
    assert atlas["label"].unique().tolist() == ["code", "prose"]
    assert atlas.loc[atlas["here"], "times"].tolist() == [4, 0.5]


def test_the_sentence_names_kinds_and_tokens_with_their_counts():
    trace = reference_routing()
    said = expert_summary(trace, 0, 6, keeping_tokens(trace, 0, 6), expert_kinds(trace, 0, 6))
    assert [(kind.kind, kind.tokens, kind.texts) for kind in said["kinds"]] == [("Russian", 620, 4), ("German", 517, 4)]
    assert [kind.share for kind in said["kinds"]] == pytest.approx([0.98, 0.76], abs=0.005) and said["uniform"] == 0.25
    assert said["tokens"] == ((" и", 16, 16), (" be", 11, 11), ("br", 11, 11), (" в", 11, 11))


def test_nothing_is_said_where_nothing_stands_out_nor_of_a_few_tokens(small):
    has, of = int((small.experts[0] == 0).any(axis=-1).sum()), len(small.tokens)
    short = expert_summary(small, 0, 0, keeping_tokens(small, 0, 0))
    assert (short.name, dict(short.values)) == ("too_short", {"has": has, "recorded": of})
    alike = texts_of_two_kinds(4, 4)
    unlabelled = replace(alike, tokens=alike.tokens.drop(columns="label"))
    said = expert_summary(unlabelled, 0, 0, keeping_tokens(alike, 0, 0))
    assert said.name == "nothing_stands_out" and not said["kinds"]
    said = expert_summary(alike, 0, 0, keeping_tokens(alike, 0, 0), expert_kinds(alike, 0, 0))
    assert said.name == "nothing_stands_out" and said["kinds"]


def test_an_expert_with_nothing_or_everything_is_said_so(small):
    one = sample_trace(layers=1, experts=4)
    unused = replace(one, model=replace(one.model, num_experts=(5,)), logits=None)
    assert expert_summary(unused, 0, 4, keeping_tokens(unused, 0, 4)).name == "takes_nothing"
    soft = sample_trace(experts=4, top_k=4)
    assert expert_summary(soft, 0, 1, keeping_tokens(soft, 0, 1)).name == "takes_everything"
    silent = lost(small, layer=0)
    assert expert_summary(silent, 0, 0, keeping_tokens(silent, 0, 0)).name == "not_recorded_here"


def test_of_shuffled_routing_something_is_said_of_few_experts():
    trace, said = reference_routing(), []
    for layer, expert in ((layer, expert) for layer in trace.model.layers for expert in range(8)):
        dealt = shuffled(trace.select(layers=[layer]), seed=layer)
        kinds, tokens = expert_kinds(dealt, layer, expert), keeping_tokens(dealt, layer, expert)
        said.append(expert_summary(dealt, layer, expert, tokens, kinds))
    assert sum(claim.name != "nothing_stands_out" for claim in said) <= 2


def test_in_short_texts_few_occurrences_are_no_finding():
    """Sixty tokens of twenty words, routed at random: two of two happen often, and are named in at most 5%."""
    named = 0
    for seed in range(200):
        words = np.random.default_rng(seed).integers(0, 20, 60)
        trace = sample_trace(layers=1, tokens=60, seed=seed)
        trace = replace(
            trace,
            tokens=trace.tokens.assign(token_id=words.astype(np.int32), text=pd.Series(words.astype(str), dtype="str")),
        )
        tokens = keeping_tokens(trace, 0, seed % 8)
        named += expert_summary(trace, 0, seed % 8, tokens).name == "stands_out"
    assert named <= 10


def test_texts_that_go_to_an_expert_as_a_whole_at_random_are_no_finding_about_kinds():
    """Every text goes to one expert, whatever its kind: its tokens are not independent, and no kind is behind it."""
    named = 0
    for seed in range(100):
        trace = texts_of_two_kinds(0, 0, each=12)
        labels = np.repeat(np.arange(24) % 6, 8)  # six kinds of four texts
        experts = np.repeat(np.random.default_rng(seed).integers(0, 4, 24), 8).astype(np.int16)[None, :, None]
        tokens = trace.tokens.assign(label=pd.Series(labels.astype(str), dtype="str"))
        named += expert_kinds(replace(trace, tokens=tokens, experts=experts), 0, 0)["stands_out"].any()
    assert named <= 10


@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 1, "tokens": 1, "top_k": 1},
        {"layers": 2, "tokens": 40, "top_k": 1},
        {"layers": 2, "tokens": 64, "top_k": 8, "experts": 512},
        {"layers": 96, "tokens": 16},
        {"layers": 3, "tokens": 20, "top_k": 8, "experts": 8},
    ],
)
def test_every_shape_of_trace_has_an_answer(shape):
    check_all(labelled(sample_trace(**shape)), 0, 3)


def test_dropped_tokens_tokens_not_recorded_and_unknown_order_have_an_answer(trace):
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[1, :10], weights[1, :10] = -1, 0
    check_all(replace(trace, experts=experts, weights=weights), 1, 3)
    for layer in (1, 2):
        check_all(lost(trace, layer=1), layer, 3)
    check_all(replace(trace, weights=None, model=replace(trace.model, slot_order="unknown")), 1, 3)


def check_all(trace: RoutingTrace, layer: int, expert: int) -> None:
    tokens = keeping_tokens(trace, layer, expert)
    kinds = expert_kinds(trace, layer, expert) if "label" in trace.tokens else None
    assert expert_summary(trace, layer, expert, tokens, kinds).endswith(".")
    has = int(expert_numbers(trace, layer, expert)["tokens"].iloc[0])
    shared = shared_tokens(trace, layer, expert)
    assert shared.loc[shared["here"], "tokens"].tolist() == [has]
    assert len(contexts(trace, layer, expert)) <= min(has, 14)
    assert len(shared) == len(expert_loads(trace, layer, expert)) == sum(trace.model.num_experts)
    expert_flow(trace, layer, expert)
    if trace.weights is not None:
        assert expert_weights(trace, layer, expert)["tokens"].sum() == has


def test_a_layer_or_an_expert_that_is_not_there_is_named(small):
    with pytest.raises(InvalidTrace, match="layer 3"):
        expert_numbers(small, 3, 0)
    with pytest.raises(InvalidTrace, match=r"5.*expert 4"):
        expert_numbers(small, 5, 4)


def test_the_nearest_and_the_furthest_router_rows_are_shown():
    other = np.arange(40)
    geometry = pd.DataFrame({"layer": 2, "expert": 5, "other": other, "cosine": other / 40, "norm": other + 1.0})
    rows = router_neighbours(geometry, 2, 5)
    assert rows["other"].tolist() == [*range(39, 31, -1), *range(8, 5, -1), *range(4, -1, -1)]
    assert row_norms(geometry, 2, 5).to_numpy().tolist() == [[6.0, 1.0, 20.5, 40.0]]
