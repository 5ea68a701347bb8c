"""Several traces next to each other: worked by hand, against chance, and of models that have nothing in common."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from labels import labelled
from routed_trace import routed

from moeviz.errors import MissingField
from moeviz.metrics.locality import MIXTRAL, MIXTRAL_TABLE_5
from moeviz.metrics.multi_trace import (
    balance_of_several,
    depths,
    figures_of_several,
    information_of_several,
    layer_at,
    multi_trace_summary,
    of_one_text,
    over_chance,
    repetition_of_several,
    sets_of_several,
)
from moeviz.metrics.specialization import label_information
from moeviz.testing import sample_trace

HAND = [[[0, 1], [0, 2], [2, 0], [3, 1]], [[3, 1], [2, 3]]]


def by_lot(num_experts: int, top_k: int, tokens: int = 4_000, seed: int = 0):
    """A router that chooses k different experts at random, in one layer."""
    rng = np.random.default_rng(seed)
    chosen = rng.permuted(np.tile(np.arange(num_experts), (tokens, 1)), axis=1)[:, :top_k]
    return routed([chosen.tolist()], num_experts)


def of_traces(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["trace"] != MIXTRAL]


def test_repetition_beyond_chance_by_hand():
    """Top-2 of 4: of four pairs one repeats its first choice, which is chance, 1/4: so 0. By load it is 1/3: (1/3 -
    1/4) / (3/4) = 1/9. The other trace has one expert first in all of three tokens: 1, whatever chance is."""
    frame = of_traces(repetition_of_several({"A": routed(HAND, 4), "B": routed([[[7, 1], [7, 2], [7, 3]]], 31)}))
    assert frame["trace"].tolist() == ["A", "B"]
    assert frame["over_chance"].tolist() == pytest.approx([0, 1])
    assert frame["by_load"].tolist() == pytest.approx([1 / 9, 1])
    assert frame["chance"].tolist() == pytest.approx([1 / 4, 1 / 31])
    assert frame["pairs"].tolist() == [4, 2]


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (31, 7)])
def test_a_router_that_chooses_at_random_repeats_no_more_than_chance(num_experts, top_k):
    (row,) = of_traces(repetition_of_several({"A": by_lot(num_experts, top_k)})).itertuples()
    assert abs(row.over_chance) < 0.02 and abs(row.by_load) < 0.02
    assert row.share > 0.8 / num_experts, "the control: the share itself is not 0"


def test_mixtral_s_published_figures_stand_below_by_the_same_formula():
    frame = repetition_of_several({"A": routed(HAND, 4)})
    mixtral = frame[frame["trace"] == MIXTRAL]
    first = np.array(list(MIXTRAL_TABLE_5.values()))[:, :3] / 100
    assert mixtral["layer"].tolist() == [0, 15, 31]
    assert mixtral["depth"].tolist() == [0, 15 / 31, 1]
    assert mixtral["over_chance"].tolist() == pytest.approx(((first.mean(axis=0) - 1 / 8) / (7 / 8)).tolist())
    assert mixtral["lowest"].tolist() == pytest.approx(((first.min(axis=0) - 1 / 8) / (7 / 8)).tolist())
    assert mixtral[["by_load", "pairs"]].isna().all(axis=None)


def test_what_is_beyond_chance_is_a_part_of_what_could_be():
    assert over_chance(1.0, 0.125) == 1 and over_chance(0.125, 0.125) == 0 and over_chance(0.0, 0.5) == -1


def test_a_trace_without_an_order_is_left_out_and_several_of_them_are_one_sentence():
    trace = routed(HAND, 4)
    unordered = replace(trace, model=replace(trace.model, slot_order="unknown"))
    assert set(repetition_of_several({"A": unordered, "B": trace})["trace"]) == {"B", MIXTRAL}
    with pytest.raises(MissingField, match="none"):
        repetition_of_several({"A": unordered, "B": unordered})
    assert figures_of_several({"A": unordered, "B": trace})["repetition"].isna().tolist() == [True, False]


def test_sets_by_hand():
    """Six tokens go to 01 02 02 13 13 23: four of the six sets of 4, 2 at a time. By lot: 6 (1 - (5/6)^6)."""
    (row,) = sets_of_several({"A": routed(HAND, 4)}).itertuples()
    assert (row.sets, row.possible, row.tokens) == (4, 6, 6)
    assert row.by_lot == pytest.approx(6 * (1 - (5 / 6) ** 6))


def test_sets_at_random_are_as_many_as_by_lot_and_of_how_many_is_the_binomial():
    rows = sets_of_several({"A": by_lot(8, 2, 60), "B": by_lot(31, 7, 60)})
    assert rows["possible"].tolist() == [28, 2_629_575]
    assert rows["sets"].tolist() == pytest.approx(rows["by_lot"].tolist(), rel=0.12)
    assert rows["by_lot"].iloc[1] == pytest.approx(60, abs=0.01), "a text has no more sets than tokens"


def test_tokens_with_an_empty_slot_are_of_no_set():
    (row,) = sets_of_several({"A": routed([[[0, 1], [2, -1], [1, 0]]], 4)}).itertuples()
    assert (row.sets, row.tokens) == (1, 2)


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (31, 7)])
def test_the_busiest_expert_of_a_random_router_is_as_busy_as_by_lot(num_experts, top_k):
    traces = {str(seed): by_lot(num_experts, top_k, 80, seed) for seed in range(30)}
    rows = balance_of_several(traces)
    assert rows["by_lot"].nunique() == 1
    assert rows["busiest"].mean() == pytest.approx(rows["by_lot"].iloc[0], rel=0.1)
    assert rows["by_lot"].iloc[0] > 1.2, "the control: luck alone is far above 1"


def test_information_is_that_of_each_trace_with_labels():
    trace = labelled(sample_trace(tokens=40))
    frame = information_of_several({"A": sample_trace(), "B": trace})
    assert set(frame["trace"]) == {"B"}
    assert frame["information"].tolist() == label_information(trace)["information"].tolist()
    with pytest.raises(MissingField, match="label"):
        information_of_several({"A": sample_trace()})


def test_layers_of_models_of_any_depth_are_placed_between_the_first_and_the_last():
    few, many = sample_trace(layers=3).model, replace(sample_trace(layers=2).model, layers=(10, 20), num_layers=21)
    assert depths(few) == [0, 0.5, 1] and depths(many) == [0.5, 1]
    assert depths(sample_trace(layers=1).model) == [0]
    assert [layer_at(few, depth) for depth in (0.0, 0.25, 0.3, 1.0)] == [0, 0, 1, 2]
    assert [layer_at(many, depth) for depth in (0.0, 0.9)] == [10, 20]


def test_figures_are_the_means_over_layers():
    traces = {"A": sample_trace(), "B": sample_trace(layers=2, experts=31, top_k=7, tokens=50)}
    figures = figures_of_several(traces).set_index("trace")
    repeats = of_traces(repetition_of_several(traces)).groupby("trace")["over_chance"].mean()
    assert figures["repetition"].tolist() == pytest.approx(repeats.tolist())
    assert figures["possible_sets"].tolist() == [28, 2_629_575]
    assert figures["information"].isna().all()
    assert figures[["tokens", "layers", "num_experts", "top_k"]].to_numpy().tolist() == [[32, 4, 8, 2], [50, 2, 31, 7]]


def said(traces) -> dict:
    found = multi_trace_summary(figures_of_several(traces), repetition_of_several(traces), of_one_text(traces))
    return {claim.name: claim for claim in found}


def test_a_clear_difference_is_told_and_luck_is_called_luck():
    same, lots = routed([[[0, 1]] * 100], 8), by_lot(8, 2, 100)
    told = said({"A": lots, "B": same, "C": by_lot(8, 2, 100, seed=1)})
    assert told["repetition"]["most"] == "B" and told["repetition"]["figures"][1][:2] == ("B", 1)
    assert "repetition_alike" in said({"A": lots, "B": by_lot(8, 2, 100, seed=1)})


def test_the_sentences_have_the_figures_of_each_trace():
    told = said({"A": routed(HAND, 4), "B": routed(HAND, 31)})
    assert [(one.trace, one.value, one.most) for one in told["sets_of_several"]["figures"]] == [
        ("A", 4, 6), ("B", 4, 465)
    ]  # fmt: skip
    assert told["busiest_of_several"]["figures"][0][:2] == ("A", 1) and "bits_of_labels" not in told
    labels = {name: labelled(sample_trace(tokens=40, seed=seed)) for seed, name in enumerate("AB")}
    assert 0 < said(labels)["bits_of_labels"]["figures"][0].value < 1


def test_other_texts_are_said_first():
    one = sample_trace()
    assert of_one_text({"A": one, "B": sample_trace(experts=31, top_k=7)})
    assert "other_texts" not in said({"A": one, "B": one})
    other = {"A": one, "B": sample_trace(tokens=20)}
    assert not of_one_text(other) and next(iter(said(other))) == "other_texts"
