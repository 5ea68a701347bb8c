"""The kernels on a CUDA GPU: the cost of recording, compared with the other ways.

    python -m benchmarks.kernels [--lines FILE] [--rounds N] [--only WORDS]

Every arm of a case is captured as a CUDA graph that calls it once for each of several input sets; the graphs are
replayed in turn, round after round, and medians are printed. "again" is the plain arm once more: below its distance
from 1 a difference is noise. Goals are printed next to the measurements. Without a GPU there is nothing to measure.

With `--lines` each case is appended to a file as it is done, and a case that is there is not measured again: after an
interruption the same command goes on. A case that fails is a line that says how, and the others are measured.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from transformers import MixtralConfig
from transformers.integrations.moe import grouped_mm_experts_forward
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralSparseMoeBlock

from moe_kernels.buffers import Record
from moe_kernels.dispatch import plan_dispatch
from moe_kernels.experts import run_experts
from moe_kernels.gating import Gating
from moe_kernels.router import route
from moe_kernels.tiles import device_of, experts_tile

Arm = Callable[[Tensor], tuple[Tensor, Tensor]]


# The ways of routing that are timed. Each gives (weights, expert ids) of logits.


def arms(gating: Gating, bias: Tensor | None, rows: int, device: str) -> dict[str, Arm]:
    """Return every way that knows this gating, by name; the traced ones write to a record of their own."""
    record = new_record(gating, rows, device)
    copies = new_record(gating, rows, device)
    return {
        "plain": partial(route, gating=gating, bias=bias),
        "traced": partial(route, gating=gating, bias=bias, record=record),
        "plain + copies": partial(route_then_copy, gating=gating, bias=bias, record=copies),
        "transformers": partial(transformers_router, gating=gating, bias=bias),
    }


def new_record(gating: Gating, rows: int, device: str) -> Record:
    """Return the record that capture keeps: ids as in `moeviz.RoutingTrace`, and weights as a router gives them."""
    return Record(
        experts=torch.empty(rows, gating.top_k, dtype=torch.int16, device=device),
        weights=torch.empty(rows, gating.top_k, dtype=torch.bfloat16, device=device),
        cursor=torch.zeros(1, dtype=torch.int64, device=device),
    )


def route_then_copy(logits: Tensor, gating: Gating, bias: Tensor | None, record: Record) -> tuple[Tensor, Tensor]:
    """Run the router, and copy its decision afterwards, as engines do."""
    weights, experts = route(logits, gating, bias)
    record.experts[: len(experts)].copy_(experts)
    record.weights[: len(weights)].copy_(weights)
    return weights, experts


def transformers_router(logits: Tensor, gating: Gating, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Route as Mixtral's and DeepSeek-V3's routers do in transformers 5.25, after their logits."""
    if gating.score == "softmax":
        weights, experts = torch.topk(logits.float().softmax(dim=-1), gating.top_k, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), experts
    scores = logits.float().sigmoid()
    choice = scores + bias
    groups = choice.view(len(choice), gating.groups, gating.group_size).topk(2, dim=-1)[0].sum(dim=-1)
    best = torch.topk(groups, k=gating.groups_kept, dim=-1, sorted=False)[1]
    mask = torch.zeros_like(groups).scatter_(1, best, 1).repeat_interleave(gating.group_size, dim=1)
    experts = torch.topk(choice.masked_fill(mask == 0, float("-inf")), gating.top_k, dim=-1, sorted=False)[1]
    weights = scores.gather(1, experts)
    return weights / (weights.sum(dim=-1, keepdim=True) + gating.added) * gating.scale, experts


TOKENS = (1, 16, 512, 4_096, 16_384)
GATINGS = {
    "(8, 2)": Gating(8, 2),
    "(64, 8)": Gating(64, 8),
    "(128, 8)": Gating(128, 8),
    "(256, 8) groups": Gating(
        256, 8, "sigmoid", added=1e-20, scale=2.5, groups=8, groups_kept=4, group_score="top2_sum"
    ),
    "(512, 10)": Gating(512, 10),
}
SHAPES = {"Mixtral 8x7B": (8, 2, 4_096, 14_336), "Qwen3 30B": (128, 8, 2_048, 768)}  # E, K, D, W
ROTATED = 96 << 20  # bytes of input sets: more than the cache of an H100 holds
WARM_UP = 20
GOALS = """Goals on an H100: traced / plain <= 1.10 (T >= 4096, E >= 64); traced - plain <= 0.2 us (T <= 512);
transformers / plain >= 6 (T = 1) and >= 12 (T = 16384); plain (128, 8) T = 16384 <= 8 us; dispatch of <= 1024
assignments in one launch <= 5 us; experts at T = 1 >= 75% of the memory bandwidth."""

Result = dict[str, Any]


def graph_of(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """All calls in one graph, warmed up before."""
    for call in calls * 2:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def microseconds(ways: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Measure the median time of one call of each variant, all interleaved."""
    graphs = {name: graph_of(calls) for name, calls in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + WARM_UP):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(1e3 * start.elapsed_time(end) / len(ways[name]))
    return {name: statistics.median(values[WARM_UP:]) for name, values in times.items()}


def bandwidth(rounds: int) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / microseconds({"copy": [partial(target.copy_, source)]}, rounds)["copy"] * 1e6


def router_case(name: str, tokens: int, rounds: int, bytes_per_second: float) -> Result:
    """All ways of routing `tokens` tokens of bfloat16 logits."""
    gating = GATINGS[name]
    bias = torch.rand(gating.experts, device="cuda") if gating.groups > 1 else None
    sets = max(2, min(16, ROTATED // (tokens * gating.experts * 2)))
    inputs = [torch.randn(tokens, gating.experts, device="cuda").bfloat16() for _ in range(sets)]
    found = arms(gating, bias, tokens, "cuda")
    torch._dynamo.reset()  # or it gives up after eight cases, and times what is not compiled
    found["torch.compile"] = torch.compile(found["transformers"], dynamic=False)
    ways = {way: [partial(arm, x) for x in inputs] for way, arm in found.items()}
    times = microseconds(ways | {"again": ways["plain"]}, rounds)
    moved = tokens * (2 * gating.experts + 8 * gating.top_k)
    return {"us": times, "floor_us": moved / bytes_per_second * 1e6}


def dispatch_case(experts: int, top_k: int, tokens: int, rounds: int) -> Result:
    """Measure the plan of `tokens` tokens, compared with torch's stable sort."""
    ids = torch.rand(tokens, experts, device="cuda").argsort(dim=-1)[:, :top_k].int()
    ways = {
        "plain": [partial(plan_dispatch, ids, experts, 64)],
        "torch.sort": [lambda: torch.sort(ids.flatten(), stable=True)],
    }
    return {"us": microseconds(ways, rounds)}


def experts_case(name: str, tokens: int, rounds: int, bytes_per_second: float) -> Result:
    """Measure the experts of one layer in bfloat16, dispatch included, compared with transformers' grouped_mm."""
    experts, top_k, hidden, width = SHAPES[name]
    module = experts_module(name)
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    weights, ids = route(torch.randn(tokens, experts, device="cuda"), Gating(experts, top_k))
    tile = experts_tile(tokens * top_k, experts, device_of(0))

    def ours() -> torch.Tensor:
        plan = plan_dispatch(ids, experts, tile.rows)
        return run_experts(x, module.gate_up_proj, module.down_proj, weights, plan, tile)

    ways = {"plain": [ours], "grouped_mm": [partial(grouped_mm_experts_forward, module, x, ids.long(), weights)]}
    read = len(ids.unique()) * 3 * hidden * width * 2
    work = 6 * tokens * top_k * hidden * width
    return {"us": microseconds(ways, rounds), "floor_us": read / bytes_per_second * 1e6, "flop": work}


def experts_module(name: str) -> MixtralExperts:
    """Random experts of this shape on the GPU."""
    experts, top_k, hidden, width = SHAPES[name]
    config = MixtralConfig(
        hidden_size=hidden, intermediate_size=width, num_local_experts=experts, num_experts_per_tok=top_k
    )
    with torch.device("cuda"):
        module = MixtralExperts(config).bfloat16()
    for weight in module.parameters():
        weight.data.normal_(0, 0.02)
    return module.requires_grad_(False)


def block_case(tokens: int, rounds: int) -> Result:
    """Measure two MoE blocks of Mixtral 8x7B's shape: stock, and with our router, dispatch and experts."""
    config = MixtralConfig(experts_implementation="grouped_mm")
    with torch.device("cuda"):
        blocks = [MixtralSparseMoeBlock(config).bfloat16().requires_grad_(False) for _ in range(2)]
    for weight in (weight for block in blocks for weight in block.parameters()):
        weight.data.normal_(0, 0.02)
    gating = Gating(config.num_local_experts, config.num_experts_per_tok)
    tile = experts_tile(tokens * gating.top_k, gating.experts, device_of(0))
    x = torch.randn(1, tokens, config.hidden_size, device="cuda", dtype=torch.bfloat16)

    def stock() -> torch.Tensor:
        return blocks[1](blocks[0](x))

    def ours() -> torch.Tensor:
        hidden = x[0]
        for block in blocks:
            weights, ids = route(torch.nn.functional.linear(hidden, block.gate.weight), gating)
            plan = plan_dispatch(ids, gating.experts, tile.rows)
            experts = block.experts
            hidden = run_experts(hidden, experts.gate_up_proj, experts.down_proj, weights, plan, tile)
        return hidden

    return {"us": microseconds({"plain": [ours], "stock": [stock]}, rounds)}


def line(result: Result) -> str:
    """Return one row of the table: times in microseconds, and each as a ratio to ours."""
    if "error" in result:
        return f"{result['case']:34} failed: {result['error']}"
    times = result["us"]
    cells = [f"{name} {value:.2f} us (x{value / times['plain']:.2f})" for name, value in times.items()]
    floor = f" | floor {result['floor_us']:.2f} us" if "floor_us" in result else ""
    return f"{result['case']:34} {'  '.join(cells)}{floor}"


def cases(rounds: int, copy: float) -> dict[str, Callable[[], Result]]:
    """Return every case by its name; those that the promise rests on come first."""
    found: dict[str, Callable[[], Result]] = {}
    for name in GATINGS:
        found |= {f"router {name} T={tokens}": partial(router_case, name, tokens, rounds, copy) for tokens in TOKENS}
    found |= {
        f"dispatch (128, 8) T={tokens}": partial(dispatch_case, 128, 8, tokens, rounds) for tokens in (1, 128, 16_384)
    }
    for name in SHAPES:
        for tokens in (1, 16, 512, 4_096):
            found[f"experts {name} T={tokens}"] = partial(experts_case, name, tokens, rounds, copy)
    return found | {f"two Mixtral blocks T={tokens}": partial(block_case, tokens, rounds) for tokens in (1, 512)}


def measured(name: str, case: Callable[[], Result]) -> Result:
    """Return a case's figures with its name, or its error if it failed."""
    try:
        return {"case": name} | case()
    except Exception as error:  # one case that a GPU cannot run says nothing of the others
        return {"case": name, "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def read_lines(file: Path) -> list[Result]:
    """Whole lines of a file: the last may have been cut off."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("}\n")]


@torch.no_grad()
def main(given: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, metavar="FILE", help="append all figures there, a line a case")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose names have these words in them")
    arguments = parser.parse_args(given)
    if not torch.cuda.is_available():
        sys.exit("benchmarks.kernels measures a CUDA GPU, which this machine does not have.")
    about = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    before = read_lines(arguments.lines) if arguments.lines else []
    copy = next((row["copy"] for row in before if "copy" in row), None) or bandwidth(20)
    if arguments.lines is not None:
        first = [] if before else [{"about": about, "copy": copy, "goals": GOALS}]
        arguments.lines.write_text(
            "".join(json.dumps(row) + "\n" for row in [*before, *first])
        )  # what was cut off goes
    print(f"{about}, copy {copy / 1e12:.2f} TB/s\n{GOALS}\n")
    done = {row.get("case") for row in before}
    results = [row for row in before if "case" in row]
    for name, case in cases(arguments.rounds, copy).items():
        if arguments.only in name and name not in done:
            results.append(measured(name, case))
            _append(arguments.lines, results[-1])
            print(line(results[-1]), flush=True)
    return int(any("error" in row for row in results))


def _append(file: Path | None, row: Result) -> None:
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
