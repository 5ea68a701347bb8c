"""Dispatch and experts against plain torch. Without a GPU in Triton's interpreter, hence small sorts and tiles."""

import pytest
import torch

from moe_kernels.dispatch import plan_dispatch
from moe_kernels.experts import run_experts
from moe_kernels.gating import Gating
from moe_kernels.reference import plan_dispatch_torch, route_torch, run_experts_torch
from moe_kernels.tiles import ExpertsTile, experts_tile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = ExpertsTile(16, 32, 32, 4, 3)
ERROR = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1.2e-2}  # the interpreter truncates to bfloat16


def choices(tokens, experts, top_k, favourite=None):
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)]).int()
    if favourite is not None:
        ids[:, 0] = favourite
    return ids.to(DEVICE)


@pytest.mark.parametrize("block", [None, 16], ids=["one launch", "three launches"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 8, 2), (5, 8, 2), (8, 60, 4), (13, 128, 8), (2, 2, 1)])
def test_the_plan_is_a_stable_sort_by_expert(tokens, experts, top_k, block):
    for favourite in (None, 0):
        ids = choices(tokens, experts, top_k, favourite)
        plan, expected = plan_dispatch(ids, experts, 16, block), plan_dispatch_torch(ids, experts, 16)
        for name in plan._fields:
            ours, theirs = getattr(plan, name), getattr(expected, name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, name
        assert plan.tile_end[-1] <= plan.max_tiles


@pytest.mark.parametrize("dtype", ERROR, ids=str)
@pytest.mark.parametrize(
    ("tokens", "hidden", "width", "experts", "top_k"), [(1, 32, 48, 8, 2), (7, 40, 24, 8, 2), (40, 64, 32, 5, 3)]
)
def test_the_experts_are_those_of_the_formula(tokens, hidden, width, experts, top_k, dtype):
    """Sizes that fill no tile, experts without a token, and more rows of one expert than a tile has."""
    generator = torch.Generator().manual_seed(0)

    def weights(*shape):
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(dtype).to(DEVICE)

    x, gate_up, down = weights(tokens, hidden), weights(experts, 2 * width, hidden), weights(experts, hidden, width)
    routing = route_torch(weights(tokens, experts).float() * 8, Gating(experts, top_k))
    plan = plan_dispatch(routing.experts, experts, TILE.rows)
    on_cpu = DEVICE == "cpu" and dtype == torch.bfloat16
    out = run_experts(x, gate_up, down, routing.weights, plan, TILE, in_float32=on_cpu)
    expected = run_experts_torch(x, gate_up, down, routing.experts, routing.weights)
    assert (out.cpu().double() - expected).norm() / expected.norm() < ERROR[dtype]


def test_tiles_grow_with_the_work_of_an_expert():
    assert experts_tile(8, 8, 90).rows == 16
    assert experts_tile(8 * 40, 8, 90).rows == 64
    assert experts_tile(8 * 400, 8, 90).rows == 128
    assert experts_tile(8 * 400, 8, 80).columns == 64  # where two large accumulators would spill
