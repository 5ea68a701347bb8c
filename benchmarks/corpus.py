"""What a dataset takes: bytes an id on disk, seconds to write it, and seconds and memory of its analyses.

    python -m benchmarks.corpus bytes FOLDER
    python -m benchmarks.corpus analyses FOLDER [--tokens N] [--layers L]

The routing is made up, with a seed: popularity of experts by Zipf's law (0.7), and one token in five keeps the experts
of the token before. `bytes` also traces the texts that ship. FOLDER is written to, and is to be empty. Each analysis
runs in a process of its own; its memory is what it added to the peak of that process.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RECIPES = {"E = 64, top-6": (64, 6), "E = 128, top-8": (128, 8)}
GROUP, GROUPS = 65_536, 4  # tokens of a row group, and how many different ones are drawn
TEXT = 512  # tokens


def made_up(tokens: int, layers: int, experts: int, top_k: int, seed: int):
    """A trace of ids: each token draws its experts by popularity, or keeps those of the token before."""
    import numpy as np

    from moeviz import ModelInfo, RoutingTrace
    from moeviz.routing_trace import token_frame

    rng = np.random.default_rng(seed)
    ids = np.empty((layers, tokens, top_k), np.int16)
    for layer in range(layers):
        popular = np.random.default_rng(layer).permutation(-0.7 * np.log(np.arange(1, experts + 1))).astype(np.float32)
        score = popular + rng.gumbel(size=(tokens, experts)).astype(np.float32)
        ids[layer] = np.argsort(-score, axis=1)[:, :top_k]
        keeps = rng.random(tokens) < 0.2
        keeps[0] = False
        ids[layer] = ids[layer][np.maximum.accumulate(np.where(keeps, 0, np.arange(tokens)))]
    model = ModelInfo("made up", "test", tuple(range(layers)), (experts,) * layers, top_k)
    words = rng.zipf(1.3, tokens).clip(max=31_999)
    places = np.arange(tokens)
    texts = [f"w{word}" for word in words.tolist()]
    return RoutingTrace(model, token_frame(places // TEXT, places % TEXT, texts, words), ids)


def write(folder: Path, tokens: int, layers: int, experts: int, top_k: int) -> float:
    """A dataset of so many tokens, a row group at a time; the seconds of CPU that writing took."""
    from moeviz.formats.dataset.folder import new_plan, writing
    from moeviz.formats.dataset.layout import Kept

    groups = [made_up(GROUP, layers, experts, top_k, seed) for seed in range(GROUPS)]
    each, count = 16, max(tokens // GROUP, 1)  # row groups of a shard
    sizes = [min(each, count - start) for start in range(0, count, each)]
    shards = [{"texts": size * GROUP // TEXT, "tokens": size * GROUP} for size in sizes]
    begun = time.process_time()
    with writing(folder, new_plan(groups[0].model, Kept("none"), shards)) as dataset:
        for number, size in enumerate(sizes):
            with dataset.writer(number) as writer:
                for at in range(size):
                    trace, first = groups[at % GROUPS], (number * each + at) * GROUP // TEXT
                    text = first + trace.tokens["sequence"].to_numpy("int64")
                    writer.add_rows(text, [f"label {n % 8}" for n in text.tolist()], trace)
                writer.commit(dataset.digest)
        dataset.finish()
    return time.process_time() - begun


def id_bytes(folder: Path) -> dict[str, float]:
    """Bytes on disk for each expert id: of the columns of ids, and of everything."""
    from pyarrow import parquet

    from moeviz import read_dataset

    dataset, own = read_dataset(folder), 0
    for shard in dataset.shards:
        footer = parquet.read_metadata(shard.path / "tokens.parquet")
        for group in range(footer.num_row_groups):
            columns = [footer.row_group(group).column(at) for at in range(footer.num_columns)]
            own += sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("experts_"))
    every = sum(facts["bytes"] for shard in dataset.shards for facts in shard.files.values())
    ids = dataset.tokens * len(dataset.model.layers) * dataset.model.top_k
    return {"bits an id": 8 * own / ids, "bytes a token, all files": every / dataset.tokens}


def questions() -> dict[str, Callable[[object], object]]:
    """What is asked of a dataset, by name."""
    from moeviz.corpus import analyses, rows

    asked: dict[str, Callable[..., object]] = {
        "nothing": lambda dataset: None,
        "load": analyses.expert_load,
        "experts needed": analyses.experts_needed,
        "balance": analyses.balance,
        "balance over time": analyses.balance_over_time,
        "load by label": analyses.load_by_label,
        "locality": analyses.locality,
        "co-activation, a layer": lambda dataset: analyses.co_activation(dataset, [3]),
        "co-activation": analyses.co_activation,
        "flow": analyses.consecutive_transitions,
        "contexts of an expert": lambda dataset: rows.contexts(dataset, 3, 5),
        "top tokens, a layer": lambda dataset: rows.top_tokens(dataset, [3]),
        "load from the rows, a layer": load_from_rows,
    }
    return asked


def load_from_rows(dataset):
    """What the small tables save: every row of a layer is read."""
    import numpy as np

    total = np.zeros(65_536, np.int64)
    for _, _, columns in dataset.scan(["experts_003"]):
        total += np.bincount(columns["experts_003"].ravel(), minlength=65_536)
    return total


def ask(folder: str, question: str) -> dict[str, float]:
    """In this process: seconds of one answer, and what it added to the peak of memory."""
    from moeviz import read_dataset

    asked = questions()[question]
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    cpu = time.process_time()
    asked(read_dataset(folder))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu": cpu, "added_mb": (after - before) / 1024, "peak_mb": after / 1024}


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bytes", "analyses", "ask"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("question", nargs="?")
    parser.add_argument("--tokens", type=int, default=10_485_760)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    say = sys.stdout.write
    if args.what == "ask":
        say(json.dumps(ask(str(args.folder), args.question)) + "\n")
    elif args.what == "bytes":
        for name, (experts, top_k) in RECIPES.items():
            place = args.folder / f"e{experts}"
            seconds = write(place, 2 * GROUP, 4, experts, top_k)
            rate = 2 * GROUP * 4 * top_k / seconds / 1e6
            say(f"{name}: {id_bytes(place)}, {rate:.1f} million ids a second of CPU\n")
        from moeviz import load_model, trace_corpus, write_dataset
        from moeviz.labelled_texts import texts_that_ship

        write_dataset(trace_corpus(load_model(), texts_that_ship()), args.folder / "embedded", weights="none")
        say(f"embedded, E = 8, top-2: {id_bytes(args.folder / 'embedded')}\n")
    else:
        if not (args.folder / "manifest.json").exists():
            say(f"written in {write(args.folder, args.tokens, args.layers, 128, 8):.0f} s of CPU\n")
        say(f"{id_bytes(args.folder)}\n")
        for question in questions():
            command = [sys.executable, "-m", "benchmarks.corpus", "ask", str(args.folder), question]
            runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(3)]
            best = min(runs, key=lambda run: run["seconds"])
            say(f"{question:30} " + " ".join(f"{name} {value:.3g}" for name, value in best.items()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
