"""What Ray costs a corpus, and what it brings: the texts that ship, by the plain loop and by 1 and 2 actors of Ray.

    python -m benchmarks.corpus_ray FOLDER [--rounds N]

Each run is a process of its own, with one thread a model; the ways take turns. Fixed: seconds until the first shard is
there (imports, Ray, models, one shard). Steady: tokens a second from the first shard to the last. Every folder must
hold the same bytes. FOLDER is written to, and is to be empty. Needs Ray: `pip install "moeviz[ray]"`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

WAYS = {"plain loop": 0, "Ray, 1 actor": 1, "Ray, 2 actors": 2}  # actors
SHARDS = 12


def texts_in(folder: Path) -> tuple[Path, int]:
    """The texts that ship as one file, and the bytes of text of a shard."""
    from moeviz.labelled_texts import texts_that_ship

    texts = texts_that_ship()
    lines = (json.dumps({"label": label, "text": text}) for label, text in texts)
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "texts.jsonl", sum(len(text.encode()) for _, text in texts) // SHARDS + 1


def write(texts: str, shard_bytes: int, out: str, actors: int) -> None:
    """In this process: write the dataset, and print when each shard was there."""
    begun = time.time()
    done: list[tuple[float, int]] = []

    def progress(texts: int, total: int, seconds: float) -> None:
        done.append((time.time() - begun, texts))

    from moeviz.corpus.run import Wanted, write_corpus

    wanted = Wanted(shard_bytes=shard_bytes, threads=1)
    if actors:
        from moeviz.corpus.on_ray import Cluster, write_corpus_on_ray

        write_corpus_on_ray("embedded", [texts], out, wanted, progress=progress, cluster=Cluster(actors=actors))
    else:
        from moeviz import load_model

        write_corpus(load_model(), [texts], out, wanted, progress=progress)
    sys.stdout.write(json.dumps({"whole": time.time() - begun, "done": done}) + "\n")


def measured(folder: Path, texts: Path, shard_bytes: int, way: str, number: int) -> dict[str, float]:
    """One run: its seconds in all and until the first shard, and tokens per second after it."""
    from moeviz import read_dataset

    out = folder / f"{number} {way}"
    arguments = ["write", str(texts), str(shard_bytes), str(out), str(WAYS[way])]
    command = [sys.executable, "-m", "benchmarks.corpus_ray", *arguments]
    found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    dataset = read_dataset(out)
    (first, texts_then), (last, texts_all) = found["done"][0], found["done"][-1]
    tokens = dataset.tokens * (texts_all - texts_then) / texts_all  # of the texts, about
    return {"seconds": found["whole"], "to the first shard": first, "tokens a second after": tokens / (last - first)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    """Print one line a run, and what follows from them."""
    if sys.argv[1:2] == ["write"]:
        texts, shard_bytes, out, actors = sys.argv[2:]
        return write(texts, int(shard_bytes), out, int(actors))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    texts, shard_bytes = texts_in(args.folder)
    best: dict[str, dict[str, float]] = {}
    for number in range(args.rounds):
        for way in WAYS:
            run = measured(args.folder, texts, shard_bytes, way, number)
            print(f"round {number + 1}, {way:14}", *(f"{name} {value:,.1f}" for name, value in run.items()), flush=True)
            if way not in best or run["tokens a second after"] > best[way]["tokens a second after"]:
                best[way] = run
    plain = best["plain loop"]
    for way, run in best.items():
        more = run["to the first shard"] - plain["to the first shard"]
        rate = run["tokens a second after"] / plain["tokens a second after"]
        print(f"best, {way:14} {more:+.1f} s until the first shard, {rate:.2f} times the tokens a second")
    written = [contents(folder) for folder in args.folder.iterdir() if folder.is_dir()]
    same = all(one == written[0] for one in written)
    print(f"{len(written)} datasets, {'all of the same bytes' if same else 'NOT of the same bytes'}")


if __name__ == "__main__":
    main()
