"""Plans for inference engines: every expert placed, nothing twice on a device, layers counted as each engine does.

No engine runs here. Files are read back by readers of ours, by libraries, and in the ways of the engines' own readers,
written down anew from their published sources (named at the writers).
"""

import io
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from serving_data import reference_trace

from moeviz import ExpertCounts, ModelInfo, RoutingTrace, published_counts
from moeviz.embedded.recorded_routing import ROUTING, reference_routing
from moeviz.errors import MissingField, MoevizError
from moeviz.formats.exports import open_bytes
from moeviz.formats.importers.importer import ImportOptions
from moeviz.routing_trace import token_frame
from moeviz.serving.placement import kept_whole
from moeviz.serving.plans import engines
from moeviz.serving.plans.engines import ENGINES, READ_NONE, engine_named, export_plan, plan_remarks, sizes_for
from moeviz.serving.plans.plan import check_plan, make_plan, without_duplicates
from moeviz.testing import sample_trace

MAPS = ("sglang", "tensorrt-llm", "vllm-ascend")


def awkward_trace() -> RoutingTrace:
    """Two dense layers, then three of 16 experts: one where all loads are equal, one where one expert has most."""
    rng = np.random.default_rng(0)
    hot = [[0, 1 + token % 15] for token in range(160)]
    equal = [[token % 16, (token + 8) % 16] for token in range(160)]
    mixed = [rng.choice(16, 2, replace=False) for _ in range(160)]
    model = ModelInfo("made up", "test", (2, 3, 4), (16,) * 3, 2, num_layers=5, slot_order="unknown")
    tokens = token_frame(np.zeros(160), np.arange(160), ["x"] * 160)
    return RoutingTrace(model, tokens, np.array([equal, hot, mixed], np.int16))


TRACES = {"embedded": reference_trace, "made up": awkward_trace}
every = pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)


@every
@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_reads_back_as_the_plan(engine, trace):
    plan = make_plan(trace(), 4, 4)
    row = ENGINES[engine]
    data = export_plan(plan, engine)
    assert row.read(data, plan.model) == row.holds(plan)
    assert f"plan{row.suffix}" in row.command(plan, f"plan{row.suffix}")


@every
def test_every_expert_has_a_slot_and_no_device_has_one_twice(trace):
    plan = make_plan(trace(), 4, 4)
    for layer, slots in plan.slots.items():
        assert set(slots) == set(range(len(plan.loads[layer])))
        devices = np.reshape(slots, (4, -1))
        assert all(len(set(device)) == len(device) for device in devices.tolist())


def test_a_copy_beside_its_own_expert_changes_places():
    """Layer 4 of the embedded trace is planned with expert 3 twice on device 3 (`2 0 4|7 1 4|5 1 6|3 3 6`)."""
    plan, swaps = without_duplicates(np.array([2, 0, 4, 7, 1, 4, 5, 1, 6, 3, 3, 6]), np.ones(8, np.int64), 4)
    assert swaps == 1 and sorted(plan) == sorted([2, 0, 4, 7, 1, 4, 5, 1, 6, 3, 3, 6])
    assert all(len(set(device)) == 3 for device in plan.reshape(4, 3).tolist())
    assert make_plan(reference_trace(), 4, 4).repaired == 2  # layer 5 has `3 3 7`


def test_copies_beyond_one_a_device_go_to_the_next_expert():
    """0 has 3 copies for 2 devices: the last becomes a copy of 1 (9 per copy; 2 has 1), then slots change places."""
    plan, repairs = without_duplicates(np.array([0, 0, 0, 1, 2, 2]), np.array([90, 9, 2]), 2)
    assert repairs >= 2 and sorted(plan.tolist()) == [0, 0, 1, 1, 2, 2]
    assert all(sorted(device) == [0, 1, 2] for device in plan.reshape(2, 3).tolist())


def test_more_slots_than_all_devices_can_fill_are_refused():
    with pytest.raises(MoevizError, match=r"6 .* 2 .* 2 "):
        without_duplicates(np.array([0, 0, 0, 1, 1, 1]), np.array([9, 1]), 2)


# As the engines read


@every
def test_sglang_makes_its_map_from_the_file(trace):
    """`init_by_mapping(server_args, model_config, **data_dict)`: another key would be a TypeError."""
    plan = make_plan(trace(), 4, 4)
    data_dict = json.loads(export_plan(plan, "sglang"))

    def init_by_mapping(physical_to_logical_map):
        return torch.tensor(physical_to_logical_map)

    table = init_by_mapping(**data_dict)
    assert table.shape == (plan.num_layers, len(plan.loads[plan.model.layers[0]]) + plan.copies)
    assert table.shape[1] % plan.devices == 0
    for row in table.tolist():
        assert set(row) == set(range(max(row) + 1)), "a logical expert without a physical one"
    assert tuple(table[plan.model.layers[-1]].tolist()) == plan.slots[plan.model.layers[-1]]


@every
def test_tensorrt_llm_reads_whole_numbers_for_layers(trace):
    plan = make_plan(trace(), 4, 4)
    config = yaml.safe_load(export_plan(plan, "tensorrt-llm"))
    assert {layer: tuple(slots) for layer, slots in config["initial_global_assignments"].items()} == plan.slots
    assert {len(slots) for slots in plan.slots.values()} == {config["num_slots"]}
    assert config["layer_updates_per_iter"] == 0 and len(config) == 3


@every
def test_vllm_ascend_makes_one_tensor_of_layers_devices_and_slots(trace):
    """`_expert_file_to_tensor`; and back as `_export_tensor_to_file` does, where a duplicate would be lost."""
    plan = make_plan(trace(), 4, 4)
    data = json.loads(export_plan(plan, "vllm-ascend"))
    table = torch.tensor(
        [[device["device_expert"] for device in layer["device_list"]] for layer in data["layer_list"]],
        dtype=torch.int32,
    )
    assert table.shape[:2] == (data["moe_layer_count"], data["layer_list"][0]["device_count"])
    assert [layer["layer_id"] for layer in data["layer_list"]] == list(range(len(plan.slots)))
    for row, layer in zip(table.tolist(), plan.slots, strict=True):
        for device in row:
            places = [device.index(expert) if expert in device else -1 for expert in range(len(plan.loads[layer]))]
            assert [places.index(i) for i in range(len(device))] == device


@every
def test_tables_of_eplb_are_the_inverse_of_each_other(trace):
    """`rebalance_experts` returns (layers, replicas), (layers, experts, most copies) filled up with -1, and counts."""
    plan = make_plan(trace(), 4, 4)
    tables = json.loads(export_plan(plan, "eplb"))
    phy2log, log2phy, logcnt = (np.array(tables[name]) for name in ("phy2log", "log2phy", "logcnt"))
    assert tables["layers"] == [*plan.slots] and log2phy.shape == (*logcnt.shape, logcnt.max())
    assert ((log2phy >= 0).sum(axis=2) == logcnt).all() and (logcnt.sum(axis=1) == phy2log.shape[1]).all()
    for row, places in zip(phy2log, log2phy, strict=True):
        assert all((row[own[own >= 0]] == expert).all() for expert, own in enumerate(places))


@every
def test_ktransformers_loads_a_tensor_of_counts(trace):
    """`_load_activation_frequency`: three dimensions are summed over steps; every MoE layer must have counts."""
    plan = make_plan(trace(), 4, 4)
    loaded = torch.load(io.BytesIO(export_plan(plan, "ktransformers")), map_location="cpu", weights_only=True)
    counts = loaded["logical_count"].sum(dim=0)
    assert counts.shape == (plan.num_layers, len(plan.loads[plan.model.layers[0]]))
    assert all(counts[layer].sum() > 0 for layer in plan.model.layers)
    assert all(counts[layer].sum() == 0 for layer in set(range(plan.num_layers)) - set(plan.model.layers))


def test_ktransformers_takes_experts_that_share_tokens_where_the_file_is_by_co_activation():
    """0 has 60 tokens, 30 of them with 1, which has no other; 2 has 50, each with another one."""
    others = (4 + at % 12 for at in range(80))
    rows = [[0, 1]] * 30 + [[0, next(others)] for _ in range(30)] + [[2, next(others)] for _ in range(50)]
    model = ModelInfo("pairs", "test", (0,), (16,), 2, num_layers=1)
    trace = RoutingTrace(model, token_frame(np.zeros(110), np.arange(110), ["x"] * 110), np.array([rows], np.int16))
    plan, gpu = make_plan(trace, 1, 0), {}
    for engine in ("ktransformers", "ktransformers-together"):
        counts = torch.load(io.BytesIO(export_plan(plan, engine)), weights_only=True)["logical_count"].sum(dim=0)
        gpu[engine] = {*torch.topk(counts.flatten(), 2).indices.tolist()}
    assert gpu == {"ktransformers": {0, 2}, "ktransformers-together": {0, 1}}
    with pytest.raises(MissingField, match="token"):
        export_plan(make_plan(trace.counts(), 1, 0), "ktransformers-together")


def test_a_profile_for_llama_cpps_cache_is_read_as_the_traces_counts():
    """By the importer of that tool's files, which is told what they do not say."""
    trace = awkward_trace()
    data = export_plan(make_plan(trace, 1, 0), "llama.cpp-cache")
    assert data.startswith(b"layer,expert\n") and data.count(b"\n") == 1 + 3 * 160 * 2
    counts = open_bytes(data, "profile.csv", options=ImportOptions(top_k=2, experts=16)).counted
    assert counts.model.layers == trace.model.layers and np.array_equal(counts.assignments, trace.counts().assignments)


def test_experts_kept_together_serve_more_texts_whole_than_the_busiest_on_texts_they_were_not_chosen_from():
    for name in ROUTING:
        trace = reference_routing(name)
        even = trace.tokens["sequence"].to_numpy() % 2 == 0
        for first in (even, ~even):
            busy, together, chance = kept_whole(trace, first)
            assert together > busy > chance
    claim = remarks(trace, "ktransformers-together")["kept_whole"]
    half = kept_whole(trace, np.arange(len(trace.tokens)) < len(trace.tokens) // 2)
    assert (claim["busiest"], claim["together"], claim["chance"]) == pytest.approx(half)
    assert "kept_whole_unknown" in remarks(trace.select(tokens=slice(0, 40)), "ktransformers-together")


@every
def test_lmdeploy_makes_a_tensor_of_all_layers(trace):
    plan = make_plan(trace(), 4, 4)
    statistic = torch.tensor(json.loads(export_plan(plan, "lmdeploy")), dtype=torch.float32)
    assert statistic.shape[0] == plan.num_layers
    assert statistic[plan.model.layers[0]].tolist() == list(plan.loads[plan.model.layers[0]])


def test_llama_cpp_keeps_the_layers_on_the_gpu_of_which_a_step_reads_most():
    """In layer 3 of the made-up trace one expert has half of the work, so a step reads fewest there."""
    options = [export_plan(make_plan(awkward_trace(), 1, 0, layers_on_gpu=n), "llama.cpp") for n in (3, 2, 1)]
    assert make_plan(awkward_trace(), 1, 0).by_need == (2, 4, 3)
    assert options == [b"", rb"-ot 'blk\.(3)\.ffn_.*_exps\.=CPU'", rb"-ot 'blk\.(3|4)\.ffn_.*_exps\.=CPU'"]
    with pytest.raises(MoevizError, match=r"3 .*0 to 3.*4"):
        make_plan(awkward_trace(), 1, 0, layers_on_gpu=4)


# What is said of a plan


def remarks(trace, engine: str, **how: int) -> dict:
    """All that is claimed of the plan for an engine on four devices, by name."""
    found = plan_remarks(make_plan(trace, *sizes_for(engine, 4, 4), **how), engine, trace)
    return {claim.name: claim for claim in found}


def test_layers_that_the_trace_lacks_are_named_with_what_the_file_has_for_them():
    counts = published_counts("Mixtral-8x7B")  # of 3 of 32 layers
    for engine, row in ENGINES.items():
        for how, missing, known in (
            ({}, "1 to 6 and 8 to 14", False),
            ({"num_layers": 32}, "1 to 6, 8 to 14 and 16 to 31", True),
        ):
            claim = remarks(counts, engine, **how)["layers_planned"]
            assert [*claim.values.values()] == ["0, 7 and 15", 3, missing, row.elsewhere, known]
    assert remarks(awkward_trace(), "tensorrt-llm")["layers_planned"]["missing"] == "0 to 1"
    assert "layers_planned" not in remarks(reference_trace(), "sglang"), "it has all layers"
    claim = remarks(reference_trace(), "llama.cpp", layers_on_gpu=2)["layers_on_gpu"]
    assert (claim["on_gpu"], claim["layers"]) == (2, 6)


def test_what_is_said_to_be_in_the_file_for_other_layers_is_there():
    plan = make_plan(awkward_trace(), 4, 4)
    assert json.loads(export_plan(plan, "sglang"))["physical_to_logical_map"][0] == [*range(16), 0, 1, 2, 3]
    assert not any(json.loads(export_plan(plan, "lmdeploy"))[0])
    assert 0 not in yaml.safe_load(export_plan(plan, "tensorrt-llm"))["initial_global_assignments"]


@pytest.mark.parametrize("engine", ENGINES)
def test_changed_slots_are_told_of_files_that_have_slots(engine):
    """EPLB's plan of the reference trace has two that are changed."""
    has_slots = "slot" in ENGINES[engine].reads or engine == "vllm-ascend"
    claim = remarks(reference_trace(), engine).get("slots_changed")
    assert (claim is not None) == has_slots and (claim is None or claim["changed"] == 2)


def two_kinds() -> ExpertCounts:
    """Two kinds of text: one layer of 4 experts, of which each kind uses its own half."""
    model = ModelInfo("made up", "test", (0,), (4,), 1, num_layers=1)
    return ExpertCounts(
        model, np.array([[[6, 4, 0, 0]], [[0, 0, 3, 7]]]), np.array([[10], [10]]), ("code", "prose"), "label"
    )


def test_counts_by_label_are_judged_by_plans_from_the_other_labels():
    """By the plan from prose, code has 6 tokens on one device and 4 on the other, 1.2 times the mean, and prose by that
    from code 3 and 7, 1.4 times. The mean is 1.3; in order, each has all of its tokens on one device.
    """
    counts = two_kinds()
    said = make_plan(counts, 2, 0).judged
    assert (said.name, said["kind"], said["in_order"]) == ("plan_judged", "kind of text", 2)
    assert said["copies"] == pytest.approx(1.3)
    alone = replace(counts, assignments=counts.assignments[:1], tokens=counts.tokens[:1], groups=("code",))
    assert make_plan(alone, 2, 0).judged.name == "plan_not_judged"


def test_a_plan_of_the_hottest_experts_is_judged_on_other_tokens():
    """The two that prose uses have no token of code, and the other way round."""
    said = remarks(two_kinds(), "ktransformers")
    assert said["made_from_all"]["tokens"] == 20
    claim = said["most_used_half"]
    assert (claim["same"], claim["other"], claim["chance"]) == pytest.approx((0.65, 0, 0.5)) and not claim["ordered"]
    assert remarks(reference_trace(), "ktransformers")["most_used_half"]["ordered"]
    alone = remarks(reference_trace().counts(), "ktransformers")["most_used_half"]
    assert (alone["other"], alone["chance"]) == (None, 0.5)


# Names that others chose

HOSTILE = ("a b", "x'; touch y; '", "$(touch y)", "`y`", "a\nb: c", "../../y", "-rf", "# #", "é", "|.*\\)", '"{}')


@pytest.mark.parametrize("engine", ENGINES)
def test_no_name_of_a_model_or_a_label_gets_into_a_file(engine):
    plain = export_plan(make_plan(awkward_trace(), 4, 4), engine)
    for name in HOSTILE:
        trace = awkward_trace()
        kinds = {"layer_kind": name, "label_kind": name, "site": name}
        named = replace(trace.model, name=name, caution=name, decoding=name, **kinds)
        trace = replace(trace, model=named, tokens=trace.tokens.assign(text=name, label=name))
        plan = make_plan(trace, 4, 4)
        assert export_plan(plan, engine) == plain
        assert name not in "\n".join(plan_remarks(plan, engine, trace)) or name in ("a b", "-rf")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_has_the_file_s_name_as_one_word_whatever_it_is(engine):
    plan = make_plan(awkward_trace(), 4, 4)
    for name in HOSTILE:
        is_one_word(engine, plan, name + ENGINES[engine].suffix)


def is_one_word(engine, plan, file):
    command = ENGINES[engine].command(plan, file)
    words = shlex.split(command, comments=True)
    plain = shlex.split(ENGINES[engine].command(plan, "plan"), comments=True)
    assert len(words) == len(plain), "no word more than with a plain name"
    if engine == "vllm-ascend":
        assert json.loads(words[-1])["eplb_config"]["expert_map_path"] == file
    elif engine == "tensorrt-llm":
        remark = command.partition("# options.yaml says: ")[2]
        assert yaml.safe_load(remark) == {"moe_config": {"load_balancer": file}}
    elif engine == "llama.cpp":
        assert json.loads(command.partition("that is in ")[2]) == file
    else:
        assert any(word in (file, f"LMDEPLOY_EPLB_EXPERTS_STATISTIC_FILE={file}") for word in words)


# What cannot be


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("facts", [{"num_layers": 2**40}, {"layers": (2, 3, 2**31 - 1), "num_layers": None}])
def test_a_file_that_says_a_model_has_endless_layers_makes_no_endless_plan(engine, facts):
    trace = awkward_trace()
    with pytest.raises(MoevizError, match=r"[\d,]+ .*4,096"):
        export_plan(make_plan(replace(trace, model=replace(trace.model, **facts)), 4, 4), engine)


def uneven() -> RoutingTrace:
    trace = sample_trace(layers=2, experts=8, top_k=2)
    model = replace(trace.model, num_experts=(8, 4))
    return replace(trace, model=model, experts=np.minimum(trace.experts, 3), logits=None, weights=None)


@pytest.mark.parametrize("engine", [name for name in ENGINES if not name.startswith("llama.cpp")])
def test_layers_of_different_sizes_are_refused_by_engines_that_have_one_size(engine):
    plan = make_plan(uneven(), 2, 2)
    with pytest.raises(MoevizError, match="4 and 8"):
        export_plan(plan, engine)
    assert export_plan(plan, "llama.cpp")


@pytest.mark.parametrize("engine", ["sglang", "vllm-ascend", "lmdeploy", "ktransformers"])
def test_engines_that_count_dense_layers_need_to_know_how_many_there_are(engine):
    trace = awkward_trace()
    trace = replace(trace, model=replace(trace.model, num_layers=None))
    with pytest.raises(MissingField, match="--num-layers"):
        export_plan(make_plan(trace, 4, 4), engine)
    assert export_plan(make_plan(trace, 4, 4, num_layers=5), engine)
    with pytest.raises(MoevizError, match=r"4 .*layer 4"):
        export_plan(make_plan(trace, 4, 4, num_layers=4), engine)


def test_vllm_ascend_refuses_dense_layers_among_the_others():
    with pytest.raises(MoevizError, match=r"\[2, 3, 4\] .*9"):
        export_plan(make_plan(awkward_trace(), 4, 4, num_layers=9), "vllm-ascend")


def test_ktransformers_refuses_a_layer_without_counts():
    trace = awkward_trace()
    empty = trace.experts.copy()
    empty[1] = -1
    with pytest.raises(MissingField, match="layer 3"):
        export_plan(make_plan(replace(trace, experts=empty), 4, 4), "ktransformers")


def test_a_layer_that_is_not_recorded_has_no_plan():
    trace = awkward_trace()
    gone = trace.experts.copy()
    gone[1] = -2
    with pytest.raises(MissingField, match=r"\b3\b"):
        make_plan(replace(trace, experts=gone), 4, 4)


def test_engines_that_read_no_plan_are_named():
    for name in READ_NONE:
        with pytest.raises(MoevizError, match="sglang, tensorrt-llm"):
            engine_named(name)
    with pytest.raises(MoevizError, match=r"'tgi'.*sglang"):
        engine_named("tgi")


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ((0, 1, 2, 0), "no slot for expert 3"),
        ((0, 1, 2, 3, 1), "5 slots, which 2 devices cannot share"),
        ((0, 0, 1, 2, 3, 1), "an expert twice on a device"),
        ((0, 1, 2, 3, 4, 5), "expert 5, of 4"),
    ],
)
def test_a_plan_that_cannot_be_is_not_handed_out(slots, words):
    plan = make_plan(sample_trace(layers=1, experts=4, top_k=2), 2, 2)
    with pytest.raises(MoevizError, match=words):
        check_plan(replace(plan, slots={0: slots}))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_would_not_read_back_is_not_handed_out(engine, monkeypatch):
    wrong = ENGINES[engine]._replace(read=lambda data, model: {0: (1,)})
    monkeypatch.setitem(ENGINES, engine, wrong)
    with pytest.raises(MoevizError, match="plan"):
        export_plan(make_plan(awkward_trace(), 4, 4), engine)


def test_it_is_said_on_which_tokens_a_plan_was_judged():
    said = make_plan(reference_trace(), 4, 4).judged
    assert (said.name, said["tokens"], said["kind"]) == ("plan_judged", 8_502, None)
    assert make_plan(reference_trace().counts(), 4, 4).judged.name == "plan_not_judged"
    assert make_plan(reference_trace().counts(), 4, 4).slots == make_plan(reference_trace(), 4, 4).slots


def test_slots_of_dense_layers_hold_every_expert():
    rows = json.loads(engines.write_sglang(make_plan(awkward_trace(), 4, 4)))["physical_to_logical_map"]
    assert rows[0] == rows[1] == [*range(16), 0, 1, 2, 3]
