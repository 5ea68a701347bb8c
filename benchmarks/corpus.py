"""The cost of a dataset: bytes per id on disk, CPU compared with the bare forward, memory, and seconds of its analyses.

    python -m benchmarks.corpus FOLDER                     every figure
    python -m benchmarks.corpus FOLDER --only bytes        one kind: bytes, tracing, memory, analyses, estimate

`bytes` measures made-up routing (the recipe is in `benchmarks/corpus_data.py`) and the embedded model's. `analyses`
asks a made-up dataset of ten million tokens, which is written to FOLDER/large if it is not there (gigabytes, minutes).
Whatever is asked about memory runs in a process of its own: `added` is what the question added to the peak of that
process after its imports, and `peak` the whole of it, Python and libraries included.

`estimate` is on paper: bytes, hours and nodes that a corpus of a billion tokens takes, from measured bytes and rates.

    bytes  = tokens · (L · bytes per layer of ids and weights + bytes of words and small tables)    measured
    hours  = tokens · 2 · active parameters / (GPUs · peak · share of it)    the forward, without attention
           + tokens · L · K / (ids a second · processes)    writing: each process writes what it traces

Sources of the models' numbers: arXiv 2401.04088 (Mixtral), 2505.09388 (Qwen3), 2412.19437 (DeepSeek-V3; 3 of its 61
layers are dense, and its weights are float8). The peak is NVIDIA's for an H100 SXM in bfloat16 without sparsity. The
share is assumed, and so is that attention, loading and waiting for files cost nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.corpus_data import GROUP, RECIPES, write_made_up
from benchmarks.harness import peak_mb, quartiles, ratios

PEAK, SHARE = 989e12, 0.2  # FLOP a second of one GPU, and how much of it a trace's forward reaches: assumed
MEMORY, NODE = 80e9, 8  # bytes of a GPU, and GPUs of a node
LEFT_FREE = 0.1  # of the memory, for activations


@dataclass(frozen=True, slots=True)
class Model:
    """Size of a model by its makers' word; `stored` is bytes of all weights."""

    name: str
    layers: int
    experts: int
    top_k: int
    active: float
    stored: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Measure, for a number of experts, bytes per token and layer, other bytes per token, ids read per second."""

    id_bytes: float
    weight_bytes: float
    other_bytes: float
    ids_a_second: float


MODELS = (
    Model("Mixtral-8x7B", 32, 8, 2, 12.9e9, 2 * 46.7e9),
    Model("Qwen3-30B-A3B", 48, 128, 8, 3.3e9, 2 * 30.5e9),
    Model("DeepSeek-V3", 58, 256, 8, 37e9, 671e9),
)


def estimate(measured: dict[int, Measured], tokens: float = 1e9) -> pd.DataFrame:
    """Return one row per model: `measured` has what was measured for its number of experts.

    >>> row = estimate(dict.fromkeys((8, 128, 256), Measured(5, 15, 9, ids_a_second=1e7))).iloc[1]  # 48 layers
    >>> float(row["GB with weights"]), float(row["GB of ids"])
    (969.0, 249.0)
    """
    rows = []
    for model in MODELS:
        of = measured[model.experts]
        gpus = ceil(model.stored / (MEMORY * (1 - LEFT_FREE)))  # that hold the weights once
        nodes = ceil(gpus / NODE)
        processes = nodes * NODE // gpus
        forward = tokens * 2 * model.active / (nodes * NODE * PEAK * SHARE) / 3600
        writing = tokens * model.layers * model.top_k / of.ids_a_second / processes / 3600
        ids = tokens * (model.layers * of.id_bytes + of.other_bytes) / 1e9
        size = ids + tokens * model.layers * of.weight_bytes / 1e9
        facts = {"model": model.name, "GB with weights": size, "GB of ids": ids, "GPUs a copy": gpus, "nodes": nodes}
        facts["processes"] = processes
        rows.append(facts | {"forward hours": forward, "writing hours": writing, "hours": forward + writing})
    return pd.DataFrame(rows)


LAYERS = 4  # of the made-up routing whose bytes are measured
KINDS = ("bytes", "tracing", "memory", "analyses", "estimate")


def column_bytes(folder: Path) -> dict[str, float]:
    """Bytes of a dataset: of columns of ids, of weights, and of everything; and the number of ids."""
    from pyarrow import parquet

    from moeviz import read_dataset

    dataset, found = read_dataset(folder), {"experts": 0, "weights": 0}
    for shard in dataset.shards:
        footer = parquet.read_metadata(shard.path / "tokens.parquet")
        for group in range(footer.num_row_groups):
            for column in (footer.row_group(group).column(at) for at in range(footer.num_columns)):
                kind = column.path_in_schema.partition("_")[0]
                if kind in found:
                    found[kind] += column.total_compressed_size
    every = sum(facts["bytes"] for shard in dataset.shards for facts in shard.files.values())
    ids = dataset.tokens * len(dataset.model.layers) * dataset.model.top_k
    return found | {"every": every, "ids": ids, "tokens": dataset.tokens}


def say_bytes(folder: Path, say: Callable[[str], object]) -> None:
    """Report the bits per id and per weight."""
    for name, (experts, top_k) in RECIPES.items():
        write_made_up(folder / f"e{experts}", GROUP, LAYERS, experts, top_k)
        found = column_bytes(folder / f"e{experts}")
        own = 8 * found["experts"] / found["ids"]
        say(f"{name}: {own:.2f} bits an id, {8 * found['weights'] / found['ids']:.1f} a weight in float16")
    found = embedded_bytes(folder)
    say(f"embedded, E = 8, top-2: {8 * found['experts'] / found['ids']:.2f} bits an id")


def embedded_bytes(folder: Path) -> dict[str, float]:
    """Return the texts that ship, by the model that ships."""
    from moeviz import load_model, trace_corpus, write_dataset
    from moeviz.labelled_texts import texts_that_ship

    if not (folder / "embedded").exists():
        write_dataset(trace_corpus(load_model(), texts_that_ship()), folder / "embedded", weights="float16")
    return column_bytes(folder / "embedded")


def say_tracing(say: Callable[[str], object], rounds: int) -> None:
    """Measure the CPU time of tracing and of writing compared with the bare forward, in interleaved rounds."""
    from benchmarks.corpus_runs import long_texts, rounds_of, short_texts

    for name, texts in (("texts of 1,021 tokens", long_texts(3)), ("texts of 12 words", short_texts(400))):
        found = rounds_of(texts, rounds)
        for way, over in (("corpus", "bare"), ("writing", "corpus")):
            middle, half = quartiles(ratios(found, way, over))
            say(f"{name}: {way} / {over} {middle:.3f} (quartiles {half}), {rounds} rounds of CPU")


def say_memory(folder: Path, say: Callable[[str], object]) -> None:
    """Peaks at 1, 10 and 100 times a small corpus, traced and analysed."""
    for times in (1, 10, 100):
        say(f"tracing, {times} times: {shown(of_process(folder, 'peak', str(times)))}")
    for times in (1, 10, 100):
        place = folder / f"times{times}"
        if not (place / "manifest.json").exists():
            write_made_up(place, times * GROUP // 4, 2, 64, 6, "none", group=GROUP // 4)
        for question in ("load", "co-activation, a layer", "contexts of an expert", "top tokens, a layer"):
            say(f"{question}, {times} times: {shown(of_process(place, 'ask', question))}")


def say_analyses(folder: Path, say: Callable[[str], object], tokens: int, layers: int, rounds: int) -> None:
    """Print the seconds and the memory that each question about the large dataset takes."""
    place = folder / "large"
    if not (place / "manifest.json").exists():
        seconds = write_made_up(place, tokens, layers, 128, 8, "none")
        say(f"written in {seconds:.0f} s of CPU, peak {peak_mb():.0f} MB")
    found = column_bytes(place)
    say(f"{found['tokens']:,} tokens, {8 * found['experts'] / found['ids']:.2f} bits an id")
    for question in questions():
        runs = [of_process(place, "ask", question) for _ in range(rounds)]
        say(f"{question:30} {shown(min(runs, key=lambda run: run['seconds']))}")


def say_estimate(folder: Path, say: Callable[[str], object]) -> None:
    """A billion tokens on paper, from what is measured here."""
    measured = {}
    for experts, top_k in {(model.experts, model.top_k) for model in MODELS}:
        place = folder / f"estimate{experts}"
        seconds = write_made_up(place, 2 * GROUP, LAYERS, experts, top_k)
        found = column_bytes(place)
        own, weights = (found[kind] / found["tokens"] / LAYERS for kind in ("experts", "weights"))
        beside = found["every"] / found["tokens"] - LAYERS * (own + weights)
        measured[experts] = Measured(own, weights, beside, found["ids"] / seconds)
        bits, rate = 8 * found["experts"] / found["ids"], found["ids"] / seconds / 1e6
        say(f"E = {experts}, top-{top_k}: {bits:.2f} bits an id; {rate:.1f} million ids a second of CPU are written")
        say(f"    bytes a token and layer: ids {own:.2f}, float16 weights {weights:.2f}; beside, a token: {beside:.2f}")
    say(estimate(measured).round(2).to_string(index=False))


def questions() -> dict[str, Callable[[Any], object]]:
    """Return the analyses of a dataset, by name."""
    from moeviz.corpus import analyses, rows

    asked: dict[str, Callable[[Any], object]] = {
        "nothing": lambda dataset: None,
        "load": analyses.expert_load,
        "coverage": analyses.coverage,
        "experts needed": analyses.experts_needed,
        "balance": analyses.balance,
        "balance over time": analyses.balance_over_time,
        "load by label": analyses.load_by_label,
        "locality": analyses.locality,
        "co-activation, a layer": lambda dataset: analyses.co_activation(dataset, dataset.model.layers[-1:]),
        "flow": analyses.consecutive_transitions,
        "contexts of an expert": lambda dataset: rows.contexts(dataset, dataset.model.layers[-1], 5),
        "top tokens, a layer": lambda dataset: rows.top_tokens(dataset, dataset.model.layers[-1:]),
        "load from the rows, a layer": load_from_rows,
    }
    return asked


def load_from_rows(dataset: Any) -> np.ndarray:
    """Read every row of a layer: the cost that the small tables save."""
    name = f"experts_{dataset.model.layers[-1]:03}"
    total = np.zeros(256, np.int64)
    for _, _, columns in dataset.scan([name]):
        total += np.bincount(columns[name].ravel(), minlength=256)
    return total


def ask(folder: str, question: str) -> dict[str, float]:
    """In this process: seconds of one answer, and what it added to the peak of memory."""
    from moeviz import read_dataset

    asked = questions()[question]
    before, begun = peak_mb(), time.perf_counter()
    cpu = time.process_time()
    asked(read_dataset(folder))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    after = peak_mb()
    return {"seconds": seconds, "cpu": cpu, "added_mb": after - before, "peak_mb": after}


def of_process(folder: Path, what: str, of: str) -> dict[str, float]:
    """Run the same analysis in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.corpus", str(folder), "--only", what, "--of", of]
    answer: dict[str, float] = json.loads(subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL))
    return answer


def shown(answer: dict[str, float]) -> str:
    """Format numbers with their names."""
    return "  ".join(f"{name} {value:.3g}" for name, value in answer.items())


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=10_485_760)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10, help="of what is timed")
    args = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    if "ask" in args.only:
        say(json.dumps(ask(str(args.folder), args.of)))
        return
    if "peak" in args.only:
        from benchmarks.corpus_runs import peak_of_tracing

        say(json.dumps(peak_of_tracing(int(args.of))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        steps = {
            "bytes": lambda: say_bytes(Path(scratch), say),
            "tracing": lambda: say_tracing(say, args.rounds),
            "memory": lambda: say_memory(Path(scratch), say),
            "analyses": lambda: say_analyses(args.folder, say, args.tokens, args.layers, args.rounds),
            "estimate": lambda: say_estimate(Path(scratch), say),
        }
        for kind, step in steps.items():
            if kind in args.only:
                step()


if __name__ == "__main__":
    main()
