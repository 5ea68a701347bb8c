"""The router kernel against plain torch: exact ids by the stated rule in every way of gating, and the record.

Without a GPU it runs in Triton's interpreter, whose cost is by program: few programs, large tiles.
"""

import math
from itertools import product

import pytest
import torch

from benchmarks.kernels import GATINGS, arms
from moe_kernels.buffers import Record
from moe_kernels.gating import Gating
from moe_kernels.reference import choose_torch, route_torch
from moe_kernels.router import route

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 1), (5, 5), (8, 2), (60, 4), (64, 8), (96, 16), (160, 6), (384, 8), (512, 10)]
GROUPED = [(12, 3, 3, 2), (12, 4, 3, 1), (64, 6, 8, 3), (256, 8, 8, 4), (160, 6, 8, 3)]
ROUNDING = {"rtol": 3e-6, "atol": 1e-7}
POISON = -7


# The interpreter computes in NumPy, which warns of the infinities in lanes that hold nothing.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def random(*shape, dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(DEVICE)


def check(logits, gating, bias=None, **options):
    """Route in both ways and compare; the kernel's ids and weights."""
    weights, experts = route(logits, gating, bias, **options)
    expected = route_torch(logits, gating, bias)
    assert experts.tolist() == expected.experts.tolist()
    torch.testing.assert_close(weights, expected.weights, equal_nan=True, **ROUNDING)
    quick_weights, quick = choose_torch(logits, gating, bias)
    assert quick.tolist() == expected.experts.tolist()
    torch.testing.assert_close(quick_weights, expected.weights, equal_nan=True, **ROUNDING)
    return weights, experts


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("experts", "top_k"), SIZES)
def test_softmax_routers_of_every_size(experts, top_k, dtype):
    for renormalise, with_bias in product([True, False], [True, False]):
        bias = random(experts, seed=1, scale=0.1) if with_bias else None
        check(random(9, experts, dtype=dtype), Gating(experts, top_k, renormalise=renormalise), bias, block_m=16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("score", ["sigmoid", "sqrtsoftplus"])
def test_other_scores_with_bias_scale_and_a_small_number_added(score, dtype):
    gating = Gating(60, 4, score, scale=2.5, added=1e-20)
    for bias, scale in product([None, random(60, seed=2, scale=0.3)], [1.0, 30.0]):
        check(random(9, 60, dtype=dtype, scale=scale), gating, bias, block_m=16)


@pytest.mark.parametrize(("experts", "top_k", "groups", "kept"), GROUPED)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_experts_come_from_the_best_groups_alone(experts, top_k, groups, kept, score):
    for group_score, with_bias in product(["max", "top2_sum"], [True, False]):
        gating = Gating(experts, top_k, score, groups=groups, groups_kept=kept, group_score=group_score)
        bias = random(experts, seed=3, scale=0.2) if with_bias else None
        for dtype in (torch.float32, torch.bfloat16):
            _, chosen = check(random(8, experts, dtype=dtype), gating, bias, block_m=8)
            assert all(len(set(row)) <= kept for row in (chosen // gating.group_size).tolist())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ties_go_to_the_lower_expert_id(dtype):
    logits = random(32, 60, dtype=dtype).round()
    logits[logits == 0] *= torch.where(random(int((logits == 0).sum()), seed=4) < 0, -1, 1).to(dtype)  # -0 ties with 0
    check(logits, Gating(60, 8), block_m=32)
    check(logits, Gating(60, 8, "sigmoid"), torch.zeros(60, device=DEVICE), block_m=32)
    check(logits, Gating(60, 8, "sigmoid", groups=6, groups_kept=3, group_score="top2_sum"), block_m=32)


def test_the_floor_of_the_sum_is_kept():
    """Ernie 4.5 divides by at least moe_norm_min; here the bias picks experts that score next to nothing."""
    logits = torch.tensor([[40.0, 0.0, 0.0, 0.0]], device=DEVICE)
    weights, experts = check(logits, Gating(4, 2, floor=1e-3), torch.tensor([0.0, 9.0, 9.0, 0.0], device=DEVICE))
    assert experts.tolist() == [[1, 2]]
    assert weights[0, 0].item() == pytest.approx(math.exp(-40) / 1e-3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_rows_of_nan_and_infinity_give_distinct_ids_in_range(dtype, score):
    inf, nan = math.inf, math.nan
    rows = [[0.0] * 8, [-inf] * 8, [nan] * 8, [inf] * 8, [nan, 1, 2, 3, nan, 5, 6, 7], [inf, inf, *[0.0] * 6]]
    rows += [[-inf, -inf, -inf, 0, -inf, -inf, -inf, -inf], [-1e4, 1e4, -3e4, 3e4, 1e-6, -1e-6, 0, -0.0]]
    logits = torch.tensor(rows, dtype=dtype, device=DEVICE)
    logits[2, 2] = -logits[2, 2]  # a NaN may have a sign
    for bias in (None, torch.zeros(8, device=DEVICE)):
        _, experts = check(logits, Gating(8, 3, score, added=1e-20), bias)
        assert all(len(set(row)) == 3 for row in experts.tolist())
    grouped = Gating(8, 3, score, groups=4, groups_kept=2, group_score="top2_sum")
    _, experts = route(logits, grouped)
    assert all(len(set(row)) == 3 and set(row) <= set(range(8)) for row in experts.tolist())


@pytest.mark.parametrize(
    ("experts", "top_k", "ids"), [(8, 2, torch.uint8), (60, 4, torch.uint8), (256, 8, torch.int16)]
)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_record_is_of_the_same_decision_and_touches_nothing_else(experts, top_k, ids, score):
    """13 tokens, recorded from row 5 of 30."""
    record = empty_record(30, top_k, ids, first=5)
    logits, gating = random(13, experts, dtype=torch.bfloat16), Gating(experts, top_k, score)
    weights, chosen = check(logits, gating, record=record, block_m=8)
    inside = slice(5, 18)
    assert record.experts[inside].tolist() == chosen.tolist()
    assert torch.equal(record.weights[inside], weights.half())
    untouched = torch.ones(30, dtype=torch.bool)
    untouched[inside] = False
    assert (record.weights[untouched] == POISON).all()
    assert (record.experts[untouched] == 99).all()
    assert record.cursor.item() == 5  # `advance` moves it, after the launch


def test_the_cursor_moves_on_and_rows_beyond_the_end_are_left_out():
    record = empty_record(10, 2, torch.uint8)
    gating = Gating(8, 2)
    chosen = []
    for step in range(2):
        chosen += route(random(6, 8, seed=step), gating, record=record)[1].tolist()
        record.advance(6)
    assert record.experts.tolist() == chosen[:10]
    assert record.cursor.item() == 12  # two rows were lost


def empty_record(rows, top_k, ids, first=0):
    return Record(
        experts=torch.full((rows, top_k), 99, dtype=ids, device=DEVICE),
        weights=torch.full((rows, top_k), POISON, dtype=torch.float16, device=DEVICE),
        cursor=torch.tensor([first], device=DEVICE),
    )


def test_the_margin_is_the_distance_to_the_best_expert_left_out():
    """Of the reference alone: capture asks it which tokens are ties, and the kernel need not know."""
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0], [4.0, 1.0, 2.5, 2.0]])
    assert route_torch(logits, Gating(4, 2)).margin.tolist() == [0.0, 0.5]  # 0: a tie at the boundary
    assert route_torch(logits, Gating(4, 4)).margin.tolist() == [math.inf, math.inf]


def test_a_slice_of_a_wider_table_is_read_where_it_stands():
    wide = random(7, 20)
    check(wide[:, 3:11], Gating(8, 2))


def test_no_tokens_are_no_launch():
    weights, experts = route(torch.zeros(0, 8, device=DEVICE), Gating(8, 2))
    assert weights.shape == experts.shape == (0, 2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"experts": 513}, "experts must be 1 to 512"),
        ({"top_k": 17, "experts": 64}, "top_k must be 1 to 16"),
        ({"top_k": 9}, "as many candidates"),
        ({"groups": 3}, "equal size"),
        ({"groups": 4, "groups_kept": 5}, "groups_kept.*1"),
        ({"groups": 8, "group_score": "top2_sum", "groups_kept": 8}, "two experts in a group"),
        ({"score": "relu"}, "score must be one of softmax"),
    ],
)
def test_what_cannot_be_routed_is_reported(wrong, says):
    with pytest.raises(ValueError, match=says):
        Gating(**{"experts": 8, "top_k": 2, **wrong})


def test_logits_of_another_number_of_experts_and_a_record_of_rows_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\b8\b"):
        route(torch.zeros(3, 9, device=DEVICE), Gating(8, 2))
    with pytest.raises(ValueError, match=r"\(3, 2\) .*\(4, 2\)"):
        Record(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(1))


@pytest.mark.parametrize("name", GATINGS)
def test_what_the_benchmark_times_is_the_same_decision(name):
    gating = GATINGS[name]
    bias = random(gating.experts, seed=5, scale=0.1) if gating.groups > 1 else None
    logits = random(6, gating.experts)
    expected = route_torch(logits, gating, bias)
    for way, arm in arms(gating, bias, 6, DEVICE).items():
        weights, experts = arm(logits)
        order, expected_order = experts.argsort(dim=-1), expected.experts.argsort(dim=-1)
        assert torch.equal(experts.gather(1, order).int(), expected.experts.gather(1, expected_order)), way
        torch.testing.assert_close(weights.gather(1, order), expected.weights.gather(1, expected_order), **ROUNDING)


@pytest.mark.gpu
def test_a_cuda_graph_records_at_every_replay():
    record, gating = empty_record(64, 8, torch.uint8), Gating(64, 8)
    logits = random(8, 64, dtype=torch.bfloat16)
    route(logits, gating, record=record)  # compiled before it is captured
    record.cursor.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        route(logits, gating, record=record)
        record.advance(8)
    expected = []
    for step in range(3):
        logits.copy_(random(8, 64, dtype=torch.bfloat16, seed=step))
        graph.replay()
        expected += route_torch(logits, gating).experts.tolist()
    assert record.cursor.item() == 24
    assert record.experts[:24].tolist() == expected
