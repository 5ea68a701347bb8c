"""Capture through the kernels: the same trace as listening, on every family that has a row, and nothing left behind."""

import logging
import re
from dataclasses import replace
from functools import cache, partial
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from fused_models import FAMILIES
from processes import python
from survey.mechanisms import each
from tiny_models import tiny_model, tiny_tokenizer

from moe_kernels.gating import Gating
from moe_kernels.reference import route_torch
from moe_kernels.tiles import why_too_old
from moeviz.capture.interventions.force import Force
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.interventions.swap import Swap
from moeviz.capture.interventions.top_k import TopK
from moeviz.capture.record import experts_implementation, kernel_parity, kernel_recording, routing_ops
from moeviz.capture.record.experts_implementation import NAME, is_usual
from moeviz.capture.record.private_names import registered_experts
from moeviz.capture.record.routing_ops import GATING
from moeviz.capture.recorders import CaptureJob, wants_kernels
from moeviz.capture.routers import kernel_families
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.prompts import Batch
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import stream, trace
from moeviz.errors import CaptureError

PROMPTS = ["To be", "12 + 7 = 19, und heute ist es kalt"]
IDS = torch.arange(12)[None, :] * 5
# Experts that add up in another order move the logits of the next layer by a rounding or two.
PRECISION = {torch.float32: 1e-6, torch.bfloat16: 0.05}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def check_same(ours, theirs, dtype):
    """Equal tokens and logits; equal experts but where the last chosen and the best left out tie; equal weights."""
    assert ours.tokens.equals(theirs.tokens)
    assert replace(ours.model, recorded_by=theirs.model.recorded_by) == theirs.model
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=PRECISION[dtype], rtol=PRECISION[dtype])
    same = (np.sort(ours.experts, -1) == np.sort(theirs.experts, -1)).all(-1)
    ranked = -np.sort(-theirs.logits, axis=-1)
    top_k = theirs.model.top_k
    tied = np.isclose(ranked[..., top_k - 1], ranked[..., top_k], rtol=1e-6)
    assert (same | tied).all() and same.mean() > 0.9
    for one, other in zip(by_expert(ours, same), by_expert(theirs, same), strict=True):
        np.testing.assert_allclose(one, other, rtol=PRECISION[dtype], atol=1e-7)


def plainly(trace):
    """A trace without the reason why its routers were listened to."""
    return replace(trace, model=replace(trace.model, recorded_by="hooks"))


def listened_because(trace):
    return re.fullmatch(r"hooks \((.*)\)", trace.model.recorded_by)[1]


def by_expert(trace, same):
    order = np.argsort(trace.experts, axis=-1)
    return [np.take_along_axis(part, order, -1)[same] for part in (trace.experts, trace.weights)]


@pytest.mark.parametrize("family", each(FAMILIES, keep=["mixtral", "deepseek_v3", "gpt_oss", "lfm2_moe"]))
@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_the_trace_is_the_one_that_listening_gives(family, dtype, tokenizer):
    """Two prompts padded on the left, with three generated tokens each."""
    model = tiny_model(FAMILIES[family], dtype)
    options = {"tokenizer": tokenizer, "max_new_tokens": 3}
    ours, theirs = (trace(model, PROMPTS, kernels=kernels, **options) for kernels in (True, False))
    check_same(ours, theirs, dtype)


@cache
def stock_is_one_graph() -> bool:
    """Whether this torch makes one graph of a model of this transformers, without us: torch 2.6 does not."""
    model = torch.compile(tiny_model(FAMILIES["mixtral"]), fullgraph=True, backend="eager")
    try:
        model(IDS, use_cache=False)
    except torch._dynamo.exc.Unsupported:
        return False
    return True


@pytest.mark.parametrize("family", each(FAMILIES, keep=["mixtral", "deepseek_v3", "gpt_oss"]))
def test_every_router_is_replaced_in_one_graph_and_all_is_put_back(family):
    """Compiled with fullgraph it is one graph; outputs are the stock model's, to the last bit after the exit."""
    if not stock_is_one_graph():
        pytest.skip("this torch makes no one graph of this transformers, with us or without")
    model = tiny_model(FAMILIES[family])
    implementation = model.get_experts_implementation()
    with torch.no_grad():
        stock = model(IDS, use_cache=False).logits
        with kernel_recording.kernels_recording(model, 2 * IDS.numel(), keep_logits=True) as record:
            assert [rows.probed.trouble for rows in record] == [None] * len(find_routers(model))
            assert all("forward" in vars(experts) for experts in registered_experts(model))
            eager = model(IDS, use_cache=False).logits
            counter = torch._dynamo.testing.CompileCounter()
            torch._dynamo.reset()
            compiled = torch.compile(model, fullgraph=True, backend=counter)(IDS, use_cache=False).logits
            for rows in record:
                assert int(rows.cursor) == int(rows.logits_cursor) == 2 * IDS.numel()
                for part in (rows.experts, rows.weights, rows.logits):
                    torch.testing.assert_close(part[:12], part[12:24])
        assert counter.frame_count == 1
        torch.testing.assert_close(eager, stock, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled, stock, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(IDS, use_cache=False).logits, stock)
    assert model.get_experts_implementation() == implementation
    assert not [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_router_that_decides_otherwise_keeps_its_own_way(keep_logits, tokenizer, monkeypatch, caplog):
    """Rows that are wrong: another score, other logits, other weights; and no row at all."""
    model = tiny_model(FAMILIES["olmoe"])
    expected = trace(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=2, keep_logits=keep_logits)
    right = kernel_families.FAMILIES["OlmoeTopKRouter"]
    wrong = {
        "chooses other experts": right._replace(bias=lambda router: torch.linspace(0, 1, router.num_experts)),
        "makes other logits": right._replace(logits=lambda router, hidden: 2 * right.logits(router, hidden)),
        "weighs experts otherwise": right._replace(gating=lambda router: Gating(router.num_experts, 4, "sigmoid")),
        "top_k must be 1 to 16": right._replace(gating=lambda router: Gating(router.num_experts, 17)),
        "is not known to moeviz": None,
    }
    for says, family in wrong.items():
        monkeypatch.setattr(kernel_parity, "FAMILIES", {"OlmoeTopKRouter": family} if family else {})
        with caplog.at_level(logging.INFO, logger="moeviz.capture"):
            got = trace(model, PROMPTS, kernels=True, tokenizer=tokenizer, max_new_tokens=2, keep_logits=keep_logits)
        assert says in caplog.text
        np.testing.assert_array_equal(got.experts, expected.experts)
        np.testing.assert_array_equal(got.weights, expected.weights)
        assert (got.logits is None) == (not keep_logits)
        caplog.clear()


def test_a_router_that_keeps_its_own_way_is_recorded_in_a_compiled_model_too(monkeypatch):
    model = tiny_model(FAMILIES["olmoe"])
    monkeypatch.setattr(kernel_parity, "FAMILIES", {})
    with torch.no_grad(), kernel_recording.kernels_recording(model, 3 * IDS.numel()) as record:
        model(IDS, use_cache=False)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            compiled(IDS, use_cache=False)
        for rows in record:
            assert int(rows.cursor) == 3 * IDS.numel()
            torch.testing.assert_close(rows.experts[:12], rows.experts[12:24])
            torch.testing.assert_close(rows.experts[:12], rows.experts[24:36])


def test_lfm2_scores_in_its_own_precision():
    for dtype, trouble in {torch.float32: None, torch.bfloat16: "rounds its scores to torch.bfloat16"}.items():
        with kernel_recording.kernels_recording(tiny_model(FAMILIES["lfm2_moe"], dtype), 5) as record:
            assert all(rows.probed.trouble is trouble or trouble in rows.probed.trouble for rows in record)


def test_an_error_inside_puts_everything_back(tokenizer):
    model = tiny_model(FAMILIES["mixtral"])

    def stop(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(model, PROMPTS, kernels=True, tokenizer=tokenizer, max_new_tokens=5, progress=stop)
    assert not [module for module in model.modules() if "forward" in vars(module)]
    again = kernel_recording.kernels_recording(model, 5)
    with (
        kernel_recording.kernels_recording(model, 5),
        pytest.raises(CaptureError, match="recorded"),
        again,
    ):
        pass


def test_tokens_beyond_the_rows_are_left_out():
    model = tiny_model(FAMILIES["mixtral"])
    with torch.no_grad(), kernel_recording.kernels_recording(model, 20) as record:
        for _ in range(2):
            model(IDS, use_cache=False)
        assert {int(rows.cursor) for rows in record} == {24}
        assert {len(rows.experts) for rows in record} == {21}


@pytest.mark.parametrize(("family", "implementation"), [("mixtral", "eager"), ("gpt_oss", "grouped_mm")])
def test_the_experts_are_offered_through_transformers_own_registry(family, implementation):
    """For few tokens and for many, also of experts with biases and transposed weights."""
    model = tiny_model(FAMILIES[family])
    for ids in (IDS[:, :1], IDS[:, :3], IDS):
        model.set_experts_implementation(implementation)
        with torch.no_grad():
            expected = model(ids, use_cache=False).logits
            model.set_experts_implementation(NAME)
            torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)


def test_the_operator_of_the_experts_is_for_experts_of_the_usual_layout():
    for family, config in FAMILIES.items():
        experts = registered_experts(tiny_model(config))
        assert [is_usual(module) for module in experts] == [family != "gpt_oss"] * len(experts)
    module = registered_experts(tiny_model(FAMILIES["mixtral"]))[0]
    generator = torch.Generator().manual_seed(0)
    hidden, ids = torch.randn(3, 32, generator=generator), torch.tensor([[0, 1], [7, 2], [3, 0]])
    arguments = hidden, module.gate_up_proj, module.down_proj, ids, torch.rand(3, 2, generator=generator)
    with torch.no_grad():
        torch.library.opcheck(torch.ops.moeviz.experts.default, tuple(part.detach() for part in arguments))
        torch.testing.assert_close(torch.ops.moeviz.experts(*arguments), module(hidden, *arguments[3:]))


def test_the_operators_keep_to_what_they_declare():
    """torch's own check of schema, fake implementation and mutation."""
    gating = Gating(12, 3, "sigmoid", added=1e-20, scale=2.5, groups=3, groups_kept=2, group_score="top2_sum")
    rows = torch.zeros(9, 3, dtype=torch.int16), torch.zeros(9, 3), torch.tensor([2])
    numbers = [getattr(gating, name) for name in GATING]
    logits, bias = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 0.1, 12)
    torch.library.opcheck(torch.ops.moeviz.route.default, (logits, bias, *rows, *numbers))
    torch.library.opcheck(torch.ops.moeviz.record.default, (torch.zeros(9, 12), torch.tensor([2]), logits))
    weights, experts = torch.ops.moeviz.route(logits, bias, *rows, *numbers)
    expected = route_torch(logits, gating, bias)
    assert torch.equal(experts, expected.experts.long()) and torch.equal(weights, expected.weights)
    assert torch.equal(rows[0][2:7].int(), expected.experts) and torch.equal(rows[1][2:7], expected.weights)
    assert rows[2].item() == 7 and not rows[0][[0, 1, 7, 8]].any()


def test_the_first_rows_of_every_run_are_compared_and_a_difference_is_listened_to(tokenizer, monkeypatch, caplog):
    """A row that is right on the first forward and wrong on the text: nobody sees a wrong trace."""
    model = tiny_model(FAMILIES["olmoe"])
    options = {"tokenizer": tokenizer, "max_new_tokens": 2}
    expected = trace(model, PROMPTS, kernels=False, **options)
    right, asked = kernel_families.FAMILIES["OlmoeTopKRouter"], []

    def later_wrong(router, hidden):
        asked.append(1)
        return right.logits(router, hidden) * (1 if len(asked) <= len(find_routers(model)) else 2)

    monkeypatch.setattr(kernel_parity, "FAMILIES", {"OlmoeTopKRouter": right._replace(logits=later_wrong)})
    got = trace(model, PROMPTS, kernels=True, **options)
    assert listened_because(got) == "On this text OlmoeTopKRouter makes other logits than moeviz expects"
    assert plainly(got).equals(expected) and "On this text OlmoeTopKRouter makes other logits" in caplog.text
    asked.clear()
    grown = list(stream(model, PROMPTS, kernels=True, **options))
    assert len(grown) == 2 and grown[-1].equals(got)


BROKEN = {
    "router, at the probe": (routing_ops, "choose", 0, "OlmoeTopKRouter failed in moeviz's kernels"),
    "router, at the run": (routing_ops, "decide", 0, "OlmoeTopKRouter failed in moeviz's kernels"),
    "experts, at the run": (experts_implementation, "experts_forward", 4, "OlmoeExperts failed in moeviz's kernels"),
}


@pytest.mark.parametrize("where", BROKEN)
def test_a_kernel_that_raises_is_listened_to_with_one_warning(where, tokenizer, monkeypatch, caplog):
    """As on a card that has too little memory for a tile, or with a Triton that cannot compile it."""
    model, options = tiny_model(FAMILIES["olmoe"]), {"tokenizer": tokenizer, "max_new_tokens": 2}
    expected = trace(model, PROMPTS, kernels=False, **options)
    module, name, after, says = BROKEN[where]
    right, asked = getattr(module, name), []

    def raising(*args):
        asked.append(1)
        if len(asked) > after:
            raise RuntimeError("out of resource: shared memory\nand a long tale")
        return right(*args)

    monkeypatch.setattr(module, name, raising)
    got = trace(model, PROMPTS, kernels=True, **options)
    assert plainly(got).equals(expected) and says in listened_because(got)
    (warned,) = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert f"{says} with RuntimeError (out of resource: shared memory)" in warned and "tale" not in warned
    assert list(stream(model, PROMPTS, kernels=True, **options))[-1].equals(got)


def test_experts_whose_kernel_raises_at_the_probe_keep_their_own_way(tokenizer, monkeypatch, caplog):
    model, options = tiny_model(FAMILIES["olmoe"]), {"tokenizer": tokenizer}
    expected = trace(model, PROMPTS, kernels=False, **options)
    monkeypatch.setattr(experts_implementation, "experts_forward", lambda *_: 1 / 0)
    caplog.set_level("INFO")
    got = trace(model, PROMPTS, kernels=True, **options)
    assert np.array_equal(got.experts, expected.experts) and got.model.recorded_by == "kernels (plain torch)"
    assert "OlmoeExperts failed in moeviz's kernels with ZeroDivisionError (division by zero)" in caplog.text


def test_a_process_that_lost_its_gpu_is_reported(tokenizer, monkeypatch):
    def raising(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(routing_ops, "choose", raising)
    with pytest.raises(CaptureError, match="GPU"):
        trace(tiny_model(FAMILIES["olmoe"]), PROMPTS, kernels=True, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("dtype", "fault"),
    [
        (torch.float32, "louder"),
        (torch.bfloat16, "louder"),
        (torch.bfloat16, "one expert less"),
        (torch.float16, "louder"),
    ],
)
def test_experts_that_compute_otherwise_are_noticed_in_every_precision(dtype, fault, monkeypatch):
    """Sums in another order pass; an output of 1.1 times the size does not, nor one without a token's last expert."""
    model = tiny_model(FAMILIES["olmoe"]).to(dtype)
    assert not kernel_parity.probe(model).experts_trouble
    right = experts_implementation.experts_forward

    def wrong(experts, hidden, ids, weights):
        if fault == "louder":
            return 1.1 * right(experts, hidden, ids, weights)
        return right(experts, hidden, ids, torch.cat([weights[:, :-1], 0 * weights[:, -1:]], dim=1))

    monkeypatch.setattr(experts_implementation, "experts_forward", wrong)
    assert "computes otherwise" in kernel_parity.probe(model).experts_trouble[0]


@pytest.mark.parametrize("installed", ["3.3.1", "3.4.0"])
def test_an_old_triton_is_a_reason_to_listen(installed, monkeypatch, tokenizer, caplog):
    """The model says that it is on a GPU, and is not."""
    monkeypatch.setattr("moeviz.capture.routers.kernel_families.why_triton_is_too_old", lambda: why_too_old(installed))
    model = tiny_model(FAMILIES["olmoe"])
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    job = MagicMock(CaptureJob, request=CaptureRequest(tuple(PROMPTS)))
    job.run.model, ids = model, torch.ones(1, 3, dtype=torch.long)
    job.run.batch = Batch(ids, ids)
    caplog.set_level("INFO")
    assert wants_kernels(job) == (installed == "3.4.0")
    assert ("Triton 3.3.1 is installed" in caplog.text) == (installed == "3.3.1")


def write_into_logits(model, first):
    """The block of each layer zeroes its router's logits after the decision, from its call number `first` on."""
    for block in (layer.mlp for layer in model.model.layers):
        block.forward = partial(_writing, block, first, [])
    return model


def _writing(block, first, calls, hidden):
    logits, weights, experts = block.gate(hidden.flatten(0, 1))
    calls.append(1)
    if len(calls) >= first:
        logits.zero_()
    return block.experts(hidden.flatten(0, 1), experts, weights).view_as(hidden)


@pytest.mark.parametrize("written", [False, True])
def test_logits_are_kept_without_a_copy_where_the_model_leaves_them_alone(written, tokenizer):
    model, options = tiny_model(FAMILIES["mixtral"]), {"tokenizer": tokenizer, "kernels": True, "max_new_tokens": 3}
    expected = trace(model, PROMPTS, **options)
    if written:
        write_into_logits(model, first=1)
    found, kept = kernel_parity.probe(model), []
    for by_reference in (False, True):
        recording = kernel_recording.kernels_recording_probed(model, found, 30, by_reference=by_reference)
        with torch.no_grad(), recording as record:
            for ids in (IDS, IDS + 1):
                model(ids, use_cache=False)
            kept.append(kernel_recording.recording_of(record, keep_logits=True).rows("logits"))
        assert {rows.kept is not None for rows in record} == {by_reference and not written}
    for copied, referred in zip(*kept, strict=True):
        assert copied.any() and np.array_equal(copied, referred)
    assert trace(model, PROMPTS, **options).equals(expected)


def test_logits_that_are_written_into_later_on_are_no_trace(tokenizer):
    """The check of the model (once, and of its batches twice), the probe and the first forward leave them alone."""
    model, options = write_into_logits(tiny_model(FAMILIES["mixtral"]), first=6), {"tokenizer": tokenizer}
    assert trace(model, PROMPTS, kernels=True, **options).logits.any()
    with pytest.raises(CaptureError, match=r"model\.layers\.0\.mlp\.gate"):
        trace(model, PROMPTS, kernels=True, **options)


CHANGES = {
    "mute": Mute({0: (1,)}),
    "mute silently": Mute({0: (1,)}, reroute=False),
    "force": Force({1: (2,)}),
    "one more": TopK(3),
    "exchange": Swap(0, 1, 2),
}


@pytest.mark.parametrize(("family", "change"), [*(("mixtral", name) for name in CHANGES), ("deepseek_v3", "mute")])
def test_interventions_work_with_kernels_as_without(family, change, tokenizer):
    model = tiny_model(FAMILIES[family])
    layer = find_routers(model)[0].layer
    change = CHANGES[change] if family == "mixtral" else Mute({layer: (3,)})
    options = {"tokenizer": tokenizer, "max_new_tokens": 3, "intervention": change}
    ours, theirs = (trace(model, PROMPTS, kernels=kernels, **options) for kernels in (True, False))
    assert ours.model.recorded_by == "kernels (plain torch)" and theirs.model.recorded_by == "hooks"
    assert ours.tokens.equals(theirs.tokens) and np.array_equal(ours.experts, theirs.experts)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-5)
    for way in (True, False):
        assert list(stream(model, PROMPTS, kernels=way, **options))[-1].equals(ours if way else theirs)
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_plain_listening_rests_on_public_hooks_alone():
    """What replaces parts of a model, and the private names that this takes, are not even imported."""
    script = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("moeviz", "moe_kernels")]:
    del sys.modules[name]  # of the warm process
import moeviz
model = moeviz.load_model()
trace = moeviz.trace(model, "Il fait froid.", max_new_tokens=2)
ours = [name for name in sys.modules if name.startswith(("moe_kernels", "moeviz.capture.record."))]
print(trace.model.recorded_by, *sorted(name.rpartition(".")[2] for name in ours))
for option in ("kernels", "next_tokens"):
    try:
        moeviz.trace(model, "Il fait froid.", **{option: "yes"})
    except moeviz.CaptureError as error:
        print(error)
"""
    imported, *refused = python("-c", script, check=True).stdout.splitlines()
    by, *ours = imported.split()
    assert by == "hooks" and ["yes" in one for one in refused] == [True, True]
    assert ours == ["assembly", "divided", "expert_outputs", "forwards", "hooks", "joining", "next_tokens", "witness"]


@pytest.mark.gpu
@every_family
def test_on_a_gpu_the_kernels_run_by_themselves_and_give_the_trace_that_listening_gives(family, tokenizer):
    model = tiny_model(FAMILIES[family]).cuda()
    options = {"tokenizer": tokenizer, "max_new_tokens": 3}
    ours, theirs = trace(model, PROMPTS, **options), trace(model, PROMPTS, kernels=False, **options)
    assert ours.model.recorded_by == "kernels (Triton)"
    check_same(ours, theirs, torch.float32)
