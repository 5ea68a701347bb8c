"""A small Mixtral between two dense networks: its layer worked by hand, its costs, its training, its trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.history_tables import perplexities
from moeviz.errors import InvalidTrace
from moeviz.history.dense_contrast import exhibit as memory_and_compute
from moeviz.history.dense_contrast.decoder import PARTS, Sizes, at_random, cost
from moeviz.history.dense_contrast.exhibit import (
    HERE,
    REAL,
    loss_by_parameters,
    memory_against_compute,
    payoff_runs,
    payoff_words,
    perplexity_by_step,
    shipped_sweep,
)
from moeviz.history.dense_contrast.model import KINDS, WORDS, DecoderRun, perplexity, sizes_of, trace_of, train
from moeviz.history.shared.datasets import english
from moeviz.history.shared.results import shipped
from moeviz.metrics.load import expert_load
from moeviz.metrics.parameters import parameter_split
from moeviz.parameters import active_parameters

TINY = Sizes(vocabulary=5, width=4, hidden=3, layers=2, heads=2, key_heads=1, experts=4, top_k=2)
STEPS = 3


@pytest.fixture(scope="module")
def runs() -> dict[str, DecoderRun]:
    return {kind: train(kind=kind, steps=STEPS) for kind in KINDS}


def test_costs_are_those_worked_by_hand():
    """V 5, D 4, H 3, two layers, two heads of 2 and one for keys, four experts, two chosen.

    Embeddings 20 and 20. A layer: attention 16 + 8 + 8 + 16 = 48, router 16, an expert 3·4·3 = 36. Norms 5·4 = 20.
    """
    counted = cost(TINY)
    by_hand = {"input_embedding": 20, "output_embedding": 20, "attention": 96, "routers": 32, "routed_experts": 288}
    assert counted.parts == by_hand | {"dense_layers": 0, "other": 20} and tuple(counted.parts) == PARTS
    assert (counted.total, counted.active) == (476, 476 - 144)
    assert counted.multiply_adds == 20 + 96 + 32 + 144
    large, fast = cost(TINY.as_large()), cost(TINY.as_fast())
    assert large.active == large.total == counted.total
    assert fast.active == fast.total == counted.active - counted.parts["routers"]
    assert fast.parts["dense_layers"] == 144 and not fast.parts["routers"]


def test_perplexity_of_a_decoder_that_knows_nothing_is_the_size_of_its_vocabulary():
    decoder = at_random(TINY, torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(decoder.head)
    assert perplexity(decoder, torch.arange(WORDS + 1) % 5) == pytest.approx(5)


def test_training_makes_all_three_better_and_they_cost_what_their_sizes_say(runs):
    for kind, run in runs.items():
        assert run.recorded == (0, STEPS) and run.perplexity[1] < run.perplexity[0]
        assert run.cost == cost(sizes_of(kind=kind)) and run.settings["kind"] == kind


def test_the_trace_holds_what_the_routers_decided_and_what_the_model_has(runs):
    run = runs["sparse"]
    trace = trace_of(run)
    assert (trace.model.layers, trace.model.num_layers, trace.model.top_k) == ((0, 1), 2, 2)
    assert len(trace.tokens) == 768 and trace.tokens["position"].max() == WORDS - 1
    first = trace.tokens["text"][0]
    assert first == english().vocabulary[trace.tokens["token_id"][0]] and first
    assert trace.weights.sum(axis=-1) == pytest.approx(1, abs=1e-6)
    of_chosen = np.take_along_axis(trace.logits, trace.experts.astype(np.int64), axis=-1)
    assert of_chosen.min(axis=-1) == pytest.approx(np.sort(trace.logits, axis=-1)[..., -2])
    assert F.softmax(torch.from_numpy(of_chosen), dim=-1).numpy() == pytest.approx(trace.weights, abs=1e-6)
    counts = trace.model.parameters
    assert counts.total == run.cost.total and active_parameters(counts, trace.model.top_k) == run.active


def test_with_all_experts_on_the_load_is_flat_and_every_parameter_active(runs):
    trace = trace_of(runs["as large"])
    assert (expert_load(trace)["times_uniform"] == 1).all()
    split = parameter_split(trace).query("convention == 'all'")
    assert (split["active"] == split["parameters"]).all()
    assert np.ptp(trace.weights) > 0, "weights are what the gate says, and not all alike"


def test_the_network_as_fast_has_no_routing_to_show(runs):
    assert runs["as fast"].experts.shape == (2, 768, 0)
    with pytest.raises(InvalidTrace, match="router"):
        trace_of(runs["as fast"])


def test_the_triangle_has_the_same_memory_above_a_mixture_and_the_same_compute_beside_it(runs):
    frame = memory_against_compute(runs["as fast"]).set_index(["network", "kind"])
    for network in (HERE, REAL):
        sparse, fast, large = (frame.loc[(network, kind)] for kind in KINDS)
        assert large["memory"] == large["compute"] == sparse["memory"] == 1
        assert fast["memory"] == fast["compute"] == pytest.approx(sparse["compute"], abs=0.003)
    assert frame.loc[(REAL, "sparse"), ["total", "active"]].tolist() == [46_702_792_704, 12_879_925_248]
    assert frame.loc[(REAL, "sparse"), "compute"] == pytest.approx(0.276, abs=5e-4)


def test_the_curves_are_those_of_the_sweep_and_of_this_run_without_step_0(runs):
    frame = perplexity_by_step(runs["as large"], shipped_sweep())
    assert frame["step"].min() == STEPS
    mine = frame[frame["run"] == memory_and_compute.THIS_RUN]
    assert mine["kind"].tolist() == ["as large"] and mine["perplexity"].tolist() == [runs["as large"].perplexity[1]]


def test_a_sweep_trains_every_kind_from_every_seed():
    frame = perplexities((5,), steps=1)
    assert frame.groupby("kind", sort=False)["seed"].unique().map(list).to_dict() == {kind: [5] for kind in KINDS}
    assert frame["step"].tolist() == [0, 1] * 3


def test_what_ships_is_what_its_settings_say():
    """Perplexity before any step says that seed and sizes are those, and the sweep has the rest."""
    found, sweep = shipped(DecoderRun), shipped_sweep()
    assert found.cost == cost(sizes_of()) and trace_of(found).model.parameters.total == found.cost.total
    assert train(steps=1).perplexity[0] == pytest.approx(found.perplexity[0], rel=1e-4)
    same = sweep[(sweep["kind"] == "sparse") & (sweep["seed"] == 0)]
    assert same["perplexity"].to_numpy() == pytest.approx(found.perplexity, rel=1e-4)
    assert same["step"].tolist() == list(found.recorded)
    assert set(sweep["kind"]) == set(KINDS) and set(sweep["seed"]) == set(memory_and_compute.SEEDS)


def test_the_payoff_that_ships_is_of_models_that_compute_the_same():
    runs = payoff_runs()
    assert runs.groupby("experts")["seed"].nunique().to_dict() == dict.fromkeys((1, 2, 4, 8, 16), 3)
    assert runs["active"].nunique() == runs["tokens"].nunique() == 1
    assert runs.groupby("experts")["parameters"].first().is_monotonic_increasing
    told = (Path(__file__).parents[2] / "docs" / "background" / "history.md").read_text()
    frame = loss_by_parameters(runs)
    for count, one in frame.groupby("experts").first().iterrows():
        name = "1 (dense)" if count == 1 else count
        assert f"| {name} | {one['parameters'] / 1e6:.2f} million | {one['mean']:.3f} | {one['spread']:.3f} |" in told
    assert frame["mean"].to_list() == pytest.approx(
        [runs.loc[runs["experts"] == e, "nats"].mean() for e in frame["experts"]]
    )
    says = payoff_words(frame)
    largest, dense = (frame[frame["experts"] == count] for count in (16, 1))
    for figure in (
        largest["mean"],
        dense["mean"],
        frame.loc[frame["experts"] == 2, "mean"],
        frame["spread"].nlargest(1),
    ):
        assert f"{figure.iloc[0]:.3f}" in says
    assert frame["gain"].iloc[0] == 0 and largest["gain"].iloc[0] > frame["spread"].max()
    doubled = frame.assign(mean=frame["mean"].where(frame["experts"] > 2, 2 * frame["mean"]))
    assert "less than seeds make" in says and "more than seeds make" in payoff_words(doubled)
