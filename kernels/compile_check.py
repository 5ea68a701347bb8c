"""Compile every kernel and tile for the GPUs that may meet them, without one: `python kernels/compile_check.py`.

`--part 3/8` compiles the third eighth of them, and `--for 80 gfx942` for these GPUs only: compute capabilities of
NVIDIA's, and AMD's by their names, for which the experts have no kernels.

Fails if a kernel spills registers or uses a stack, asks for more shared memory than its GPU gives a program, if a
large tile of the experts lost its tensor-core instructions, or if recording adds too much to the router's
instructions. It compiles, so it runs in a process of its own, never in the interpreter's.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moe_kernels import dispatch, experts, router, tiles
from moe_kernels.gating import Gating

# By compute capability, or by name: bytes of shared memory that a program may ask for.
SHARED_MEMORY: dict[int | str, int] = {
    75: 65_536,
    80: 166_912,
    86: 101_376,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    120: 101_376,
}
SHARED_MEMORY |= {"gfx90a": 65_536, "gfx942": 65_536}
TENSOR_CORES = {90: "HGMMA", 100: "UTCHMMA"}  # the instruction of their generation; HMMA elsewhere
MOST_TRACED = 1.20  # instructions of the router with its record / without
MOST_TRACED_OF_MANY = 1.07  # the same, from MANY experts up
MANY = 64
MOST_REGISTERS = 96  # of the router: more would leave too few warps to hide the loads
AMD_INSTRUCTION = re.compile(r"^\s+((?:v|s|ds|buffer|global|flat|scratch)_\w+)", re.M)
INSTRUCTION = re.compile(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]+)", re.M)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTER = {"expert_ptr": "*i32", "record_expert_ptr": "*i16", "record_weight_ptr": "*fp32", "cursor_ptr": "*i64"}
FLOAT32 = {"weight_ptr", "bias_ptr"}
INTEGERS = ("count", "start", "end", "order", "place", "part")
ROUTED = ("bf16", "fp16", "fp32")  # logits
RECORDS = {"plain": {"RECORDS": False}, "traced": {"RECORDS": True}}
ROUTERS = {
    "softmax (8, 2)": Gating(8, 2),
    "softmax (60, 4)": Gating(60, 4, renormalise=False),
    "softmax (64, 8)": Gating(64, 8),
    "softmax (128, 8)": Gating(128, 8),
    "softmax (512, 10)": Gating(512, 10),
    "softmax, groups (160, 6)": Gating(160, 6, renormalise=False, scale=16.0, groups=8, groups_kept=3),
    "sqrtsoftplus, bias (256, 8)": Gating(256, 8, "sqrtsoftplus", scale=1.5, added=1e-20),
    "sigmoid, bias, groups (256, 8)": Gating(
        256, 8, "sigmoid", scale=2.5, added=1e-20, groups=8, groups_kept=4, group_score="top2_sum"
    ),
}


Gpu = int | str  # NVIDIA's compute capability, or AMD's name


class Case(NamedTuple):
    """A kernel with everything that is fixed when it is compiled."""

    name: str
    kernel: Any
    dtype: str
    constants: dict[str, Any]
    options: dict[str, int]
    tensor_cores: bool = False


class Compiled(NamedTuple):
    """Figures of a compiled kernel, as the assembler gives them."""

    registers: int
    stack: int
    shared: int  # bytes
    instructions: Counter[str]


def router_cases() -> Iterator[Case]:
    """Yield the cases of the router: every way of gating, without a record and with one."""
    for name, gating in ROUTERS.items():
        has_bias = gating.score != "softmax"
        for dtype in ROUTED:
            tile = tiles.router_tile(gating)
            blocks = {name.upper(): size for name, size in tile._asdict().items() if name != "warps"}
            for record, flags in RECORDS.items():
                constants = router.gating_flags(gating, has_bias) | flags | blocks
                yield Case(
                    f"{name} {dtype} {record}", router._route_kernel, dtype, constants, {"num_warps": tile.warps}
                )


def dispatch_cases() -> Iterator[Case]:
    """Dispatch for few and for many experts."""
    for num_experts in (8, 512):
        block_e = triton.next_power_of_2(num_experts)
        shape = {"E": num_experts, "BLOCK": tiles.BLOCK, "BLOCK_E": block_e}
        scan = {"E": num_experts, "TILE": 64, "ROWS": tiles.scan_rows(block_e), "BLOCK_E": block_e}
        yield Case(f"count ({num_experts})", dispatch._count_kernel, "i32", shape, {"num_warps": 4})
        yield Case(f"scan ({num_experts})", dispatch._scan_kernel, "i32", scan, {"num_warps": 8})
        yield Case(f"scatter ({num_experts})", dispatch._scatter_kernel, "i32", shape, {"num_warps": 4})
        for block in (128, tiles.SORTED_AT_ONCE):
            constants = shape | {"TILE": 16, "BLOCK": block}
            yield Case(f"sort {block} ({num_experts})", dispatch._sort_kernel, "i32", constants, {"num_warps": 4})


def expert_cases(capability: Gpu) -> Iterator[Case]:
    """Yield the cases of the experts with every tile that this capability may have, in Mixtral's and Qwen3's sizes."""
    device = tiles.Device(0 if isinstance(capability, str) else capability, SHARED_MEMORY[capability])
    if tiles.why_not_experts(torch.bfloat16, device):
        return
    for num_experts, top_k, hidden, width in ((8, 2, 4_096, 14_336), (128, 8, 2_048, 768)):
        for tile in {tiles.experts_tile(per * num_experts, num_experts, device) for per in (1, 32, 1_000)}:
            shape = {"D": hidden, "W": width, "E": num_experts, "BLOCK_E": num_experts, "IN_FLOAT32": False}
            shape |= {"BM": tile.rows, "BN": tile.columns, "BK": tile.inner}
            options = {"num_warps": tile.warps, "num_stages": tile.stages}
            name = f"{tile.rows}x{tile.columns}x{tile.inner} ({num_experts}, {top_k})"
            large = tile.rows >= 64
            yield Case(f"up {name}", experts._up_kernel, "bf16", shape | {"K": top_k}, options, large)
            yield Case(f"down {name}", experts._down_kernel, "bf16", shape, options, large)
    yield Case("combine", experts._combine_kernel, "bf16", {"K": 8, "BLOCK": 1_024}, {"num_warps": 4})


def signature(case: Case) -> dict[str, str]:
    """Return the types of the kernel's arguments, by their names."""
    types = {}
    for name in case.kernel.arg_names:
        if name in case.constants:
            types[name] = "constexpr"
        elif name in FLOAT32:
            types[name] = "*fp32"
        elif name in POINTER:
            types[name] = POINTER[name]
        elif name.endswith("_ptr"):
            types[name] = "*i32" if name.startswith(INTEGERS) else f"*{case.dtype}"
        else:
            types[name] = "fp32" if name in ("scale", "added", "floor") else "i32"
    return types


def compiled(case: Case, capability: Gpu) -> Compiled:
    """Compile, and read the machine code back. Pointers and strides are multiples of 16, as torch's are."""
    types = signature(case)
    aligned = [i for i, name in enumerate(types) if name.endswith("_ptr") or name == "stride_x"]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=case.kernel, signature=types, constexprs=case.constants, attrs=attributes)
    is_amd = isinstance(capability, str)
    target = GPUTarget("hip", capability, 64) if is_amd else GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options=case.options | tiles.LAUNCH)
    if is_amd:
        return _of_amd(kernel.asm["amdgcn"], kernel.metadata.shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return Compiled(numbers["REG"], numbers["STACK"], kernel.metadata.shared, Counter(INSTRUCTION.findall(code)))


def _of_amd(code: str, shared: int) -> Compiled:
    """Read the figures in AMD's assembly: vector registers, and as the stack what a lane keeps in memory."""
    registers, stack = (
        int(re.search(rf"\.{what}:\s+(\d+)", code)[1]) for what in ("vgpr_count", "private_segment_fixed_size")
    )
    return Compiled(registers, stack, shared, Counter(AMD_INSTRUCTION.findall(code)))


def tool(name: str, *arguments: str) -> str:
    """Run a program that comes with Triton."""
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def faults(case: Case, result: Compiled, capability: Gpu) -> list[str]:
    """List what is wrong with one kernel."""
    code, found = result.instructions, []
    if result.stack or code["LDL"] or code["STL"]:
        found.append(f"spills: a stack of {result.stack} bytes")
    if result.shared > SHARED_MEMORY[capability]:
        found.append(f"{result.shared:,} bytes of shared memory, and there are {SHARED_MEMORY[capability]:,}")
    if case.tensor_cores and not code[TENSOR_CORES.get(capability, "HMMA")]:
        found.append("no tensor-core instructions")
    if case.kernel is router._route_kernel and result.registers > MOST_REGISTERS:
        found.append(f"{result.registers} registers, at most {MOST_REGISTERS} are wanted")
    return found


def recording_faults(results: dict[str, Compiled], capability: Gpu) -> Iterator[str]:
    """Routers whose record costs too much, of those that were compiled."""
    for name, gating in ROUTERS.items():
        most = MOST_TRACED if gating.experts < MANY else MOST_TRACED_OF_MANY
        for dtype in ROUTED:
            if f"{name} {dtype} plain" not in results:
                continue
            plain, traced = (results[f"{name} {dtype} {which}"].instructions.total() for which in ("plain", "traced"))
            ratio, which = traced / plain, f"{name_of(capability)} {name} {dtype}"
            print(f"{which}: traced / plain instructions {ratio:.3f}", flush=True)
            if round(ratio, 2) > most:
                yield f"{which}: recording takes {ratio:.2f} times the instructions"


def name_of(capability: Gpu) -> str:
    """Return a GPU's architecture, as compilers name it."""
    return capability if isinstance(capability, str) else f"sm_{capability}"


def cases_of(capability: Gpu, part: int, parts: int) -> list[Case]:
    """Return every `parts`-th case from number `part` on, from 0; a router without its record and with it are one."""
    routers = list(router_cases())
    pairs = list(zip(routers[::2], routers[1::2], strict=True))
    alone = [(case,) for case in (*dispatch_cases(), *expert_cases(capability))]
    some = [case for together in [*pairs, *alone][part::parts] for case in together]
    return [case for case in some if case.dtype in dtypes_of(capability)]


def dtypes_of(capability: Gpu) -> set[str]:
    """Return the dtypes that models have on these GPUs: before sm_80 there is no bfloat16."""
    return {"bf16", "fp16", "fp32", "i32"} - ({"bf16"} if isinstance(capability, int) and capability < 80 else set())


def check(capability: Gpu, part: int = 0, parts: int = 1) -> list[str]:
    """Compile the cases of one capability, with a line a kernel; what is wrong."""
    results, wrong = {}, []
    for case in cases_of(capability, part, parts):
        result = results[case.name] = compiled(case, capability)
        total = result.instructions.total()
        print(f"{name_of(capability)} {case.name:44} {total:6} instructions {result.registers:4} registers", flush=True)
        wrong += [f"{name_of(capability)} {case.name}: {fault}" for fault in faults(case, result, capability)]
    return wrong + list(recording_faults(results, capability))


def _gpu(text: str) -> Gpu:
    return int(text) if text.isdecimal() else text


def main() -> None:
    """Several processes, one capability each; exit with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Compile the kernels for GPUs that are not here.")
    parser.add_argument("--part", default="1/1", help="which part of how many, such as 3/8 (default: 1/1, all)")
    parser.add_argument(
        "--for", dest="capabilities", type=_gpu, nargs="+", choices=SHARED_MEMORY, default=[*SHARED_MEMORY], metavar="N"
    )
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    print(f"triton {triton.__version__}, torch {torch.__version__}", flush=True)
    with ProcessPoolExecutor(min(len(asked.capabilities), os.cpu_count() or 1)) as processes:
        checks = [processes.submit(check, capability, part - 1, parts) for capability in asked.capabilities]
        wrong = [fault for done in checks for fault in done.result()]
    for fault in wrong:
        print(f"WRONG: {fault}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
