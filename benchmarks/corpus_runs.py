"""The cost of `write_corpus` compared with the bare forward, in CPU time, and its peak memory."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import peak_mb
from moeviz import load_model
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.trace import trace
from moeviz.corpus import run
from moeviz.formats.dataset.layout import Kept
from moeviz.formats.dataset.shard import Rows, ShardWriter, rows_of
from moeviz.formats.dataset.storage import storage_of
from moeviz.labelled_texts import texts_that_ship

SHORT = 12  # words of a short text
SMALL = 20  # short texts of the smallest corpus whose memory is measured


def long_texts(count: int) -> list[str]:
    """Held-out texts of 1,021 tokens."""
    return [text for _, text in list(texts_that_ship())[:count]]


def short_texts(count: int) -> list[str]:
    """Return the same texts in pieces of some words."""
    words = " ".join(text for _, text in texts_that_ship()).split()
    pieces = [" ".join(words[start : start + SHORT]) for start in range(0, len(words), SHORT)]
    return [pieces[at % len(pieces)] for at in range(count)]


def rounds_of(texts: list[str], count: int) -> dict[str, list[float]]:
    """CPU seconds of each round, in turn: the bare forward without head; the corpus; of that, writing its shard."""
    model, found = load_model(), {"bare": list[float](), "corpus": list[float](), "writing": list[float]()}
    with tempfile.TemporaryDirectory() as made:
        source = written(texts, Path(made) / "texts.jsonl")
        rows = [rows_of(trace(model, text, keep_logits=False, kernels=False), Kept()) for text in texts]
        for number in range(count + 1):  # the first is warming up
            folder = Path(made) / str(number)
            ways: dict[str, Callable[[], object]] = {
                "bare": lambda: bare(model, texts),
                "corpus": lambda folder=folder: run.write_corpus(model, [source], folder),
                "writing": lambda folder=folder: shard(model, rows, folder / "alone"),
            }
            for name, way in ways.items():
                begun = time.process_time()
                way()
                if number:
                    found[name].append(time.process_time() - begun)
    return found


@torch.inference_mode()
def bare(model: LoadedModel, texts: list[str]) -> None:
    """Run the forward of the model's body in the batches that a corpus runs in."""
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    for batch in run.batches(np.array(list(map(len, ids))), run.ON_A_CPU):
        longest = max(len(ids[at]) for at in batch)
        read = torch.tensor([[0] * (longest - len(ids[at])) + ids[at] for at in batch])
        mask = torch.tensor([[0] * (longest - len(ids[at])) + [1] * len(ids[at]) for at in batch])
        model.model.base_model(input_ids=read, attention_mask=mask, use_cache=False)


def shard(model: LoadedModel, rows: list[Rows], folder: Path) -> None:
    """Write only the shard, from rows that exist."""
    folder.mkdir(parents=True)
    with ShardWriter(storage_of(folder), 0, model.info, Kept()) as writer:
        for number, stretch in enumerate(rows):
            writer.add(number, "held out", [stretch])
        writer.commit()


def written(texts: list[str], path: Path) -> str:
    """Return the texts as a file that `moeviz corpus` reads."""
    path.write_text("\n".join(json.dumps({"label": f"{n % 4}", "text": text}) for n, text in enumerate(texts)))
    return str(path)


def peak_of_tracing(times: int) -> dict[str, float]:
    """Return the MB that a corpus of this many times `SMALL` short texts adds to this process."""
    run.ROWS = 256
    model, texts = load_model(), short_texts(SMALL * times)
    with tempfile.TemporaryDirectory() as made:
        source = written(texts, Path(made) / "texts.jsonl")
        warm = written(short_texts(SMALL), Path(made) / "warm.jsonl")
        run.write_corpus(model, [warm], Path(made) / "warm", run.Wanted(shard_bytes=2_000))
        before = peak_mb()
        dataset = run.write_corpus(model, [source], Path(made) / "out", run.Wanted(shard_bytes=2_000))
    after = peak_mb()
    return {"tokens": dataset.tokens, "added_mb": after - before, "peak_mb": after}
