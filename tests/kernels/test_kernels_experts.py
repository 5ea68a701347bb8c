"""Dispatch and experts against plain torch. Without a GPU in Triton's interpreter, hence small sorts and tiles."""

import re

import pytest
import torch

from moe_kernels import dispatch, router
from moe_kernels import experts as experts_module
from moe_kernels.dispatch import plan_dispatch
from moe_kernels.experts import run_experts
from moe_kernels.gating import Gating
from moe_kernels.reference import plan_dispatch_torch, route_torch, run_experts_torch
from moe_kernels.tiles import (
    LARGE_TILE,
    Device,
    ExpertsTile,
    experts_tile,
    scan_rows,
    shared_memory_of,
    why_not_experts,
)

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


def test_the_scan_of_the_blocks_goes_on_after_those_that_it_adds_up_at_once():
    """Of 16 assignments each, one block more than two passes of its loop hold, and one less."""
    at_once = scan_rows(8)
    for blocks in (at_once + 1, 2 * at_once + 1, 2 * at_once - 1):
        ids = choices(16 * blocks // 2, 8, 2)
        plan, expected = plan_dispatch(ids, 8, 16, 16), plan_dispatch_torch(ids, 8, 16)
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(plan, expected, strict=True)
            if isinstance(ours, torch.Tensor)
        ), blocks


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


H100, A100, RTX_4090 = Device(90, 232_448), Device(80, 166_912), Device(89, 101_376)


def test_tiles_grow_with_the_work_of_an_expert():
    assert experts_tile(8, 8, H100).rows == 16
    assert experts_tile(8 * 40, 8, H100).rows == 64
    assert experts_tile(8 * 400, 8, H100).rows == 128
    for device in (A100, Device(120, 101_376)):
        assert experts_tile(8 * 400, 8, device).columns == 64  # where two large accumulators would spill


@pytest.mark.parametrize("device", [H100, A100, RTX_4090, Device(120, 101_376), Device(90, 65_536)], ids=str)
def test_every_tile_fits_into_the_memory_of_its_device(device):
    for work in (1, 32, 1_000):
        assert shared_memory_of(experts_tile(8 * work, 8, device)) <= device.shared_memory
    assert shared_memory_of(LARGE_TILE) == 98_304  # as ptxas counts it for sm_90


def test_experts_run_in_kernels_in_16_bits_and_on_gpus_with_the_tensor_cores_for_it():
    assert why_not_experts(torch.bfloat16, RTX_4090) == "" == why_not_experts(torch.float16, A100)
    for dtype in (torch.float32, torch.float8_e4m3fn):
        assert f"are in {str(dtype).removeprefix('torch.')}" in why_not_experts(dtype, H100)
    for device in (Device(75, 65_536), Device(0, 65_536)):  # a T4, and a GPU of AMD's
        assert "compute capability 8.0" in why_not_experts(torch.bfloat16, device)


def test_every_launch_is_on_the_device_of_its_tensors_and_leaves_no_default_to_triton(monkeypatch):
    """Triton launches on the current device, whatever the tensors' is; newer ones warn of a default for fusion."""
    inside, launched = [], []

    class Guard:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            inside.append(self.tensor.device)

        def __exit__(self, *_):
            inside.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: launched.append((bool(inside), options["enable_fp_fusion"]))

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    kernels = [(module, name) for module in (router, dispatch, experts_module) for name in vars(module)]
    for module, name in [(module, name) for module, name in kernels if re.fullmatch(r"_\w+_kernel", name)]:
        monkeypatch.setattr(module, name, Kernel())
    router.route(torch.zeros(3, 8, device=DEVICE), Gating(8, 2))
    for block in (None, 16):
        plan = plan_dispatch(choices(40, 8, 2), 8, 16, block)
    x, weights = torch.zeros(40, 32), torch.zeros(40, 2)
    run_experts(x, torch.zeros(8, 96, 32), torch.zeros(8, 32, 48), weights, plan, TILE)
    assert launched == [(True, True)] * (1 + 1 + 3 + 3) and not inside
