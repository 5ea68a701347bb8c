"""How much memory does it take to compare two checkpoints, whatever their size?

    python -m benchmarks.lineage [--gigabytes N] [--folder FOLDER]

A checkpoint of made-up experts (bfloat16, in shards), and a child of it: its experts in another order, one of each
layer cut and two averaged. Prints the greatest memory of a process that finds all of that again, beside one that only
imports moeviz. The files are deleted afterwards.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HIDDEN, WIDTH, EXPERTS = 2048, 1024, 16
SHAPES = {"gate_proj": (WIDTH, HIDDEN), "up_proj": (WIDTH, HIDDEN), "down_proj": (HIDDEN, WIDTH)}
OF_EXPERT = 2 * 3 * WIDTH * HIDDEN  # bytes
CUT, AVERAGED = 3, (0, 1)  # of each layer
RUN = """
import json, resource, sys
from moeviz.analyses.lineage import lineage
told = []
if len(sys.argv) > 1:
    table = lineage(*sys.argv[1:]).table
    told = table[["layer", "expert", "what", "base_experts"]].values.tolist()
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, told]))
"""


def numbers(layer: int, expert: int, name: str) -> np.ndarray:
    """The weights of one matrix, the same whenever they are asked for."""
    rng = np.random.default_rng([layer, expert, sorted(SHAPES).index(name)])
    return rng.standard_normal(SHAPES[name], np.float32) * 0.02


def write(folder: Path, layers: int, experts: list[Callable[[int, str], np.ndarray]]) -> None:
    """Write a shard a layer, matrix by matrix, with the index that transformers writes."""
    places = {}
    for layer in range(layers):
        header, names = dict[str, object](), [(at, name) for at in range(len(experts)) for name in SHAPES]
        for at, (expert, name) in enumerate(names):
            key, size = f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight", OF_EXPERT // 3
            header[key] = {"dtype": "BF16", "shape": SHAPES[name], "data_offsets": [at * size, (at + 1) * size]}
            places[key] = f"layer-{layer}.safetensors"
        with (folder / f"layer-{layer}.safetensors").open("wb") as file:
            text = json.dumps(header).encode()
            file.write(len(text).to_bytes(8, "little") + text)
            for expert, name in names:
                file.write((experts[expert](layer, name).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def one(number: int) -> Callable[[int, str], np.ndarray]:
    """An expert of the base."""
    return lambda layer, name: numbers(layer, number, name)


def mean(layer: int, name: str) -> np.ndarray:
    """Two experts of the base, averaged."""
    return np.mean([numbers(layer, number, name) for number in AVERAGED], axis=0, dtype=np.float32)


def measured(*checkpoints: Path) -> tuple[int, list[list[object]]]:
    """Bytes of a process at most, and what it found."""
    run = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, checkpoints)], stdout=subprocess.PIPE, check=True, text=True
    )
    memory, told = json.loads(run.stdout)
    return memory, told


def main() -> None:
    """Write both checkpoints, compare them, and print the memory that it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lineage", description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the larger checkpoint")
    parser.add_argument("--folder", default=None, help="where both are written")
    args = parser.parse_args()
    layers = max(2, round(args.gigabytes * 1e9 / OF_EXPERT / EXPERTS))
    needed = layers * OF_EXPERT * 2 * EXPERTS
    if needed > 0.8 * (free := shutil.disk_usage(args.folder or "/tmp").free):
        raise SystemExit(f"Both take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Give fewer --gigabytes.")
    rest = [number for number in reversed(range(EXPERTS)) if number not in (CUT, *AVERAGED)]
    with TemporaryDirectory(dir=args.folder) as folder:
        base, child = Path(folder, "base"), Path(folder, "child")
        for path, experts in ((base, map(one, range(EXPERTS))), (child, [*map(one, rest), mean])):
            path.mkdir()
            write(path, layers, [*experts])
        start = time.perf_counter()
        memory, told = measured(base, child)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in base.iterdir())
    expected = [["moved", [number]] for number in rest] + [["averaged", [*AVERAGED]]]
    right = sum([what, sorted(of)] == expected[at] for _, at, what, of in told if at >= 0)
    cut = sum(what == "cut" and of == [CUT] for _, _, what, of in told)
    print(f"{size / 1e9:.2f} GB in {layers} layers of {EXPERTS} experts, a matrix has {OF_EXPERT / 3e6:.1f} MB")
    print(f"told right: {right} of {layers * len(expected)} experts, {cut} of {layers} that were cut; {seconds:.0f} s")
    print(f"memory at most: {memory / 2**20:.0f} MiB, of which {measured()[0] / 2**20:.0f} MiB are its imports")


if __name__ == "__main__":
    main()
